"""What tokenising rendered chat text once more changes of the prompts, as token ids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..schema import RENDERED_TEXT
from .reference import plain_prompt


@dataclass(frozen=True, slots=True)
class Retokenised:
    """Prompts by their chat template and by rendered text: mean token counts, and shares of the prompts whose ids
    differ, and that begin with two BOS tokens."""

    prompts: int
    tokens_template: float
    tokens_rendered: float
    differing: float
    second_bos_template: float
    second_bos_rendered: float


def retokenised(tokenizer: Any, sources: Iterable[Any], *, system: str | None = None,
                arguments: Mapping[str, Any] | None = None, day: str | None = None) -> Retokenised:
    """Both ways for each source (a text, or chat messages), with the same template and arguments."""
    given: dict[str, Any] = {"system": system, "arguments": arguments, "day": day}
    both = [(plain_prompt(tokenizer, source, chat=True, **given),
             plain_prompt(tokenizer, source, chat=RENDERED_TEXT, **given)) for source in sources]
    begin = getattr(tokenizer, "bos_token_id", None)

    def share(values: list[int] | list[bool]) -> float:
        return sum(values) / len(values)

    def doubled(ids: tuple[int, ...]) -> bool:
        return begin is not None and ids[:2] == (begin, begin)

    return Retokenised(len(both), share([len(a) for a, _ in both]), share([len(b) for _, b in both]),
                       share([a != b for a, b in both]), share([doubled(a) for a, _ in both]),
                       share([doubled(b) for _, b in both]))
