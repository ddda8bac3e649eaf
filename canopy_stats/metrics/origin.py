"""Where the positions of a profile are counted from: which origin predicts the entropies of rollouts not seen.

Entropy may follow the position from the start, the position from the end, the share of the length that has passed, or
none of these, and what is left of rho(N, r) depends on it. Within a prompt each candidate is a step function of its own
coordinate, fitted to some rollouts' entropies and scored by squared error on the others. Every rollout's own mean is
taken out, in fitting and in scoring, so that levels do not decide. All candidates have as many bins, of about as many
steps, narrower towards a start or an end. Second differences of neighbouring bins are penalised (Eilers & Marx 1996,
Stat. Sci. 11:89), as much as suits each candidate over all prompts: else the bins that few rollouts reach would cost
start and end more than they can tell.

"both" is the sum of a profile from each side. It is scored to learn whether the other side adds to the better one; it
cannot be taken out of a rate, as the two together can take the shape of an effect of the length. Nor can "relative": a
profile in t/N gives each rollout the same mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from canopy_stats.metrics.association import RHOS
from canopy_stats.metrics.profile import FOLDS, folds_of

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
Origin = Literal["auto", "start", "end"]

SIDES = ("start", "end")
"""Origins that a profile can be taken out of a rate from."""
CANDIDATES = ("none", *SIDES, "relative", "both")
BINS = 12
PENALTIES = (10.0, 100.0, 1000.0, 10_000.0)
"""Weights of the squared second differences, in steps."""
CLEAR = 2.0
"""Standard errors by which both sides together must predict better than the better one, to count as adding to it."""
_EQUAL = np.arange(1, BINS) / BINS
_NEAR = _EQUAL**1.5
"""Inner edges of the bins as shares of a prompt's steps: of as many steps each, or narrower near the origin."""


# ------------------------------------------------------------------------------------------------------ one prompt


def fold_errors(entropy: Floats, length: Ints, folds: int = FOLDS) -> Floats:
    """Out-of-fold squared errors (F, 5, 4), summed over the steps of each fold's rollouts, of the :data:`CANDIDATES`
    with each of the :data:`PENALTIES`.

    ``entropy`` (ΣN,): the steps, rollout after rollout; ``length`` (M,). No rows for a single rollout, which nothing
    predicts.
    """
    m = len(length)
    if m < 2:
        return np.empty((0, len(CANDIDATES), len(PENALTIES)))
    rollout, fold = np.repeat(np.arange(m), length), folds_of(m, folds)
    around = entropy - (np.bincount(rollout, entropy) / length)[rollout]
    spread: Floats = np.bincount(fold[rollout], around**2).astype(np.float64)
    out = np.tile(spread[:, None, None], (len(CANDIDATES), len(PENALTIES)))
    for k, bins in enumerate(_coordinates(length)):
        out[:, k + 1] += _BinMoments.of(bins, rollout, around, length, fold).gains()
    return out


def _coordinates(length: Ints) -> list[list[Ints]]:
    """The bins of each step for start, end, relative, and both sides."""
    step = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
    whole = np.repeat(length, length)
    start, end = _binned(step, _NEAR), _binned(whole - step, _NEAR)
    return [[start], [end], [_binned((step + 0.5) / whole, _EQUAL)], [start, end]]


def _binned(x: NDArray[Any], shares: Floats) -> Ints:
    return np.searchsorted(np.quantile(x, shares), x, side="right")


@dataclass(frozen=True, slots=True)
class _BinMoments:
    """Each fold's cross products of bin indicators with themselves (F, K, K) and with the entropies (F, K), all around
    the rollouts' means."""

    square: Floats
    with_entropy: Floats

    @classmethod
    def of(cls, bins: Sequence[Ints], rollout: Ints, around: Floats, length: Ints, fold: Ints) -> _BinMoments:
        m, f = len(length), int(fold.max()) + 1
        own = fold[rollout]
        count = np.concatenate([_table(rollout, one, m) for one in bins], axis=1)
        entropy = np.concatenate([_table(own, one, f, around) for one in bins], axis=1)
        square = np.block([[_table(own, BINS * one + other, f, width=BINS**2).reshape(f, BINS, BINS) for other in bins]
                           for one in bins])
        for k in range(f):
            of_fold = count[fold == k]
            square[k] -= (of_fold / length[fold == k, None]).T @ of_fold
        return cls(square, entropy)

    def gains(self) -> Floats:
        """How each fold's squared error changes (F, penalties) by the profile of the other folds: c'Gc − 2 c'g."""
        rest, cross = self.square.sum(axis=0) - self.square, self.with_entropy.sum(axis=0) - self.with_entropy
        gains = []
        for penalty in PENALTIES:
            c = np.linalg.solve(rest + penalty * _roughness(rest.shape[1]), cross[..., None])
            gains.append((c.mT @ self.square @ c - 2 * self.with_entropy[:, None] @ c)[:, 0, 0])
        return np.stack(gains, axis=1)


