"""Adaptive Gauss-Hermite quadrature over one scalar random effect a group, with its exact gradient.

In each group exp(h(u)) is summed at u + sigma x_k, u its mode and sigma = H^(-1/2) (Pinheiro & Bates 1995;
lme4's nAGQ). One node is Laplace's approximation. The gradient moves the nodes with the mode and with sigma.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from canopy_stats.mixed.algebra.blocks import Array
from canopy_stats.mixed.families import Derivatives
from canopy_stats.mixed.fitting.modes import Mode, Parts, Problem, fixed_eta, other_gradients, weighted
from canopy_stats.mixed.formulas.grouping import Factor
from canopy_stats.schema import UserError

LARGEST = 50


@dataclass(frozen=True)
class Groups:
    """The one grouping factor: codes (n,), column (n,), number of levels, and theta."""

    codes: Array
    z: Array
    size: int
    theta: float

    def sums(self, values: Array) -> Array:
        """Sums (L,) of values (n,) over the rows of each group."""
        return np.bincount(self.codes, values, self.size)


@dataclass(frozen=True)
class Nodes:
    """Node positions (K, L) in each group, abscissae (K, 1), posterior weights (K, L), sigma and log-integrals (L,)."""

    u: Array
    x: Array
    share: Array
    sigma: Array
    value: Array


def check(factors: tuple[Factor, ...], nodes: int) -> None:
    """Refuse quadrature where it is not one integral a group."""
    if nodes != int(nodes) or not 1 <= nodes <= LARGEST:
        raise UserError(f"quadrature is {nodes!r}; it must be a whole number of nodes from 1 (Laplace) to {LARGEST}.")
    if nodes > 1 and (len(factors) != 1 or len(factors[0].terms) != 1):
        raise UserError(
            "quadrature with several nodes is for one grouping variable with one random column, such as (1|g); use"
            " quadrature=1 (Laplace) for this formula."
        )


def integrate(problem: Problem, parts: Parts, mode: Mode) -> tuple[float, Array]:
    """Log-likelihood and its gradient (k,)."""
    factor = problem.factors[0]
    groups = Groups(factor.codes, factor.columns[:, 0], len(factor.levels), float(parts.theta[0]))
    curvature = 1 - groups.theta**2 * groups.sums(groups.z**2 * mode.at.d2)
    density, fixed = weighted(problem, parts), fixed_eta(problem, parts)
    x, w = np.polynomial.hermite_e.hermegauss(problem.quadrature)
    sigma = 1 / np.sqrt(curvature)
    u = mode.u[0][:, 0] + sigma * x[:, None]
    at = [density(fixed + groups.z * groups.theta * row[groups.codes], 3) for row in u]
    logs = np.stack([groups.sums(a.value) for a in at]) - 0.5 * u**2 + (np.log(w) + 0.5 * x**2)[:, None]
    total = special.logsumexp(logs, axis=0)
    nodes = Nodes(u, x[:, None], np.exp(logs - total), sigma, np.log(sigma) - 0.5 * np.log(2 * np.pi) + total)
    return float(nodes.value.sum()), _gradient(problem, mode.at, mode.u[0][:, 0], at, groups, nodes)


def _gradient(
    problem: Problem, at: Derivatives, mode: Array, nodes_at: list[Derivatives], groups: Groups, nodes: Nodes
) -> Array:
    """Gradient (k,): at fixed nodes, then through the mode (``pull``) and through H (``bent``)."""
    assert at.d3 is not None
    z, t, codes = groups.z, groups.theta, groups.codes
    shares = nodes.share[:, codes]
    scores = np.stack([groups.sums(z * a.d1) for a in nodes_at])
    slopes = nodes.share * (t * scores - nodes.u)
    spread = -0.5 * nodes.sigma**3 * ((slopes * nodes.x).sum(axis=0) + 1 / nodes.sigma)
    bent = z**2 * t**2 * spread[codes]
    pull = (slopes.sum(axis=0) - groups.sums(bent * at.d3 * z * t)) * nodes.sigma**2
    moved = z * t * pull[codes]
    first = _averaged(nodes_at, shares)
    rows = moved * at.d2 - bent * at.d3
    theta = float(np.sum(nodes.share * scores * nodes.u)) - 2 * t * float(spread @ groups.sums(z**2 * at.d2))
    theta += float(rows @ (z * mode[codes])) + float(pull @ groups.sums(z * at.d1))
    return np.concatenate([(first.d1 + rows) @ problem.x, other_gradients(problem, first, at, moved, bent), [theta]])


def _averaged(at: list[Derivatives], shares: Array) -> Derivatives:
    """First derivatives, averaged over the nodes with each group's weights."""
    means: dict[str, Any] = {}
    for name in ("value", "d1", "d2", "fisher", "k1", "z1", "cut1"):
        parts = [getattr(a, name) for a in at]
        if parts[0] is not None:
            means[name] = sum((part.T * share).T for part, share in zip(parts, shares, strict=True))
    return Derivatives(**means)
