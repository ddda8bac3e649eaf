"""The torch engine: draws rollouts from a transformers causal language model, with exact terms at every step."""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch

from ..schema import ModelSource, Prompt, Rollout, RunKey, SamplingPolicy, UserError
from .decoding import Decoder, SlotDecoder
from .fixed_slots import FixedSlotDecoder
from .front import Front, chat_format
from .line import Line, Pending, PromptPairs, asked_of
from .loading import Loaded, load
from .sampler import Sampler
from .templates import ChatFormat
from .torch_options import TorchOptions
from .trial import choose_decoder

_CPU_BATCH = 32
_GPU_BATCH = 256
_ANY = 1 << 30
"""Tokens of a row, where the model's context is not known."""


def load_engine(source: ModelSource, *, variant: str = "", options: Mapping[str, Any] | None = None) -> TorchEngine:
    """A ready engine. ``chat`` None means the chat template for variants other than ``base``; a model without a
    tokenizer takes token ids and has no template. ``options`` are those of :class:`.TorchOptions`. For the rest see
    :func:`.loading.load`."""
    wanted = TorchOptions.of(options or {})
    loaded = load(source)
    return TorchEngine(loaded, chat_format(source, variant, loaded.tokenizer), wanted)


class TorchEngine(Front):
    """Implements :class:`canopy_stats.schema.Engine` over one loaded model."""

    name = "torch"

    def __init__(self, loaded: Loaded, style: ChatFormat, options: TorchOptions | None = None):
        super().__init__(loaded.model, loaded.tokenizer, style)
        self.model, self.options = loaded.model, options or TorchOptions()
        self._provenance, self._cautions = loaded.provenance, loaded.cautions
        self.batch_size_used: int | None = None
        """Batch size of the latest shard; smaller than asked for when memory ran out."""
        self.lag = int(self.model.device.type == "cuda")
        """How many steps late results are read; see :mod:`.sampler`."""

    @property
    def mixes_shards(self) -> bool:
        """Whether several shards are drawn at a time: where it is asked for, and on a GPU unless it is not."""
        asked = self.options.mix_shards
        return bool(self.model.device.type == "cuda") if asked is None else asked

    @property
    def batch_decides_bits(self) -> bool:
        """Whether equal batches give equal bits and others do not: on a CPU, where each shard is drawn by itself. On a
        GPU no batch promises bits."""
        return bool(self.model.device.type == "cpu") and not self.mixes_shards

    @cached_property
    def decoder(self) -> Decoder:
        """How rows are decoded; found out on first use (a few forward passes over short rows)."""
        found = choose_decoder(self.model)
        return found if self.options.compile is None else with_compiled_step(found, self.options)

    def describe(self) -> dict[str, Any]:
        """Provenance; see :class:`canopy_stats.schema.Engine`."""
        mixed = {"mixes_shards": True} if self.mixes_shards else {}
        return {**self._provenance, "cache": self.decoder.cache, **mixed, **self.described(),
                **self.remarkable(self._cautions)}

    def sample(self, prompts: Sequence[Prompt], rollouts: Sequence[tuple[int, int]], policy: SamplingPolicy,
               key: RunKey, batch_size: int) -> Iterator[Rollout]:
        """Draw one shard's (prompt index, rollout index) pairs; see :class:`canopy_stats.schema.Engine`."""
        asked = {p: prompts[p] for p, _ in rollouts}
        for index in sorted(asked):
            self.check_length(asked[index], policy)
        longest = max((len(prompt.token_ids) for prompt in asked.values()), default=0)
        # The last token of a rollout is drawn and never fed.
        columns = longest + policy.max_new_tokens - 1
        line = Line(asked_of(0, (prompts, rollouts), key))
        for _, rollout in self._drawn(line, policy, batch_size, columns):
            yield rollout

    def sample_shards(self, shards: Iterable[PromptPairs], policy: SamplingPolicy, key: RunKey,
                      batch_size: int) -> Iterator[tuple[int, list[Rollout]]]:
        """Draw several shards; (place of the shard, its rollouts) once it is whole. A slot that one shard's rollouts
        leave free is taken by the next one's, so that nothing waits for a shard's longest."""
        wanted, found = Counter[int](), dict[int, list[Rollout]]()

        def asked() -> Iterator[Pending]:
            for number, shard in enumerate(shards):
                wanted[number] = len(shard[1])
                for one in asked_of(number, shard, key):
                    self.check_length(one.prompt, policy)
                    yield one

        for one, rollout in self._drawn(Line(asked()), policy, batch_size, self.context or _ANY):
            found.setdefault(one.shard, []).append(rollout)
            if len(found[one.shard]) == wanted[one.shard]:
                yield one.shard, found.pop(one.shard)

    def _drawn(self, line: Line, policy: SamplingPolicy, batch_size: int,
               columns: int) -> Iterator[tuple[Pending, Rollout]]:
        """A line's rollouts as they end. When memory runs out, the batch is halved and the unfinished ones start again
        from their own keys."""
        size = batch_size
        while line.look(1):
            self.batch_size_used = size
            sampler = Sampler(self.decoder, line, policy, self.endings(policy), self.model.device, size=size,
                              columns=columns, lag=self.lag)
            try:
                yield from sampler.run()
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                size = _halved(sampler.size)
            del sampler
            line.restart()
            if line.look(1):
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


def with_compiled_step(decoder: Decoder, options: TorchOptions) -> Decoder:
    """The same decoder with a compiled step; UserError for a model that cannot be decoded in fixed slots."""
    if not isinstance(decoder, SlotDecoder):
        raise UserError(f"compile is {options.compile!r}, but this model is decoded through {decoder.cache}, which "
                        "cannot be compiled; leave compile out.")
    fixed = FixedSlotDecoder(decoder.model)
    fixed.compile(**options.how_to_compile())
    return fixed


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
