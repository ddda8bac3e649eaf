"""A bootstrap over whole prompts for any slope model: intervals, and the ratio's set by inverting tests.

A prompt is drawn with all its rows (families and variants), within its task, so that every replicate has the panel's
families and tasks; the intervals hold these fixed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd

from canopy_stats.mixed.inference.parallel import fork_map
from canopy_stats.schema import UserError
from canopy_stats.seeds import seed_sequence
from canopy_stats.slope.change import SlopeChange
from canopy_stats.slope.estimates import LEVEL, Interval

Estimator = Callable[[pd.DataFrame], SlopeChange]
PARTS = ("base", "tuned", "difference")
LEAST_WORKED = 0.8


def with_bootstrap(found: SlopeChange, panel: pd.DataFrame, estimator: Estimator, n: int, seed: int | None,
                   workers: int) -> SlopeChange:
    """The slope change with ``replicates`` (n rows: base, tuned, difference; NaN where a fit failed) and ``intervals``.

    UserError without a seed, for fewer than 20 replicates, or where more than a fifth of them fail.
    """
    if seed is None or n < 20:
        raise UserError(f"bootstrap={n}, seed={seed}: give at least 20 replicates (999 for a paper) and a seed.")
    if not found.identified:
        return found
    replicates = pd.DataFrame(_replicates(panel, estimator, n, seed, workers), columns=list(PARTS))
    worked = replicates.notna().all(axis=1).mean()
    if worked < LEAST_WORKED:
        raise UserError(f"Only {worked:.0%} of {n} resampled panels could be fitted; the panel is too small for a "
                        "bootstrap over prompts. Report the model's own intervals.")
    failed = int((1 - worked) * n + 0.5)
    note = (f"Bootstrap: {n} resamples of whole prompts within tasks, {failed} failed; seed {seed}. "
            "Its intervals are for these families and tasks alone.")
    return replace(found, replicates=replicates, intervals=_intervals(replicates.dropna()), notes=(*found.notes, note))


def _replicates(panel: pd.DataFrame, estimator: Estimator, n: int, seed: int, workers: int) -> list[tuple[float, ...]]:
    streams = seed_sequence(seed).spawn(n)

    def one(i: int) -> tuple[float, ...]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                change = estimator(resampled(panel, np.random.default_rng(streams[i])))
            except (ValueError, ArithmeticError, np.linalg.LinAlgError):
                return (float("nan"),) * 3
        return tuple(getattr(change, part).estimate for part in PARTS)

    return fork_map(one, n, workers)


def resampled(panel: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """As many prompts of each task, drawn with replacement; every copy is a prompt of its own."""
    parts = []
    for _, places in panel.groupby("task", observed=True).indices.items():
        rows_of = list(pd.Series(places).groupby(panel["prompt_uid"].to_numpy()[places]).apply(np.asarray))
        drawn = rng.integers(0, len(rows_of), len(rows_of))
        rows = np.concatenate([rows_of[k] for k in drawn])
        copies = np.repeat(np.arange(len(drawn)), [len(rows_of[k]) for k in drawn])
        part = panel.iloc[rows].reset_index(drop=True)
        parts.append(part.assign(prompt_uid=part["prompt_uid"].astype(str) + "#" + pd.Series(copies).astype(str)))
    return pd.concat(parts, ignore_index=True)


def _intervals(replicates: pd.DataFrame) -> dict[str, Interval]:
    tail = (1 - LEVEL) / 2
    ends = replicates.quantile([tail, 1 - tail])
    parts = {name: Interval(*ends[name]) for name in PARTS}
    return {**parts, "ratio": inverted_ratio(replicates["tuned"].to_numpy(), replicates["base"].to_numpy())}


def inverted_ratio(tuned: np.ndarray, base: np.ndarray) -> Interval:
    """All rho for which zero lies between the 2.5% and 97.5% quantiles of tuned - rho · base over the replicates (B,).

    With rho = tan(angle) a replicate is positive at the angles below that of its own ratio where base > 0, above it
    where base < 0, so that an unbounded set is an arc like any other: 'bounded', 'exclusive' (all but what lies
    between) or 'whole'.
    """
    angle = np.arctan2(tuned * np.sign(base), np.abs(base))
    ends = np.concatenate([[-np.pi / 2], np.sort(angle), [np.pi / 2]])
    middle = (ends[1:] + ends[:-1]) / 2
    below, above = np.sort(angle[base > 0]), np.sort(angle[base <= 0])
    positive = len(below) - np.searchsorted(below, middle) + np.searchsorted(above, middle)
    tail = (1 - LEVEL) / 2 * len(angle)
    kept = (positive >= tail) & (positive <= len(angle) - tail)
    if kept.all() or not kept.any():
        return Interval(-np.inf, np.inf, "whole")
    exclusive = bool(kept[0] and kept[-1])
    arc = np.flatnonzero(~kept if exclusive else kept)
    low, high = np.tan(ends[[arc[0], arc[-1] + 1]])
    return Interval(low, high, "exclusive" if exclusive else "bounded")
