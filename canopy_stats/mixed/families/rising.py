"""log of the rising factorial, lgamma(x + m) - lgamma(x), and its derivatives in x, with all digits at large x."""

from __future__ import annotations

import numpy as np

from canopy_stats.mixed.families.polygamma import polygammas, stirling_series

Array = np.ndarray
FAR = 50.0


def rising(x: Array, m: Array, order: int = 3) -> Array:
    """Values and derivatives (order + 1, n) of lgamma(x + m) - lgamma(x) for x > 0, m >= 0.

    Near: the polygamma functions' differences. Far: Stirling's series term by term (Abramowitz & Stegun 6.1.40), where
    x log(1 + m / x) and 1 / (x + m) - 1 / x keep their digits.
    """
    far = x > FAR
    if not far.any():
        return _near(x, m, order)
    out = np.empty((order + 1, len(x)))
    out[:, far] = _far(x[far], m[far], order)
    out[:, ~far] = _near(x[~far], m[~far], order)
    return out


def _near(x: Array, m: Array, order: int) -> Array:
    both = polygammas(np.stack([x + m, x]), order)
    return np.stack([values[0] - values[1] for values in both])


def _far(x: Array, m: Array, order: int) -> Array:
    """z = x + m: (z - 1/2) log z - z and its derivatives as differences, then the series' remainders."""
    z, ratio = x + m, np.log1p(m / x)
    gap = -m / (x * z)
    terms = [
        m * np.log(x) + (z - 0.5) * ratio - m,
        ratio - 0.5 * gap,
        gap + 0.5 * gap * (1 / z + 1 / x),
        -gap * (1 / z + 1 / x) - gap * (1 / z**2 + 1 / (z * x) + 1 / x**2),
    ]
    far: Array = np.stack(terms[: order + 1]) + stirling_series(z, order) - stirling_series(x, order)
    return far
