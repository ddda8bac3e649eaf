"""Power of a planned study, simulated from the law of a pilot panel.

Every simulated panel is analysed by the model that the study will use. A run at effect zero says whether that model
keeps its level under the pilot's law: where it does not, its power means nothing.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from canopy_stats.mixed.formulas.frames import as_pandas
from canopy_stats.mixed.inference.parallel import fork_map
from canopy_stats.notebook import Shown
from canopy_stats.panel_rows import check_rows
from canopy_stats.schema import UserError
from canopy_stats.seeds import seed_sequence
from canopy_stats.slope.closed_form import expected_interaction
from canopy_stats.slope.estimates import ALPHA
from canopy_stats.slope.front import slope_change
from canopy_stats.slope.models import check_model
from canopy_stats.slope.pilot import JACKKNIFE, Pilot, estimate_pilot
from canopy_stats.slope.planned import StudySize, draw_panel
from canopy_stats.slope.split import LIMIT, Split, best_split, power_curve, with_smooth

Array = np.ndarray
_LOST = "{} does not keep its level of 5% under this pilot's law, so its power means nothing."
MODELS = ("robust", "interaction", "paper_beta")
METHODS = {"simulation": 100, "closed": 20}
"""Ways to the power, and their usual number of panels."""
_FAILURES = (ValueError, ArithmeticError, np.linalg.LinAlgError, RuntimeError)


@dataclass(frozen=True)
class SlopePower(Shown):
    """Simulated power, one row of ``table`` per size of the study and effect.

    Columns: ``prompts`` (of each task), ``rollouts``, ``families``, ``effect`` (difference of slopes, logit per
    standard deviation of the pilot's rate), ``power`` (share of panels with p < 0.05 and the effect's sign; at effect
    zero with either sign), ``mc_error``, ``smooth`` (the power curve fitted to all sizes), ``mean_z`` and ``sd_z`` of
    the estimates' z-scores, ``mean_estimate`` on the model's own scale, ``failed`` panels (they count as not
    significant), ``replicates``, ``tokens`` and ``seconds``.
    """

    table: pd.DataFrame
    model: str
    pilot: Pilot = field(repr=False)
    notes: tuple[str, ...] = ()

    @property
    def level(self) -> pd.DataFrame:
        """The rows at effect zero, with ``nominal`` (0.05) and ``kept``: no more than four Monte-Carlo errors above, or
        than 1.5 times the nominal level."""
        null = self.table[self.table["effect"] == 0]
        allowed = np.maximum(1.5 * ALPHA, ALPHA + 4 * null["mc_error"])
        return null.assign(nominal=ALPHA, kept=null["power"] <= allowed)

    @property
    def kept_level(self) -> bool:
        """Whether the model kept its level wherever effect zero was simulated."""
        return bool(self.level["kept"].all())

    def _shown(self) -> tuple[str, list[Any]]:
        shown = ["prompts", "rollouts", "families", "effect", "power", "mc_error", "replicates", "tokens"]
        return f"Power, {self.model}", [self.words, self.table[shown], *self.notes]

    @property
    def words(self) -> str:
        """The calibration and the power of the smallest and the largest study, in a paragraph."""
        lost = not self.kept_level  # then a power would mean nothing
        return " ".join([*_level_words(self), *([] if lost else _power_words(self)), *self.notes])

    def smooth(self, prompts: Any, rollouts: Any, families: Any, effect: float) -> Array:
        """Power by the fitted curve, for numbers or arrays."""
        return power_curve(self.table, effect)(*np.broadcast_arrays(prompts, rollouts, families))

    def best_split(self, budget_tokens: float, *, effect: float | None = None, families: int | None = None) -> Split:
        """The split of a budget with the greatest power, within the simulated range of prompts and rollouts."""
        split = best_split(self.table, tokens_of(self.pilot, StudySize(1, 1, 1)), budget_tokens, effect, families)
        return split if self.kept_level else replace(split, words=f"{split.words} But {_LOST.format(self.model)}")

    def recommend(self, budget_tokens: float, *, effect: float | None = None, families: int | None = None) -> str:
        """``best_split`` in a sentence."""
        return self.best_split(budget_tokens, effect=effect, families=families).words


def slope_power(panel: pd.DataFrame, *, effect: float | Sequence[float], prompts: Sequence[int],
                rollouts: Sequence[int], families: Sequence[int] | None = None, model: str = "robust",
                method: str = "simulation", replicates: int | None = None, seed: int = 0, null: bool = True,
                workers: int = 1) -> SlopePower:
    """Power to find a difference of slopes, by simulation from a pilot panel's law.

    Parameters
    ----------
    effect : difference of slopes, tuned - base, on the logit scale per standard deviation of the pilot's entropy rate.
        Choose the smallest one worth finding, not the pilot's own estimate
    prompts, rollouts, families : sizes to try: prompts of each task, rollouts of each prompt, families (default: as
        many as the pilot has). Every combination is simulated
    model : what the study will be analysed with: robust, interaction or paper_beta
    method : simulation, or closed (interaction only): the law gives the estimate's distribution for each study's rates,
        so that 20 studies say as much as hundreds of simulated rejections
    replicates : panels of each size (default 100, closed 20)
    null : also simulate effect zero, at the largest study of each number of families
    workers : processes; the answer does not depend on their number
    """
    panel = as_pandas(panel)
    check_model(model, MODELS)
    if method not in METHODS or (method == "closed" and model != "interaction"):
        raise UserError(f"method is {method!r} with model {model}; choose simulation, or closed for the interaction"
                        " model.")
    replicates = METHODS[method] if replicates is None else replicates
    check_rows(panel)
    pilot = estimate_pilot(panel)
    sizes = (prompts, rollouts, families or [panel["model_name"].nunique()])
    _check(pilot, panel, sizes, replicates, model)
    designs = [StudySize(*map(int, size)) for size in product(*sizes)]
    effects = [float(e) for e in np.atleast_1d(np.asarray(effect, dtype=float))]
    cells = [(design, e) for e in effects for design in designs]
    if null:
        cells += [(StudySize(max(prompts), max(rollouts), f), 0.0) for f in sizes[2] if 0.0 not in effects]
    streams = seed_sequence(seed).spawn(replicates)
    study = partial(one_study, pilot, model=model) if method == "simulation" else partial(_expected_study, pilot)
    n = replicates
    results = fork_map(lambda i: study(*cells[i // n], stream=streams[i % n]), len(cells) * n, workers)
    rows = [_row(pilot, *cell, results[k * n : (k + 1) * n]) for k, cell in enumerate(cells)]
    return SlopePower(with_smooth(pd.DataFrame(rows)), model, pilot, pilot.notes)


def _check(pilot: Pilot, panel: pd.DataFrame, sizes: Sequence[Sequence[int]], replicates: int, model: str) -> None:
    for name, values, least in zip(("prompts", "rollouts", "families"), sizes, (5, 3, 1), strict=True):
        if len(values) == 0 or min(values) < least:
            raise UserError(f"{name} is {list(values)}; give whole numbers of at least {least}.")
    if model == "robust" and min(sizes[2]) < 2:
        raise UserError("The robust slope needs at least two families; ask for families=[2, ...] or another model.")
    if replicates < 2:
        raise UserError(f"replicates is {replicates}; at least 2 panels of each size are needed, and 100 are better.")
    if pilot.error is None and set(sizes[1]) != {round(pilot.rollouts)}:
        lacking = [name for name in JACKKNIFE if name not in panel]
        raise UserError(f"To vary the rollouts, the pilot's measurement error must be known: it lacks"
                        f" {', '.join(lacking) or 'finite jackknife columns'}. canopy_stats.panel makes them from runs"
                        f" with at least 3 rollouts a prompt; or ask for rollouts=[{round(pilot.rollouts)}], as the"
                        " pilot has.")


# --- simulation -------------------------------------------------------------------------------------------------

@dataclass(frozen=True, slots=True)
class SimulatedStudy:
    """What one study says: chance of significance with the effect's sign (0 or 1 when simulated), z-score of its
    p-value with the estimate's sign, that score's spread given the study's rates (closed form), estimate, failure,
    seconds."""

    found: float
    z: float
    sd_z: float
    estimate: float
    failure: str
    seconds: float


def one_study(pilot: Pilot, size: StudySize, effect: float, *, model: str,
              stream: np.random.SeedSequence) -> SimulatedStudy:
    """Draw one panel and analyse it."""
    started = time.perf_counter()
    panel = draw_panel(pilot, size, effect, np.random.default_rng(stream))
    z, estimate, failure = _analysed(panel, model)
    toward = abs(z) if effect == 0 else z * np.sign(effect)
    return SimulatedStudy(float(toward > LIMIT), z, 0.0, estimate, failure, time.perf_counter() - started)


def _analysed(panel: pd.DataFrame, model: str) -> tuple[float, float, str]:
    """z-score, estimate and failure of one panel's difference of slopes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = slope_change(panel, model=model).difference  # type: ignore[arg-type]
        except _FAILURES as error:
            return float("nan"), float("nan"), " ".join(str(error).split())
    z = float(np.sign(found.estimate) * stats.norm.isf(max(found.pvalue, 1e-300) / 2))
    return z, found.estimate, "" if np.isfinite(z) else "no estimate"


