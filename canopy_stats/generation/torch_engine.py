"""The torch engine: draws rollouts from a transformers causal language model, with exact terms at every step."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import torch

from ..schema import ModelSource, Prompt, Rollout, RunKey, SamplingPolicy, UserError
from .decoding import Decoder
from .front import Front, chat_format
from .loading import Loaded, load
from .sampler import ShardSampler
from .templates import ChatFormat
from .trial import choose_decoder

_CPU_BATCH = 32
_GPU_BATCH = 256


def load_engine(source: ModelSource, *, variant: str = "") -> TorchEngine:
    """A ready engine. ``chat`` None means the chat template for variants other than ``base``; a model without a
    tokenizer takes token ids and has no template. For the rest see :func:`.loading.load`."""
    loaded = load(source)
    return TorchEngine(loaded, chat_format(source, variant, loaded.tokenizer))


class TorchEngine(Front):
    """Implements :class:`canopy_stats.schema.Engine` over one loaded model."""

    name = "torch"

    def __init__(self, loaded: Loaded, style: ChatFormat):
        super().__init__(loaded.model, loaded.tokenizer, style)
        self.model = loaded.model
        self._provenance, self._cautions = loaded.provenance, loaded.cautions
        self.batch_size_used: int | None = None
        """Batch size of the latest shard; smaller than asked for when memory ran out."""

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
        return {**self._provenance, "cache": self.decoder.cache, **self.described(), **self.remarkable(self._cautions)}

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
        device = self.model.device
        longest = max((len(p.token_ids) for p in prompts), default=0) + policy.max_new_tokens
        with torch.inference_mode():
            fixed, token = self.decoder.cache_bytes()
        row = fixed + longest * token + 16 * self.vocabulary
        fits = int(0.5 * (_total_memory(device) - self.model.get_memory_footprint()) / row)
        most = self.decoder.most_rows or (_GPU_BATCH if device.type == "cuda" else _CPU_BATCH)
        return min(most, 1 << max(fits, 1).bit_length() - 1)


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
