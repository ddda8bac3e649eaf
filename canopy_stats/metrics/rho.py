"""How length and entropy rate go together within a prompt, beyond what the position in the rollout explains."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from canopy_stats.metrics.association import RHOS, pool_fisher, pool_kendall
from canopy_stats.metrics.excess import Coefficients, coefficients
from canopy_stats.metrics.origin import SIDES, Origin, OriginScores, fold_errors, origin_note, why_withheld
from canopy_stats.metrics.profile import FOLDS, PromptSteps, folds_of, residual_rates
from canopy_stats.metrics.rho_prompts import PromptEntropies, Said, prompts_of
from canopy_stats.notebook import Shown
from canopy_stats.schema import UserError
from canopy_stats.seeds import seed_sequence

if TYPE_CHECKING:
    from canopy_stats.store import Run

Floats = NDArray[np.float64]
Resample = Literal["nested", "prompts", "rollouts"]

QUANTITIES = ("raw", "position", "excess", "adjusted")
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class RhoResult(Shown):
    """Correlations of length and rate with their position-profile null.

    ``table``: a row for each coefficient and quantity (:data:`QUANTITIES`) pooled over prompts, with ``estimate``,
    ``se``, ``low``, ``high``, and how many ``prompts`` it pools and how many were ``left_out``.
    ``prompts``: a row for each prompt: M, N_bar, R_bar, and ``rho_*`` with ``_position``, ``_excess``, ``_adjusted``.
    ``origins``: a row for each place that positions may be counted from (none, start, end, relative, both): ``origin``,
    out-of-fold ``error`` of its profile (nats² a step), ``above_lowest`` with its standard error ``se``, ``best`` (that
    of the lowest error; none, where none is less than a standard error above it), and ``chosen``.
    ``withheld``: why *position*, *excess* and *adjusted* are NaN, or empty where they are given.
    """

    table: pd.DataFrame
    prompts: pd.DataFrame
    notes: tuple[str, ...]
    origins: pd.DataFrame
    withheld: str

    def _shown(self) -> tuple[str, list[Any]]:
        return "Length and entropy rate, beyond position", [self.table, *self.notes, self.origins]


def rho(source: Run | pd.DataFrame, *, n_boot: int = 400, seed: int = 0, resample: Resample = "nested",
        folds: int = FOLDS, origin: Origin = "auto", level: float = LEVEL) -> RhoResult:
    """Correlations of length N and entropy rate r within prompts, and what position explains of them, with intervals.

    Where entropy depends on the position alone, longer rollouts have another mean rate all the same. *position* is the
    part of the raw coefficient that a position profile explains (the null), *excess* the part that it does not: raw =
    position + excess. *adjusted* is the correlation of N with the rate that is left once the profile is taken away:
    compare it between models, as the excess also depends on how strong the profile is.

    Parameters
    ----------
    source : run or frame
        A run, or a frame of its steps with prompt_id, rollout, step (from 0) and entropy.
    n_boot : int
        Bootstrap replicates; 0 leaves the intervals out.
    resample : "nested", "prompts" or "rollouts"
        "nested" draws prompts, and then rollouts within each, anew. It counts the rollouts' noise twice: where
        prompts hardly differ its intervals are some 1.4 times too wide and cover 96% to 100%. "prompts" draws whole
        prompts: the right width for a population of prompts, but 95% intervals cover 85% to 95% with 20 prompts and
        88% to 98% with 100 (analysis/rho_null.py). "rollouts" draws rollouts of these very prompts
    folds : int
        Rollouts are split into so many folds, and a fold's profile comes from the others (1: no cross-fitting).
    origin : "auto", "start" or "end"
        Where positions are counted from. "auto" takes the start or the end, whichever predicts the entropies of
        rollouts not seen better, and withholds what is left (NaN, with a note) where the share of the length predicts
        best, or where start and end both have a profile and the sign of *adjusted* depends on which is taken out.
        "start" and "end" are taken as given
    level : float
        Of the intervals, percentiles of the replicates moved so that their mean is the estimate; the origin is the
        whole run's in each.

    Notes
    -----
    Pooling follows :func:`canopy_stats.metrics.pool` for raw and adjusted; the excess is a mean with the same weights.
    """
    _check_options(n_boot, resample, origin, level)
    number, prompts = prompts_of(source)
    drawn = _drawn_prompts(number, n_boot, resample, seed)
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1, user_api="blas"):  # a prompt's matrices are small
        said, by_side, scores = _surveyed(prompts(), number, folds, SIDES if origin == "auto" else (origin,))
        counts = np.array([p.rollouts for p in said], dtype=float)
        side, withheld = _origin(by_side, scores, counts)
        values = by_side[side]
        resampled = values[drawn] if resample == "prompts" else _resampled(prompts, side, drawn, seed, folds)
    replicates = [pool_quantities(v, counts[d]) for v, d in zip(resampled, drawn, strict=True)]
    table = _pooled_table(values, counts, np.array(replicates).reshape(-1, len(QUANTITIES), len(RHOS)), level)
    shown, each = _withhold(table, _prompt_table(said, values)) if withheld else (table, _prompt_table(said, values))
    notes = (*_notes(values, said), origin_note(scores, side, withheld, given=origin != "auto"))
    return RhoResult(shown, each, notes, scores.frame(None if withheld else side), withheld)


def prompt_coefficients(steps: PromptSteps, weights: Floats | None = None, *, folds: int = FOLDS) -> Coefficients:
    """The coefficients of one prompt for weights (B, M), by default each rollout once."""
    w = np.ones((1, len(steps.length))) if weights is None else weights
    residual = residual_rates(steps, folds_of(len(steps.length), folds), w)
    return coefficients(steps.length.astype(np.float64), steps.rate, residual, w)


def _stacked(found: Coefficients) -> Floats:
    """(B, 3, 3): raw, excess, adjusted × Pearson, Spearman, Kendall."""
    return np.stack([found.raw, found.excess, found.adjusted], axis=1)


# ------------------------------------------------------------------------------------------------------- pooling


def pool_quantities(values: Floats, counts: Floats) -> Floats:
    """Pool prompts (P, 3, 3), raw, excess and adjusted by coefficient, with ``counts`` (P,) rollouts: (4, 3) in the
    order of :data:`QUANTITIES`; position = raw − excess."""
    out = np.empty((4, len(RHOS)))
    for k, name in enumerate(RHOS):
        correlation, weights = _rules(name, counts)
        raw, excess = correlation(values[:, 0, k], counts)[0], _mean(values[:, 1, k], weights)
        out[:, k] = raw, raw - excess, excess, correlation(values[:, 2, k], counts)[0]
    return out


def _rules(name: str, counts: Floats) -> tuple[Callable[..., tuple[float, int]], Floats]:
    """How a correlation is pooled, and the weights of that rule."""
    if name == "rho_kendall":
        return pool_kendall, counts * (counts - 1) / 2
    return pool_fisher, np.maximum(counts - 3.0, 0.0)


def _mean(values: Floats, weights: Floats) -> float:
    keep = np.isfinite(values)
    total = weights[keep].sum()
    return float(values[keep] @ weights[keep] / total) if total > 0 else float("nan")


# -------------------------------------------------------------------------------------------------------- origin


def _surveyed(prompts: Iterable[PromptEntropies], number: int, folds: int,
              sides: Sequence[str]) -> tuple[list[Said], dict[str, Floats], OriginScores]:
    """What the tables say of each prompt, its values (P, 3, 3) by side, and the scores of all origins. The prompts
    come one by one."""
    said, values = [], {side: np.empty((number, 3, len(RHOS))) for side in sides}
    errors, steps = [], 0
    for i, prompt in enumerate(prompts):
        said.append(Said.of(prompt))
        for side in sides:
            values[side][i] = _stacked(prompt_coefficients(prompt.steps(side), folds=folds))[0]
        errors.append(fold_errors(prompt.entropy, prompt.length))
        steps += int(prompt.length.sum()) if len(errors[-1]) else 0
    return said, values, OriginScores.of(errors, steps)


def _origin(by_side: dict[str, Floats], scores: OriginScores, counts: Floats) -> tuple[str, str]:
    """The side that positions are counted from, and why nothing is said of what is left, or ""."""
    if len(by_side) == 1:
        return next(iter(by_side)), ""
    start, end = (pool_quantities(by_side[side], counts)[QUANTITIES.index("adjusted")] for side in SIDES)
    return scores.side, why_withheld(scores, start, end)


def _withhold(table: pd.DataFrame, prompts: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tables with the raw coefficients alone."""
    gone = table["quantity"].ne("raw")
    numbers = {name: table[name].mask(gone) for name in ("estimate", "se", "low", "high")}
    columns = [f"{name}_{quantity}" for name in RHOS for quantity in QUANTITIES[1:]]
    return table.assign(**numbers), prompts.assign(**dict.fromkeys(columns, np.nan))


