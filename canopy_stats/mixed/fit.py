"""The one result of every mixed model: estimates with the verbs of the way in which they were fitted."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import stats

from canopy_stats.mixed.algebra.blocks import Array
from canopy_stats.mixed.certificate import Certificate
from canopy_stats.mixed.estimates import Estimates, full
from canopy_stats.mixed.fitting.clustered import Clustered
from canopy_stats.mixed.fitting.sandwich import CR, KINDS
from canopy_stats.mixed.fitting.ways import Way
from canopy_stats.mixed.formulas.clusters import cluster_codes
from canopy_stats.mixed.results import archive, influence, intervals, plots, predict, simulation, tables, views
from canopy_stats.mixed.results.intervals import IntervalKind
from canopy_stats.mixed.results.predict import EffectsMode, Scale
from canopy_stats.schema import Caution, UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure


@dataclass(frozen=True, eq=False, kw_only=True)
class Fit(Estimates):
    """A fitted mixed model: statsmodels' and lme4's attributes and verbs. See ``Estimates`` for the arrays."""

    way: Way

    def __repr__(self) -> str:
        return f"<Fit {self.family} {self.formula!r}: {self.nobs} rows, log-likelihood {self.llf:.4f}>"

    @cached_property
    def certificate(self) -> Certificate:
        """Why the optimum may be called one."""
        return self.way.certify(self) if self.evidence is None else self.evidence

    @property
    def converged(self) -> bool:
        return self.certificate.converged

    def degrees_of_freedom(self, contrasts: Array) -> Array:
        """Degrees of freedom (k,) of contrasts (k, p) of ``beta``: Satterthwaite's for linear models, else infinite."""
        return self.way.degrees_of_freedom(self, np.atleast_2d(contrasts))

    @cached_property
    def df_tests(self) -> pd.Series:
        """Degrees of freedom of ``tvalues``: Satterthwaite's for linear mixed models, infinite otherwise."""
        return full(self.design.fixed, self.degrees_of_freedom(np.eye(len(self.beta))))

    @property
    def pvalues(self) -> pd.Series:
        """Two-sided p-values of ``tvalues``."""
        return pd.Series(2 * stats.t.sf(np.abs(self.tvalues), self.df_tests), index=self.params.index)

    def conf_int(self, alpha: float = 0.05) -> pd.DataFrame:
        """Wald intervals at level 1 - alpha, columns 'conf_low' and 'conf_high'."""
        half = stats.t.ppf(1 - alpha / 2, self.df_tests) * self.bse
        return pd.DataFrame({"conf_low": self.params - half, "conf_high": self.params + half})

    def predict(
        self, data: pd.DataFrame | None = None, *, mode: EffectsMode = "conditional", scale: Scale = "response",
        se: bool = False, interval: IntervalKind | None = None, level: float = 0.95,
    ) -> Any:
        """Predicted means (m,) for ``data`` (default: the fitted rows); with ``se`` a table of mean and standard error.

        ``mode``: 'population' sets random effects to zero, 'conditional' uses the estimated ones and refuses unknown
        levels, 'new_levels' sets those of unknown levels to zero (their variance enters the standard error). Ordered
        categories have a table (m, K) of probabilities, successes out of trials their probability. Standard errors are
        those of the mean's predictor, by the delta method on the response scale.

        ``interval`` gives a table of estimate, conf_low and conf_high instead. 'confidence': of the mean, ends of the
        linear predictor mapped back (t with the fit's degrees of freedom for 'population', normal otherwise; the zero
        part and the dispersion as estimated). 'prediction': where a new response lies with probability ``level``, the
        uncertainty of the linear predictor included; 'population' is then a new level of every grouping variable. Ends
        are exact quantiles of that law (whole counts; shares of one trial in new data), normal for linear models.
        """
        if interval is not None:
            return intervals.intervals(self, self.way, data, mode, scale, interval, level)
        return predict.predict(self, self.way, data, mode, scale, se)

    @property
    def fittedvalues(self) -> Array:
        """Means (n,) at the estimated random effects: shares where there are trials, mean values of categories."""
        return predict.expected(self, "conditional")

    @property
    def resid(self) -> Array:
        """Responses minus fitted values."""
        residuals: Array = self.design.y / self.frame.trials - self.fittedvalues
        return residuals

    def simulate(self, n: int = 1, *, rng: np.random.Generator) -> Array:
        """Responses (rows, n) from the fitted model with new random effects."""
        return np.stack([simulation.simulate(self, rng) for _ in range(n)], axis=1)

    def refit(self, y: Array) -> Fit:
        """The same model for another response (n,), in memory."""
        way = self.way.to(self.frame.with_response(y))
        return make_fit(way, way.estimate(self))

    def by_likelihood(self) -> Fit:
        """A REML fit by maximum likelihood instead; any other fit as it is."""
        way = self.way.by_likelihood()
        return self if way is self.way else make_fit(way, way.estimate(self))

    def robust(self, cluster: Any, kind: CR = "CR2") -> Fit:
        """The same estimates with clustered standard errors, for ``summary``, ``anova``, ``means`` and all other tests.

        Parameters
        ----------
        cluster : column name, Series with the index of the data, or array (n,)
            Rows of different clusters must be independent: every random effect lies within one cluster.
        kind : {"CR2", "CR1", "CR0", "CR3"}
            CR2 is unbiased where the model's own covariance is right (Bell & McCaffrey 2002), CR1 has the factor
            J / (J - 1) for J clusters, CR0 neither. CR3, the jackknife over clusters, errs on the side of caution where
            the model's covariance is wrong and clusters are few.

        Tests have Satterthwaite's degrees of freedom for the sandwich (Pustejovsky & Tipton 2018). Linear models are
        those of R's clubSandwich. In generalised ones uncertainty of all parameters enters, by the derivatives of each
        cluster's likelihood; the correction and the degrees of freedom are those of the working linear model.
        """
        predict.check_choice("kind", kind, KINDS)
        codes, _, name = cluster_codes(cluster, self.design.data)
        inner = self.way.inner if isinstance(self.way, Clustered) else self.way
        plain = self if inner is self.way else make_fit(inner, inner.estimate(self))
        way = Clustered(inner, codes, name, kind)
        return make_fit(way, way.with_errors(plain))

    def influence(self, group: Any, *, refit: bool = True) -> pd.DataFrame:
        """What leaving out each level of ``group`` (column name, Series or array (n,)) does to the coefficients.

        One row a level: level, rows, cooks_distance, and 'dfbetas x' for every coefficient x. With c the coefficients
        minus those without the level, Cook's distance is c' V^-1 c / p, V the covariance of all rows' coefficients, and
        dfbetas are c over the standard errors without the level (as in R's influence.ME). ``refit=False`` is cheaper:
        linear models keep the variances of the random effects, others take one Newton step from the fit with the
        curvature and the errors of all rows. Levels without which there is no fit are NaN and named in a warning.
        """
        return influence.influence(self, self.way, self.certificate, group, refit)

    def plot_influence(self, group: Any, *, refit: bool = True, ax: Axes | None = None) -> Figure | SubFigure:
        """Cook's distance of each level of ``group``, the largest first, with the usual mark at 4 over their number;
        drawn into ``ax`` where one is given."""
        return plots.plot_influence(self.influence(group, refit=refit), ax)

    def save(self, path: str | Path) -> Path:
        """Write the fit to a file (.npz, no pickle); ``load_fit`` reads it."""
        if self.errors:
            raise UserError("A fit with clustered errors is not saved: save the fit before robust() and ask again.")
        return archive.save(self, self.certificate, path)

    def tidy(self) -> pd.DataFrame:
        """One row per coefficient: component, term, estimate, std_error, statistic, df, p_value and interval."""
        return tables.tidy(self, self.df_tests.to_numpy())

    def glance(self) -> pd.DataFrame:
        """One row: family, nobs, log-likelihood, AIC, BIC, degrees of freedom, sigma, converged, singular."""
        return tables.glance(self, self.converged)

    def summary(self) -> str:
        """Text in the manner of lme4's and statsmodels' summaries."""
        return tables.summary(self, self.df_tests.to_numpy(), self.certificate)

    def _repr_html_(self) -> str:
        """What was fitted, coefficients, random effects and certificate as tables, for notebooks."""
        facts = {"rows": str(self.nobs), **{name: f"{size} levels" for name, size in self.ngroups.items()},
                 "log-likelihood": f"{self.llf:.4f}", "AIC": f"{self.aic:.2f}", "BIC": f"{self.bic:.2f}"}
        notes = (f"Standard errors: {self.errors}", *self.notes) if self.errors else self.notes
        return views.fit_html(f"{self.family}: {self.formula}", facts, self.varcorr(), self.tidy(), notes,
                              self.certificate)

    def plot(self, *, intercept: bool = False) -> Figure:
        """Coefficients with 95% intervals, one panel a component."""
        return plots.plot_coefficients(self.tidy(), intercept)

    def plot_ranef(self, group: str | None = None) -> Figure:
        """Random effects of one grouping variable (default: the first) with 95% intervals, in order of size."""
        return plots.plot_ranef(self.ranef(), self.ranef(sd=True), group)


def make_fit(way: Way, found: Estimates) -> Fit:
    """The fit of estimates that ``way`` found."""
    return Fit(**{part.name: getattr(found, part.name) for part in fields(Estimates)}, way=way)


def warned(fit: Fit, stacklevel: int = 3) -> Fit:
    """The fit, after one warning where its certificate says no."""
    if not fit.converged:
        warnings.warn(f"{fit!r} may not have converged: {fit.certificate}", Caution, stacklevel=stacklevel)
    return fit
