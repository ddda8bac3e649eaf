"""Which rollouts a shard holds, and which are still missing.

A run is a rectangle of prompts by rollouts, cut into blocks of 8 prompts by 32 rollouts that do not depend on its
size. When a run grows, its full blocks are those of a run drawn at once; only blocks at the edge change.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

PROMPTS_PER_SHARD = 8
ROLLOUTS_PER_SHARD = 32

Span = tuple[int, int]
Count = Annotated[int, Field(ge=0, lt=1 << 48, strict=True)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Vouched(TypedDict):
    """One file of a shard: its path within the run and the SHA-256 of its bytes."""

    path: Annotated[str, Field(pattern=r"^(rollouts|steps)/shard-[0-9]{5,12}\.parquet$")]
    sha256: Digest


class Shard(TypedDict):
    """A stored shard: the rollouts ``span[0] <= r < span[1]`` of each of ``prompts`` (by hash), and what vouches."""

    number: Count
    prompts: Annotated[list[str], Field(min_length=1)]
    span: Annotated[list[Count], Field(min_length=2, max_length=2)]
    n_rollouts: Count
    n_tokens: Count
    batch_size: Count
    content: Digest
    rollouts: Vouched
    steps: Vouched
    surroundings: NotRequired[str]
    replaces: NotRequired[list[Count]]


def vouched(shard: Shard, kind: str) -> Vouched:
    """What vouches for one of the shard's files, those of the ``rollouts`` or of the ``steps``."""
    return shard["rollouts"] if kind == "rollouts" else shard["steps"]


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """A shard to be drawn: ``rollouts`` of each prompt, by its position in the run.

    ``replaces`` are the numbers of stored shards whose rollouts it draws again.
    """

    prompts: tuple[int, ...]
    rollouts: range
    replaces: tuple[int, ...] = ()

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """(prompt, rollout) of every rollout, the prompt counted within the shard."""
        return [(i, r) for i in range(len(self.prompts)) for r in self.rollouts]


def blocks(n_prompts: int, n_rollouts: int) -> Iterator[ShardPlan]:
    """The blocks of a whole run, prompt by prompt."""
    for first in range(0, n_prompts, PROMPTS_PER_SHARD):
        prompts = tuple(range(first, min(first + PROMPTS_PER_SHARD, n_prompts)))
        for start in range(0, n_rollouts, ROLLOUTS_PER_SHARD):
            yield ShardPlan(prompts, range(start, min(start + ROLLOUTS_PER_SHARD, n_rollouts)))


Asked = int | Sequence[int]
"""Rollouts of every prompt, or of each in turn."""


def _each(asked: Asked, n_prompts: int) -> Sequence[int]:
    return [asked] * n_prompts if isinstance(asked, int) else asked


def missing(prompts: Sequence[str], asked: Asked, stored: Iterable[Shard], *, whole: bool) -> list[ShardPlan]:
    """What is still to be drawn for so many rollouts of each prompt (by hash).

    A block of which a part is stored is drawn ``whole``, in the place of that part, or else only where it lacks.
    ``whole`` is for runs with as many rollouts of every prompt.
    """
    shards, wanted = list(stored), _each(asked, len(prompts))
    spans, members = coverage(shards), _shards_of(shards)
    found: list[ShardPlan] = []
    for block in blocks(len(prompts), max(wanted, default=0)):
        gaps = {i: _gaps(spans.get(prompts[i], []), _up_to(block.rollouts, wanted[i])) for i in block.prompts}
        if any(gaps.values()):
            found += _to_draw(block, gaps, _overlapping(block, prompts, members), prompts, whole)
    return found


