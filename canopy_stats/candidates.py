"""What given tokens are under many sampling laws at once: every temperature and filter from one sort of the logits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from canopy_stats.schema import SamplingPolicy

Floats = NDArray[np.float64]

TEMPERATURES = (0.2, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.5, 2.0)
FILTERS: tuple[Mapping[str, float], ...] = (
    {}, *({"top_k": k} for k in (5, 10, 20, 30, 40, 50, 64, 100, 200, 256)),
    *({"top_p": p} for p in (0.5, 0.7, 0.8, 0.9, 0.92, 0.95, 0.98, 0.99)),
    *({"min_p": p} for p in (0.01, 0.02, 0.05, 0.1)))
"""Settings that people use."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A law of a temperature and at most one filter (``name`` with its ``value``)."""

    temperature: float = 1.0
    name: str = ""
    value: float = 0.0

    @classmethod
    def of(cls, temperature: float, settings: Mapping[str, float]) -> Candidate:
        name, value = next(iter(settings.items()), ("", 0.0))
        return cls(float(temperature), name, float(value))

    @property
    def label(self) -> str:
        """As ``temperature 0.7, top-k 40``; ``the full law`` for the plain one."""
        parts = [f"temperature {self.temperature:.3g}"] if self.temperature != 1 else []
        parts += [f"{self.name.replace('_', '-')} {self.value:g}"] if self.name else []
        return ", ".join(parts) or "the full law"


@dataclass(frozen=True, slots=True)
class Values:
    """Of N steps under one law: entropy, log-probability of the drawn token, variance of the surprisal; each (N,)."""

    entropy: Floats
    logprob: Floats
    variance: Floats

    @classmethod
    def joined(cls, parts: Sequence[Values]) -> Values:
        return cls(*(np.concatenate([getattr(p, n) for p in parts]) for n in ("entropy", "logprob", "variance")))


@dataclass(frozen=True, slots=True)
class Steps:
    """Sorted logits (N, V) float32, largest first and that one 0, and of each drawn token its rank and logit (N,)."""

    logits: NDArray[np.float32]
    rank: NDArray[np.intp]
    drawn: Floats

    @classmethod
    def of(cls, logits: NDArray[np.float32], tokens: Sequence[int] | NDArray[np.int32]) -> Steps:
        """From the logits (N, V) before each of the tokens (N,)."""
        own = logits[np.arange(len(logits)), np.asarray(tokens, dtype=np.intp)]
        top = logits.max(axis=1)
        ordered = -np.sort(-logits, axis=1)
        return cls(ordered - top[:, None], (logits > own[:, None]).sum(axis=1), (own - top).astype(np.float64))

    def under(self, temperature: float, filters: Iterable[Mapping[str, float]]) -> Iterator[tuple[Candidate, Values]]:
        """The values under one temperature with each of the filters."""
        z = np.maximum(self.logits / temperature, -200.0).astype(np.float64)
        weight = np.exp(z)
        sums = [np.cumsum(weight * part, axis=1) for part in (1.0, z, z * z)]
        for settings in filters:
            kept = _kept(z, sums[0], settings)
            at = np.arange(len(z)), kept - 1
            total, mean, square = sums[0][at], sums[1][at] / sums[0][at], sums[2][at] / sums[0][at]
            possible = self.rank < kept
            logprob = np.where(possible, self.drawn / temperature - np.log(total), -np.inf)
            yield Candidate.of(temperature, settings), Values(np.maximum(np.log(total) - mean, 0.0), logprob,
                                                              np.maximum(square - mean**2, 0.0))


def _kept(z: Floats, mass: Floats, settings: Mapping[str, float]) -> NDArray[np.intp]:
    """How many of the likeliest tokens a filter keeps in each row."""
    size = z.shape[1]
    if "top_k" in settings:
        return np.full(len(z), min(int(settings["top_k"]), size))
    if "top_p" in settings:
        return np.asarray(np.minimum((mass < settings["top_p"] * mass[:, -1:]).sum(axis=1) + 1, size))
    if "min_p" in settings:
        return np.asarray((z >= np.log(settings["min_p"])).sum(axis=1))
    return np.full(len(z), size)


_CELLS = 1 << 22
"""Logits of one block, at most: a few arrays of this size are held at a time."""


def merged(blocks: Iterable[Steps]) -> list[Steps]:
    """The same steps in fewer blocks, where they are small."""
    found: list[list[Steps]] = []
    for block in blocks:
        if not found or sum(b.logits.size for b in found[-1]) + block.logits.size > _CELLS:
            found.append([])
        found[-1].append(block)
    return [Steps(*(np.concatenate([getattr(b, n) for b in some]) for n in ("logits", "rank", "drawn")))
            for some in found]


def under_all(blocks: Sequence[Steps], temperatures: Iterable[float] = TEMPERATURES,
              filters: Sequence[Mapping[str, float]] = FILTERS) -> dict[Candidate, Values]:
    """The values of all blocks, one after the other, under every combination."""
    found: dict[Candidate, list[Values]] = {}
    for block in blocks:
        for temperature in temperatures:
            for candidate, values in block.under(temperature, filters):
                found.setdefault(candidate, []).append(values)
    return {candidate: Values.joined(parts) for candidate, parts in found.items()}


def stated(policy: SamplingPolicy) -> Candidate | None:
    """A policy as a candidate; None where it is no law of a temperature and at most one filter."""
    filters = {n: v for n in ("top_k", "top_p", "min_p") if (v := getattr(policy, n)) not in (None, 0)}
    filters = {n: v for n, v in filters.items() if not (n == "top_p" and v == 1)}
    return None if policy.processes or len(filters) > 1 else Candidate.of(policy.temperature, filters)
