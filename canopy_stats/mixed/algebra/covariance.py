"""Canonical forms of relative covariance factors: the same covariance T T' in many T, of which one is chosen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from canopy_stats.mixed.algebra.blocks import Array, templates
from canopy_stats.mixed.formulas.grouping import Factor


def canonical_theta(factors: Sequence[Factor], theta: Array, zero: Array) -> Array:
    """The theta (t,) of the same covariances with non-negative diagonals, and vanishing columns wholly zero.

    A diagonal entry counts as vanished below its ``zero`` (t,). Then its column's other entries can be turned into
    later columns without changing T T': what is left of a singular covariance has as many columns as its rank.
    """
    out = np.array(theta, dtype=float)
    for factor, t in zip(factors, templates(factors, theta), strict=True):
        for block in factor.blocks:
            places = factor.pattern[np.ix_(block, block)]
            part = _canonical(t[np.ix_(block, block)], zero[np.diag(places)])
            lower = np.tril_indices(len(block))
            out[places[lower]] = part[lower]
    return out


def _canonical(t: Array, zero: Array) -> Array:
    """Canonical form of one lower-triangular block (q, q)."""
    t = t.copy()
    for j in range(len(t)):
        if abs(t[j, j]) < zero[j]:
            for k in range(j + 1, len(t)):
                _turn(t, j, k)
    return np.asarray(t * np.where(np.diag(t) < 0, -1.0, 1.0))


def _turn(t: Array, j: int, k: int) -> None:
    """Rotate columns j and k so that row k has nothing in column j."""
    size = float(np.hypot(t[k, j], t[k, k]))
    if size == 0 or t[k, j] == 0:
        return
    c, s = t[k, k] / size, t[k, j] / size
    t[:, j], t[:, k] = c * t[:, j] - s * t[:, k], c * t[:, k] + s * t[:, j]


def vanished(factors: Sequence[Factor], theta: Array, zero: Array) -> dict[str, list[int]]:
    """Places in theta of the columns whose diagonal vanishes, by name 'term | group'."""
    found = {}
    for factor in factors:
        for a, name in enumerate(factor.terms):
            if abs(theta[factor.pattern[a, a]]) < zero[factor.pattern[a, a]]:
                column = factor.pattern[:, a]
                found[f"{name} | {factor.name}"] = [int(place) for place in column[column >= 0]]
    return found


def boundary_slopes(columns: dict[str, list[int]], hessian: Array, shift: int = 0) -> dict[str, float]:
    """Derivative of the log-likelihood in each vanished variance, at zero.

    The likelihood is even in the column, so its second derivative there is twice the first one in the variance;
    ``hessian`` is of the negative log-likelihood, theta starting at ``shift``. The worst direction is reported.
    """
    slopes = {}
    for name, places in columns.items():
        block = hessian[np.ix_(np.add(places, shift), np.add(places, shift))]
        slopes[name] = -0.5 * float(np.linalg.eigvalsh(block)[0]) if np.all(np.isfinite(block)) else float("nan")
    return slopes


def expected_information(
    factors: Sequence[Factor], grams: Sequence[Array], roots: Sequence[Array], size: int
) -> Array:
    """Expected information (t, t) on theta: sum over levels of tr(S dB S dB') / 2.

    B = T T', S = G - G T (I + T'GT)^-1 T' G with G (L_k, q_k, q_k) the level's own information ``grams``; links between
    factors are left out.
    """
    out = np.zeros((size, size))
    for factor, g, t in zip(factors, grams, roots, strict=True):
        s = g - g @ t @ np.linalg.solve(np.eye(len(t)) + t.T @ g @ t, t.T @ g)
        entries = np.argwhere(factor.pattern >= 0)
        moved = [s @ _product_slope(t, a, b) for a, b in entries]
        for (a, b), left in zip(entries, moved, strict=True):
            for (e, f), right in zip(entries, moved, strict=True):
                out[factor.pattern[a, b], factor.pattern[e, f]] = 0.5 * float(np.einsum("lij,lji->", left, right))
    return out


def _product_slope(t: Array, a: int, b: int) -> Array:
    """Derivative (q, q) of T T' in the entry (a, b) of T."""
    slope = np.zeros_like(t)
    slope[a] += t[:, b]
    slope[:, a] += t[:, b]
    return slope


def theta_names(factors: Sequence[Factor]) -> list[str]:
    """Names of theta's entries: 'random a | group' on the diagonals, 'random a, b | group' below them."""
    names: dict[int, str] = {}
    for factor in factors:
        for a, b in np.argwhere(factor.pattern >= 0):
            pair = factor.terms[a] if a == b else f"{factor.terms[b]}, {factor.terms[a]}"
            names[int(factor.pattern[a, b])] = f"random {pair} | {factor.name}"
    return [names[place] for place in sorted(names)]
