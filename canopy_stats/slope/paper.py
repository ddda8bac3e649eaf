"""The paper's linear mixed models of diversity on entropy rate, and what they say of the slope's change by fine-tuning.

Models (D is semantic diversity, R_bar the mean entropy rate in nats per token, N_bar the mean length in tokens):
``main`` has one slope for both variants, ``interaction`` a slope for each, ``quadratic`` a parabola for each (by
maximum likelihood, rates centred; slopes at the mean rate).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats

from canopy_stats.mixed import Fit, lmm
from canopy_stats.mixed.lmm import test_df
from canopy_stats.schema import UserError
from canopy_stats.slope.ratio import delta_se, fieller

Model = Literal["main", "interaction", "quadratic"]
MODELS: tuple[Model, ...] = ("main", "interaction", "quadratic")
NEEDED = ("task", "prompt_uid", "model_name", "model_variant", "D", "R_bar", "N_bar")
BASE = "base"
LEVEL = 0.95
CAVEATS = (
    "Curvature shared by the two variants is not corrected: together with different rates it can look like a change of"
    " slope. Measurement error of the rates (they come from the same rollouts as D) is not corrected either."
)


class Interval(tuple[float, float]):
    """(low, high) with ``kind``: 'bounded'; 'exclusive' (all but what lies between); 'whole'; 'not modelled'."""

    kind: str

    def __new__(cls, low: float, high: float, kind: str = "bounded") -> Interval:
        interval = super().__new__(cls, (float(low), float(high)))
        interval.kind = kind
        return interval

    def __repr__(self) -> str:
        return f"Interval({self[0]:.6g}, {self[1]:.6g}, {self.kind})"


@dataclass(frozen=True)
class Estimate:
    """One quantity with its standard error, 95% interval (low, high) and two-sided p-value.

    For a ratio the interval is Fieller's set, ``se`` is by the delta method, and the p-value tests a ratio of one.
    """

    estimate: float
    se: float
    interval: Interval
    pvalue: float

    @property
    def kind(self) -> str:
        """How to read the interval."""
        return self.interval.kind


@dataclass(frozen=True)
class SlopeChange:
    """Slope of diversity on entropy rate in the base and the fine-tuned variant, their difference and ratio."""

    model: str
    base: Estimate
    tuned: Estimate
    difference: Estimate
    ratio: Estimate
    identified: bool
    verdict: str
    estimand: str
    notes: tuple[str, ...] = ()
    fit: Fit | None = field(default=None, repr=False)


@dataclass(frozen=True)
class PreparedPanel:
    """A checked panel with R_c, R_c2 (centred rate in nats per token and its square) and what was left out."""

    data: pd.DataFrame
    tuned: str
    notes: tuple[str, ...]
    single: frozenset[str]


def slope_table(panel: pd.DataFrame) -> pd.DataFrame:
    """One row for each of the paper's linear mixed models: slopes, difference, ratio with Fieller's set.

    ``lrt_chi2``, ``lrt_df`` and ``lrt_p`` test the quadratic terms against the interaction model, both by maximum
    likelihood. The main model has one slope for both variants, hence no difference and no ratio.
    """
    prepared = prepare(panel)
    fits = {model: fit_model(prepared, model) for model in MODELS}
    rows = [_row(slope_from_fit(fits[model], prepared, model)) for model in MODELS]
    table = pd.DataFrame(rows)
    chi2 = 2 * (fits["quadratic"].llf - fit_model(prepared, "interaction", reml=False).llf)
    quadratic = (table["model"] == "quadratic").to_numpy()
    values = {"lrt_chi2": chi2, "lrt_df": 2.0, "lrt_p": float(stats.chi2.sf(max(chi2, 0.0), 2))}
    for name, value in values.items():
        table[name] = np.where(quadratic, value, np.nan)
    table.attrs["notes"] = list(prepared.notes)
    return table


def slope_change(panel: pd.DataFrame, *, model: Model = "interaction") -> SlopeChange:
    """Base slope, tuned slope, difference and ratio by one of the paper's linear mixed models."""
    if model not in MODELS:
        raise UserError(f"model is {model!r}; choose one of {', '.join(MODELS)}.")
    prepared = prepare(panel)
    return slope_from_fit(fit_model(prepared, model), prepared, model)


def prepare(panel: pd.DataFrame) -> PreparedPanel:
    """Check a panel and add the centred rate. UserError names what is missing; single-level factors are noted."""
    missing = [name for name in NEEDED if name not in panel.columns]
    if missing:
        raise UserError(f"The panel lacks {', '.join(missing)}; make it with canopy_stats.panel or rename its columns.")
    variants = sorted(str(v) for v in panel["model_variant"].unique())
    if BASE not in variants or len(variants) != 2:
        raise UserError(
            f"model_variant has {', '.join(variants)}; a slope change needs '{BASE}' and one fine-tuned variant."
            " Select the rows of two variants, or rename the reference one."
        )
    rate = panel["R_bar"] - panel["R_bar"].mean()
    data = panel.assign(R_c=rate, R_c2=rate**2)
    single = frozenset(name for name in ("task", "model_name") if panel[name].nunique() == 1)
    notes = tuple(f"{name} has one level ({panel[name].iloc[0]}); its term is left out." for name in sorted(single))
    return PreparedPanel(data, next(v for v in variants if v != BASE), notes, single)