# ----------------------------------------------------------------------------------------------------- bootstrap


def _streams(seed: int, prompts: int) -> list[np.random.Generator]:
    """One generator for the draw of prompts, then one for each prompt's rollouts."""
    return [np.random.default_rng(s) for s in seed_sequence(seed).spawn(prompts + 1)]


def _drawn_prompts(prompts: int, n_boot: int, resample: Resample, seed: int) -> NDArray[np.intp]:
    """The prompts of each replicate (n_boot, prompts)."""
    if resample == "rollouts":
        return np.tile(np.arange(prompts), (n_boot, 1))
    return _streams(seed, prompts)[0].integers(prompts, size=(n_boot, prompts))


def _resampled(prompts: Callable[[], Iterable[PromptEntropies]], side: str, drawn: NDArray[np.intp], seed: int,
               folds: int) -> Floats:
    """Values (n_boot, P, 3, 3) of the drawn prompts, each time with their rollouts drawn anew. The prompts are read
    once more, one by one."""
    out = np.empty((*drawn.shape, 3, len(RHOS)))
    if not len(drawn):
        return out
    for i, (prompt, rng) in enumerate(zip(prompts(), _streams(seed, drawn.shape[1])[1:], strict=True)):
        slots = np.nonzero(drawn == i)
        if len(slots[0]):
            out[slots] = _resampled_prompt(prompt.steps(side), len(slots[0]), rng, folds)
    return out


