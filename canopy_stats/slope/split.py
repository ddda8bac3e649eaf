"""From simulated powers to a recommendation: a smooth curve through all sizes, and the best split of a token budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import optimize, stats

from canopy_stats.schema import UserError
from canopy_stats.slope.estimates import ALPHA

Array = np.ndarray
PowerCurve = Callable[[Array, Array, Array], Array]
"""Power (n,) of studies with so many prompts, rollouts and families (n,)."""
LIMIT = float(stats.norm.isf(ALPHA / 2))
NEAR = 0.005
"""Splits whose powers differ by less are as good as one another; the cheapest is recommended."""


@dataclass(frozen=True)
class Split:
    """A token budget split: prompts of each task, rollouts of each prompt, families, and the tokens it takes."""

    prompts: int
    rollouts: int
    families: int
    tokens: float
    power: float
    at_edge: bool
    words: str


def with_smooth(table: pd.DataFrame) -> pd.DataFrame:
    """``smooth`` beside the simulated power; NaN at effect zero."""
    out = table.assign(smooth=np.nan)
    for effect in sorted(set(table.loc[table["effect"] != 0, "effect"])):
        rows = out["effect"] == effect
        size = [out.loc[rows, name].to_numpy() for name in ("prompts", "rollouts", "families")]
        out.loc[rows, "smooth"] = power_curve(table, float(effect))(*size)
    return out[[*table.columns[:6], "smooth", *table.columns[6:]]]


def power_curve(table: pd.DataFrame, effect: float) -> PowerCurve:
    """Power as a smooth function of (prompts, rollouts, families), from the z-scores of all sizes at one effect.

    The mean z is exp(a + b log P - c/M + d log F), its standard deviation exp(e + f log P): more prompts, rollouts and
    families never harm (b, c, d >= 0), and rollouts matter less the more there are. Two moments of z use the simulated
    panels better than counts of rejections do.
    """
    rows = table[(table["effect"] == effect) & table["sd_z"].notna()]
    if rows.empty:
        raise UserError(f"There is no simulated study at effect {effect:g}; the effects are"
                        f" {', '.join(f'{e:g}' for e in sorted(set(table['effect'])))}.")
    sign = float(np.sign(effect))
    p, m, f = (rows[name].to_numpy(dtype=float) for name in ("prompts", "rollouts", "families"))
    x = np.column_stack([np.ones(len(rows)), np.log(p), -1 / m, np.log(f)])
    mean, sd = sign * rows["mean_z"].to_numpy(), rows["sd_z"].to_numpy()
    error = sd / np.sqrt(rows["replicates"].to_numpy() - rows["failed"].to_numpy())
    start = np.array([np.log(max(float(mean.mean()), 0.05)), 0.0, 0.0, 0.0])
    found = optimize.least_squares(lambda b: (np.exp(x @ b) - mean) / error, start,
                                   bounds=([-20, 0, 0, 0], [20, 1, 200, 1]))
    spread = np.polyfit(np.log(p), np.log(sd), 1) if len(set(p)) > 2 else np.array([0.0, np.log(sd).mean()])
    share = 1 - float(rows["failed"].sum() / rows["replicates"].sum())

    def curve(prompts: Array, rollouts: Array, families: Array) -> Array:
        at = np.stack([np.ones(np.shape(prompts)), np.log(prompts), -1 / np.asarray(rollouts, float), np.log(families)])
        width = np.exp(np.polyval(spread, np.log(prompts)))
        return np.asarray(share * stats.norm.sf((LIMIT - np.exp(np.tensordot(found.x, at, 1))) / width))

    return curve


def best_split(table: pd.DataFrame, tokens: float, budget: float, effect: float | None = None,
               families: int | None = None) -> Split:
    """The best split of a budget where one prompt of each task with one rollout in one family takes ``tokens``.

    UserError where the budget does not buy the smallest simulated study.
    """
    table = table[table["effect"] != 0]
    effect = _the_one(table["effect"], effect, "effect")
    families = int(_the_one(table["families"], families, "families"))
    rows = table[(table["effect"] == effect) & (table["families"] == families)]
    per = tokens * families
    (least_p, most_p), (least_m, most_m) = ((int(rows[n].min()), int(rows[n].max())) for n in ("prompts", "rollouts"))
    p, m = (side.ravel() for side in np.meshgrid(np.arange(least_p, most_p + 1), np.arange(least_m, most_m + 1)))
    bought = per * p * m <= budget
    p, m = p[bought], m[bought]
    if len(m) == 0:
        raise UserError(f"{budget:.3g} tokens do not buy the smallest simulated study ({least_p} prompts a task with"
                        f" {least_m} rollouts take {per * least_p * least_m:.3g}). Raise the budget, or simulate"
                        " smaller.")
    reached = power_curve(table, effect)(p, m, np.full(len(p), families))
    good = np.flatnonzero(reached >= reached.max() - NEAR)
    at = good[np.argmin((p * m)[good])]
    prompts, rollouts = int(p[at]), int(m[at])
    edge = least_p < prompts == most_p or (least_m < most_m and rollouts in (least_m, most_m))
    words = (f"Of {budget:.3g} tokens, {prompts} prompts a task with {rollouts} rollouts each, in {families} families"
             f" ({per * prompts * rollouts:.3g} tokens), give the greatest power to find a difference of {effect:g}:"
             f" {100 * reached[at]:.0f}%.")
    words += " That lies at the edge of what was simulated: try sizes beyond it." if edge else ""
    return Split(prompts, rollouts, families, per * prompts * rollouts, float(reached[at]), edge, words)


def _the_one(values: pd.Series, asked: float | None, name: str) -> float:
    """The value asked for, or the only one simulated."""
    known = sorted(set(values))
    if not known:
        raise UserError("Only effect zero was simulated; a recommendation needs an effect to find.")
    if asked is None and len(known) > 1:
        raise UserError(f"Several values of {name} were simulated ({', '.join(f'{k:g}' for k in known)}); say which.")
    if asked is not None and asked not in known:
        raise UserError(f"{name}={asked:g} was not simulated; choose among {', '.join(f'{k:g}' for k in known)}.")
    return float(known[0] if asked is None else asked)
