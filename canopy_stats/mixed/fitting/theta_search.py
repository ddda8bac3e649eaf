"""The search for a linear model's theta: halved profiled deviance with its exact gradient, in own coordinates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from canopy_stats.mixed.algebra.blocks import Array, templates
from canopy_stats.mixed.algebra.covariance import canonical_theta, expected_information
from canopy_stats.mixed.algebra.optimise import make_positive, minimise, newton_step, polish
from canopy_stats.mixed.certificate import LINEAR
from canopy_stats.mixed.fitting import pls
from canopy_stats.mixed.fitting.curvature import Curvature, make_curvature
from canopy_stats.mixed.fitting.pls import Products
from canopy_stats.schema import UserError

SAME = 1e-9
"""Second derivatives are taken over to a theta this near in squared standard errors."""
SMALLEST, LARGEST = 0.1, 5.0
"""Standard deviations, relative to the residual's, between which a search starts."""


@dataclass(frozen=True)
class Search:
    """What a search for theta (t,) said: its message and number of evaluations.

    ``second`` (t, t) are the deviance's second derivatives in theta, sigma fixed, where it made them at its end.
    """

    theta: Array
    message: str = "done"
    evaluations: int = 0
    second: Array | None = None


def search(products: Products, *, reml: bool) -> Search:
    """The best theta: quasi-Newton from moments, then Newton steps; in canonical form."""
    start = first_theta(products)
    objective = _objective(products, reml)
    hessian = make_positive(_information(products, start))
    optimum = minimise(objective, start, hessian, decrement=LINEAR.search, limit=_limit)
    made: dict[bytes, Curvature] = {}
    optimum = polish(objective, optimum, lambda theta: _hessian(products, theta, reml, made), decrement=LINEAR.polish,
                     moved=LINEAR.moved, limit=_limit)
    theta = canonical(products, optimum.x)
    second = _still_there(theta, made, optimum.hessian)
    return Search(theta, optimum.message, optimum.evaluations + 2 * len(theta) * len(made), second)


def _still_there(theta: Array, made: dict[bytes, Curvature], hessian: Array) -> Array | None:
    """The last second derivatives, if theta is as good as where they were made."""
    at, last = list(made.items())[-1]
    way = theta - np.frombuffer(at)
    return last.joint[:-1, :-1] if way @ hessian @ way < SAME else None


def quick_search(products: Products, start: Array, *, reml: bool) -> Search:
    """The same from a near theta, without Newton steps: for replicates. UserError where it does not arrive."""
    raised = start.copy()
    diagonal = [int(f.pattern[a, a]) for f in products.layout.factors for a in range(len(f.terms))]
    raised[diagonal] = np.maximum(raised[diagonal], SMALLEST)  # zero is stationary: a search from there stays
    hessian = make_positive(_information(products, raised))
    optimum = minimise(_objective(products, reml), raised, hessian, decrement=1e-9, limit=_limit)
    if newton_step(make_positive(optimum.hessian), optimum.gradient)[1] > LINEAR.quick:
        raise UserError(f"the search did not converge: {optimum.message}")
    return Search(canonical(products, optimum.x), optimum.message, optimum.evaluations)


def canonical(products: Products, theta: Array) -> Array:
    """theta with non-negative diagonals, columns that vanish wholly zero."""
    return canonical_theta(products.layout.factors, theta, np.full(len(theta), LINEAR.zero))


def _objective(products: Products, reml: bool) -> Callable[[Array], tuple[float, Array] | None]:
    """Half the profiled deviance and its gradient."""

    def value(theta: Array) -> tuple[float, Array] | None:
        found = pls.solve_theta(products, theta)
        if found is None:
            return None
        return 0.5 * pls.deviance(found, reml=reml), 0.5 * pls.gradient(found, reml=reml)

    return value


def _hessian(products: Products, theta: Array, reml: bool, made: dict[bytes, Curvature]) -> Array:
    found = pls.solve_theta(products, theta)
    assert found is not None
    curvature = make_curvature(products, found, theta, reml=reml)
    made[theta.tobytes()] = curvature
    return 0.5 * curvature.profiled


def _limit(theta: Array, step: Array) -> float:
    """Steps change no entry by more than 1, or than the largest entry."""
    return float(min(1.0, max(1.0, np.abs(theta).max()) / max(np.abs(step).max(), 1e-300)))


def first_theta(products: Products) -> Array:
    """theta (t,) from the spread of the levels' sums beyond their information: diagonals only."""
    theta = np.zeros(products.n_theta)
    for factor, zx, gram in zip(products.layout.factors, products.zx, own_grams(products), strict=True):
        for a in range(len(factor.terms)):
            top, info = zx[:, a, -1], gram[:, a, a]
            variance = float(np.sum(top**2 - info) / max(np.sum(info**2), 1e-300))
            theta[factor.pattern[a, a]] = np.sqrt(max(variance, 0.0) / max(1.0 - variance, 0.1))
    diagonal = [int(f.pattern[a, a]) for f in products.layout.factors for a in range(len(f.terms))]
    theta[diagonal] = np.clip(theta[diagonal], SMALLEST, LARGEST)
    return theta


def own_grams(products: Products) -> list[Array]:
    """Blocks (L_k, q_k, q_k) of Z'Z on the diagonal, by factor."""
    layout, zz = products.layout, products.zz
    return [zz.head if k == layout.head else zz.tail.own[layout.offsets[k]] for k in range(len(layout.factors))]


def _information(products: Products, theta: Array) -> Array:
    """Expected information (t, t) on theta given sigma: the first Hessian."""
    factors = products.layout.factors
    out = expected_information(factors, own_grams(products), templates(factors, theta), len(theta))
    return out + np.diag(np.maximum(1e-3 * np.diag(out).max(), 1e-6) * np.ones(len(out)))
