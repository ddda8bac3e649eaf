"""Across prompts: one value of each metric for a run, and the three levels of canopy entropy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from canopy_stats.metrics.association import RHOS, pool_fisher, pool_kendall
from canopy_stats.mixed.formulas.frames import as_pandas, is_table
from canopy_stats.schema import UserError

Floats = NDArray[np.float64]
PromptMetrics = pd.DataFrame | Sequence[Mapping[str, Any]]

_ALIASES = {"N_bar": "mean_length", "R_bar": "mean_rate"}
_NEEDED = ("CE", "mean_length", "mean_rate", "cov_NR", *RHOS)


def pool(prompt_metrics: PromptMetrics, counts: ArrayLike) -> dict[str, float]:
    """Pool the metrics of P prompts, with counts (P,) rollouts each, into one dict of the same names.

    CE, mean_length, mean_rate: unweighted means; BF and GenPPL are formed from those means (the exponential after
    averaging). cov_NR: unweighted mean of the population covariances, zeros included; ``cov_NR_paper``: sample
    covariances (divisor M − 1) weighted by M − 1. rho_pearson and rho_spearman: Fisher's z, weights M − 3;
    rho_kendall: weights M (M − 1)/2. ``rho_*_left_out`` counts the prompts that have no correlation, or no weight.
    """
    frame, m = _as_frame(prompt_metrics), np.asarray(counts, np.float64)
    _check_counts(m, len(frame))
    ce, mean_length, mean_rate, cov = (frame[name].to_numpy(np.float64) for name in _NEEDED[:4])
    return {
        "CE": float(ce.mean()),
        "mean_length": float(mean_length.mean()),
        "mean_rate": float(mean_rate.mean()),
        "cov_NR": float(cov.mean()),
        # (M − 1) · sample covariance = M · population covariance
        "cov_NR_paper": float(m @ cov / (m - 1).sum()) if (m > 1).any() else float("nan"),
        "BF": float(np.exp(mean_rate.mean())),
        "GenPPL": float(np.exp(ce.mean() / mean_length.mean())),
        **_pool_rhos(frame, m),
    }


def _pool_rhos(frame: pd.DataFrame, m: Floats, names: Sequence[str] = RHOS) -> dict[str, float]:
    pooled: dict[str, float] = {}
    for name in names:
        how = pool_kendall if name.endswith("_kendall") else pool_fisher
        pooled[name], pooled[f"{name}_left_out"] = how(frame[name].to_numpy(np.float64), m)
    return pooled


LENGTH_RHOS = tuple(name.replace("rho_", "rho_ND_") for name in RHOS)
"""Correlations of length and each rollout's own diversity."""


def pool_length_diversity(measures: pd.DataFrame, counts: ArrayLike) -> dict[str, float]:
    """Length against each rollout's own diversity d_i over P prompts with counts (P,), pooled as :func:`pool` does.

    ``measures`` has the columns of ``measure(extra=["length_diversity"])``. ``cov_ND``: mean of the population
    covariances; ``cov_ND_paper``: sample covariances weighted by M − 1.
    """
    m, cov = np.asarray(counts, np.float64), measures["cov_ND"].to_numpy(np.float64)
    _check_counts(m, len(cov))
    return {**_pool_rhos(measures, m, LENGTH_RHOS), "cov_ND": float(cov.mean()),
            "cov_ND_paper": float(m @ cov / (m - 1).sum())}


def three_level(measures: PromptMetrics) -> dict[str, float]:
    """Pooled canopy entropy in three exact terms, from the measures of P prompts.

    mean CE = mean N · mean r + mean within-prompt Cov(N, r) + between-prompt Cov(N̄_p, r̄_p), the last a population
    covariance (divisor P). A decomposition into mean N · mean r and one covariance mixes the last two.
    """
    frame = _as_frame(measures, needed=_NEEDED[:4])
    ce, length, rate, within = (frame[name].to_numpy(np.float64) for name in _NEEDED[:4])
    between = np.mean((length - length.mean()) * (rate - rate.mean()))
    return {"CE": float(ce.mean()), "product": float(length.mean() * rate.mean()), "cov_within": float(within.mean()),
            "cov_between": float(between), "mean_length": float(length.mean()), "mean_rate": float(rate.mean())}


def _as_frame(prompt_metrics: PromptMetrics, needed: Sequence[str] = _NEEDED) -> pd.DataFrame:
    table: Any = prompt_metrics
    frame = (as_pandas(table) if is_table(table) else pd.DataFrame(table)).rename(columns=_ALIASES)
    missing = [name for name in needed if name not in frame]
    if missing:
        lacking = f"missing: {', '.join(missing)}" if len(frame) else "no prompt was given"
        raise UserError(f"Pooling needs at least one prompt with {', '.join(needed)}; {lacking}. Give the rows of "
                        "measure() or a list of tree_metrics() results.")
    broken = frame[list(needed[:4])].isna().any(axis=1)
    if broken.any():
        raise UserError(f"{int(broken.sum())} prompt(s) have NaN in {', '.join(needed[:4])}, first in row "
                        f"{int(np.flatnonzero(broken)[0])}: measure them again or leave them out by name.")
    return frame


def _check_counts(m: Floats, prompts: int) -> None:
    if m.shape != (prompts,) or not (np.isfinite(m) & (m >= 1)).all():
        raise UserError(f"counts has shape {m.shape} for {prompts} prompt(s); give one number of rollouts, at least 1, "
                        "for each prompt.")
