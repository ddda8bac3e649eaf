"""Semantic entropy of one prompt's rollouts: how evenly they spread over clusters of equal meaning."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from canopy_stats.schema import UserError

Flags = NDArray[np.bool_]
Ints = NDArray[np.intp]


def semantic_entropy(verdicts: ArrayLike) -> dict[str, float]:
    """RSE and its companions from "same meaning" verdicts (m, m), entry (i, j) given with text i first.

    ``RSE`` is the entropy in nats of the shares of the :func:`clusters`, between 0 and log m; ``RSE_cs`` its
    coverage-adjusted version (:func:`chao_shen`); ``clusters`` their number; ``rse_m`` = m; ``asymmetric_share`` the
    share of pairs judged one way in one order and the other way in the other, a measure of the judge's position
    bias (NaN with a single text).
    """
    same = _square(verdicts)
    counts = np.bincount(clusters(same))
    return {"RSE": share_entropy(counts), "RSE_cs": chao_shen(counts), "rse_m": len(same), "clusters": len(counts),
            "asymmetric_share": asymmetric_share(same)}


def clusters(verdicts: ArrayLike) -> Ints:
    """The cluster of each text (m,): connected components of the pairs with "same meaning" in *both* orders.

    Meaning is taken to be transitive: a chain of agreements joins its ends, as in single-linkage clustering. The
    diagonal of ``verdicts`` (m, m) is not read.
    """
    from scipy.sparse.csgraph import connected_components

    same = _square(verdicts)
    labels: Ints = connected_components(same & same.T, directed=False)[1].astype(np.intp)
    return labels


def asymmetric_share(verdicts: ArrayLike) -> float:
    """Share of the pairs i < j of verdicts (m, m) that differ between the two orders; NaN for m < 2."""
    same = _square(verdicts)
    m = len(same)
    return float(np.triu(same != same.T, 1).sum() / (m * (m - 1) / 2)) if m > 1 else float("nan")


def share_entropy(counts: ArrayLike) -> float:
    """−Σ p log p in nats of p = counts/Σ counts; counts (k,) are positive."""
    p = _counts(counts) / np.sum(counts)
    return max(0.0, float(-(p * np.log(p)).sum()))


def chao_shen(counts: ArrayLike) -> float:
    """Coverage-adjusted entropy in nats (Chao & Shen 2003; ``entropy.ChaoShen`` of the R package entropy).

    With n = Σ counts, f1 the number of counts that are 1 and coverage C = 1 − f1/n: −Σ q log q / (1 − (1 − q)^n),
    q = C·counts/n. A sample of singletons alone would have no coverage; f1 is then taken as n − 1. The result may
    exceed log n, since it also counts clusters that were not seen; with C near 0 its variance is large.
    """
    y = _counts(counts)
    n, f1 = y.sum(), np.sum(y == 1)
    q = (1 - min(f1, n - 1) / n) * y / n
    # 1 − (1 − q)^n, also where q is 1 (one cluster, seen alone) or so small that 1 − q rounds.
    with np.errstate(divide="ignore"):
        seen = -np.expm1(n * np.log1p(-q))
    return max(0.0, float(-(q * np.log(q) / seen).sum()))


def _square(verdicts: ArrayLike) -> Flags:
    same = np.asarray(verdicts)
    if same.ndim != 2 or same.shape[0] != same.shape[1] or not len(same) or same.dtype != np.bool_:
        raise UserError(f"verdicts have shape {same.shape} and type {same.dtype}; semantic entropy needs a square "
                        "matrix (m, m) of booleans, True where text i and text j mean the same.")
    return same


def _counts(counts: ArrayLike) -> NDArray[np.float64]:
    y = np.asarray(counts, np.float64)
    if y.ndim != 1 or not len(y) or not (np.isfinite(y) & (y >= 1) & (y == np.round(y))).all():
        raise UserError("cluster sizes must be whole numbers of at least 1: leave empty clusters out.")
    return y
