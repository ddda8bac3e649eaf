"""Semantic diversity of one prompt's rollouts, from their unit embeddings, in float64."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from canopy_stats.schema import UserError

Floats = NDArray[np.float64]

UNIT_TOLERANCE = 1e-3
"""How far a row's norm may be from 1: what half precision leaves, and far from a forgotten normalisation."""


def diversity_metrics(embeddings: ArrayLike) -> dict[str, float]:
    """``D``, ``log_VS`` and ``VS`` of embeddings (M, d), M >= 2, whose rows have length 1.

    D = 1 − mean pairwise cosine over i < j; log VS = entropy in nats of the eigenvalues of K/M, K the cosine kernel;
    VS = exp(log VS) lies between 1 (all texts alike) and M (all orthogonal).
    """
    unit = unit_rows(embeddings)
    log_vs = log_vendi(unit)
    return {"D": dispersion(unit), "log_VS": log_vs, "VS": float(np.exp(log_vs))}


def unit_rows(embeddings: ArrayLike) -> Floats:
    """Embeddings (M, d) as float64 rows of length 1 to rounding, or a UserError.

    Rows that single precision left some 1e-7 off are put right here, so that equal texts give D = 0 and not 1e-7.
    """
    e = np.asarray(embeddings, np.float64)
    if e.ndim != 2 or e.shape[0] < 2 or e.shape[1] < 1:
        raise UserError(f"embeddings have shape {e.shape}; diversity needs (M, d) with at least two rollouts of the "
                        "prompt: draw more rollouts, or leave the embedder out.")
    if not np.isfinite(e).all():
        rows = np.flatnonzero(~np.isfinite(e).all(axis=1))
        raise UserError(f"embeddings hold NaN or infinity in row {rows[0]} ({rows.size} such rows): embed those texts "
                        "again, or use another embedder.")
    norm = np.sqrt(np.einsum("ij,ij->i", e, e))
    worst = int(np.argmax(np.abs(norm - 1)))
    if abs(norm[worst] - 1) > UNIT_TOLERANCE:
        raise UserError(f"row {worst} of the embeddings has length {norm[worst]:.4g}, not 1: divide each row by its "
                        "Euclidean norm first.")
    unit: Floats = e / norm[:, None]
    return unit


def dispersion(unit: Floats) -> float:
    """D = 1 − (|Σ e|² − M) / (M (M − 1)) for unit rows e (M, d): O(M d), no pairwise matrix.

    The mean cosine of unit vectors cannot exceed 1, so a negative value is rounding and becomes 0.
    """
    m = len(unit)
    total = unit.sum(axis=0)
    return max(0.0, float(1 - (total @ total - m) / (m * (m - 1))))


def dispersion_without_each(unit: Floats) -> Floats:
    """D without rollout i, for every i (M,): |Σ e − e_i|² = |Σ e|² − 2 e_i·Σ e + 1. Needs M >= 3; O(M d)."""
    m = len(unit)
    total = unit.sum(axis=0)
    squared = total @ total - 2 * (unit @ total) + 1
    dispersion: Floats = 1 - (squared - (m - 1)) / ((m - 1) * (m - 2))
    return dispersion


def log_vendi(unit: Floats) -> float:
    """Entropy −Σ λ log λ of the eigenvalues of K/M for unit rows (M, d) (Friedman & Dieng 2023).

    The Gram matrix (M, M) and the second-moment matrix (d, d) share their non-zero eigenvalues: the smaller is used.
    """
    m, d = unit.shape
    kernel = (unit @ unit.T if m <= d else unit.T @ unit) / m
    eigenvalues = np.linalg.eigvalsh(kernel)
    positive = eigenvalues[eigenvalues > 0]
    return max(0.0, float(-(positive * np.log(positive)).sum()))


def vendi_of_order(unit: Floats, order: float = 1.0) -> float:
    """Vendi score of an order q >= 0 for unit rows (M, d) (Pasarkar & Dieng 2024): the Hill number of the eigenvalues.

    (Σ λ^q)^(1/(1 − q)); the limit at q = 1 is the Vendi score, at infinity 1/max λ. Small orders count rare texts,
    large ones the commonest. Eigenvalues that are rounding (below M · 1e-15) count as zero, which matters for q < 1.
    """
    if not order >= 0:
        raise UserError(f"The Vendi score's order is {order!r}; it must be a number of at least 0, or inf.")
    if order == 1:
        return float(np.exp(log_vendi(unit)))
    m, d = unit.shape
    values = np.linalg.eigvalsh((unit @ unit.T if m <= d else unit.T @ unit) / m)
    values = values[values > m * 1e-15]
    if np.isinf(order):
        return float(1 / values.max())
    return float(np.sum(values**order) ** (1 / (1 - order)))


# --- each rollout by itself, and with length --------------------------------------------------------------------


def dispersion_of_each(unit: Floats) -> Floats:
    """d_i = 1 − mean cosine of rollout i to the others (M,), for unit rows (M, d), M >= 2; their mean is D."""
    return np.asarray(1 - (unit @ unit.sum(axis=0) - 1) / (len(unit) - 1))


def dispersion_by_length(length: ArrayLike, unit: Floats, parts: int = 3) -> Floats:
    """D within each of ``parts`` groups of a prompt's rollouts, from the shortest to the longest; NaN below two.

    Groups are by rank of the lengths (M,), ⌊rank · parts / M⌋; rollouts of equal length keep their order.
    """
    n = np.asarray(length)
    rank = np.empty(len(n), np.intp)
    rank[np.argsort(n, kind="stable")] = np.arange(len(n))
    group = rank * parts // len(n)
    return np.array([dispersion(unit[group == g]) if (group == g).sum() > 1 else np.nan for g in range(parts)])
