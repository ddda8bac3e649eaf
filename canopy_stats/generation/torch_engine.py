"""The torch engine: draws rollouts from a transformers causal language model, with exact terms at every step."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from transformers import PreTrainedModel

from ..schema import ModelSource, Prompt, Rollout, RunKey, SamplingPolicy, UserError
from .decoding import Decoder, text_config
from .ending import Endings, endings_of, refuse_impossible
from .loading import Loaded, load
from .prompts import Remarks, encode
from .sampler import ShardSampler
from .templates import ChatFormat, asks_for_the_date, check_template
from .trial import choose_decoder

_CPU_BATCH = 32
_GPU_BATCH = 256


def load_engine(source: ModelSource, *, variant: str = "") -> TorchEngine:
    """A ready engine. ``chat`` None means the chat template for variants other than ``base``; a model without a
    tokenizer takes token ids and has no template. For the rest see :func:`.loading.load`."""
    loaded = load(source)
    chat = variant != "base" and loaded.tokenizer is not None if source.chat is None else source.chat
    return TorchEngine(loaded, ChatFormat(chat, source.system, source.template_arguments))


class TorchEngine:
    """Implements :class:`canopy_stats.schema.Engine` over one loaded model."""

    name = "torch"

    def __init__(self, loaded: Loaded, style: ChatFormat):
        check_template(loaded.tokenizer, style)
        self.model, self.tokenizer, self.style = loaded.model, loaded.tokenizer, style
        self._provenance, self._cautions = loaded.provenance, loaded.cautions
        self.end_ids = end_token_ids(loaded.model, loaded.tokenizer)
        self._remarks = Remarks(loaded.tokenizer, self.end_ids, style)
        self.batch_size_used: int | None = None
        """Batch size of the latest shard; smaller than asked for when memory ran out."""
        self._endings: dict[tuple[Any, ...], Endings] = {}

    @property
    def batch_decides_bits(self) -> bool:
        """Whether equal batches give equal bits and others do not: on a CPU. On a GPU no batch promises bits."""
        return bool(self.model.device.type == "cpu")

    @cached_property
    def decoder(self) -> Decoder:
        """How rows are decoded; found out on first use (a few forward passes over short rows)."""
        return choose_decoder(self.model)

    def describe(self) -> dict[str, Any]:
        """Provenance; see :class:`canopy_stats.schema.Engine`."""
        template = getattr(self.tokenizer, "chat_template", None) if self.style.chat else None
        arguments = dict(self.style.arguments)
        return {**self._provenance, "cache": self.decoder.cache, "end_token_ids": list(self.end_ids),
                "chat": self.style.chat, "chat_template": template, "system": self.style.system,
                "enable_thinking": arguments.pop("enable_thinking", None), "template_kwargs": arguments,
                "tokenizer": type(self.tokenizer).__name__ if self.tokenizer is not None else None,
                **self._remarkable()}

    def _remarkable(self) -> dict[str, Any]:
        """What holds of some models and prompts only: the date that a template is told, thoughts that prompts open,
        and what a user should know."""
        dated = self.style.chat and asks_for_the_date(self.tokenizer)
        told = {"template_date": self.style.day if dated else None, "opens_thought": self._remarks.open_thoughts(),
                "channels": self.tokenizer is not None and "<|channel|>" in self.tokenizer.get_vocab(),
                "cautions": [*self._cautions, *self._remarks.said()]}
        return {name: value for name, value in told.items() if value}

    def encode(self, source: Any) -> tuple[int, ...]:
        """A prompt's source as the token ids that the model receives."""
        ids = encode(source, self.tokenizer, self.style)
        vocabulary = text_config(self.model).vocab_size
        if min(ids) < 0 or max(ids) >= vocabulary:
            raise UserError(f"A prompt holds the token id {max(ids) if min(ids) >= 0 else min(ids)}, but the model's "
                            f"ids run from 0 to {vocabulary - 1}; correct the prompt, or give the model's tokenizer.")
        if hasattr(self.model, "check_prompt"):
            self.model.check_prompt(ids)
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
        vocabulary = text_config(self.model).vocab_size
        refuse_impossible(policy, self.end_ids, vocabulary, self.tokenizer)
        named = (self.end_ids, policy.stop_token_ids, policy.stop_strings)
        if named not in self._endings:
            self._endings[named] = endings_of(policy, self.end_ids, vocabulary, self.tokenizer)
        return self._endings[named]

    def check_length(self, prompt: Prompt, policy: SamplingPolicy) -> None:
        """Refuse a law that the model cannot follow, and a prompt whose rollouts may not fit its context."""
        self.endings(policy)
        context = getattr(text_config(self.model), "max_position_embeddings", None)
        if context is None or len(prompt.token_ids) + policy.max_new_tokens <= context:
            return
        room = context - len(prompt.token_ids)
        advice = f"lower max_new_tokens to at most {room}" if room > 0 else "shorten the prompt"
        raise UserError(f"Prompt {prompt.prompt_id!r} has {len(prompt.token_ids)} tokens; with max_new_tokens="
                        f"{policy.max_new_tokens} that exceeds the model's context of {context} tokens: {advice}.")

    def sample(self, prompts: Sequence[Prompt], rollouts: Sequence[tuple[int, int]], policy: SamplingPolicy,
               key: RunKey, batch_size: int) -> Iterator[Rollout]:
        """Draw one shard's (prompt index, rollout index) pairs; see :class:`canopy_stats.schema.Engine`.

        When memory runs out, the batch is halved and the unfinished rollouts start again from their own keys.
        """
        for index in sorted({p for p, _ in rollouts}):
            self.check_length(prompts[index], policy)
        remaining, size = list(rollouts), batch_size
        while remaining:
            self.batch_size_used = size
            sampler = ShardSampler(self.decoder, prompts, remaining, policy, key, size, self.endings(policy),
                                   self.model.device)
            done = set()
            try:
                for rollout in sampler.run():
                    done.add((rollout.prompt_index, rollout.rollout))
                    yield rollout
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                size = _halved(min(size, len(remaining)))
            del sampler
            remaining = [pair for pair in remaining if pair not in done]
            if remaining:
                _free_memory()

    def suggest_batch_size(self, prompts: Sequence[Prompt], policy: SamplingPolicy) -> int:
        """What ``batch_size="auto"`` means: the largest power of two, up to 32 on a CPU and 256 on a GPU, whose caches
        at full length and logits fit half of the memory that the weights leave. Counts the device's whole memory, not
        what is free just now, so that a run resumes with the batch size it started with."""
        device, vocabulary = self.model.device, text_config(self.model).vocab_size
        longest = max((len(p.token_ids) for p in prompts), default=0) + policy.max_new_tokens
        with torch.inference_mode():
            fixed, token = self.decoder.cache_bytes()
        row = fixed + longest * token + 16 * vocabulary
        fits = int(0.5 * (_total_memory(device) - self.model.get_memory_footprint()) / row)
        most = self.decoder.most_rows or (_GPU_BATCH if device.type == "cuda" else _CPU_BATCH)
        return min(most, 1 << max(fits, 1).bit_length() - 1)


def end_token_ids(model: PreTrainedModel, tokenizer: Any) -> tuple[int, ...]:
    """Every id that ends a rollout: those of the generation config, the config and the tokenizer together."""
    holders = [getattr(model, "generation_config", None), model.config, text_config(model), tokenizer]
    found: set[int] = set()
    for holder in holders:
        ids = getattr(holder, "eos_token_id", None)
        found.update([ids] if isinstance(ids, int) else ids or [])
    return tuple(sorted(int(i) for i in found if 0 <= int(i) < text_config(model).vocab_size))


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on a CPU (where torch raises a plain RuntimeError)."""
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or any(
        words in text for words in ("not enough memory", "can't allocate memory", "out of memory"))


def _total_memory(device: torch.device) -> int:
    """Bytes of the device's memory, or of the machine's."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _halved(size: int) -> int:
    if size <= 1:
        raise UserError("Memory ran out with a batch of one rollout; lower max_new_tokens, shorten the prompts, load "
                        "the model with dtype='bfloat16', or use a larger machine.") from None
    return size // 2


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
