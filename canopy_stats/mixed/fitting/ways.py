"""What a way of fitting hands to its fits: the verbs that depend on how the likelihood is made and maximised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from canopy_stats.mixed.algebra.blocks import Array, Factorised, Layout
from canopy_stats.mixed.certificate import Certificate
from canopy_stats.mixed.estimates import Estimates
from canopy_stats.mixed.fitting.modes import Problem
from canopy_stats.mixed.model_frame import ModelFrame


@dataclass(frozen=True)
class Uncertainty:
    """Joint uncertainty of estimates and random effects.

    ``slopes`` are derivatives (L_k, q_k, k) of the random effects in the parameters whose covariance is ``covariance``
    (k, k), ``h`` the curvature of the spherical effects given the parameters, ``factors`` their covariance roots.
    """

    layout: Layout | None
    h: Factorised | None
    slopes: list[Array]
    covariance: Array
    factors: list[Array]


class Way(Protocol):
    """A way of fitting one model frame, with what it keeps between calls."""

    @property
    def frame(self) -> ModelFrame: ...

    def to(self, frame: ModelFrame) -> Way:
        """The same way of fitting another frame; what both frames share is not made again."""
        ...

    def estimate(self, start: Estimates | None = None) -> Estimates:
        """Search the maximum, from earlier estimates where given."""
        ...

    def quick(self, start: Estimates) -> Estimates:
        """The point estimates alone, searched from near ones: for replicates. UserError where the search fails."""
        ...

    def by_likelihood(self) -> Way:
        """The same by maximum likelihood where it is restricted."""
        ...

    def certify(self, at: Estimates) -> Certificate:
        """Why the estimates may be called a maximum."""
        ...

    def degrees_of_freedom(self, at: Estimates, contrasts: Array) -> Array:
        """Degrees of freedom (k,) of contrasts (k, p) of the mean's coefficients."""
        ...

    def uncertainty(self, at: Estimates) -> Uncertainty:
        """Joint uncertainty of coefficients and random effects, for predictions."""
        ...

    def marginal(self, at: Estimates) -> tuple[Problem, Array, ModelFrame]:
        """The Laplace likelihood that a profile follows, parameters near its maximum, and its frame."""
        ...
