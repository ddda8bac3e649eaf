"""A Laplace likelihood in columns without units: where it is searched, and the ways to and from the natural ones."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from canopy_stats.mixed.algebra.blocks import Array, make_layout, templates
from canopy_stats.mixed.algebra.coordinates import lower_root, orthogonal, own_columns, rotation, theta_of
from canopy_stats.mixed.fitting.modes import Problem

STEP = 1e-5


@dataclass(frozen=True, eq=False)
class Standard:
    """The problem with orthogonal columns in every linear predictor and every block of random columns.

    Natural coefficients are ``back`` (f, f) times the standard ones, cutpoints included; natural covariance factors are
    the lower-triangular roots of A_k T_k with A_k ``outward[k]``.
    """

    problem: Problem
    back: Array
    outward: tuple[Array, ...]

    def natural(self, omega: Array) -> Array:
        """Natural parameters (k,) of standard ones."""
        first = len(self.back)
        roots = [lower_root(a @ t) for a, t in zip(self.outward, templates(self.problem.factors, omega[first:]),
                                                   strict=True)]
        return np.concatenate([self.back @ omega[:first], theta_of(self.problem.factors, roots, len(omega) - first)])

    def effects(self, omega: Array, u: list[Array]) -> list[Array]:
        """Spherical random effects (L_k, q_k) in natural columns of those in these."""
        roots = templates(self.problem.factors, omega[len(self.back) :])
        turns = [rotation(a @ t) for a, t in zip(self.outward, roots, strict=True)]
        return [part @ turn.T for part, turn in zip(u, turns, strict=True)]

    def standard(self, omega: Array) -> Array:
        """Standard parameters (k,) of natural ones."""
        first = len(self.back)
        roots = [lower_root(np.linalg.solve(a, t))
                 for a, t in zip(self.outward, templates(self.problem.factors, omega[first:]), strict=True)]
        inner = np.linalg.solve(self.back, omega[:first])
        return np.concatenate([inner, theta_of(self.problem.factors, roots, len(omega) - first)])

    def jacobian(self, omega: Array) -> Array:
        """Derivatives (k, k) of the natural parameters in the standard ones, by central differences for theta.

        Natural covariances are even in the entries of a vanished column, which gives them the derivative zero.
        """
        first, out = len(self.back), np.zeros((len(omega),) * 2)
        out[:first, :first] = self.back
        for i in range(first, len(omega)):
            move = np.zeros(len(omega))
            move[i] = STEP * max(abs(omega[i]), 1e-2)
            out[first:, i] = (self.natural(omega + move) - self.natural(omega - move))[first:] / (2 * move[i])
        return out


def standardise(problem: Problem) -> Standard:
    """The same likelihood in orthogonal columns, centred ones where thresholds take the place of an intercept."""
    centre = np.zeros(problem.x.shape[1]) if problem.family.has_intercept else problem.x.mean(axis=0)
    x, bx = orthogonal(problem.x - centre)
    w, bw = orthogonal(problem.w)
    zero, bz = orthogonal(problem.zero_design)
    pairs = [own_columns(factor, None) for factor in problem.factors]
    factors = tuple(factor for factor, _ in pairs)
    back = np.eye(problem.sizes.fixed)
    start = 0
    for part in (bx, bw, bz):
        back[start : start + len(part), start : start + len(part)] = part
        start += len(part)
    if not problem.family.has_intercept:  # the first threshold moves with the origin of the columns, gaps do not
        back[start, : len(bx)] = centre @ bx
    layout = make_layout(factors) if factors else None
    own = replace(problem, x=x, w=w, g=None if problem.g is None else zero, factors=factors, layout=layout)
    return Standard(own, back, tuple(a for _, a in pairs))