def _expected_study(pilot: Pilot, size: StudySize, effect: float, *,
                    stream: np.random.SeedSequence) -> SimulatedStudy:
    started = time.perf_counter()
    e = expected_interaction(pilot, size, effect, stream)
    seconds = time.perf_counter() - started
    return SimulatedStudy(e.power(effect, ALPHA), e.mean / e.se, e.sd / e.se, e.mean, "", seconds)


def _row(pilot: Pilot, size: StudySize, effect: float, studies: Sequence[SimulatedStudy]) -> dict[str, Any]:
    """One row of the table; a closed form's Monte-Carlo error is that of the rates it was averaged over."""
    found, z = np.array([s.found for s in studies]), np.array([s.z for s in studies])
    share, n, closed = float(found.mean()), len(z), studies[0].sd_z > 0
    error = float(found.std(ddof=1)) if closed else np.sqrt(max(share * (1 - share), 0.25 / n))
    good = np.isfinite(z)
    within = np.mean([s.sd_z**2 for s in studies])
    return {
        "prompts": size.prompts, "rollouts": size.rollouts, "families": size.families, "effect": effect,
        "power": share, "mc_error": float(error / np.sqrt(n)),
        "mean_z": float(z[good].mean()) if good.any() else float("nan"),
        "sd_z": float(np.sqrt(z[good].var(ddof=1) + within)) if good.sum() > 1 else float("nan"),
        "mean_estimate": float(np.nanmean([s.estimate for s in studies])) if good.any() else float("nan"),
        "failed": sum(bool(s.failure) for s in studies), "replicates": n, "tokens": tokens_of(pilot, size),
        "seconds": float(sum(s.seconds for s in studies)),
    }


