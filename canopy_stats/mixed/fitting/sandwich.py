"""Clustered covariances of the coefficients, and their degrees of freedom (Bell & McCaffrey 2002; R's clubSandwich).

In units of the residual variance cluster j has the working covariance Phi_j = 1 / weights + Z_j T T' Z_j' and residuals
e_j. With M = (sum X_j' Phi_j^-1 X_j)^-1 its adjusted score is X_j' Phi_j^-1 A_j e_j. For CR0 A_j = I; for CR2 it makes
the sandwich unbiased where the working model holds, A_j = D' (D (Phi_j - X_j M X_j') D')^-1/2 D with Phi_j = D'D; for
CR3, the jackknife over clusters, A_j = Phi_j (Phi_j - X_j M X_j')^-1. Generalised models are taken at their modes:
there Phi_j^-1 e_j is the derivative of the log-likelihood in each row's predictor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import linalg

from canopy_stats.mixed.algebra.blocks import Array
from canopy_stats.mixed.algebra.coordinates import orthogonal
from canopy_stats.mixed.formulas.grouping import Factor
from canopy_stats.schema import UserError

CR = Literal["CR0", "CR1", "CR2", "CR3"]
KINDS = ("CR0", "CR1", "CR2", "CR3")
LARGEST = 5000
"""Rows of a cluster beyond which its working covariance takes gigabytes."""
SMALL = 1e-12


@dataclass(frozen=True, eq=False)
class Working:
    """The working model of clustered rows: orthogonal columns x (n, p), beta = back @ gamma, variances (n,) of the
    rows' own errors, roots T_k (q_k, q_k) of the random effects, rows of each cluster."""

    x: Array
    back: Array
    variances: Array
    factors: tuple[Factor, ...]
    roots: Sequence[Array]
    clusters: list[Array]

    def covariance(self, rows: Array) -> Array:
        """Phi_j (m, m) of the rows (m,) of a cluster."""
        phi = np.diag(self.variances[rows])
        for factor, root in zip(self.factors, self.roots, strict=True):
            z, codes = factor.columns[rows] @ root, factor.codes[rows]
            phi += (codes[:, None] == codes) * (z @ z.T)
        return phi


@dataclass(frozen=True, eq=False)
class ClusterAdjustment:
    """What CR estimators share in one working model.

    ``bread`` M (p, p); ``scores`` (J, p) adjusted scores; ``moves`` U_j = X_j' A_j Phi_j^-1 X_j (J, p, p) and
    ``spreads`` Q_j = X_j' Phi_j^-1 A_j Phi_j A_j Phi_j^-1 X_j (J, p, p) for the degrees of freedom; ``factor`` the
    correction of CR1.
    """

    back: Array
    bread: Array
    scores: Array
    moves: Array
    spreads: Array
    factor: float

    @property
    def covariance(self) -> Array:
        """Clustered covariance (p, p) of the natural coefficients, everything else held."""
        influence = self.scores @ (self.back @ self.bread).T
        return np.asarray(self.factor * influence.T @ influence)

    def degrees_of_freedom(self, contrasts: Array) -> Array:
        """Satterthwaite's degrees of freedom (k,) of natural contrasts (k, p) (Pustejovsky & Tipton 2018).

        c'Vc is a sum of squares of p_j'e with Cov(p_i'e, p_j'e) = [i = j] a_j - t_i' M t_j in the working model.
        """
        own = contrasts @ self.back @ self.bread
        a = np.einsum("kx,jxy,ky->kj", own, self.spreads, own, optimize=True)
        t = np.einsum("jxy,ky->kjx", self.moves, own, optimize=True)
        tm = t @ self.bread
        shared = np.einsum("kjx,kjx->kj", tm, t)
        cross = np.einsum("kjx,kjy->kxy", tm, t)
        squares = (a**2 - 2 * a * shared).sum(axis=1) + np.einsum("kxy,kyx->k", cross, cross)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray((a - shared).sum(axis=1) ** 2 / squares)

    def wishart_df(self, contrasts: Array) -> float:
        """eta of Hotelling's T^2 for natural contrasts (q, p) jointly (Pustejovsky & Tipton 2018, HTZ).

        q (q + 1) over the summed variances of the sandwich's entries, in units of its expectation under the working
        model; for q = 1 as above. Per cluster the whitened sums have covariances P_ij = [i = j] S_j - R_i R_j'.
        """
        own = contrasts @ self.back @ self.bread
        spread = np.einsum("sx,jxy,ty->jst", own, self.spreads, own, optimize=True)
        move = np.einsum("jxy,sy->jsx", self.moves, own, optimize=True) @ np.linalg.cholesky(self.bread)
        diagonal = spread - move @ move.transpose(0, 2, 1)
        white = np.linalg.inv(np.linalg.cholesky(diagonal.sum(axis=0)))
        r, d = white @ move, white @ diagonal @ white.T
        pairs = np.einsum("jsa,jtb->satb", r, r, optimize=True)
        every = np.sum(pairs**2) + np.einsum("satb,tasb->", pairs, pairs)
        q = len(contrasts)
        return float(q * (q + 1) / (every + _squares(d) - _squares(r @ r.transpose(0, 2, 1))))