def _to_draw(block: ShardPlan, gaps: Mapping[int, tuple[Span, ...]], there: Sequence[Shard], prompts: Sequence[str],
             whole: bool) -> list[ShardPlan]:
    inside = {prompts[i] for i in block.prompts}
    apart = all(set(s["prompts"]) <= inside and range(*s["span"])[0] in block.rollouts
                and range(*s["span"])[-1] in block.rollouts for s in there)
    untouched = all(spans == ((block.rollouts.start, block.rollouts.stop),) for spans in gaps.values())
    if untouched or (whole and apart):
        return [ShardPlan(block.prompts, block.rollouts, tuple(s["number"] for s in there))]
    alike: dict[tuple[Span, ...], list[int]] = {}
    for i, of_prompt in gaps.items():
        alike.setdefault(of_prompt, []).append(i)
    return [ShardPlan(tuple(members), range(*span)) for spans, members in alike.items() for span in spans]


def _up_to(rollouts: range, count: int) -> range:
    return range(rollouts.start, max(rollouts.start, min(rollouts.stop, count)))


def _shards_of(stored: Iterable[Shard]) -> dict[str, list[Shard]]:
    found: dict[str, list[Shard]] = {}
    for shard in stored:
        for prompt in shard["prompts"]:
            found.setdefault(prompt, []).append(shard)
    return found


def _overlapping(block: ShardPlan, prompts: Sequence[str], members: Mapping[str, list[Shard]]) -> list[Shard]:
    found = {s["number"]: s for i in block.prompts for s in members.get(prompts[i], [])
             if s["span"][0] < block.rollouts.stop and block.rollouts.start < s["span"][1]}
    return list(found.values())


def coverage(shards: Iterable[Shard]) -> dict[str, list[Span]]:
    """The spans of rollouts that are stored of each prompt, ascending."""
    spans: dict[str, list[Span]] = {}
    for shard in shards:
        span = (shard["span"][0], shard["span"][1])
        for prompt in shard["prompts"]:
            spans.setdefault(prompt, []).append(span)
    return {prompt: sorted(found) if len(found) > 1 else found for prompt, found in spans.items()}


def _gaps(spans: Sequence[Span], wanted: range) -> tuple[Span, ...]:
    """The parts of ``wanted`` that sorted spans leave open."""
    if len(spans) == 1 and spans[0] == (wanted.start, wanted.stop):
        return ()
    edges = [(wanted.start, wanted.start), *spans, (wanted.stop, wanted.stop)]
    reached, found = wanted.start, []
    for start, stop in edges[1:]:
        if reached < (end := min(start, wanted.stop)):
            found.append((reached, end))
        reached = max(reached, stop)
    return tuple(found)


def strangers(shards: Iterable[Shard], prompts: Sequence[str], asked: Asked) -> list[int]:
    """Numbers of shards that hold rollouts beyond what the run asks for, or rollouts that another shard holds too."""
    shards = list(shards)
    wanted = dict(zip(prompts, _each(asked, len(prompts)), strict=True))
    found = {s["number"] for s in shards if any(s["span"][1] > wanted.get(p, 0) for p in s["prompts"])}
    for of_prompt in _shards_of(shards).values():
        ordered = sorted(of_prompt, key=lambda s: s["span"]) if len(of_prompt) > 1 else of_prompt
        found |= {b["number"] for a, b in pairwise(ordered) if b["span"][0] < a["span"][1]}
    return sorted(found)


def covers(shards: Iterable[Shard], prompts: Sequence[str], asked: Asked) -> bool:
    """Whether every prompt has all of its rollouts."""
    spans = coverage(shards)
    return all(not _gaps(spans.get(prompt, []), range(count))
               for prompt, count in zip(prompts, _each(asked, len(prompts)), strict=True))


def in_parts(shards: Iterable[Shard], position: Mapping[str, int]) -> list[list[Shard]]:
    """Shards in groups that share no prompt, by the order of their prompts: whole prompts lie together.

    Groups whose prompts are mixed in the run's order are one, so that one group after the other is in that order.
    """
    def places(shard: Shard) -> list[int]:
        return [position[prompt] for prompt in shard["prompts"]]

    groups: list[list[Shard]] = []
    reached = -1
    for shard in sorted(shards, key=lambda s: (min(places(s)), s["span"])):
        if min(places(shard)) > reached:
            groups.append([])
        groups[-1].append(shard)
        reached = max(reached, *places(shard))
    return groups
