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
