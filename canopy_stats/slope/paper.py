"""The paper's models of diversity on entropy rate, by name, and what each says of the slope's change by fine-tuning.

==============  ====================================================================================================
main            linear, one slope for both variants
interaction     linear, a slope for each variant
quadratic       linear in a parabola of the centred rate for each variant, by maximum likelihood; slopes at the mean
paper_beta      beta, logit link: standardised rate × variant, spline of 1/N × variant, dispersion model (headline)
paper_vendi     the same mean for (VS - 1)/(M - 1), a richer dispersion model
paper_rse       as paper_beta for RSE / log m
==============  ====================================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd
from scipy import stats

from canopy_stats.mixed import Fit, glmm, lmm, slopes
from canopy_stats.schema import UserError
from canopy_stats.slope.estimates import LEVEL, Estimate, SlopeChange, estimate, four, missing
from canopy_stats.slope.prepare import BASE, SQUEEZE, PreparedPanel, prepare

Model = Literal["main", "interaction", "quadratic", "paper_beta", "paper_vendi", "paper_rse"]
LINEAR: tuple[Model, ...] = ("main", "interaction", "quadratic")
MODELS: tuple[Model, ...] = get_args(Model)
RESPONSES: Mapping[Model, str] = {"paper_vendi": "vendi_share", "paper_rse": "rse_share"}
CAVEATS = (
    "Curvature shared by the two variants is not corrected: together with different rates it can look like a change of"
    " slope. Measurement error of the rates (they come from the same rollouts as D) is not corrected either."
)


def slope_table(panel: pd.DataFrame) -> pd.DataFrame:
    """One row for each of the paper's linear mixed models: slopes, difference, ratio with Fieller's set.

    ``lrt_chi2``, ``lrt_df`` and ``lrt_p`` test the quadratic terms against the interaction model, both by maximum
    likelihood. The main model has one slope for both variants, hence no difference and no ratio.
    """
    prepared = prepare(panel)
    fits = {model: fit_model(prepared, model) for model in LINEAR}
    table = pd.DataFrame([row(slope_from_fit(fits[model], prepared, model)) for model in LINEAR])
    chi2 = 2 * (fits["quadratic"].llf - fit_model(prepared, "interaction", reml=False).llf)
    quadratic = (table["model"] == "quadratic").to_numpy()
    values = {"lrt_chi2": chi2, "lrt_df": 2.0, "lrt_p": float(stats.chi2.sf(max(chi2, 0.0), 2))}
    for name, value in values.items():
        table[name] = np.where(quadratic, value, np.nan)
    table.attrs["notes"] = list(prepared.notes)
    return table


def paper_change(panel: pd.DataFrame, model: Model) -> SlopeChange:
    """Base slope, tuned slope, difference and ratio by one of the paper's models."""
    prepared = prepare(with_response(panel, model), RESPONSES.get(model, "D"))
    return slope_from_fit(fit_model(prepared, model), prepared, model)


def with_response(panel: pd.DataFrame, model: Model) -> pd.DataFrame:
    """The panel with the model's response: D itself, (VS - 1)/(M - 1), or RSE / log m."""
    needed = {"paper_vendi": ("VS", "M"), "paper_rse": ("RSE", "rse_m")}.get(model, ())
    lacking = [name for name in needed if name not in panel.columns]
    if lacking:
        how = "judge the runs first (canopy_stats.judge)" if model == "paper_rse" else "make the panel with an embedder"
        raise UserError(f"{model} needs the column{'s'[:len(lacking) - 1]} {', '.join(lacking)}; {how}.")
    if model == "paper_vendi":
        return panel.assign(vendi_share=(panel["VS"] - 1) / (panel["M"] - 1))
    return panel.assign(rse_share=panel["RSE"] / np.log(panel["rse_m"])) if model == "paper_rse" else panel


# --- formulas and fits ------------------------------------------------------------------------------------------


def paper_formula(model: Model, single: frozenset[str] = frozenset()) -> str:
    """The paper's formula for a model, without the terms of factors that have one level only."""
    task = "" if "task" in single else " + task"
    family = "" if "model_name" in single else " + model_name"
    random_family = "" if "model_name" in single else " + (1|model_name)"
    beta = f"R_sc*model_variant + ns(invN_sc, 4)*model_variant{task}{random_family}"
    tail = {
        "main": "R_bar + N_bar" + task + (" + model_variant" if not family else " + model_name*model_variant"),
        "interaction": "R_bar*model_variant + N_bar" + task + family,
        "quadratic": "(R_c + R_c2)*model_variant + N_bar" + task + family,
    }
    return f"{RESPONSES.get(model, 'D')} ~ {tail.get(model, beta)} + (1|prompt_uid)"


