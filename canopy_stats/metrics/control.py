"""Control variates: means over rollouts made sharper by two martingales whose mean is known to be zero.

Along a rollout drawn from the law, S − H (surprisal minus entropy) and 1{stopped} − A (the stop minus the summed
hazards) have mean zero, also when a length cap ends the rollout. mean(y) − bᵀ·mean(Z) is therefore unbiased for
E[y] whatever b is, as long as b was not chosen with the same rollouts: b comes from the run's other prompts.

One b for all prompts fails where their lengths differ: for a constant hazard the best coefficient of the stop
martingale is minus the mean length, so that one fitted to long prompts makes short ones many times *less* precise
(in a simulation, a variance up to 200 times the raw one). A prompt's own mean may not enter b. But the mean length
of its *other* rollouts may multiply rollout i's martingale: N̄_(−i)·Z_i has mean zero, since Z_i does not know the
other rollouts. Both kinds of control, Z_i and N̄_(−i)·Z_i, are offered, and the other prompts decide. (The mean of
Z/N is not zero: never divide by the own length.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from canopy_stats.schema import UserError

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class ControlledMeans:
    """Means and standard errors of P prompts, raw and with control variates; each (P, k).

    ``mean`` and ``se`` are NaN where a prompt has fewer than three rollouts, or the others too few to estimate the
    coefficients (always with a single prompt).
    """

    mean: Floats
    se: Floats
    mean_raw: Floats
    se_raw: Floats


def adjust(values: ArrayLike, martingales: ArrayLike, prompt: ArrayLike, scale: ArrayLike | None = None
           ) -> ControlledMeans:
    """Mean of each value over each prompt's rollouts, raw and controlled.

    Parameters
    ----------
    values : (R, k) or (R,), what is averaged, such as H, N and r of every rollout
    martingales : (R, 2), S − H and 1{stopped} − A
    prompt : (R,), the rollout's prompt as a code 0..P−1, in any order
    scale : (R,), optional: the lengths N; adds the controls N̄_(−i)·Z_i

    The coefficients for prompt p minimise, over the *other* prompts, Σ_q |y_q − C_q b|² / ȳ_q² (deviations from
    the prompt's means): each prompt weighs by its relative, not its absolute, variance. They are shrunk by
    1 − 1/F, F the regression's F statistic, so that useless controls (those of mean r, mostly) cost nothing.
    All P regressions come from one pass: the cross-products of all prompts minus the prompt's own.
    """
    y, z, code, n = _as_rollouts(values, martingales, prompt, scale)
    groups = _PromptGroups.of(code)
    controls = z if n is None else np.column_stack([z, _scaled_controls(z, n, groups)])
    y_mean, c_mean = groups.mean(y), groups.mean(controls)
    y_dev, c_dev = y - y_mean[code], controls - c_mean[code]
    b = _coefficients_without_own(y_dev, c_dev, y_mean, groups, needs_three=n is not None)
    residual = y_dev - np.einsum("rq,rqk->rk", c_dev, b[code])
    mean = y_mean - np.einsum("pq,pqk->pk", c_mean, b)
    return ControlledMeans(mean, groups.standard_error(residual), y_mean, groups.standard_error(y_dev))


@dataclass(frozen=True, slots=True)
class _PromptGroups:
    """Rollouts grouped by prompt: sums run over ``order``, which lists them prompt by prompt."""

    code: Ints
    order: Ints
    start: Ints
    count: Floats  # (P, 1)

    @classmethod
    def of(cls, code: Ints) -> _PromptGroups:
        count = np.bincount(code)
        return cls(code, np.argsort(code, kind="stable"), np.cumsum(count) - count, count[:, None].astype(np.float64))

    def sum(self, x: Floats) -> Floats:
        """(R, ...) -> (P, ...)"""
        return np.add.reduceat(x[self.order], self.start, axis=0)

    def mean(self, x: Floats) -> Floats:
        return self.sum(x) / self.count

    def standard_error(self, deviation: Floats) -> Floats:
        """√(Σ deviation² / (M (M − 1))) for each prompt; NaN with one rollout."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.sqrt(self.sum(deviation**2) / (self.count * (self.count - 1)))


def _scaled_controls(z: Floats, n: Floats, groups: _PromptGroups) -> Floats:
    """Jackknife pseudo-values (R, 2) of the mean of N̄_(−i)·Z_i over a prompt's rollouts.

    That mean is the U-statistic U = (ΣN ΣZ − ΣNZ) / (M (M − 1)). Its terms are not independent, so their plain
    variance would flatter it; the pseudo-values M·U − (M − 1)·U_(without i) average to U and carry its variance.
    NaN for fewer than three rollouts.
    """
    m, length = groups.count[groups.code], n[:, None]
    sum_n, sum_z, sum_nz = (groups.sum(x)[groups.code] for x in (length, z, length * z))
    with np.errstate(divide="ignore", invalid="ignore"):
        u = (sum_n * sum_z - sum_nz) / (m * (m - 1))
        without = ((sum_n - length) * (sum_z - z) - (sum_nz - length * z)) / ((m - 1) * (m - 2))
        pseudo = m * u - (m - 1) * without
    return np.where(m > 2, pseudo, np.nan)


def _coefficients_without_own(y: Floats, c: Floats, y_mean: Floats, groups: _PromptGroups, needs_three: bool) -> Floats:
    """Coefficients (P, q, k) for every prompt, from the deviations y (R, k) and c (R, q) of the other prompts."""
    usable = groups.count[:, 0] > (2 if needs_three else 1)
    weight = np.where(usable[:, None] & (y_mean != 0), 1 / np.where(y_mean == 0, 1, y_mean) ** 2, 0.0)  # (P, k)
    c = np.where(usable[groups.code, None], c, 0.0)
    cc = groups.sum(c[:, :, None] * c[:, None, :])[:, None] * weight[:, :, None, None]  # (P, k, q, q)
    cy = (groups.sum(c[:, :, None] * y[:, None, :]) * weight[:, None, :]).transpose(0, 2, 1)  # (P, k, q)
    yy = groups.sum(y**2) * weight  # (P, k)
    freedom = np.where(usable, groups.count[:, 0] - 1, 0.0)
    b = _shrunken_regression(*(x.sum(axis=0) - x for x in (cc, cy, yy, freedom)))
    b[~usable] = np.nan
    return b.transpose(0, 2, 1)


def _shrunken_regression(cc: Floats, cy: Floats, yy: Floats, freedom: Floats) -> Floats:
    """b = (CᵀC)⁻¹Cᵀy · max(0, 1 − 1/F) for cross-products (P, k, q, q), (P, k, q) and (P, k); NaN with few data."""
    q = cy.shape[-1]
    size = np.sqrt(np.einsum("pkqq->pkq", cc).clip(0))
    size[size == 0] = 1
    correlation = cc / (size[..., :, None] * size[..., None, :])
    inverse = np.linalg.pinv(correlation, rcond=1e-10, hermitian=True)
    b: Floats = np.einsum("pkij,pkj->pki", inverse, cy / size) / size
    explained = np.einsum("pki,pki->pk", b, cy)
    left = np.maximum(yy - explained, 0) / np.maximum(freedom - q, 1)[:, None]
    inverse_f = np.divide(left, explained / q, out=np.ones_like(left), where=explained > 0)
    b *= np.clip(1 - inverse_f, 0, 1)[..., None]
    b[freedom < 2 * q] = np.nan
    return b


def _as_rollouts(values: ArrayLike, martingales: ArrayLike, prompt: ArrayLike,
                 scale: ArrayLike | None) -> tuple[Floats, Floats, Ints, Floats | None]:
    y, z, code = np.asarray(values, np.float64), np.asarray(martingales, np.float64), np.asarray(prompt, np.intp)
    n = None if scale is None else np.asarray(scale, np.float64)
    y = y[:, None] if y.ndim == 1 else y
    if not (y.ndim == z.ndim == 2 and len(y) == len(z) == len(code) and len(y) and (n is None or len(n) == len(y))):
        raise UserError(f"values {y.shape}, martingales {z.shape} and prompt {code.shape} do not belong together; "
                        "give one row per rollout in each.")
    if not (np.isfinite(y).all() and np.isfinite(z).all()):
        raise UserError("values or martingales hold NaN or infinity: leave failed rollouts out before adjusting.")
    if code.min() < 0 or (np.bincount(code) == 0).any():
        raise UserError("prompt codes must be 0..P-1 without gaps; numpy.unique(..., return_inverse=True) makes them.")
    return y, z, code, n
