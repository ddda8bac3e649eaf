"""Measures along the checkpoints of a training run: their course over steps, its slopes, and simultaneous bands."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from canopy_stats.metrics.course import Course, course_of, degree_of, refuse_shape
from canopy_stats.metrics.measures import measure
from canopy_stats.multiplicity import adjusted_p
from canopy_stats.notebook import Shown
from canopy_stats.schema import UNITS, UserError
from canopy_stats.seeds import generator

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from canopy_stats.store import Run

MEASURES = ("CE", "N_bar", "R_bar", "rho_pearson", "D")
"""What is followed when nothing else is asked for; D where there is an embedder."""
PER = 1000
"""Slopes are for so many steps."""


@dataclass(frozen=True)
class Trajectory(Shown):
    """The course of measures over training steps.

    ``frame`` has a row for each step and prompt: step, task, prompt_id, prompt_uid, M and the measures. ``means`` are
    the means over prompts at each step. ``table`` has a row for each measure and quantity ("last - first", "slope to
    S", "slope from S", "change of slope"): measure, quantity, unit, estimate, std_error, df, statistic, p_value,
    conf_low, conf_high, and p_adjusted (Holm's, over all rows). ``bands`` is the fitted course on a grid of steps:
    measure, step, estimate, std_error, conf_low, conf_high (at each step) and band_low, band_high (over all steps
    at once). Slopes are for 1,000 steps.
    """

    frame: pd.DataFrame
    means: pd.DataFrame
    table: pd.DataFrame
    bands: pd.DataFrame
    shape: str
    at: float
    level: float
    notes: tuple[str, ...]

    @property
    def measures(self) -> list[str]:
        """The measures that were followed."""
        return list(dict.fromkeys(self.table["measure"]))

    def _shown(self) -> tuple[str, list[Any]]:
        steps = self.means["step"]
        return (f"Trajectory over {len(steps)} steps, {steps.min():g} to {steps.max():g}",
                [self.means, self.table, *self.notes])

    def plot(self) -> Figure:
        """Each measure over steps: means of the prompts, the fitted course, and its band over all steps at once."""
        from canopy_stats.metrics.course_figure import course_figure

        return course_figure(self.means, self.bands, self.measures, self.at if self.shape != "linear" else None)


def trajectory(runs: Sequence[Run], steps: Mapping[str, float] | None = None, *, embedder: Any = None,
               measures: Sequence[str] | None = None, shape: str | None = None, at: float | None = None,
               level: float = 0.95, seed: int = 0, draws: int = 20_000) -> Trajectory:
    """Follow measures over the checkpoints of one training run.

    Each measure is a linear mixed model of the prompts' values over steps, prompts as random effects, with standard
    errors by prompt (CR2): they hold whatever course a prompt takes. Bands contain the whole course with probability
    ``level``: the largest deviation over the grid is simulated from the fit's covariance.

    Parameters
    ----------
    runs : sequence of Run
        Runs of one family, at each step the same prompts, one law; their variants are named ``step-200``.
    steps : mapping, optional
        Training step by run: keys are variants or run ids. None reads the variants' names.
    embedder : name, embedder or None
        As in :func:`canopy_stats.measure`; without one there is no D.
    measures : sequence of str, optional
        Columns of :func:`canopy_stats.measure`. None: CE, N_bar, R_bar, rho_pearson, and D with an embedder.
    shape : {"spline", "broken", "linear"}, optional
        A natural spline (three degrees of freedom, two for three steps), two straight lines that meet at ``at``, or
        one line. None: the spline from four steps on, else the line.
    at : float, optional
        Where slopes before and after are compared; None is the middle one of the steps.
    level : float
        Of intervals and bands.
    seed : int
        Of the simulated deviations.
    draws : int
        How many of them.

    Returns
    -------
    Trajectory
        Frame, means, table, bands, ``plot()``.

    Raises
    ------
    UserError
        Fewer than two steps, a run without a step, several families or laws, or prompts that a step lacks.
    """
    wanted = list(measures or [m for m in MEASURES if m != "D" or embedder is not None])
    frame = _frame(runs, _steps(runs, steps), embedder, wanted)
    return of_frame(frame, wanted, shape=shape, at=at, level=level, seed=seed, draws=draws)


def of_frame(frame: pd.DataFrame, measures: Sequence[str], *, shape: str | None = None, at: float | None = None,
             level: float = 0.95, seed: int = 0, draws: int = 20_000) -> Trajectory:
    """The same from a frame with step, prompt_uid and the measures."""
    distinct = np.unique(frame["step"])
    shape = shape or ("spline" if len(distinct) >= 4 else "linear")
    refuse_shape(shape, distinct, level)
    bend = _bend(distinct, at)
    rng = generator(seed)
    courses = {m: course_of(frame, m, shape, bend, level, rng, draws, PER) for m in measures}
    table = _stacked({m: c.table for m, c in courses.items()})
    unit = [UNITS.get(m, "") for m in table["measure"]]
    table.insert(2, "unit", [f"{u or '1'} / {PER:,} steps" if "slope" in q else u
                             for u, q in zip(unit, table["quantity"], strict=True)])
    table["p_adjusted"] = adjusted_p(table["p_value"], "holm")
    means = frame.groupby("step", sort=True)[list(measures)].mean().reset_index()
    return Trajectory(frame, means, table, _stacked({m: c.band for m, c in courses.items()}), shape, bend, level,
                      _notes(frame, courses, shape, level))


def _stacked(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    return pd.concat([t.assign(measure=m)[["measure", *t.columns]] for m, t in tables.items()], ignore_index=True)


# --- runs to a frame --------------------------------------------------------------------------------------------


def _steps(runs: Sequence[Run], given: Mapping[str, float] | None) -> list[float]:
    """The training step of each run."""
    found = [_step(run, given) for run in runs]
    if len(set(found)) < 2:
        raise UserError(f"A trajectory needs runs of two training steps and more; there is {len(set(found))}.")
    return found


def _step(run: Run, given: Mapping[str, float] | None) -> float:
    if given is None:
        named = re.fullmatch(r"(?:.*[-_])?step[-_]?(\d+)", run.config.variant)
        if named is None:
            raise UserError(f"The variant {run.config.variant!r} of {run.path} names no step; name variants step-200, "
                            "or give steps={variant: step}.")
        return float(named[1])
    known = [given[key] for key in (run.run_id, run.config.variant) if key in given]
    if not known:
        raise UserError(f"steps has no entry for {run.config.variant!r} (run {run.run_id}); give the step of each run.")
    return float(known[0])


def _frame(runs: Sequence[Run], steps: Sequence[float], embedder: Any, wanted: Sequence[str]) -> pd.DataFrame:
    _refuse_mixtures(runs)
    parts = [measure(run, embedder=embedder).assign(step=step) for run, step in zip(runs, steps, strict=True)]
    whole = pd.concat(parts, ignore_index=True)
    if unknown := [m for m in wanted if m not in whole or not pd.api.types.is_numeric_dtype(whole[m])]:
        raise UserError(f"There is no measure {', '.join(unknown)}; choose columns of cs.measure, such as "
                        f"{', '.join(MEASURES)}.")
    _refuse_gaps(whole)
    return whole[["step", "task", "prompt_id", "prompt_uid", "M", *wanted]].sort_values(
        ["step", "prompt_uid"], ignore_index=True)


def _refuse_mixtures(runs: Sequence[Run]) -> None:
    for what, values in (("families", {r.config.family for r in runs}),
                         ("laws", {r.config.policy.label() for r in runs})):
        if len(values) > 1:
            raise UserError(f"The runs are of several {what} ({', '.join(sorted(values))}): a trajectory follows one "
                            "model under one law.")


def _refuse_gaps(whole: pd.DataFrame) -> None:
    twice = whole.duplicated(["step", "prompt_uid"])
    if twice.any():
        row = whole[twice].iloc[0]
        raise UserError(f"Step {row['step']:g} has the prompt {row['prompt_uid']!r} twice; give one run of each step "
                        "and task.")
    held = whole.groupby("step")["prompt_uid"].agg(set)
    everything = set[str]().union(*held)
    for step, own in held.items():
        if lacking := sorted(everything - own):
            raise UserError(f"Step {step:g} lacks {len(lacking)} prompt(s) that others have, such as {lacking[0]!r}: "
                            "their means would not be comparable. Draw them, or leave them out everywhere.")
    if whole.drop_duplicates(["prompt_uid", "prompt_hash"]).shape[0] > len(everything):
        raise UserError("Prompts of the same name have different texts at different steps; draw the same prompts.")


def _bend(distinct: np.ndarray, at: float | None) -> float:
    if at is None:
        return float(distinct[len(distinct) // 2])
    if not distinct[0] < at < distinct[-1]:
        raise UserError(f"at is {at:g}; it must lie between the first and the last step ({distinct[0]:g} and "
                        f"{distinct[-1]:g}).")
    return float(at)


def _notes(frame: pd.DataFrame, courses: Mapping[str, Course], shape: str, level: float) -> tuple[str, ...]:
    steps = frame["step"].nunique()
    words = {"spline": f"a natural spline with {degree_of(steps)} degrees of freedom", "broken": "a broken line",
             "linear": "a straight line"}
    notes = [f"Each course is {words[shape]} over steps, with random effects of {frame['prompt_uid'].nunique():,} "
             f"prompts and errors by prompt; bands hold {level:.0%} over all steps at once.",
             "Checkpoints of one training run: how another run of the same recipe would differ is not in these errors."]
    notes += [f"{m}: {c.left_out:,} of {len(frame):,} values do not exist (prompts without variance) and were left out."
              for m, c in courses.items() if c.left_out]
    return tuple(notes)