def _resampled_prompt(steps: PromptSteps, times: int, rng: np.random.Generator, folds: int) -> Floats:
    """Values (times, 3, 3) of the prompt's rollouts drawn with replacement; a rollout keeps its fold."""
    m = len(steps.length)
    weights = rng.multinomial(m, np.full(m, 1 / m), size=times).astype(np.float64)
    return _stacked(prompt_coefficients(steps, weights, folds=folds))


def _interval(estimate: float, replicates: Floats, level: float) -> tuple[float, float, float]:
    """Standard error, and percentiles moved so that the replicates' mean is the estimate; NaN with fewer than two."""
    good = replicates[np.isfinite(replicates)]
    if len(good) < 2:
        return (float("nan"),) * 3
    low, high = np.quantile(good, [(1 - level) / 2, (1 + level) / 2]) + (estimate - good.mean())
    return float(good.std(ddof=1)), float(low), float(high)


# -------------------------------------------------------------------------------------------------------- tables


def _pooled_table(values: Floats, counts: Floats, replicates: Floats, level: float) -> pd.DataFrame:
    pooled, rows = pool_quantities(values, counts), []
    for k, name in enumerate(RHOS):
        for q, quantity in enumerate(QUANTITIES):
            left_out = _rules(name, counts)[0](values[:, 2 if quantity == "adjusted" else 0, k], counts)[1]
            se, low, high = _interval(pooled[q, k], replicates[:, q, k], level)
            if quantity in ("raw", "adjusted"):
                low, high = max(low, -1.0), min(high, 1.0)
            rows.append({"coefficient": name, "quantity": quantity, "estimate": pooled[q, k], "se": se, "low": low,
                         "high": high, "prompts": len(values) - left_out, "left_out": left_out})
    return pd.DataFrame(rows)


def _prompt_table(prompts: Sequence[Said], values: Floats) -> pd.DataFrame:
    frame = pd.DataFrame({"prompt_id": [p.name for p in prompts], "M": [p.rollouts for p in prompts],
                          "N_bar": [p.mean_length for p in prompts], "R_bar": [p.mean_rate for p in prompts]})
    for k, name in enumerate(RHOS):
        raw, excess, adjusted = values[:, :, k].T
        frame = frame.assign(**{name: raw, f"{name}_position": raw - excess, f"{name}_excess": excess,
                                f"{name}_adjusted": adjusted})
    return frame


def _notes(values: Floats, prompts: Sequence[Said]) -> tuple[str, ...]:
    without = [p.name for p, missing in zip(prompts, np.isnan(values[:, 0, 0]), strict=True) if missing]
    if not without:
        return ()
    listed = ", ".join(without[:5]) + (", ..." if len(without) > 5 else "")
    return (f"{len(without)} of {len(prompts)} prompts have no correlation, as their lengths or rates do not vary, and "
            f"are left out: {listed}.",)


# --------------------------------------------------------------------------------------------------------- input


def _check_options(n_boot: int, resample: str, origin: str, level: float) -> None:
    if resample not in get_args(Resample) or origin not in get_args(Origin):
        raise UserError(f"resample is {resample!r} and origin {origin!r}; choose resample from "
                        f"{', '.join(get_args(Resample))}, and origin from {', '.join(get_args(Origin))}.")
    if not (isinstance(n_boot, (int, np.integer)) and n_boot >= 0 and 0 < level < 1):
        raise UserError(f"n_boot is {n_boot!r} and level {level!r}; give a whole number of replicates, such as 400, "
                        "and a level between 0 and 1.")
