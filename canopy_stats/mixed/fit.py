"""The one result of every mixed model: estimates, covariance, random effects, and what was learnt from the data."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import stats

from canopy_stats.mixed import blocks
from canopy_stats.mixed.blocks import Array
from canopy_stats.mixed.certificate import Certificate
from canopy_stats.mixed.formula import Design, FixedPart
from canopy_stats.mixed.laplace import Problem
from canopy_stats.schema import UserError

Mode = Literal["population", "conditional", "new_levels"]
Scale = Literal["response", "link"]
VarianceRow = tuple[str, str, str | None, float, float]
THRESHOLDS = ("zero", "one")


@dataclass(frozen=True, eq=False)
class Fit:
    """Estimates of a mixed model. Arrays are over independent columns; aliased ones appear as NaN in the tables.

    ``beta`` (p,) and ``delta`` (d,) are the coefficients of the mean and of the dispersion, ``cutpoints`` (c,) the
    thresholds, ``covariance`` (p + d + c, p + d + c) theirs; ``theta`` the relative covariance factors of the random
    effects, in units of ``sigma`` (1 where the family has no residual scale); ``modes`` the random effects b_k
    (L_k, q_k) and ``mode_covariances`` their conditional covariances (L_k, q_k, q_k). ``full_covariance`` also spans
    theta, in the parameters of ``omega`` (not for the linear mixed model).
    """

    family: str
    design: Design
    beta: Array
    delta: Array
    cutpoints: Array
    covariance: Array
    theta: Array
    sigma: float
    modes: tuple[Array, ...]
    mode_covariances: tuple[Array, ...]
    llf: float
    reml: bool
    engine: str
    dispersion: FixedPart | None = None
    weights: Array | None = None
    offset: Array | None = None
    offset_name: str | None = None
    notes: tuple[str, ...] = ()
    full_covariance: Array = field(default_factory=lambda: np.zeros((0, 0)))
    state: Any = None

    def __repr__(self) -> str:
        return f"<Fit {self.family} {self.formula!r}: {self.nobs} rows, log-likelihood {self.llf:.4f}>"

    @property
    def formula(self) -> str:
        return self.design.formula

    @property
    def nobs(self) -> int:
        return len(self.design.y)

    @property
    def ngroups(self) -> dict[str, int]:
        """Number of levels of each grouping variable."""
        return {f.name: len(f.levels) for f in self.design.factors}

    @property
    def df_model(self) -> int:
        """Number of estimated parameters, variances included."""
        coefficients = len(self.beta) + len(self.delta) + len(self.cut_parameters)
        return coefficients + len(self.theta) + (self.family == "lmm")

    @property
    def aic(self) -> float:
        return -2 * self.llf + 2 * self.df_model

    @property
    def bic(self) -> float:
        return float(-2 * self.llf + np.log(self.nobs) * self.df_model)

    @property
    def params(self) -> pd.Series:
        """Coefficients of the mean; NaN for aliased columns."""
        return _full(self.design.fixed, self.beta)

    @property
    def bse(self) -> pd.Series:
        """Standard errors of ``params``."""
        return _full(self.design.fixed, np.sqrt(np.diag(self.covariance)[: len(self.beta)]))

    @property
    def params_dispersion(self) -> pd.Series:
        """Coefficients of the dispersion: log phi for beta and ordbeta, log sigma^2 for gaussian."""
        return pd.Series(dtype=float) if self.dispersion is None else _full(self.dispersion, self.delta)

    @property
    def bse_dispersion(self) -> pd.Series:
        """Standard errors of ``params_dispersion``."""
        if self.dispersion is None:
            return pd.Series(dtype=float)
        part = slice(len(self.beta), len(self.beta) + len(self.delta))
        return _full(self.dispersion, np.sqrt(np.diag(self.covariance)[part]))

    @property
    def thresholds(self) -> pd.Series:
        """Cutpoints of the ordered beta model on the link scale (infinite where no 0 or no 1 occurs); else empty."""
        return pd.Series(self.cutpoints, index=list(THRESHOLDS[: len(self.cutpoints)]), dtype=float)

    @property
    def cut_parameters(self) -> Array:
        """Cutpoints as the likelihood has them: the finite one, or the first and the log of the gap to the second."""
        finite = self.cutpoints[np.isfinite(self.cutpoints)]
        return finite if len(finite) < 2 else np.array([finite[0], np.log(finite[1] - finite[0])])

    @property
    def omega(self) -> Array:
        """All parameters of the Laplace likelihood: beta, delta, cutpoint parameters, theta."""
        return np.concatenate([self.beta, self.delta, self.cut_parameters, self.theta])

    @cached_property
    def problem(self) -> Problem:
        """The Laplace likelihood of this fit's data (not for the linear mixed model)."""
        from canopy_stats.mixed.glmm import make_problem

        if self.dispersion is None:
            raise UserError("A linear mixed model has no Laplace likelihood; fit it with glmm(family='gaussian').")
        return make_problem(self.design, self.dispersion, self.family, self.weights, self.offset)

    @property
    def tvalues(self) -> pd.Series:
        """Estimates over standard errors (t for linear mixed models, z otherwise)."""
        return self.params / self.bse

    @cached_property
    def df_tests(self) -> pd.Series:
        """Degrees of freedom of ``tvalues``: Satterthwaite's for linear mixed models, infinite otherwise."""
        if self.family != "lmm":
            return _full(self.design.fixed, np.full(len(self.beta), np.inf))
        from canopy_stats.mixed.lmm import test_df

        return _full(self.design.fixed, test_df(self, np.eye(len(self.beta))))

    @property
    def pvalues(self) -> pd.Series:
        """Two-sided p-values of ``tvalues``."""
        return pd.Series(2 * stats.t.sf(np.abs(self.tvalues), self.df_tests), index=self.params.index)

    def conf_int(self, alpha: float = 0.05) -> pd.DataFrame:
        """Wald intervals at level 1 - alpha, columns 'lower' and 'upper'."""
        half = stats.t.ppf(1 - alpha / 2, self.df_tests) * self.bse
        return pd.DataFrame({"lower": self.params - half, "upper": self.params + half})

    def cov_params(self) -> pd.DataFrame:
        """Covariance of ``params``; NaN for aliased columns."""
        fixed, p = self.design.fixed, len(self.beta)
        table = pd.DataFrame(self.covariance[:p, :p], index=list(fixed.names), columns=list(fixed.names))
        return table.reindex(index=list(fixed.all_names), columns=list(fixed.all_names))

    @cached_property
    def certificate(self) -> Certificate:
        """Why the optimum may be called one."""
        if self.family == "lmm":
            from canopy_stats.mixed.lmm import certify

            return certify(self)
        certificate: Certificate = self.state
        return certificate

    @property
    def converged(self) -> bool:
        return self.certificate.converged

    @property
    def singular(self) -> bool:
        """True when a variance is zero or a correlation one (relative covariance factor with a vanishing diagonal)."""
        factors = blocks.templates(self.design.factors, self.theta)
        return any(bool(np.any(np.abs(np.diag(t)) < 1e-4)) for t in factors)

    def varcorr(self) -> pd.DataFrame:
        """Variances and covariances of the random effects, one row each, and of the residuals for the linear model."""
        columns = ["group", "term1", "term2", "variance_or_cov", "sd_or_corr"]
        return pd.DataFrame(self.variance_rows(), columns=columns)

    def variance_rows(self) -> list[VarianceRow]:
        """The rows of ``varcorr`` as tuples."""
        rows: list[VarianceRow] = []
        for factor, t in zip(self.design.factors, blocks.templates(self.design.factors, self.theta), strict=True):
            rows += _covariance_rows(factor.name, factor.terms, factor.blocks, self.sigma**2 * t @ t.T)
        if self.family == "lmm":
            rows.append(("Residual", "", None, self.sigma**2, self.sigma))
        return rows

    def ranef(self, *, sd: bool = False) -> dict[str, pd.DataFrame]:
        """Conditional modes of the random effects by group (levels x terms), or their conditional SDs."""
        values = [np.sqrt(np.diagonal(c, axis1=1, axis2=2)) for c in self.mode_covariances] if sd else self.modes
        return {
            f.name: pd.DataFrame(v, index=list(f.levels), columns=list(f.terms))
            for f, v in zip(self.design.factors, values, strict=True)
        }

    def predict(
        self, data: pd.DataFrame | None = None, *, mode: Mode = "conditional", scale: Scale = "response",
        se: bool = False,
    ) -> Any:
        """Predicted means (m,) for ``data`` (default: the fitted rows); with ``se`` a table of mean and standard error.

        ``mode``: 'population' sets random effects to zero, 'conditional' uses the estimated ones and refuses unknown
        levels, 'new_levels' sets those of unknown levels to zero (their variance enters the standard error).
        """
        from canopy_stats.mixed.predict import predict

        return predict(self, data, mode, scale, se)

    @property
    def fittedvalues(self) -> Array:
        return np.asarray(self.predict())

    @property
    def resid(self) -> Array:
        return self.design.y - self.fittedvalues

    def simulate(self, n: int = 1, *, rng: np.random.Generator) -> Array:
        """Responses (rows, n) from the fitted model with new random effects."""
        from canopy_stats.mixed.simulate import simulate

        return np.stack([simulate(self, rng) for _ in range(n)], axis=1)

    def refit(self, y: Array) -> Fit:
        """The same model for another response (n,), in memory."""
        if self.family == "lmm":
            from canopy_stats.mixed.lmm import refit
        else:
            from canopy_stats.mixed.glmm import refit
        return refit(self, np.asarray(y, dtype=float))

    def save(self, path: str | Path) -> Path:
        """Write the fit to a file (.npz, no pickle); ``load_fit`` reads it."""
        from canopy_stats.mixed.storage import save

        return save(self, path)

    def tidy(self) -> pd.DataFrame:
        """One row per coefficient: component, term, estimate, std_error, statistic, df, p_value and interval."""
        from canopy_stats.mixed.tables import tidy

        return tidy(self)

    def glance(self) -> pd.DataFrame:
        """One row: family, nobs, log-likelihood, AIC, BIC, degrees of freedom, sigma, converged, singular."""
        from canopy_stats.mixed.tables import glance

        return glance(self)

    def summary(self) -> str:
        """Text in the manner of lme4's and statsmodels' summaries."""
        from canopy_stats.mixed.tables import summary

        return summary(self)


def _full(part: FixedPart, values: Array) -> pd.Series:
    """Series over all columns of a fixed part, NaN where aliased."""
    out = np.full(len(part.all_names), np.nan)
    out[part.keep] = values
    return pd.Series(out, index=list(part.all_names))


def _covariance_rows(
    name: str, terms: tuple[str, ...], groups: tuple[tuple[int, ...], ...], covariance: Array
) -> list[VarianceRow]:
    sd = np.sqrt(np.diag(covariance))
    rows: list[VarianceRow] = [
        (name, terms[i], None, float(covariance[i, i]), float(sd[i])) for i in range(len(terms))
    ]
    for group in groups:
        for j, b in enumerate(group):
            for a in group[:j]:
                with np.errstate(invalid="ignore", divide="ignore"):
                    correlation = float(covariance[a, b] / (sd[a] * sd[b]))
                rows.append((name, terms[a], terms[b], float(covariance[a, b]), correlation))
    return rows
