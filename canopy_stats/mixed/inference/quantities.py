"""What a profile holds fixed: one linear function of a likelihood's parameters, or a correlation, as a coordinate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from canopy_stats.mixed.algebra.blocks import Array
from canopy_stats.mixed.algebra.coordinates import orthogonal
from canopy_stats.mixed.formulas.grouping import Factor

EDGE = 1e-12


class Quantity(Protocol):
    """Coordinates x (k,) of parameters omega (k,) of which one, at ``place``, is the quantity in its range."""

    @property
    def place(self) -> int: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...

    def start(self, omega: Array) -> Array:
        """The coordinates of a point."""
        ...

    def omega(self, x: Array) -> Array:
        """The point at coordinates x."""
        ...

    def pull(self, x: Array, gradient: Array) -> Array:
        """A gradient in omega as one in x."""
        ...

    def curvature(self, hessian: Array) -> Array:
        """A Hessian (k, k) in omega as one in x, near enough for a first step."""
        ...

    def error(self, omega: Array, covariance: Array) -> float:
        """Standard error by the delta method from the covariance (k, k) of omega; at an edge a first step's size."""
        ...


@dataclass(frozen=True)
class Combination:
    """``direction`` @ omega, in the place of a parameter that moves it much; the others stay coordinates."""

    direction: Array
    place: int
    low: float = -np.inf
    high: float = np.inf

    @property
    def jacobian(self) -> Array:
        """d omega / d x (k, k)."""
        out = np.eye(len(self.direction))
        out[self.place] = -self.direction / self.direction[self.place]
        out[self.place, self.place] = 1 / self.direction[self.place]
        return out

    def start(self, omega: Array) -> Array:
        out = omega.copy()
        out[self.place] = self.direction @ omega
        return out

    def omega(self, x: Array) -> Array:
        out, g = x.copy(), self.direction
        out[self.place] = 0.0
        out[self.place] = (x[self.place] - g @ out) / g[self.place]
        return out

    def pull(self, x: Array, gradient: Array) -> Array:
        return np.asarray(self.jacobian.T @ gradient)

    def curvature(self, hessian: Array) -> Array:
        return np.asarray(self.jacobian.T @ hessian @ self.jacobian)

    def error(self, omega: Array, covariance: Array) -> float:
        return float(np.sqrt(self.direction @ covariance @ self.direction))


def linear(direction: Array, low: float = -np.inf) -> Combination:
    """A linear function (k,) of the parameters in the place of the parameter that moves it most."""
    return Combination(direction, int(np.argmax(np.abs(direction))), low)


@dataclass(frozen=True)
class Correlation:
    """A correlation rho and the free standard deviation s, which stand for two entries of a covariance factor.

    Those are rho s, at ``place``, and sqrt(1 - rho^2) s, at ``scale``.
    """

    place: int
    scale: int
    low: float = -1.0
    high: float = 1.0

    def start(self, omega: Array) -> Array:
        out, pair = omega.copy(), omega[[self.place, self.scale]]
        out[self.scale] = size = float(np.hypot(*pair))
        out[self.place] = pair[0] / max(size, 1e-300)
        return out

    def omega(self, x: Array) -> Array:
        out, (rho, s) = x.copy(), x[[self.place, self.scale]]
        out[[self.place, self.scale]] = rho * s, np.sqrt(max(1 - rho**2, 0.0)) * s
        return out

    def pull(self, x: Array, gradient: Array) -> Array:
        out, (rho, s) = gradient.copy(), x[[self.place, self.scale]]
        rest = np.sqrt(max(1 - rho**2, EDGE))
        first, second = gradient[[self.place, self.scale]]
        out[[self.place, self.scale]] = s * (first - rho / rest * second), rho * first + rest * second
        return out

    def curvature(self, hessian: Array) -> Array:
        return hessian

    def error(self, omega: Array, covariance: Array) -> float:
        rho, s = self.start(omega)[[self.place, self.scale]]
        root, gradient = np.sqrt(max(1 - rho**2, EDGE)), np.zeros(len(omega))
        gradient[[self.place, self.scale]] = (1 - rho**2) / max(s, 1e-300), -rho * root / max(s, 1e-300)
        return float(np.sqrt(gradient @ covariance @ gradient))


def foremost(factor: Factor, wanted: Sequence[int]) -> tuple[Array, Array, list[int]]:
    """Random columns (n, q) whose block begins with the ``wanted`` natural ones less what the others explain of them.

    Also M (q, q) that takes natural effects of that block to those of the new columns, and the block. The wanted ones'
    effects are the natural ones but for a unit, so that their deviations and correlations stay what they are.
    """
    block = next(list(group) for group in factor.blocks if wanted[0] in group)
    others = [place for place in block if place not in wanted]
    columns, inward = factor.columns.copy(), np.eye(len(factor.terms))
    inward[np.ix_(block, block)] = 0.0
    basis, back = orthogonal(factor.columns[:, others])
    ahead, behind = block[: len(wanted)], block[len(wanted) :]
    share = basis.T @ factor.columns[:, wanted] / len(basis)
    rest = factor.columns[:, wanted] - basis @ share
    size = np.sqrt(np.mean(rest**2, axis=0))
    columns[:, ahead], columns[:, behind] = rest / size, basis
    inward[ahead, wanted] = size
    inward[np.ix_(behind, wanted)] = share
    inward[np.ix_(behind, others)] = np.linalg.inv(back)
    return columns, inward, block
