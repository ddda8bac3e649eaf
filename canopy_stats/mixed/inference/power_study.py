"""Power of the tests of a fit's coefficients for more or fewer levels of its groups, by simulating and refitting."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import pandas as pd
from scipy import stats

from canopy_stats.mixed.estimates import Estimates
from canopy_stats.mixed.fit import Fit, make_fit
from canopy_stats.mixed.formulas.checks import independent_columns
from canopy_stats.mixed.formulas.grouping import group_codes
from canopy_stats.mixed.formulas.levels import nearest, shown
from canopy_stats.mixed.inference.parallel import fork_map
from canopy_stats.mixed.inference.wald import joint_test
from canopy_stats.mixed.model_frame import ModelFrame, take
from canopy_stats.mixed.results.simulation import simulate
from canopy_stats.schema import UserError
from canopy_stats.seeds import generator, seed_sequence

Array = np.ndarray


@dataclass(frozen=True)
class _Plan:
    """One planned study: its frame, the parameters under an effect and without one, and the tested rows (q, p)."""

    sizes: tuple[int, ...]
    frame: ModelFrame
    with_effect: Estimates
    without: Estimates
    contrasts: Array


def power(fit: Fit, effect: str | Mapping[str, float], along: Mapping[str, Sequence[int]] | None = None, *,
          n: int = 200, alpha: float = 0.05, seed: int = 0, workers: int = 1) -> pd.DataFrame:
    """Power to find an effect in studies like the fitted one with other numbers of groups.

    Responses are simulated from the fit with the effect put in, the model is refitted from its own estimates (warm
    starts) and the effect tested at ``alpha`` as in ``anova`` and ``hypothesis`` (t or F for linear models, Wald
    otherwise; several coefficients jointly). The same is done with the effect at zero: ``level`` should be ``alpha``,
    and where it is not the power is not to be trusted.

    Parameters
    ----------
    effect : mapping from coefficients to their values, or the name of one coefficient (at its estimate)
        On the link scale, named as in ``fit.params``.
    along : mapping from columns to numbers of their levels, e.g. ``{"item": [50, 100], "model": [8, 16]}``
        All combinations are studied. More levels than were fitted are copies with random effects of their own, fewer
        are drawn so that factors constant within levels stay balanced. None: the study as it was.
    n : int
        Simulated studies for the power and as many for the level, of each combination.

    Columns: those of ``along``, rows, power, conf_low, conf_high (Wilson), level, level_low, level_high, failed (refits
    that broke down; they count as no finding).
    """
    chosen, sizes = _effect(fit, effect), _along(fit, along)
    if fit.errors:
        raise UserError("power() simulates the model, whose own errors are right there; use the fit before robust().")
    if n < 10 or not 0 < alpha < 1:
        raise UserError("power() needs n of at least 10 and alpha between 0 and 1.")
    plans = [_plan(fit, chosen, dict(zip(sizes, point, strict=True)), generator(seed, i))
             for i, point in enumerate(product(*sizes.values()))]
    streams = seed_sequence(seed).spawn(2 * n * len(plans))
    found = fork_map(lambda i: _found(fit, plans[i // (2 * n)], i % 2 == 0, streams[i], alpha), len(streams), workers)
    table = np.array(found, dtype=float).reshape(len(plans), n, 2)
    return pd.DataFrame([{**dict(zip(sizes, plan.sizes, strict=True)), "rows": plan.frame.nobs, **_shares(part)}
                         for plan, part in zip(plans, table, strict=True)])


def _effect(fit: Fit, effect: str | Mapping[str, float]) -> dict[int, float]:
    """Values by place of the coefficient."""
    names = list(fit.design.fixed.names)
    wanted = {effect: float(fit.params.get(effect, np.nan))} if isinstance(effect, str) else dict(effect)
    for name, value in wanted.items():
        if name not in names:
            raise UserError(f"effect names {name}, which is no coefficient of the fit."
                            + (nearest(name, names) or f" They are: {shown(names)}."))
        if not np.isfinite(value) or value == 0:
            raise UserError(f"The effect of {name} is {value}; give a finite number other than zero.")
    if not wanted:
        raise UserError("effect is empty; name a coefficient, as in effect={'x': 0.3}.")
    return {names.index(name): float(value) for name, value in wanted.items()}


def _along(fit: Fit, along: Mapping[str, Sequence[int]] | None) -> dict[str, list[int]]:
    groups = list(dict.fromkeys(name for factor in fit.design.factors for name in factor.groups))
    sizes = {name: list(values) for name, values in (along or {}).items()}
    for name, values in sizes.items():
        if name not in groups:
            raise UserError(f"along names {name}, which is no grouping variable of the fit ({', '.join(groups)}).")
        if not values or any(int(v) != v or v < 2 for v in values):
            raise UserError(f"along[{name!r}] must list whole numbers of levels, each at least 2.")
    return sizes


def _plan(fit: Fit, effect: dict[int, float], sizes: dict[str, int], rng: np.random.Generator) -> _Plan:
    frame = fit.frame
    for name, size in sizes.items():
        frame = resized(frame, name, size, rng)
    lost = ~independent_columns(frame.design.fixed.matrix)
    if lost.any():
        names = [name for name, gone in zip(frame.design.fixed.names, lost, strict=True) if gone]
        where = ", ".join(f"{size} levels of {name}" for name, size in sizes.items())
        raise UserError(f"With {where} some coefficients cannot be estimated: {', '.join(names)}; ask for more levels.")
    place = list(effect)
    with_effect, without = fit.beta.copy(), fit.beta.copy()
    with_effect[place], without[place] = list(effect.values()), 0.0
    first, second = (replace(fit, frame=frame, beta=beta) for beta in (with_effect, without))
    return _Plan(tuple(sizes.values()), frame, first, second, np.eye(len(fit.beta))[place])


def resized(frame: ModelFrame, name: str, size: int, rng: np.random.Generator) -> ModelFrame:
    """The frame with ``size`` levels of one grouping column: all of them as often as they go in, the rest drawn."""
    codes, levels = group_codes(frame.design.data, [name])
    order = _balanced_order(frame, codes, len(levels), rng)
    chosen = [(order[i % len(order)], i // len(order)) for i in range(size)]
    rows = [np.flatnonzero(codes == level) for level, _ in chosen]
    copies = np.concatenate([np.full(len(part), copy) for part, (_, copy) in zip(rows, chosen, strict=True)])
    return take(frame, np.concatenate(rows), copies, codes)


def _balanced_order(frame: ModelFrame, codes: Array, count: int, rng: np.random.Generator) -> list[int]:
    """Levels in random order, taken in turn from those that share their values of the factors constant within them."""
    data, first = frame.design.data, np.array([int(np.argmax(codes == level)) for level in range(count)])
    constant = [name for name in frame.design.fixed.levels
                if pd.Series(data[name].to_numpy()).groupby(codes).nunique().max() == 1]
    kinds = data[constant].iloc[first].astype(str).agg("|".join, axis=1).to_numpy() if constant else np.zeros(count)
    shuffled = rng.permutation(count)
    turn = pd.Series(kinds[shuffled]).groupby(kinds[shuffled]).cumcount().to_numpy()
    return [int(level) for level in shuffled[np.argsort(turn, kind="stable")]]


def _found(fit: Fit, plan: _Plan, effect: bool, stream: np.random.SeedSequence, alpha: float) -> float:
    """1 where a simulated study finds the effect, 0 where not, NaN where its refit broke down."""
    truth = plan.with_effect if effect else plan.without
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            y = simulate(truth, np.random.default_rng(stream))
            way = fit.way.to(plan.frame.with_response(y))
            again = make_fit(way, way.estimate(truth))
            return float(joint_test(again, plan.contrasts).p_value < alpha)
        except (ValueError, ArithmeticError, np.linalg.LinAlgError):
            return float("nan")


def _shares(found: Array) -> dict[str, float]:
    """Shares of studies (n, 2) that found something, with the effect and without it, and their intervals."""
    (power_at, low, high), (level, level_low, level_high) = (_wilson(np.nan_to_num(part)) for part in found.T)
    return {"power": power_at, "conf_low": low, "conf_high": high, "level": level, "level_low": level_low,
            "level_high": level_high, "failed": int(np.isnan(found).sum())}


def _wilson(found: Array) -> tuple[float, float, float]:
    interval = stats.binomtest(int(found.sum()), len(found)).proportion_ci(0.95, method="wilson")
    return float(found.mean()), float(interval.low), float(interval.high)
