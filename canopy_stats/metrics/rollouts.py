"""The sums of each rollout that the metrics need, as stored or cut at a smaller length cap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from canopy_stats.schema import EXACT, INTERVAL, MISSING, STOP, UserError

if TYPE_CHECKING:
    from canopy_stats.store import Run

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class RolloutTerms:
    """Terms of R rollouts, prompt by prompt; every array is (R,).

    ``prompt`` is a code 0..P−1 in the order of first appearance; ``stopped`` says that an end token was drawn.
    ``known`` is one of schema.TERMS: without exact entropies their sums are NaN, and of bounds (schema.INTERVAL) there
    are the least and the largest H.
    """

    prompt: Ints
    length: Floats
    stopped: NDArray[np.bool_]
    entropy_sum: Floats
    surprisal_sum: Floats
    stop_hazard_sum: Floats
    entropy_low: Floats
    entropy_high: Floats
    known: str = EXACT

    @property
    def bounds(self) -> tuple[Floats, Floats]:
        """The least and the largest H."""
        return self.entropy_low, self.entropy_high

    @property
    def rate(self) -> Floats:
        """r = H / N, nats per token."""
        return self.entropy_sum / self.length

    @property
    def martingales(self) -> Floats:
        """(R, 2): S − H and 1{stopped} − A, both of mean zero under the law that drew the tokens."""
        return np.column_stack([self.surprisal_sum - self.entropy_sum, self.stopped - self.stop_hazard_sum])

    @classmethod
    def joined(cls, parts: Sequence[RolloutTerms]) -> RolloutTerms:
        """The terms of parts that share no prompt, one after the other."""
        offsets = np.cumsum([0, *(part.prompt.max() + 1 for part in parts[:-1])])
        prompt = np.concatenate([part.prompt + offset for part, offset in zip(parts, offsets, strict=True)])
        rest: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts])
                                for name in cls._arrays()[1:]}
        return replace(parts[0], prompt=prompt, **rest)

    @classmethod
    def _arrays(cls) -> list[str]:
        return [f.name for f in fields(cls) if f.name != "known"]

    def take(self, kept: NDArray[np.bool_]) -> RolloutTerms:
        """Only the rollouts where ``kept`` (R,) holds, at least one of each prompt."""
        chosen: dict[str, Any] = {name: getattr(self, name)[kept] for name in self._arrays()}
        return replace(self, **chosen)

    def groups(self) -> list[Ints]:
        """The rows of each prompt, in prompt order."""
        return np.split(np.argsort(self.prompt, kind="stable"), np.cumsum(np.bincount(self.prompt))[:-1])


_ALWAYS = ("prompt_id", "length", "finish_reason")
_SUMS = {EXACT: ("entropy_sum", "surprisal_sum", "stop_hazard_sum"),
         INTERVAL: ("surprisal_sum", "entropy_sum_low", "entropy_sum_high"), MISSING: ()}


def stored_terms(run: Run) -> RolloutTerms:
    """The terms of a run's rollouts as they were drawn, as far as they are known."""
    known = run.config.terms
    table = run.rollouts([*_ALWAYS, *_SUMS[known]])
    if table.num_rows == 0:
        raise UserError("The run holds no rollouts: generate some first.")
    sums = {name: _numbers(table, name) for name in _SUMS[known]}
    unknown = np.full(table.num_rows, np.nan)
    entropy = sums.get("entropy_sum", unknown)
    bounds = (sums.get("entropy_sum_low", entropy), sums.get("entropy_sum_high", entropy))
    return RolloutTerms(prompt_codes(table)[0], _numbers(table, "length"), np.asarray(table["finish_reason"]) == STOP,
                        entropy, sums.get("surprisal_sum", unknown), sums.get("stop_hazard_sum", unknown), *bounds,
                        known=known)


def prompt_codes(table: pa.Table) -> tuple[Ints, list[str]]:
    """Each row's prompt as a code (R,), and the prompt ids in the order of first appearance."""
    encoded = table["prompt_id"].combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    return np.asarray(encoded.indices, dtype=np.intp), encoded.dictionary.to_pylist()


def entropy_of_prompts(run: Run) -> Iterator[tuple[str, Floats, Ints]]:
    """For each prompt its id, the entropies of all steps, rollout after rollout (sum of N,), and the lengths (M,).

    One part of the run is in memory at a time.
    """
    for part in run.parts():
        rows, entropy = part.rollouts(["prompt_id", "length"]), _numbers(part.steps(["entropy"]), "entropy")
        length = rows["length"].to_numpy().astype(np.intp)
        if len(entropy) != length.sum():
            raise _too_few_steps(len(entropy), int(length.sum()))
        code, ids = prompt_codes(rows)
        first = np.searchsorted(code, np.arange(len(ids)))
        ends = np.cumsum(length)
        for name, n, of_prompt in zip(ids, np.split(length, first[1:]), np.split(entropy, ends[first[1:] - 1]),
                                      strict=True):
            yield name, of_prompt, n


def _too_few_steps(steps: int, tokens: int) -> UserError:
    return UserError(f"The run stores {steps} steps for rollouts of {tokens} tokens together: it is damaged. Generate "
                     "it again.")


def _numbers(table: pa.Table, name: str) -> Floats:
    numbers: Floats = table[name].to_numpy().astype(np.float64)
    return numbers


@dataclass(frozen=True, slots=True)
class StepTerms:
    """The terms of every step of a run, rollout after rollout (T,), from which a smaller cap's sums follow."""

    whole: RolloutTerms
    start: Ints
    entropy: NDArray[Any]
    surprisal: NDArray[Any]
    stop_probability: NDArray[Any]

    @classmethod
    def of(cls, run: Run) -> StepTerms:
        whole, steps = stored_terms(run), run.steps(["entropy", "logprob", "stop_probability"])
        length = whole.length.astype(np.intp)
        if steps.num_rows != length.sum():
            raise _too_few_steps(steps.num_rows, int(length.sum()))
        entropy, logprob, hazard = (steps[name].to_numpy().astype(np.float64) for name in steps.column_names)
        return cls(whole, np.cumsum(length) - length, entropy, -logprob, hazard)

    def cut(self, cap: int) -> RolloutTerms:
        """The rollouts as a law with this smaller cap would have drawn them: the first ``cap`` tokens of each.

        A longer rollout becomes truncated; one that stopped at the cap or before stays as it is. The cap ends the
        sums at a time known in advance, so both martingales keep their mean of zero.
        """
        if not isinstance(cap, (int, np.integer)) or isinstance(cap, bool) or cap < 1:
            raise UserError(f"cap is {cap!r}; it must be a whole number of tokens, at least 1.")
        length = np.minimum(self.whole.length, cap)
        end = self.start + length.astype(np.intp)
        entropy, surprisal, hazard = (_segment_sums(x, self.start, end)
                                      for x in (self.entropy, self.surprisal, self.stop_probability))
        return RolloutTerms(self.whole.prompt, length, self.whole.stopped & (self.whole.length <= cap), entropy,
                            surprisal, hazard, entropy, entropy)


def _segment_sums(x: Floats, start: Ints, end: Ints) -> Floats:
    """Σ x[start_i:end_i] for non-empty segments in order: summed one by one, as a running total would leave each
    with the rounding of all before it."""
    edges = np.column_stack([start, end]).ravel()
    return np.add.reduceat(np.append(x, 0.0), edges)[::2]
