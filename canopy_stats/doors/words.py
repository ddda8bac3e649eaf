"""What is needed of a model's tokenizer to read completions: texts as ids, ids as text, and which ids end a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from canopy_stats.schema import SamplingPolicy, UserError
from canopy_stats.schema.problems import require


@dataclass(frozen=True, slots=True)
class Words:
    """A tokenizer, with or without its model. ``tokenizer`` None knows no texts, ``vocabulary`` None no size.

    ``ends`` are the ids that end a completion, the first of them the usual one.
    """

    tokenizer: Any
    ends: tuple[int, ...]
    vocabulary: int | None

    def tokenise(self, text: str, where: str) -> list[int]:
        """A text without special tokens of the tokenizer's own."""
        if self.tokenizer is None:
            raise UserError(f"{where} is a text without token ids, so its length in tokens is unknown. Give the model "
                            "(model=), its tokenizer (tokenizer=), or the token ids.")
        return [int(i) for i in self.tokenizer(text, add_special_tokens=False)["input_ids"]]

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of token ids, without special ones; ids joined by spaces where nothing is known of them."""
        ids = [int(i) for i in token_ids if int(i) not in self.ends and int(i) >= 0]
        if self.tokenizer is None:
            return " ".join(map(str, ids))
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def words_of(engine: Any, tokenizer: Any, vocabulary: int | None, policy: SamplingPolicy | None) -> Words:
    """From the loaded engine, else from a tokenizer by itself, else from what the user says."""
    more = policy.stop_token_ids if policy else ()
    if engine is not None:
        own = getattr(engine.tokenizer, "eos_token_id", None)
        ends = sorted(engine.end_ids, key=lambda i: (i != own, i))
        size = int(engine.model.config.get_text_config().vocab_size)
        return Words(engine.tokenizer, (*ends, *more), size)
    if isinstance(tokenizer, str) or hasattr(tokenizer, "__fspath__"):
        from canopy_stats.generation.loading import read_tokenizer

        tokenizer = read_tokenizer(str(tokenizer))
    require(tokenizer is None or callable(tokenizer), "tokenizer", tokenizer, "a tokenizer, its folder or hub name")
    if tokenizer is None:
        return Words(None, tuple(more), vocabulary)
    end = getattr(tokenizer, "eos_token_id", None)
    return Words(tokenizer, (*(() if end is None else (int(end),)), *more), vocabulary or len(tokenizer))
