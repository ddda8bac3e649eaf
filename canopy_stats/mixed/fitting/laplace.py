"""Laplace approximation to the marginal log-likelihood of a mixed model, with its exact gradient.

With h(u) the joint log-density of responses and random effects (``modes.py``), u its maximiser and
H = Lambda' Z' diag(-l'') Z Lambda + I: log L = h(u) - log det(H) / 2. The gradient differentiates u by the implicit
function theorem (as TMB does by automatic differentiation: Kristensen, Nielsen, Berg, Skaug & Bell 2016).

A diagonal entry of Lambda and its column may change sign without changing the likelihood, so no bounds are needed: a
variance at zero is a smooth stationary point, and signs are normalised at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from canopy_stats.mixed.algebra import blocks
from canopy_stats.mixed.algebra.blocks import Array, Factorised, Layout
from canopy_stats.mixed.families import Derivatives
from canopy_stats.mixed.fitting import quadrature
from canopy_stats.mixed.fitting.modes import (
    Mode,
    Parts,
    Problem,
    accept,
    column_sums,
    find_mode,
    fixed_eta,
    joint_at,
    other_gradients,
    random_rows,
    split,
    weighted,
)

__all__ = ["Evaluation", "Mode", "Parts", "Problem", "evaluate", "evaluate_at", "find_mode", "fixed_eta", "hessian",
           "split", "tangent"]


@dataclass(frozen=True)
class Evaluation:
    """Laplace log-likelihood at omega, its gradient (k,), and the inner maximum."""

    value: float
    gradient: Array
    mode: Mode


def evaluate(problem: Problem, omega: Array, start: list[Array] | None = None,
             near: Factorised | None = None) -> Evaluation | None:
    """Log-likelihood and gradient at omega; None where the inner maximum is not found.

    ``start`` and ``near`` are the mode and its H at parameters nearby.
    """
    parts = split(problem, omega)
    mode = find_mode(problem, parts, start, near)
    if mode is None:
        return None
    if mode.h is None or problem.layout is None:
        return Evaluation(mode.value, _plain_gradient(problem, mode.at), mode)
    return _at_mode(problem, parts, mode, problem.layout, mode.h)


def spherical(problem: Problem, omega: Array, modes: Sequence[Array]) -> list[Array]:
    """u_k (L_k, q_k) of random effects b_k = u_k T_k': where :func:`evaluate` starts best at known estimates."""
    roots = blocks.templates(problem.factors, split(problem, omega).theta)
    return [b @ np.linalg.pinv(t.T) for b, t in zip(modes, roots, strict=True)]


def _at_mode(problem: Problem, parts: Parts, mode: Mode, layout: Layout, h: Factorised) -> Evaluation:
    """Log-likelihood and gradient by Laplace's approximation or, with several nodes, by quadrature about the mode."""
    if problem.quadrature > 1:
        value, gradient = quadrature.integrate(problem, parts, mode)
        return Evaluation(value, gradient, mode)
    return Evaluation(mode.value - 0.5 * h.logdet, _gradient(problem, mode, layout, h), mode)


def evaluate_at(problem: Problem, omega: Array, u: list[Array]) -> Evaluation | None:
    """The formulas of ``evaluate`` at given random effects, which are taken as the mode without being improved."""
    parts = split(problem, omega)
    if problem.layout is None:
        return evaluate(problem, omega)
    t = blocks.templates(problem.factors, parts.theta)
    at, value = joint_at(problem, weighted(problem, parts), fixed_eta(problem, parts), t, u, 3)
    mode = accept(problem.layout, u, at, value, t, 0)
    if mode is None or mode.h is None:
        return None
    return _at_mode(problem, parts, mode, problem.layout, mode.h)


def _plain_gradient(problem: Problem, at: Derivatives) -> Array:
    """Gradient without random effects."""
    return np.concatenate([
        at.d1 @ problem.x, column_sums(problem.w, at.k1), column_sums(problem.zero_design, at.z1),
        np.zeros(0) if at.cut1 is None else at.cut1.sum(axis=0),
    ])


