"""p-values adjusted for their number, by statsmodels' words.

``statsmodels.stats.multitest.multipletests`` collects all garbage at every call, which takes a tenth of a second in a
fresh session and a whole one beside large models; the tests compare with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import stats

METHODS = ("holm", "bonferroni", "fdr_bh", "none")


def adjusted_p(p_values: Any, method: str) -> np.ndarray:
    """Adjusted p-values (c,) by one of :data:`METHODS` or 'sidak'; NaN ones stay, and are not counted."""
    out = np.array(p_values, dtype=float)
    known = np.isfinite(out)
    if method != "none" and known.any():
        out[known] = _BY_METHOD[method](out[known])
    return out


def _holm(p: np.ndarray) -> np.ndarray:
    """Each times the number of those not smaller, never below one that is smaller (Holm 1979)."""
    order = np.argsort(p, kind="stable")
    out = np.empty_like(p)
    out[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
    return out


_BY_METHOD: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "holm": _holm,
    "bonferroni": lambda p: np.minimum(len(p) * p, 1.0),
    "fdr_bh": lambda p: stats.false_discovery_control(p, method="bh"),
    "sidak": lambda p: -np.expm1(len(p) * np.log1p(-p)),
}