def _table(row: Ints, column: Ints, rows: int, values: Floats | None = None, width: int = BINS) -> Floats:
    return np.bincount(row * width + column, values, minlength=rows * width).reshape(rows, width).astype(np.float64)


def _roughness(size: int) -> Floats:
    """The quadratic form of squared second differences within each profile; a little of each value, as levels, and a
    slope from both sides, are free."""
    second = np.diff(np.eye(BINS), n=2, axis=0)
    form: Floats = np.kron(np.eye(size // BINS), second.T @ second) + 1e-4 * np.eye(size)
    return form


# ------------------------------------------------------------------------------------------------------ all prompts


@dataclass(frozen=True, slots=True)
class OriginScores:
    """Squared ``errors`` (U, 5) of U folds of prompts that have ``steps`` steps together."""

    errors: Floats
    steps: int

    @classmethod
    def of(cls, errors: Sequence[Floats], steps: int) -> OriginScores:
        """From the :func:`fold_errors` of each prompt, each candidate with the penalty that is best over all."""
        every = np.concatenate(errors)
        best = every.sum(axis=0).argmin(axis=1)
        return cls(np.take_along_axis(every, best[None, :, None], axis=2)[..., 0], steps)

    @property
    def lowest(self) -> str:
        """The candidate of the lowest error, the simpler one of equals."""
        total = self.errors.sum(axis=0)
        return CANDIDATES[int(np.argmax(total <= total.min() * (1 + 1e-9)))]

    @property
    def best(self) -> str:
        """The one of the lowest error, if it is below that of none by more than a standard error; else none."""
        less, error = self._difference("none", self.lowest)
        return self.lowest if less > error else "none"

    @property
    def side(self) -> str:
        """The better one of start and end."""
        start, end = (self.errors[:, CANDIDATES.index(side)].sum() for side in SIDES)
        return "end" if end < start * (1 - 1e-9) else "start"

    @property
    def other_side_adds(self) -> bool:
        """Whether both sides together clearly predict better than the better one."""
        less, error = self._difference(self.side, "both")
        return bool(less > CLEAR * error)

    def frame(self, chosen: str | None) -> pd.DataFrame:
        """``origin``, ``error`` (out of fold, nats² a step), ``above_lowest`` (this less the lowest), its standard
        error ``se`` over folds of prompts, whether it is the ``best``, and whether positions are counted from there
        (``chosen``)."""
        per_step = max(self.steps, 1)
        apart = [self._difference(name, self.lowest) for name in CANDIDATES]
        return pd.DataFrame({
            "origin": CANDIDATES, "error": self.errors.sum(axis=0) / per_step if self.steps else np.nan,
            "above_lowest": [value / per_step for value, _ in apart], "se": [error / per_step for _, error in apart],
            "best": [name == self.best for name in CANDIDATES], "chosen": [name == chosen for name in CANDIDATES]})

    def _difference(self, name: str, other: str) -> tuple[float, float]:
        """Total error of one candidate less that of another, and its standard error over folds of prompts."""
        apart = self.errors[:, CANDIDATES.index(name)] - self.errors[:, CANDIDATES.index(other)]
        return float(apart.sum()), float(np.sqrt(len(apart)) * apart.std(ddof=1)) if len(apart) > 1 else 0.0


def why_withheld(scores: OriginScores, start: Floats, end: Floats) -> str:
    """Why nothing is said of what position leaves, or "".

    ``start`` and ``end`` (3,): the pooled adjusted coefficients with the profile from either side. Their signs matter
    where each side has a profile that the other does not explain: the truth then may lie on either side of zero. Where
    the other side adds nothing, its coefficient is merely that of a wrong profile.
    """
    if scores.best == "relative":
        return ("entropy follows the share of the length that has passed (t/N) better than the position from either "
                "end, and such a profile cannot be taken out of a rate")
    differ = [name for name, a, b in zip(RHOS, start, end, strict=True) if a * b < 0]
    if scores.other_side_adds and differ:
        values = f"{start[RHOS.index(differ[0])]:+.2f} and {end[RHOS.index(differ[0])]:+.2f}"
        return (f"entropy has a profile from both sides, and the sign of adjusted depends on the one that is taken out "
                f"({differ[0]}: {values} from start and end)")
    return ""


def origin_note(scores: OriginScores, side: str, withheld: str, *, given: bool) -> str:
    """Where positions are counted from, and why, in a sentence or two."""
    if withheld:
        return f"Position, excess and adjusted are withheld: {withheld}. Give an origin to have them all the same."
    text = f"Positions are counted from the {side}{', as given' if given else ''}: "
    if scores.best == "none":
        text += "no profile clearly predicts rollouts that were left out better than none"
    elif scores.best == side:
        text += "its profile predicts rollouts that were left out best"
    else:
        text += f"of all profiles {scores.best!r} predicts rollouts that were left out best"
    other = " The other side has a profile too, which stays in what is left." if scores.other_side_adds else ""
    return f"{text}.{other}"
