"""What every engine does with texts: prompts to token ids and back, what ends a rollout, and how prompts were put."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedModel

from ..schema import ModelSource, Prompt, SamplingPolicy, UserError
from .decoding import text_config
from .ending import Endings, endings_of, refuse_impossible
from .prompts import Remarks, encode
from .templates import ChatFormat, asks_for_the_date, check_template


class Front:
    """The side of an engine that faces texts. Of the model it looks at the configuration alone: ``net`` may hold no
    weights."""

    def __init__(self, net: PreTrainedModel, tokenizer: Any, style: ChatFormat):
        check_template(tokenizer, style)
        self.tokenizer, self.style = tokenizer, style
        self.end_ids = end_token_ids(net, tokenizer)
        self.vocabulary = int(text_config(net).vocab_size)
        self.context: int | None = getattr(text_config(net), "max_position_embeddings", None)
        self._check_prompt = getattr(net, "check_prompt", None)
        self._remarks = Remarks(tokenizer, self.end_ids, style)
        self._endings: dict[tuple[Any, ...], Endings] = {}

    def encode(self, source: Any) -> tuple[int, ...]:
        """A prompt's source as the token ids that the model receives."""
        ids = encode(source, self.tokenizer, self.style)
        if min(ids) < 0 or max(ids) >= self.vocabulary:
            raise UserError(f"A prompt holds the token id {max(ids) if min(ids) >= 0 else min(ids)}, but the model's "
                            f"ids run from 0 to {self.vocabulary - 1}; correct the prompt, or give the model's "
                            "tokenizer.")
        if self._check_prompt is not None:
            self._check_prompt(ids)
        self._remarks.look(source, ids)
        return ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of a rollout, without end and special tokens; ids joined by spaces without a tokenizer."""
        ids = [int(i) for i in token_ids if int(i) not in self.end_ids]
        if self.tokenizer is None:
            return " ".join(map(str, ids))
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def endings(self, policy: SamplingPolicy) -> Endings:
        """What ends a rollout under a law; refuses a law that this model or its tokenizer cannot follow."""
        refuse_impossible(policy, self.end_ids, self.vocabulary, self.tokenizer)
        named = (self.end_ids, policy.stop_token_ids, policy.stop_strings)
        if named not in self._endings:
            self._endings[named] = endings_of(policy, self.end_ids, self.vocabulary, self.tokenizer)
        return self._endings[named]

    def check_length(self, prompt: Prompt, policy: SamplingPolicy) -> None:
        """Refuse a law that the model cannot follow, and a prompt whose rollouts may not fit its context."""
        self.endings(policy)
        if self.context is None or len(prompt.token_ids) + policy.max_new_tokens <= self.context:
            return
        room = self.context - len(prompt.token_ids)
        advice = f"lower max_new_tokens to at most {room}" if room > 0 else "shorten the prompt"
        raise UserError(f"Prompt {prompt.prompt_id!r} has {len(prompt.token_ids)} tokens; with max_new_tokens="
                        f"{policy.max_new_tokens} that exceeds the model's context of {self.context} tokens: {advice}.")

    def described(self) -> dict[str, Any]:
        """What the manifest says of end tokens, tokenizer and template, and of the prompts that were seen."""
        template = getattr(self.tokenizer, "chat_template", None) if self.style.chat else None
        arguments = dict(self.style.arguments)
        return {"end_token_ids": list(self.end_ids),
                "chat": self.style.chat, "chat_template": template, "system": self.style.system,
                "enable_thinking": arguments.pop("enable_thinking", None), "template_kwargs": arguments,
                "tokenizer": type(self.tokenizer).__name__ if self.tokenizer is not None else None}

    def remarkable(self, cautions: Sequence[str] = ()) -> dict[str, Any]:
        """What holds of some models and prompts only: the date that a template is told, thoughts that prompts open,
        and what a user should know, the given ``cautions`` first."""
        dated = self.style.chat and asks_for_the_date(self.tokenizer)
        told = {"template_date": self.style.day if dated else None, "opens_thought": self._remarks.open_thoughts(),
                "channels": self.tokenizer is not None and "<|channel|>" in self.tokenizer.get_vocab(),
                "cautions": [*cautions, *self._remarks.said()]}
        return {name: value for name, value in told.items() if value}


def chat_format(source: ModelSource, variant: str, tokenizer: Any) -> ChatFormat:
    """How prompts are put: ``chat`` None means the template for variants other than ``base``, where there is one."""
    chat = variant != "base" and tokenizer is not None if source.chat is None else source.chat
    return ChatFormat(chat, source.system, source.template_arguments)


def end_token_ids(model: PreTrainedModel, tokenizer: Any) -> tuple[int, ...]:
    """Every id that ends a rollout: those of the generation config, the config and the tokenizer together."""
    holders = [getattr(model, "generation_config", None), model.config, text_config(model), tokenizer]
    found: set[int] = set()
    for holder in holders:
        ids = getattr(holder, "eos_token_id", None)
        found.update([ids] if isinstance(ids, int) else ids or [])
    return tuple(sorted(int(i) for i in found if 0 <= int(i) < text_config(model).vocab_size))
