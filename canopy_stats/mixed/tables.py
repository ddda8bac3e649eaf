"""Tables and texts of a fit."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from canopy_stats.mixed.blocks import Array
from canopy_stats.mixed.certificate import Certificate
from canopy_stats.mixed.estimates import Estimates

WIDTH = 78


def tidy(fit: Estimates, df: Array) -> pd.DataFrame:
    """One row per coefficient of the mean ('mean', with degrees of freedom df) and the dispersion ('dispersion')."""
    parts = [_rows("mean", fit.params, fit.bse, df)]
    if fit.dispersion is not None:
        parts.append(_rows("dispersion", fit.params_dispersion, fit.bse_dispersion, np.full(fit.delta.shape, np.inf)))
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
    method = "REML" if fit.reml else ("maximum likelihood" if fit.profiled_sigma else "Laplace")
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
    if len(fit.cutpoints):
        body += ["Thresholds: " + ", ".join(f"{k} {v:.4f}" for k, v in fit.thresholds.items()), "-" * WIDTH]
    return "\n".join([*head, *body, *fit.frame.notes, str(certificate)])


def _coefficients(part: pd.DataFrame) -> str:
    statistic = "t" if np.isfinite(part["df"]).any() else "z"
    table = part.rename(columns={
        "estimate": "coef", "std_error": "std err", "statistic": statistic, "p_value": f"P>|{statistic}|",
        "conf_low": "[0.025", "conf_high": "0.975]",
    }).set_index("term").rename_axis(None)
    df = ["df"] if statistic == "t" else []
    columns = ["coef", "std err", *df, statistic, f"P>|{statistic}|", "[0.025", "0.975]"]
    return table[columns].to_string(float_format=lambda v: f"{v:.4g}")
