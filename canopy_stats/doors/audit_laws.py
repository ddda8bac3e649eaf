"""What logged numbers could be: every quantity, unit, law and prompt that people confuse, as predictions of the log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from canopy_stats.candidates import Values

Floats = NDArray[np.float64]
TOKEN, SUM, MEAN = "each token", "sum of a completion", "mean of a completion"
"""What a logged number belongs to."""
ENTROPY, LOGPROB, SURPRISAL, PERPLEXITY = "entropy", "log-probability", "surprisal", "probability"
UNITS: Mapping[str, float] = {"nats": 1.0, "bits": 1 / np.log(2), "log10": 1 / np.log(10)}


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a column of numbers may be: a quantity in a unit, for each token or completion, of a law."""

    quantity: str
    law: str
    unit: str = "nats"
    whole: str = TOKEN
    shift: int = 0

    @property
    def label(self) -> str:
        unit = "" if self.quantity == PERPLEXITY else f" in {self.unit}"
        shifted = {0: "", 1: ", one step late", -1: ", one step early"}[self.shift]
        return f"{self.quantity}{unit} of {self.law}, {self.whole}{shifted}"


@dataclass(frozen=True, slots=True)
class LoggedNumbers:
    """Logged numbers, completion by completion: for each token (``whole`` TOKEN) or one for each completion.

    ``values`` (K,); ``lengths`` (M,) of the completions.
    """

    name: str
    values: Floats
    lengths: NDArray[np.intp]
    per_token: bool


def predictions(column: LoggedNumbers, law: str, values: Values, *, odd: bool = False
                ) -> Iterator[tuple[Meaning, Floats]]:
    """The readings of a column under one law, with the numbers (K,) that it should then hold.

    ``odd`` adds the readings that are tried with few laws: log10, and numbers one step off.
    """
    quantities = {ENTROPY: values.entropy, SURPRISAL: -values.logprob, LOGPROB: values.logprob,
                  PERPLEXITY: np.exp(values.logprob)}
    for quantity, of_step in quantities.items():
        for whole, shift, predicted in _shapes(column, of_step, odd):
            for unit in _units(quantity, odd):
                yield Meaning(quantity, law, unit, whole, shift), predicted * UNITS[unit]


def _units(quantity: str, odd: bool) -> Sequence[str]:
    return ("nats",) if quantity == PERPLEXITY else ("nats", "bits", "log10") if odd else ("nats", "bits")


def _shapes(column: LoggedNumbers, of_step: Floats, odd: bool) -> Iterator[tuple[str, int, Floats]]:
    if not column.per_token:
        starts = np.cumsum(column.lengths) - column.lengths
        sums = np.add.reduceat(of_step, starts)
        yield SUM, 0, sums
        yield MEAN, 0, sums / column.lengths
        return
    yield TOKEN, 0, of_step
    for shift in (1, -1) if odd else ():
        yield TOKEN, shift, _shifted(of_step, column.lengths, shift)


def _shifted(of_step: Floats, lengths: Sequence[int] | NDArray[np.intp], shift: int) -> Floats:
    """Each completion's numbers moved by a step; NaN where none is left."""
    parts = []
    for part in np.split(of_step, np.cumsum(lengths)[:-1]):
        moved = np.full_like(part, np.nan)
        if shift == 1:
            moved[1:] = part[:-1]
        else:
            moved[:-1] = part[1:]
        parts.append(moved)
    return np.concatenate(parts)


def distance(logged: Floats, predicted: Floats) -> float:
    """Mean absolute difference where both are there; infinite where the prediction is impossible or barely there.

    A step whose filter boundary lies within rounding may be predicted with another set of tokens: the largest
    hundredth of the differences is left out.
    """
    size = np.abs(logged - predicted)
    size = size[~np.isnan(size)]
    if len(size) < max(2, 0.5 * len(logged)):
        return float("inf")
    kept = max(1, int(np.ceil(0.99 * len(size))))
    return float(np.partition(size, kept - 1)[:kept].mean())