def paper_formula(model: Model, single: frozenset[str] = frozenset()) -> str:
    """The paper's formula for a model, without the terms of factors that have one level only."""
    task = "" if "task" in single else " + task"
    family = "" if "model_name" in single else " + model_name"
    tail = {
        "main": "R_bar + N_bar" + task + (" + model_variant" if not family else " + model_name*model_variant"),
        "interaction": "R_bar*model_variant + N_bar" + task + family,
        "quadratic": "(R_c + R_c2)*model_variant + N_bar" + task + family,
    }
    return f"D ~ {tail[model]} + (1|prompt_uid)"


def fit_model(prepared: PreparedPanel, model: Model, *, reml: bool | None = None) -> Fit:
    """Fit one of the paper's models; ``quadratic`` by maximum likelihood, the others by REML, unless told."""
    reml = model != "quadratic" if reml is None else reml
    formula = paper_formula(model, prepared.single)
    return lmm(formula, prepared.data, reml=reml, reference={"model_variant": BASE})


def slope_from_fit(fit: Fit, prepared: PreparedPanel, model: Model) -> SlopeChange:
    """Read the slopes off a fit; the base slope is the rate's coefficient, the difference its interaction's."""
    rate = "R_c" if model == "quadratic" else "R_bar"
    names = list(fit.design.fixed.names)
    change = f"{rate}:model_variant[T.{prepared.tuned}]"
    rows = np.zeros((3, len(names)))
    identified = rate in names and (model == "main" or change in names)
    rows[[0, 1], names.index(rate) if rate in names else 0] = float(identified)
    if model != "main" and identified:
        rows[[1, 2], names.index(change)] = 1.0
    estimates = _estimates(fit, rows, identified)
    difference, ratio = _missing() if model == "main" else estimates[2], _missing()
    if model != "main" and identified:
        ratio = _ratio(fit, rows, difference.pvalue)
    estimand = _estimand(model)
    verdict = _verdict(model, difference, ratio, identified)
    return SlopeChange(
        model, estimates[0], estimates[1], difference, ratio, identified, verdict, estimand, prepared.notes, fit
    )


def _missing() -> Estimate:
    nan = float("nan")
    return Estimate(nan, nan, Interval(nan, nan, "not modelled"), nan)


def _estimates(fit: Fit, rows: np.ndarray, identified: bool) -> list[Estimate]:
    """Contrasts (k, p) of the fixed effects with Satterthwaite intervals."""
    if not identified:
        return [_missing()] * len(rows)
    values = rows @ fit.beta
    errors = np.sqrt(np.einsum("ka,ab,kb->k", rows, fit.covariance, rows))
    used = errors > 0
    df = np.full(len(rows), np.inf)
    df[used] = test_df(fit, rows[used])
    return [_estimate(*row) if ok else _missing() for *row, ok in zip(values, errors, df, used, strict=True)]


def _estimate(value: float, error: float, df: float) -> Estimate:
    half = float(stats.t.ppf((1 + LEVEL) / 2, df) * error)
    p = float(2 * stats.t.sf(abs(value / error), df))
    return Estimate(float(value), float(error), Interval(value - half, value + half), p)


def _ratio(fit: Fit, rows: np.ndarray, pvalue: float) -> Estimate:
    """Tuned over base slope, with Fieller's set at the smaller of the two degrees of freedom."""
    pair = rows[[1, 0]]
    covariance = pair @ fit.covariance @ pair.T
    tuned, base = pair @ fit.beta
    critical = float(stats.t.ppf((1 + LEVEL) / 2, test_df(fit, pair).min()))
    found = fieller(float(tuned), float(base), covariance, critical)
    interval = Interval(found.low, found.high, found.kind)
    return Estimate(found.estimate, delta_se(tuned, base, covariance), interval, pvalue)


def _estimand(model: Model) -> str:
    where = " at the panel's mean rate" if model == "quadratic" else ""
    variants = "in both variants alike" if model == "main" else "in the base and in the fine-tuned variant"
    return (
        f"Change of the expected semantic diversity D per nat per token of mean entropy rate{where}, {variants}, at"
        " equal mean length, task and model family, within a linear model with a random intercept for each prompt."
        f" {CAVEATS}"
    )


def _verdict(model: Model, difference: Estimate, ratio: Estimate, identified: bool) -> str:
    if not identified:
        return "The slopes cannot be told from the other terms in this panel (aliased columns); no verdict."
    if model == "main":
        return f"One slope for both variants: this model cannot say whether fine-tuning changes it. {CAVEATS}"
    word = "differ" if difference.pvalue < 1 - LEVEL else "are not shown to differ"
    text = f"Within this model the slopes {word} (p = {difference.pvalue:.3g})."
    if ratio.kind != "bounded":
        text += " The base slope is too uncertain for a bounded interval of the ratio; report the difference."
    return f"{text} {CAVEATS}"


def _row(change: SlopeChange) -> dict[str, float | str]:
    ratio = change.ratio
    return {
        "model": change.model,
        "base_slope": change.base.estimate, "base_se": change.base.se,
        "tuned_slope": change.tuned.estimate, "tuned_se": change.tuned.se,
        "difference": change.difference.estimate, "difference_se": change.difference.se,
        "difference_p": change.difference.pvalue,
        "ratio": ratio.estimate, "ratio_low": ratio.interval[0], "ratio_high": ratio.interval[1],
        "ratio_kind": ratio.kind, "nobs": change.fit.nobs if change.fit else 0,
    }
