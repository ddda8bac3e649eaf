"""A fit with clustered standard errors: the same estimates, another covariance and its degrees of freedom."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from canopy_stats.mixed.algebra.blocks import Array, make_layout, templates
from canopy_stats.mixed.certificate import Certificate
from canopy_stats.mixed.estimates import Estimates
from canopy_stats.mixed.fitting import laplace
from canopy_stats.mixed.fitting.generalised import with_cutpoints
from canopy_stats.mixed.fitting.modes import Problem, fixed_eta
from canopy_stats.mixed.fitting.problems import make_problem
from canopy_stats.mixed.fitting.sandwich import ClusterAdjustment, adjust, rows_of_clusters, working_model
from canopy_stats.mixed.fitting.ways import Uncertainty, Way
from canopy_stats.mixed.formulas.grouping import Factor
from canopy_stats.mixed.model_frame import ModelFrame
from canopy_stats.schema import UserError


@dataclass(frozen=True, eq=False)
class Scores:
    """Derivatives of the log-likelihood by cluster: adjusted ones of the mean's coefficients, and all others (J, k)."""

    mean: ClusterAdjustment
    others: Array


@dataclass(frozen=True, eq=False)
class Clustered:
    """Another way's estimates with errors of ``kind`` that hold under any dependence within clusters (codes (n,))."""

    inner: Way
    codes: Array
    name: str
    kind: str

    @property
    def frame(self) -> ModelFrame:
        return self.inner.frame

    def to(self, frame: ModelFrame) -> Clustered:
        if frame.design.fixed is not self.frame.design.fixed:
            raise UserError("A fit with clustered errors can be refitted to another response, not to other rows; use"
                            " the fit that robust() was called on.")
        return replace(self, inner=self.inner.to(frame))

    def estimate(self, start: Estimates | None = None) -> Estimates:
        return self.with_errors(self.inner.estimate(start))

    def quick(self, start: Estimates) -> Estimates:
        return self.inner.quick(start)

    def by_likelihood(self) -> Clustered:
        inner = self.inner.by_likelihood()
        return self if inner is self.inner else replace(self, inner=inner)

    def certify(self, at: Estimates) -> Certificate:
        return self.inner.certify(at)

    def degrees_of_freedom(self, at: Estimates, contrasts: Array) -> Array:
        """Satterthwaite's degrees of freedom (k,) of the sandwich, under the working model."""
        return self._scores(at).mean.degrees_of_freedom(contrasts)

    def wishart_df(self, at: Estimates, contrasts: Array) -> float:
        """Degrees of freedom of the sandwich for several contrasts (q, p) jointly."""
        return self._scores(at).mean.wishart_df(contrasts)

    def uncertainty(self, at: Estimates) -> Uncertainty:
        return self.inner.uncertainty(at)

    def marginal(self, at: Estimates) -> tuple[Problem, Array, ModelFrame]:
        return self.inner.marginal(at)

    def with_errors(self, at: Estimates) -> Estimates:
        """The estimates with clustered covariances of all their coefficients."""
        scores, first = self._scores(at), len(at.omega) - len(at.theta)
        words = f"{self.kind}, clustered by {self.name} ({len(self._clusters)} clusters)"
        if at.profiled_sigma:
            return replace(at, covariance=scores.mean.covariance, errors=words)
        natural = scores.mean.scores @ np.linalg.inv(scores.mean.back)
        influence = np.hstack([natural, scores.others]) @ at.full_covariance
        full = scores.mean.factor * influence.T @ influence
        return replace(at, full_covariance=full, errors=words,
                       covariance=with_cutpoints(at.frame.family.cuts, at.cut, full[:first, :first]))

    @cached_property
    def _clusters(self) -> list[Array]:
        return rows_of_clusters(self.codes, self.frame.factors, self.name)

    @cached_property
    def _kept(self) -> dict[bytes, Scores]:
        return {}

    def _scores(self, at: Estimates) -> Scores:
        """Scores at the estimates, made once."""
        key = at.omega.tobytes()
        if key not in self._kept:
            make = _linear if at.profiled_sigma else _generalised
            self._kept[key] = make(at, self._clusters, self.kind)
        return self._kept[key]


def _linear(at: Estimates, clusters: list[Array], kind: str) -> Scores:
    """Of a linear model, from its residuals; variance parameters are taken as known."""
    frame = at.frame
    variances = np.ones(frame.nobs) if frame.weights is None else 1 / frame.weights
    working = working_model(frame.design.fixed.matrix, variances, frame.factors, templates(frame.factors, at.theta),
                            clusters)
    residual = frame.y - frame.offset_values - frame.design.fixed.matrix @ at.beta
    return Scores(adjust(working, [residual[rows] for rows in clusters], kind), np.zeros((len(clusters), 0)))


def _generalised(at: Estimates, clusters: list[Array], kind: str) -> Scores:
    """Of any other model, from the exact derivatives of each cluster's own likelihood.

    Rows of the working model are in units of their scores, as clubSandwich has them for canonical links: CR2 depends on
    that choice.
    """
    problem = make_problem(at.frame, at.nodes)
    found = laplace.evaluate(problem, at.omega, laplace.spherical(problem, at.omega, at.modes))
    assert found is not None
    unit = np.maximum(found.mode.at.fisher, 1e-12)
    factors = tuple(replace(f, columns=f.columns * unit[:, None]) for f in problem.factors)
    working = working_model(problem.x * unit[:, None], unit, factors, found.mode.factors, clusters)
    rows, others = zip(*(_cluster_scores(problem, at.omega, part) for part in clusters), strict=True)
    residuals = [working.covariance(part) @ (score / unit[part]) for part, score in zip(clusters, rows, strict=True)]
    return Scores(adjust(working, residuals, kind), np.array(others))


def _cluster_scores(problem: Problem, omega: Array, rows: Array) -> tuple[Array, Array]:
    """Derivatives of a cluster's log-likelihood in each row's predictor (m,) and in all parameters but beta."""
    p = problem.sizes.beta
    offset = fixed_eta(problem, laplace.split(problem, omega))[rows]
    factors = tuple(_part(factor, rows) for factor in problem.factors)
    own = replace(
        problem, y=problem.y[rows], x=np.eye(len(rows)), w=problem.w[rows], factors=factors, offset=offset,
        layout=make_layout(factors) if factors else None, trials=problem.all_trials[rows],
        weights=None if problem.weights is None else problem.weights[rows], g=problem.zero_design[rows],
    )
    found = laplace.evaluate(own, np.concatenate([np.zeros(len(rows)), omega[p:]]))
    if found is None:
        raise UserError("The likelihood of a single cluster is not defined at the estimates; use larger clusters.")
    return found.gradient[: len(rows)], found.gradient[len(rows) :]


def _part(factor: Factor, rows: Array) -> Factor:
    """The factor of some rows, with the levels that occur in them."""
    used, codes = np.unique(factor.codes[rows], return_inverse=True)
    return replace(factor, codes=codes.astype(np.intp), levels=tuple(factor.levels[i] for i in used),
                   columns=factor.columns[rows])
