"""Estimates of a mixed model, and what follows from them alone."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from canopy_stats.mixed.algebra import blocks
from canopy_stats.mixed.algebra.blocks import Array
from canopy_stats.mixed.certificate import Certificate
from canopy_stats.mixed.families import Others
from canopy_stats.mixed.formulas.fixed import FixedPart
from canopy_stats.mixed.formulas.formula import Design
from canopy_stats.mixed.model_frame import ModelFrame

VarianceRow = tuple[str, str, str | None, float, float]


@dataclass(frozen=True, eq=False, kw_only=True)
class Estimates:
    """Estimates of a mixed model. Arrays are over independent columns; aliased ones appear as NaN in the tables.

    ``beta`` (p,), ``delta`` (d,) and ``zero`` (g,) are the coefficients of the mean, the dispersion and the zero part,
    ``cut`` (c,) the parameters of the thresholds. ``covariance`` is that of all these, with the K thresholds in the
    place of their parameters: (p + d + g + K, p + d + g + K). ``theta`` are the relative covariance factors of the
    random effects, in units of ``sigma`` (1 where the model has no residual scale of its own), integrated with
    ``nodes`` points; ``modes`` the random effects b_k (L_k, q_k) and ``mode_covariances`` their conditional covariances
    (L_k, q_k, q_k). ``full_covariance`` also spans theta, in the parameters of ``omega`` (none where sigma is profiled
    out). ``evidence`` is the certificate where the search left one; ``errors`` says how covariances were made where
    they are not the model's own.
    """

    frame: ModelFrame
    beta: Array
    delta: Array
    covariance: Array
    theta: Array
    sigma: float
    modes: tuple[Array, ...]
    mode_covariances: tuple[Array, ...]
    llf: float
    reml: bool
    engine: str
    zero: Array = field(default_factory=lambda: np.zeros(0))
    cut: Array = field(default_factory=lambda: np.zeros(0))
    profiled_sigma: bool = False
    singular: bool = False
    nodes: int = 1
    message: str = "done"
    evaluations: int = 0
    full_covariance: Array = field(default_factory=lambda: np.zeros((0, 0)))
    evidence: Certificate | None = None
    errors: str = ""

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
        coefficients = len(self.beta) + len(self.delta) + len(self.zero) + len(self.cut)
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
        """Coefficients of the dispersion, on the scale that ``frame.family.dispersion`` says (glmmTMB's)."""
        return pd.Series(dtype=float) if self.dispersion is None else full(self.dispersion, self.delta)

    @property
    def bse_dispersion(self) -> pd.Series:
        """Standard errors of ``params_dispersion``."""
        return pd.Series(dtype=float) if self.dispersion is None else full(self.dispersion, self._errors[1])

    @property
    def params_zero(self) -> pd.Series:
        """Coefficients of the zero part: the logit of the probability of a structural zero, or of a hurdle's zero."""
        part = self.frame.zero_inflation
        return pd.Series(dtype=float) if part is None else full(part, self.zero)

    @property
    def bse_zero(self) -> pd.Series:
        """Standard errors of ``params_zero``."""
        part = self.frame.zero_inflation
        return pd.Series(dtype=float) if part is None else full(part, self._errors[2])

    @property
    def _errors(self) -> list[Array]:
        """Standard errors of mean, dispersion, zero part and thresholds."""
        ends = np.cumsum([len(self.beta), len(self.delta), len(self.zero)])
        with np.errstate(invalid="ignore"):
            return np.split(np.sqrt(np.diag(self.covariance)), ends)

    def others(self, w: Array | None = None, g: Array | None = None, trials: Array | None = None) -> Others:
        """What the rows' distribution depends on besides eta, from the columns of dispersion and zero part.

        The fitted rows' for None.
        """
        frame = self.frame
        zeta = (frame.zero_matrix if g is None else g) @ self.zero
        kappa = self.row_dispersion if w is None else self.log_dispersion(w)
        return Others(kappa, zeta, self.cut, frame.trials if trials is None else trials)

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
        """Cutpoints on the link scale: of ordbeta (infinite where no 0 or no 1 occurs) and of ordered categories."""
        return pd.Series(self.cutpoints, index=list(self.frame.family.cuts.names), dtype=float)

    @property
    def bse_thresholds(self) -> pd.Series:
        """Standard errors of ``thresholds``."""
        return pd.Series(self._errors[3], index=list(self.frame.family.cuts.names), dtype=float)

    @property
    def cutpoints(self) -> Array:
        """The thresholds (K,)."""
        return self.frame.family.cuts.points(self.cut)

    @property
    def omega(self) -> Array:
        """All parameters of the Laplace likelihood: beta, delta, zero, cutpoint parameters, theta."""
        return np.concatenate([self.beta, self.delta, self.zero, self.cut, self.theta])

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
