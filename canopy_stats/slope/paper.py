"""The paper's models of diversity on entropy rate (:mod:`canopy_stats.slope.models`): what each says of the slope's
change by fine-tuning."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from canopy_stats.mixed import Fit, glmm, lmm, slopes
from canopy_stats.mixed.fitting.generalised import NoMaximum
from canopy_stats.mixed.formulas.frames import as_pandas
from canopy_stats.panel_rows import check_rows
from canopy_stats.slope.change import SlopeChange
from canopy_stats.slope.coefficients import combined, slope_row, uncertified
from canopy_stats.slope.columns import BASE
from canopy_stats.slope.estimates import ALPHA, Estimate, estimate, four, missing
from canopy_stats.slope.models import LINEAR, TABLE, PaperModel, SlopeModel
from canopy_stats.slope.prepare import SQUEEZE, PreparedPanel, prepare

ALIASED = "The slopes cannot be told from the other terms in this panel (aliased columns); no verdict."
UNSETTLED = ("The likelihood of this model has no maximum with standard errors on this panel; no verdict. Few prompts "
             "do that: draw more.")
CAVEATS = (
    "Curvature shared by the two variants is not corrected: together with different rates it can look like a change of"
    " slope. Measurement error of the rates (they come from the same rollouts as D) is not corrected either."
)


def slope_table(panel: pd.DataFrame) -> pd.DataFrame:
    """One row for each of the paper's linear mixed models: slopes, difference, ratio with Fieller's set.

    ``lrt_chi2``, ``lrt_df`` and ``lrt_p`` test the quadratic terms against the interaction model, both by maximum
    likelihood. The main model has one slope for both variants, hence no difference and no ratio.
    """
    panel = as_pandas(panel)
    check_rows(panel)
    prepared = prepare(panel)
    fits = {name: fit_model(prepared, TABLE[name]) for name in LINEAR}
    table = pd.DataFrame([slope_from_fit(fits[name], prepared, TABLE[name]).row() for name in LINEAR])
    chi2 = 2 * (fits["quadratic"].llf - fit_model(prepared, TABLE["interaction"], reml=False).llf)
    quadratic = (table["model"] == "quadratic").to_numpy()
    values = {"lrt_chi2": chi2, "lrt_df": 2.0, "lrt_p": float(stats.chi2.sf(max(chi2, 0.0), 2))}
    for name, value in values.items():
        table[name] = np.where(quadratic, value, np.nan)
    table.attrs["notes"] = list(prepared.notes)
    return table


def paper_change(panel: pd.DataFrame, name: PaperModel) -> SlopeChange:
    """Base slope, tuned slope, difference and ratio by one of the paper's models."""
    model = TABLE[name]
    prepared = prepare(model.response.added_to(panel, name), model.response.column)
    try:
        fit = fit_model(prepared, model)
    except NoMaximum:
        return SlopeChange(model.name, *(missing(),) * 4, False, UNSETTLED, _estimand(model), tuple(prepared.notes),
                           unit=model.unit(prepared.rate_sd), panel=prepared.data)
    return slope_from_fit(fit, prepared, model)


def fit_model(prepared: PreparedPanel, model: SlopeModel, *, reml: bool | None = None) -> Fit:
    """Fit one of the paper's models; a linear one by restricted or maximum likelihood as it says, unless told."""
    formula, reference = model.formula(prepared.single), {"model_variant": BASE}
    if model.linear:
        return lmm(formula, prepared.data, reml=model.reml if reml is None else reml, reference=reference)
    return glmm(formula, prepared.data, dispersion=model.dispersion_formula(prepared.single), reference=reference,
                squeeze=SQUEEZE)


# --- slopes from a fit ------------------------------------------------------------------------------------------


def slope_from_fit(fit: Fit, prepared: PreparedPanel, model: SlopeModel) -> SlopeChange:
    """Read the slopes off a fit; the base slope is the rate's coefficient, the difference its interaction's."""
    rows = _contrasts(fit, prepared, model)
    lost = "" if np.isfinite(rows).all() else ALIASED
    base, tuned, change, ratio = (missing(),) * 4 if lost else _estimates(fit, rows)
    told = (base, tuned, change) if len(rows) == 3 else (base,)
    if not lost and not np.isfinite([one.interval for one in told]).all():
        lost = UNSETTLED
    response = {} if model.linear or lost else _response_scale(fit, prepared.tuned)
    return SlopeChange(
        model.name, base, tuned, change, ratio, not lost, lost or _verdict(model, change, ratio),
        _estimand(model), (*prepared.notes, *fit.notes, *uncertified(fit)), fit, unit=model.unit(prepared.rate_sd),
        response=response, panel=prepared.data)


def _contrasts(fit: Fit, prepared: PreparedPanel, model: SlopeModel) -> np.ndarray:
    """Combinations (3, p) for base, tuned and difference, NaN where they are aliased; (1, p) where one slope is all."""
    base = slope_row(fit, model.rate, None)
    if model.name == "main":
        return base[None]
    tuned = slope_row(fit, model.rate, prepared.tuned)
    return np.stack([base, tuned, tuned - base])


def _estimates(fit: Fit, rows: np.ndarray) -> tuple[Estimate, Estimate, Estimate, Estimate]:
    values, joint, df = combined(fit, rows)
    if len(rows) == 3:
        return four(values, joint, df)
    one = estimate(values[0], np.sqrt(joint[0, 0]), df[0])
    return one, one, missing(), missing()


def _response_scale(fit: Fit, tuned: str) -> dict[str, Estimate]:
    """Average marginal effects of the rate, each variant over all rows: change of the mean response per SD of R."""
    table = slopes(fit, "R_sc", "model_variant", scale="response").set_index("level")[["estimate", "std_error"]]
    levels = {"base": BASE, "tuned": tuned, "difference": f"{tuned} - {BASE}"}
    return {name: estimate(*table.loc[level].to_numpy()) for name, level in levels.items()}


# --- words ------------------------------------------------------------------------------------------------------

def _estimand(model: SlopeModel) -> str:
    if not model.linear:
        return (f"Change of the log-odds of the expected {model.response.words} per standard deviation of mean entropy "
                "rate, in the base and in the fine-tuned variant, at equal length and task, for an average prompt and "
                f"family, within a beta mixed model whose rate term is a straight line. {CAVEATS}")
    where = " at the panel's mean rate" if model.name == "quadratic" else ""
    variants = "in both variants alike" if model.name == "main" else "in the base and in the fine-tuned variant"
    return (
        f"Change of the expected semantic diversity D per nat per token of mean entropy rate{where}, {variants}, at"
        " equal mean length, task and model family, within a linear model with a random intercept for each prompt."
        f" {CAVEATS}"
    )


def _verdict(model: SlopeModel, difference: Estimate, ratio: Estimate) -> str:
    if model.name == "main":
        return f"One slope for both variants: this model cannot say whether fine-tuning changes it. {CAVEATS}"
    word = "differ" if difference.pvalue < ALPHA else "are not shown to differ"
    text = f"Within this model the slopes {word} (p = {difference.pvalue:.3g})."
    if ratio.kind != "bounded":
        text += " The base slope is too uncertain for a bounded interval of the ratio; report the difference."
    return f"{text} {CAVEATS}"