def tokens_of(pilot: Pilot, size: StudySize) -> float:
    """Tokens a study draws: prompts × rollouts × families × mean lengths summed over tasks and variants."""
    return float(size.prompts * size.rollouts * size.families * pilot.tokens.sum())


# --- in words -----------------------------------------------------------------------------------------------------


def _level_words(found: SlopePower) -> list[str]:
    null = found.level
    if null.empty:
        return ["The level was not checked (no study at effect zero)."]
    share = 100 * float(np.average(null["power"], weights=null["replicates"]))
    text = f"With no effect, model {found.model} finds one in {share:.0f}% of studies"
    return [f"{text} (its level is 5%)." if found.kept_level else f"{text}; {_LOST.format('it')}"]


def _power_words(found: SlopePower) -> list[str]:
    out = []
    for effect, rows in found.table[found.table["effect"] != 0].groupby("effect"):
        order = rows.sort_values("tokens", kind="stable")
        sizes = [f"{100 * r['power']:.0f}% with {r['prompts']:.0f} prompts a task, {r['rollouts']:.0f} rollouts and"
                 f" {r['families']:.0f} families" for r in (order.iloc[0], order.iloc[-1])]
        out.append(f"A difference of {effect:g} is found with a power of {' and '.join(dict.fromkeys(sizes))}.")
    return out
