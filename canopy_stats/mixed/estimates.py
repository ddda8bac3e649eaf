"""Estimates of a mixed model, and what follows from them alone."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from canopy_stats.mixed import blocks
from canopy_stats.mixed.blocks import Array
from canopy_stats.mixed.certificate import Certificate
from canopy_stats.mixed.formula import Design, FixedPart
from canopy_stats.mixed.model_frame import ModelFrame

VarianceRow = tuple[str, str, str | None, float, float]
THRESHOLDS = ("zero", "one")


@dataclass(frozen=True, eq=False, kw_only=True)
class Estimates:
    """Estimates of a mixed model. Arrays are over independent columns; aliased ones appear as NaN in the tables.

    ``beta`` (p,) and ``delta`` (d,) are the coefficients of the mean and of the dispersion, ``cutpoints`` (c,) the
    thresholds, ``covariance`` (p + d + c, p + d + c) theirs; ``theta`` the relative covariance factors of the random
    effects, in units of ``sigma`` (1 where the model has no residual scale of its own); ``modes`` the random effects
    b_k (L_k, q_k) and ``mode_covariances`` their conditional covariances (L_k, q_k, q_k). ``full_covariance`` also
    spans theta, in the parameters of ``omega`` (none where sigma is profiled out). ``singular`` says that a variance is
    zero or a correlation one. ``evidence`` is the certificate where the search left one.
    """

    frame: ModelFrame
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
    profiled_sigma: bool = False
    singular: bool = False
    message: str = "done"
    evaluations: int = 0
    full_covariance: Array = field(default_factory=lambda: np.zeros((0, 0)))
    evidence: Certificate | None = None

    @property
    def family(self) -> str:
        return self.frame.family.name

    @property
    def design(self) -> Design:
        return self.frame.design

    @property
    def dispersion(self) -> FixedPart | None:
        return self.frame.dispersion

    @property
    def notes(self) -> tuple[str, ...]:
        """What was done to the data on the way in."""
        return self.frame.notes

    @property
    def formula(self) -> str:
        return self.design.formula

    @property
    def nobs(self) -> int:
        return self.frame.nobs

    @property
    def ngroups(self) -> dict[str, int]:
        """Number of levels of each grouping variable."""
        return {f.name: len(f.levels) for f in self.design.factors}

    @property
    def df_model(self) -> int:
        """Number of estimated parameters, variances included."""
        coefficients = len(self.beta) + len(self.delta) + len(self.cut_parameters)
        return coefficients + len(self.theta) + self.profiled_sigma

    @property
    def aic(self) -> float:
        return -2 * self.llf + 2 * self.df_model

    @property
    def bic(self) -> float:
        return float(-2 * self.llf + np.log(self.nobs) * self.df_model)

    @property
    def params(self) -> pd.Series:
        """Coefficients of the mean; NaN for aliased columns."""
        return full(self.design.fixed, self.beta)

    @property
    def bse(self) -> pd.Series:
        """Standard errors of ``params``."""
        return full(self.design.fixed, np.sqrt(np.diag(self.covariance)[: len(self.beta)]))

    @property
    def tvalues(self) -> pd.Series:
        """Estimates over standard errors (t for linear mixed models, z otherwise)."""
        return self.params / self.bse

    def cov_params(self) -> pd.DataFrame:
        """Covariance of ``params``; NaN for aliased columns."""
        fixed, p = self.design.fixed, len(self.beta)
        table = pd.DataFrame(self.covariance[:p, :p], index=list(fixed.names), columns=list(fixed.names))
        return table.reindex(index=list(fixed.all_names), columns=list(fixed.all_names))

    @property
    def params_dispersion(self) -> pd.Series:
        """Coefficients of the dispersion: log phi for beta and ordbeta, log sigma^2 for gaussian."""
        return pd.Series(dtype=float) if self.dispersion is None else full(self.dispersion, self.delta)

    @property
    def bse_dispersion(self) -> pd.Series:
        """Standard errors of ``params_dispersion``."""
        if self.dispersion is None:
            return pd.Series(dtype=float)
        part = slice(len(self.beta), len(self.beta) + len(self.delta))
        return full(self.dispersion, np.sqrt(np.diag(self.covariance)[part]))

    def log_dispersion(self, w: Array) -> Array:
        """kappa (m,) on rows w (m, d) of the dispersion's design: log sigma^2 where sigma is no coefficient."""
        return np.asarray(w @ self.delta + 2 * np.log(self.sigma))

    @property
    def row_dispersion(self) -> Array:
        """kappa (n,) of the fitted rows; prior weights divide a profiled sigma^2."""
        kappa = self.log_dispersion(self.frame.dispersion_matrix)
        weights = self.frame.weights if self.profiled_sigma else None
        return kappa if weights is None else kappa - np.log(weights)

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

    @property
    def roots(self) -> list[Array]:
        """Lower-triangular roots (q_k, q_k) of the random effects' covariances, one a grouping variable."""
        return [self.sigma * t for t in blocks.templates(self.design.factors, self.theta)]

    def varcorr(self) -> pd.DataFrame:
        """Variances and covariances of the random effects, one row each, and of the residuals for the linear model."""
        columns = ["group", "term1", "term2", "variance_or_cov", "sd_or_corr"]
        return pd.DataFrame(self.variance_rows(), columns=columns)

    def variance_rows(self) -> list[VarianceRow]:
        """The rows of ``varcorr`` as tuples."""
        rows: list[VarianceRow] = []
        for factor, root in zip(self.design.factors, self.roots, strict=True):
            rows += _covariance_rows(factor.name, factor.terms, factor.blocks, root @ root.T)
        if self.profiled_sigma:
            rows.append(("Residual", "", None, self.sigma**2, self.sigma))
        return rows

    def ranef(self, *, sd: bool = False) -> dict[str, pd.DataFrame]:
        """Conditional modes of the random effects by group (levels x terms), or their conditional SDs."""
        values = [np.sqrt(np.diagonal(c, axis1=1, axis2=2)) for c in self.mode_covariances] if sd else self.modes
        return {
            f.name: pd.DataFrame(v, index=list(f.levels), columns=list(f.terms))
            for f, v in zip(self.design.factors, values, strict=True)
        }


def full(part: FixedPart, values: Array) -> pd.Series:
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