def _squares(p: Array) -> float:
    """Sum over clusters of tr(P)^2 + tr(P P), P (J, q, q) symmetric."""
    return float(np.sum(np.trace(p, axis1=1, axis2=2) ** 2) + np.sum(p**2))


def adjust(working: Working, residuals: Sequence[Array], kind: str) -> ClusterAdjustment:
    """Adjusted scores of every cluster from its residuals e_j (m,)."""
    x, clusters = working.x, working.clusters
    solved = [linalg.solve(working.covariance(rows), x[rows], assume_a="pos") for rows in clusters]
    bread = np.linalg.inv(np.sum([x[rows].T @ part for rows, part in zip(clusters, solved, strict=True)], axis=0))
    parts = [_one(working.covariance(rows), x[rows], part, bread, e, kind)
             for rows, part, e in zip(clusters, solved, residuals, strict=True)]
    scores, moves, spreads = (np.array(part) for part in zip(*parts, strict=True))
    small = len(clusters) / (len(clusters) - 1) if kind == "CR1" else 1.0
    return ClusterAdjustment(working.back, bread, scores, moves, spreads, small)


def _one(phi: Array, x: Array, solved: Array, bread: Array, e: Array, kind: str) -> tuple[Array, Array, Array]:
    """Adjusted score (p,), U_j and Q_j (p, p) of one cluster; ``solved`` is Phi_j^-1 X_j."""
    left = solved
    if kind == "CR2":
        left = _unbiased(phi, x, bread, solved)
    elif kind == "CR3":
        left = _jackknifed(phi, x, bread)
    return left.T @ e, x.T @ left, left.T @ phi @ left


def _unbiased(phi: Array, x: Array, bread: Array, solved: Array) -> Array:
    """A_j' Phi_j^-1 X_j (m, p) of CR2; directions that the cluster's own columns explain wholly are left out."""
    d = linalg.cholesky(phi)
    values, vectors = linalg.eigh(d @ (phi - x @ bread @ x.T) @ d.T)
    keep = values > SMALL * values[-1]
    half = d.T @ vectors[:, keep] / values[keep] ** 0.25
    return np.asarray(half @ (half.T @ solved))


def _jackknifed(phi: Array, x: Array, bread: Array) -> Array:
    """A_j' Phi_j^-1 X_j = (Phi_j - X_j M X_j')^-1 X_j of CR3, without such directions."""
    root = linalg.cholesky(phi, lower=True)
    white = linalg.solve_triangular(root, x, lower=True)
    values, vectors = linalg.eigh(np.eye(len(x)) - white @ bread @ white.T)
    keep = values > SMALL * values[-1]
    back = linalg.solve_triangular(root.T, vectors[:, keep])
    return np.asarray((back / values[keep]) @ (vectors[:, keep].T @ white))


def rows_of_clusters(codes: Array, factors: Sequence[Factor], name: str) -> list[Array]:
    """Rows of each cluster; UserError where the random effects make clusters depend on one another."""
    order = np.argsort(codes, kind="stable")
    clusters = np.split(order, np.cumsum(np.bincount(codes))[:-1])
    if len(clusters) < 2:
        raise UserError(f"{name} has one cluster only; clustered errors need many.")
    if (most := max(map(len, clusters))) > LARGEST:
        raise UserError(f"A cluster of {name} has {most} rows, more than {LARGEST}; cluster by something smaller.")
    for factor in factors:
        if len(np.unique(factor.codes * len(clusters) + codes)) > len(factor.levels):
            raise UserError(
                f"Levels of {factor.name} occur in several clusters of {name}: their random effects make the clusters"
                f" depend on one another. Cluster by {factor.name} or something above it, or drop its random term."
            )
    return clusters


def working_model(x: Array, variances: Array, factors: tuple[Factor, ...], roots: Sequence[Array],
                  clusters: list[Array]) -> Working:
    """The working model of natural columns x (n, p)."""
    basis, back = orthogonal(x)
    return Working(basis, back, variances, factors, roots, clusters)