def _gradient(problem: Problem, mode: Mode, layout: Layout, h: Factorised) -> Array:
    """Gradient of the Laplace log-likelihood.

    With s_i = a_i' H^-1 a_i (a_i the row of Z Lambda), v = H^-1 Lambda' Z' (s l''') and q = -s l''' - l'' Z Lambda v,
    d logL = dh - (1/2) d logdet(H) reduces to sums over rows; M = sum_i -l''_i z_i (H^-1 a_i)' is the explicit
    dependence of H on Lambda.
    """
    at = mode.at
    assert at.d3 is not None
    rows = [f.columns @ t for f, t in zip(problem.factors, mode.factors, strict=True)]
    solved = blocks.solve_rows(layout, h, rows)
    s = sum(np.einsum("na,na->n", a, c) for a, c in zip(rows, solved, strict=True))
    r = -s * at.d3
    pulled = [blocks.sum_by_group(f, r) @ t for f, t in zip(problem.factors, mode.factors, strict=True)]
    v = blocks.solve(layout, h, pulled)
    zv = random_rows(problem.factors, mode.factors, v)
    q = r + at.d2 * zv
    beta = (at.d1 - 0.5 * q) @ problem.x
    others = other_gradients(problem, at, at, -0.5 * zv, -0.5 * s)
    theta = np.zeros(problem.sizes.theta)
    for f, u_k, v_k, c_k in zip(problem.factors, mode.u, v, solved, strict=True):
        matrix = blocks.sum_by_group(f, at.d1).T @ (u_k - 0.5 * v_k) - 0.5 * blocks.sum_by_group(f, q).T @ u_k
        matrix += (f.columns * at.d2[:, None]).T @ c_k
        used = f.pattern >= 0
        theta[f.pattern[used]] = matrix[used]
    return np.concatenate([beta, others, theta])


def tangent(problem: Problem, mode: Mode) -> list[Array]:
    """Derivatives du/domega (L_k, q_k, k) of the mode in every parameter, by the implicit function theorem."""
    at = mode.at
    assert problem.layout is not None and mode.h is not None
    pulls = np.hstack([problem.x * at.d2[:, None], *_other_pulls(problem, at)])
    moves, right = _theta_moves(problem, mode), []
    scored = [blocks.sum_by_group(f, at.d1) for f in problem.factors]
    moved = np.stack([at.d2 * e for _, _, _, e in moves], axis=1)
    for k, (f, t) in enumerate(zip(problem.factors, mode.factors, strict=True)):
        own = np.einsum("ab,lar->lbr", t, blocks.sum_by_group(f, np.hstack([pulls, moved])))
        for place, (factor, a, b, _) in enumerate(moves):
            if factor == k:
                own[:, b, pulls.shape[1] + place] += scored[k][:, a]
        right.append(own)
    return blocks.solve(problem.layout, mode.h, right)


def _other_pulls(problem: Problem, at: Derivatives) -> list[Array]:
    """Derivatives (n, k) of l' in the coefficients of dispersion and zero part and in the cutpoint parameters."""
    pairs = ((problem.w, at.dk), (problem.zero_design, at.dz))
    return [design * mixed[:, None] for design, mixed in pairs if mixed is not None and design.shape[1]] + [
        part for part in (at.dcut,) if part is not None]


def _theta_moves(problem: Problem, mode: Mode) -> list[tuple[int, int, int, Array]]:
    """For each theta: its factor, row and column in the covariance factor, and deta/dtheta (n,)."""
    moves: list[tuple[int, int, int, Array]] = [(0, 0, 0, np.empty(0))] * problem.sizes.theta
    for k, f in enumerate(problem.factors):
        for a, b in np.argwhere(f.pattern >= 0):
            moves[f.pattern[a, b]] = (k, int(a), int(b), f.columns[:, a] * mode.u[k][f.codes, b])
    return moves


def hessian(problem: Problem, omega: Array, found: Evaluation, steps: Array, columns: Array | None = None) -> Array:
    """Columns (k, j) of the log-likelihood's Hessian: the gradient's formula differenced along (omega, u) together.

    The mode moves along its tangent, so no inner iterations are needed and forward differences suffice; ``steps`` (k,)
    are a small part of the parameters' standard errors. NaN where the curvature is not positive.
    """
    columns = np.arange(len(omega)) if columns is None else columns
    slopes = tangent(problem, found.mode) if problem.layout is not None else []
    out = np.full((len(omega), len(columns)), np.nan)
    for j, i in enumerate(columns):
        moved = omega.copy()
        moved[i] += steps[i]
        u = [part + steps[i] * slope[:, :, i] for part, slope in zip(found.mode.u, slopes, strict=True)]
        ahead = evaluate_at(problem, moved, u)
        if ahead is not None:
            out[:, j] = (ahead.gradient - found.gradient) / steps[i]
    return out
