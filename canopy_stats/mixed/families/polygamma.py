"""log-gamma and its first three derivatives together, in vectorised arithmetic (several times faster than singly)."""

from __future__ import annotations

import numpy as np

Array = np.ndarray
SHIFT = 7
SMALLEST = 1e-90
HALF_LOG_2PI = 0.9189385332046727418
CHUNK = 8192


def polygammas(x: Array, order: int = 3) -> tuple[Array, ...]:
    """lgamma(x), psi(x), psi'(x), psi''(x) for x > 0 (n,), up to derivative ``order`` (1 to 3).

    Stirling's series at x + 7 and the recurrence down to x (Abramowitz & Stegun 6.1.40, 6.3.18, 6.4.11-14, 6.4.6); the
    relative error is below 1e-12. Values are worked on in chunks that stay in the processor's cache.
    """
    flat = np.maximum(np.asarray(x, dtype=float).ravel(), SMALLEST)
    out = np.empty((order + 1, len(flat)))
    for start in range(0, len(flat), CHUNK):
        part = slice(start, start + CHUNK)
        _fill(flat[part], out[:, part])
    return tuple(values.reshape(np.shape(x)) for values in out)


def _fill(x: Array, out: Array) -> None:
    """Write lgamma and its derivatives at x (n,) into ``out`` (order + 1, n)."""
    order = len(out) - 1
    _stirling(x + SHIFT, out)
    product = np.ones_like(x)
    for step in range(SHIFT):
        term = x + step
        product *= term
        inverse = 1.0 / term
        out[1] -= inverse
        if order > 1:
            square = inverse * inverse
            out[2] += square
        if order > 2:
            square *= inverse
            square *= 2.0
            out[3] -= square
    out[0] -= np.log(product)


# Coefficients of Stirling's series: B_2k / (2k (2k - 1)), B_2k / 2k, B_2k and -(2k + 1) B_2k for k = 1, ..., 7.
_BERNOULLI = np.array([1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6])
_K = np.arange(1, 8)
_SERIES = (
    _BERNOULLI / (2 * _K * (2 * _K - 1)), -_BERNOULLI / (2 * _K), _BERNOULLI, -(2 * _K + 1) * _BERNOULLI,
)


def _stirling(z: Array, out: Array) -> None:
    """Stirling's series at z >= 7."""
    order = len(out) - 1
    inverse = 1.0 / z
    square = inverse * inverse
    log = np.log(z)
    out[:] = stirling_series(z, order)
    out[0] += (z - 0.5) * log - z + HALF_LOG_2PI
    out[1] += log - 0.5 * inverse
    if order > 1:
        out[2] += inverse + 0.5 * square
    if order > 2:
        out[3] += -square - square * inverse


def stirling_series(z: Array, order: int) -> Array:
    """The part of lgamma(z), z >= 7, beyond (z - 1/2) log z - z + log(2 pi) / 2, and its derivatives (order + 1, n)."""
    inverse = 1.0 / z
    square = inverse * inverse
    out = np.empty((order + 1, *z.shape))
    out[0] = _horner(_SERIES[0], square) * inverse
    out[1] = _horner(_SERIES[1], square) * square
    if order > 1:
        out[2] = _horner(_SERIES[2], square) * square * inverse
    if order > 2:
        out[3] = _horner(_SERIES[3], square) * square * square
    return out


def _horner(coefficients: Array, x: Array) -> Array:
    total = np.full_like(x, coefficients[-1])
    for value in coefficients[-2::-1]:
        total *= x
        total += value
    return total
