"""What a judge is shown of a prompt: m of its rollouts' texts, equal ones once, and the prompt in words."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from canopy_stats.metrics.rollouts import prompt_codes
from canopy_stats.metrics.texts import prepare, with_openings
from canopy_stats.schema import UserError

if TYPE_CHECKING:
    import pyarrow as pa

    from canopy_stats.schema import Prompt
    from canopy_stats.store import Run

Ints = NDArray[np.intp]
Verdicts = NDArray[np.int8]
"""(k, k) with text i shown first, text j second: one of SAME, DIFFERENT, MISSING, NOT_ASKED."""

SAME, DIFFERENT, MISSING, NOT_ASKED = 1, 0, -1, 2
"""NOT_ASKED is the second order of a pair whose first order did not say SAME: it can change no cluster."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """m rollouts of one prompt. ``distinct`` holds the k different texts that are not empty, in order of appearance;
    ``code`` (m,) says which of them each rollout has, −1 for an empty one."""

    prompt_uid: str
    task: str
    prompt: str
    rollouts: Ints  # (m,) rollout indices, ascending
    distinct: tuple[str, ...]
    code: Ints
    rows: Ints  # (k,) a row of run.rollouts() with each distinct text

    @property
    def asked(self) -> int:
        """k(k − 1): verdicts that a judge must give, each pair in both orders."""
        return len(self.distinct) * (len(self.distinct) - 1)

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """The k(k − 1) ordered pairs of distinct texts."""
        return [pair for first in self.first_orders for pair in (first, first[::-1])]

    @property
    def first_orders(self) -> list[tuple[int, int]]:
        """The k(k − 1)/2 pairs of distinct texts, each in the order that a hash of the two decides, so that no
        position is favoured by when a text was drawn."""
        return [(i, j) if _in_order(self.distinct[i], self.distinct[j]) else (j, i)
                for j in range(len(self.distinct)) for i in range(j)]


def _in_order(one: str, other: str) -> bool:
    return hashlib.sha256(json.dumps(sorted((one, other))).encode()).digest()[0] % 2 == (one < other)


@dataclass(frozen=True, slots=True)
class JudgeContext:
    """What a judge may need beside the comparisons: the run, how texts were prepared, the share of verdicts that may
    fail, and where to report progress."""

    run: Run
    think: str
    max_failed: float
    say: Callable[[str], None]


@runtime_checkable
class MeaningJudge(Protocol):
    """Gives verdicts on the distinct texts of each comparison; MISSING where it failed, never a guess."""

    def identity(self, context: JudgeContext) -> dict[str, Any] | None:
        """What decides the verdicts, for the name under which they are kept; None where that cannot be known."""
        ...

    def compare(self, comparisons: Sequence[Comparison], context: JudgeContext) -> list[Verdicts]:
        """(k, k) verdicts of each comparison; the diagonal is not read."""
        ...


def draw_comparisons(run: Run, m: int, seed: int, think: str) -> list[Comparison]:
    """The comparisons of a run, in prompt order: for each prompt m of its rollouts, chosen by (seed, task, prompt)."""
    code, ids = prompt_codes(run.rollouts(["prompt_id"]))
    _refuse_too_few(m, dict(zip(ids, np.bincount(code).tolist(), strict=True)))
    prompts, first, comparisons = {p.prompt_id: p for p in run.prompts()}, 0, list[Comparison]()
    for part in run.parts():  # whole prompts: texts are held of one part alone
        table = part.rollouts(["prompt_id", "rollout", "text"])
        comparisons += _of_part(part, table, prompts, (m, seed, think), first)
        first += table.num_rows
    return comparisons


def _of_part(part: Run, table: pa.Table, prompts: Mapping[str, Prompt], asked: tuple[int, int, str],
             first: int) -> Iterator[Comparison]:
    """The comparisons of a part whose rollouts are the run's from row ``first`` on."""
    m, seed, think = asked
    code, ids = prompt_codes(table)
    groups = np.split(np.argsort(code, kind="stable"), np.cumsum(np.bincount(code))[:-1])
    raw = table["text"].to_pylist()
    raw = with_openings(part, raw, table["prompt_id"].to_pylist()) if think == "drop" else raw
    words, rollout, task = prepare(raw, think), table["rollout"].to_numpy(), part.config.task
    for prompt_id, rows in zip(ids, groups, strict=True):
        prompt = prompts[prompt_id]
        own = rows[choose(len(rows), m, seed, task, prompt.prompt_hash)]
        made = _comparison(f"{task}/{prompt_id}", task, in_words(prompt.source), own, words, rollout)
        yield replace(made, rows=made.rows + first)


def choose(n: int, m: int, seed: int, task: str, prompt_hash: str) -> Ints:
    """m of n rollouts without replacement, ascending: the same for every family and variant that share the prompt."""
    key = hashlib.sha256(json.dumps([seed, task, prompt_hash]).encode()).digest()
    generator = np.random.default_rng(np.random.SeedSequence(list(key)))
    return np.sort(generator.choice(n, m, replace=False))


def _refuse_too_few(m: int, counts: dict[str, int]) -> None:
    short = [i for i, n in counts.items() if n < m]
    if not counts:
        raise UserError("The run holds no rollouts: generate some first.")
    if short:
        raise UserError(f"m is {m}, but {len(short)} prompt(s) have fewer rollouts ({short[0]}: {counts[short[0]]}). "
                        f"Judge m={min(counts.values())} of each; semantic entropies of different m do not compare.")


def _comparison(uid: str, task: str, prompt: str, rows: Ints, words: Sequence[str], rollout: Ints) -> Comparison:
    position: dict[str, int] = {}
    first: list[int] = []
    for row in rows:
        if words[row] and words[row] not in position:
            position[words[row]] = len(position)
            first.append(int(row))
    code = np.array([position.get(words[row], -1) for row in rows], np.intp)
    return Comparison(uid, task, prompt, rollout[rows].astype(np.intp), tuple(position), code, np.array(first, np.intp))


def in_words(source: str | list[dict[str, str]] | list[int]) -> str:
    """A prompt as a judge reads it: its text, its chat messages with their roles, or nothing for token ids."""
    if isinstance(source, str):
        return source.strip()
    return "\n\n".join(f"[{part['role']}]\n{part['content'].strip()}" for part in source if isinstance(part, dict))


def expand(verdicts: Verdicts, comparison: Comparison) -> Verdicts:
    """Verdicts (m, m) between rollouts from those between distinct texts (k, k).

    Equal texts mean the same, and so do two empty ones; an empty text and another never do. None of these is asked.
    """
    whole = np.full((len(comparison.code), len(comparison.code)), DIFFERENT, np.int8)
    written = np.flatnonzero(comparison.code >= 0)
    among = verdicts.copy()
    np.fill_diagonal(among, SAME)
    whole[np.ix_(written, written)] = among[np.ix_(comparison.code[written], comparison.code[written])]
    empty = np.flatnonzero(comparison.code < 0)
    whole[np.ix_(empty, empty)] = SAME
    return whole