def paper_dispersion(model: Model, single: frozenset[str] = frozenset()) -> str:
    """The paper's dispersion formula (log phi) for a beta model."""
    variant = "model_variant" if "task" in single else "model_variant*task"
    length = "ns(invN_sc, 4)*model_variant" if model == "paper_vendi" else "ns(invN_sc, 3)"
    family = "" if "model_name" in single else " + model_name"
    return f"~ {variant} + {length} + R_sc*model_variant{family}"


def fit_model(prepared: PreparedPanel, model: Model, *, reml: bool | None = None) -> Fit:
    """Fit one of the paper's models; ``quadratic`` by maximum likelihood, the linear others by REML, unless told."""
    formula, reference = paper_formula(model, prepared.single), {"model_variant": BASE}
    if model in LINEAR:
        return lmm(formula, prepared.data, reml=model != "quadratic" if reml is None else reml, reference=reference)
    dispersion = paper_dispersion(model, prepared.single)
    return glmm(formula, prepared.data, dispersion=dispersion, reference=reference, squeeze=SQUEEZE)


# --- slopes from a fit ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reading:
    """Where a model's slopes stand: the rate's column, and contrasts (3, p) for base, tuned and difference."""

    rate: str
    rows: np.ndarray
    identified: bool


def slope_from_fit(fit: Fit, prepared: PreparedPanel, model: Model) -> SlopeChange:
    """Read the slopes off a fit; the base slope is the rate's coefficient, the difference its interaction's."""
    reading = _reading(fit, prepared, model)
    base, tuned, change, ratio = _estimates(fit, reading, model)
    notes = (*prepared.notes, *fit.notes, *_uncertified(fit))
    verdict = _verdict(model, change, ratio, reading.identified)
    linear = model in LINEAR
    unit = "D per nat/token" if linear else f"log-odds per SD of R ({prepared.rate_sd:.4g} nats/token)"
    response = {} if linear or not reading.identified else _response_scale(fit, prepared.tuned)
    return SlopeChange(model, base, tuned, change, ratio, reading.identified, verdict, _estimand(model), notes, fit,
                       unit=unit, response=response)


def _reading(fit: Fit, prepared: PreparedPanel, model: Model) -> Reading:
    rate = "R_c" if model == "quadratic" else "R_bar" if model in LINEAR else "R_sc"
    names = list(fit.design.fixed.names)
    change = f"{rate}:model_variant[T.{prepared.tuned}]"
    identified = rate in names and (model == "main" or change in names)
    rows = np.zeros((3, len(names)))
    if identified:
        rows[[0, 1], names.index(rate)] = 1.0
    if identified and model != "main":
        rows[[1, 2], names.index(change)] = 1.0
    return Reading(rate, rows, identified)


def _estimates(fit: Fit, reading: Reading, model: Model) -> tuple[Estimate, Estimate, Estimate, Estimate]:
    """Satterthwaite's degrees of freedom for linear models, normal quantiles for beta models."""
    if not reading.identified:
        return missing(), missing(), missing(), missing()
    rows, p = reading.rows, len(fit.beta)
    df = fit.degrees_of_freedom(rows[:2] if model == "main" else rows)
    if model == "main":
        value, error = float(rows[0] @ fit.beta), float(np.sqrt(rows[0] @ fit.covariance @ rows[0]))
        one = estimate(value, error, float(df[0]))
        return one, one, missing(), missing()
    return four(rows, fit.beta, fit.covariance[:p, :p], df)


def _response_scale(fit: Fit, tuned: str) -> dict[str, Estimate]:
    """Average marginal effects of the rate, each variant over all rows: change of the mean response per SD of R."""
    table = slopes(fit, "R_sc", "model_variant", scale="response").set_index("level")[["estimate", "std_error"]]
    names = {"base": BASE, "tuned": tuned, "difference": f"{tuned} - {BASE}"}
    return {name: estimate(*table.loc[level].to_numpy()) for name, level in names.items()}


def _uncertified(fit: Fit) -> tuple[str, ...]:
    return () if fit.converged else (f"The fit is not certified: {fit.certificate}",)


# --- words ------------------------------------------------------------------------------------------------------

_RESPONSE_WORDS = {"paper_vendi": "the Vendi score's share (VS - 1)/(M - 1)", "paper_rse": "RSE / log m"}


def _estimand(model: Model) -> str:
    response = _RESPONSE_WORDS.get(model, "semantic diversity D")
    if model not in LINEAR:
        return (f"Change of the log-odds of the expected {response} per standard deviation of mean entropy rate, in "
                "the base and in the fine-tuned variant, at equal length and task, for an average prompt and family, "
                f"within a beta mixed model whose rate term is a straight line. {CAVEATS}")
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


def row(change: SlopeChange) -> dict[str, float | str]:
    """A slope change as one row of a table."""
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
