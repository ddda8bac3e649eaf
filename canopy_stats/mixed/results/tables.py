"""Tables and texts of a fit."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from canopy_stats.mixed.algebra.blocks import Array
from canopy_stats.mixed.certificate import Certificate
from canopy_stats.mixed.estimates import Estimates

WIDTH = 78
FEW = 10
"""Binary rows a group below which Laplace's approximation is visibly biased (Joe 2008)."""


def tidy(fit: Estimates, df: Array) -> pd.DataFrame:
    """One row per coefficient: component 'mean' (with degrees of freedom df), 'dispersion', 'zero' or 'threshold'."""
    finite = np.isfinite(fit.cutpoints)
    others = [("dispersion", fit.params_dispersion, fit.bse_dispersion), ("zero", fit.params_zero, fit.bse_zero),
              ("threshold", fit.thresholds[finite], fit.bse_thresholds[finite])]
    parts = [_rows("mean", fit.params, fit.bse, df)] if len(fit.params) else []
    parts += [_rows(name, values, errors, np.full(len(values), np.inf)) for name, values, errors in others
              if len(values)]
    return pd.concat(parts, ignore_index=True)


def _rows(component: str, estimate: pd.Series, error: pd.Series, df: Array) -> pd.DataFrame:
    statistic = estimate / error
    df = df if len(df) == len(estimate) else np.full(len(estimate), np.inf)
    half = stats.t.ppf(0.975, df) * error
    return pd.DataFrame({
        "component": component, "term": estimate.index, "estimate": estimate.to_numpy(), "std_error": error.to_numpy(),
        "statistic": statistic.to_numpy(), "df": df, "p_value": 2 * stats.t.sf(np.abs(statistic), df),
        "conf_low": (estimate - half).to_numpy(), "conf_high": (estimate + half).to_numpy(),
    })


def glance(fit: Estimates, converged: bool) -> pd.DataFrame:
    """One row of measures of the whole fit."""
    return pd.DataFrame([{
        "family": fit.family, "nobs": fit.nobs, "llf": fit.llf, "aic": fit.aic, "bic": fit.bic,
        "df_model": fit.df_model, "sigma": fit.sigma, "reml": fit.reml, "converged": converged,
        "singular": fit.singular,
    }])


def summary(fit: Estimates, df: Array, certificate: Certificate) -> str:
    """Text: what was fitted, random effects, coefficients, certificate."""
    method = "REML" if fit.reml else ("maximum likelihood" if fit.profiled_sigma else
                                        "Laplace" if fit.nodes == 1 else f"quadrature, {fit.nodes} nodes")
    groups = ", ".join(f"{name} {size}" for name, size in fit.ngroups.items())
    head = [
        f"{'Linear mixed model' if fit.profiled_sigma else fit.family + ' mixed model'} fit by {method}",
        f"Formula: {fit.formula}", f"Rows: {fit.nobs}; groups: {groups or 'none'}",
        f"Log-likelihood {fit.llf:.4f}   AIC {fit.aic:.2f}   BIC {fit.bic:.2f}", "=" * WIDTH,
    ]
    random = fit.varcorr().fillna({"term2": ""}).to_string(index=False, float_format=lambda v: f"{v:.6g}")
    table = tidy(fit, df)
    body = ["Random effects:", random, "-" * WIDTH] if fit.design.factors else []
    for component, part in table.groupby("component", sort=False):
        body += [f"Coefficients ({component}):", _coefficients(part), "-" * WIDTH]
    errors = [f"Standard errors: {fit.errors}"] if fit.errors else []
    return "\n".join([*head, *body, *errors, *fit.frame.notes, *few_binary_rows(fit), str(certificate)])


def few_binary_rows(fit: Estimates) -> list[str]:
    """A caution where Laplace's approximation is biased: few yes-or-no rows a group."""
    if fit.nodes > 1 or not fit.frame.binary:
        return []
    rows = {f.name: float(np.median(np.bincount(f.codes))) for f in fit.frame.factors}
    few = [f"{name} ({count:g})" for name, count in rows.items() if count < FEW]
    if not few:
        return []
    scalar = len(fit.frame.factors) == 1 and len(fit.frame.factors[0].terms) == 1
    advice = "compare quadrature=15." if scalar else "variances tend to come out too small."
    return [f"Few binary rows a group (median): {', '.join(few)}. Laplace's approximation may be biased; {advice}"]


def _coefficients(part: pd.DataFrame) -> str:
    statistic = "t" if np.isfinite(part["df"]).any() else "z"
    table = part.rename(columns={
        "estimate": "coef", "std_error": "std err", "statistic": statistic, "p_value": f"P>|{statistic}|",
        "conf_low": "[0.025", "conf_high": "0.975]",
    }).set_index("term").rename_axis(None)
    df = ["df"] if statistic == "t" else []
    columns = ["coef", "std err", *df, statistic, f"P>|{statistic}|", "[0.025", "0.975]"]
    return table[columns].to_string(float_format=lambda v: f"{v:.4g}")
