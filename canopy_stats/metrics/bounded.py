"""What bounds of each rollout's entropy say of a prompt: bounds again, each attained by rollouts within theirs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def bounded_metrics(length: Floats, low: Floats, high: Floats) -> dict[str, float]:
    """Bounds of canopy entropy, mean rate, their covariance with length, BF and GenPPL of one prompt.

    ``length`` (M,) are the tokens N, ``low`` and ``high`` (M,) bounds of H in nats. Cov(N, r) = mean((N - mean N) r)
    is least where rollouts longer than the mean have their least rate and shorter ones their largest. With one
    rollout there is no covariance: NaN.
    """
    n_bar, rates = float(length.mean()), (low / length, high / length)
    found = {"CE": (low.mean(), high.mean()), "R_bar": tuple(r.mean() for r in rates),
             "cov_NR": _covariance(length - n_bar, *rates)}
    found["BF"] = tuple(np.exp(r) for r in found["R_bar"])
    found["GenPPL"] = tuple(np.exp(ce / n_bar) for ce in found["CE"])
    return {f"{name}_{side}": float(value) for name, pair in found.items()
            for side, value in zip(("low", "high"), pair, strict=True)}


def _covariance(deviation: Floats, low: Floats, high: Floats) -> tuple[float, float]:
    if len(deviation) < 2:
        return float("nan"), float("nan")
    longer = deviation > 0
    return (float(np.mean(deviation * np.where(longer, low, high))),
            float(np.mean(deviation * np.where(longer, high, low))))
