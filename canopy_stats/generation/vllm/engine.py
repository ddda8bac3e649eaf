"""The vLLM engine: rollouts and exact terms at vLLM's rate, by the torch engine's law and random numbers."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...schema import LENGTH, STEP_TERMS, STOP, ModelSource, Prompt, Rollout, RunKey, SamplingPolicy, UserError
from ..ending import Endings
from ..front import Front, chat_format
from ..randomness import rollout_key
from ..stop_tables import StopTables, start_state
from ..templates import ChatFormat
from ..terms import bad_logits
from .carry import PLACES, refuse_a_small_vocabulary, unpack
from .launch import check_options, counters, on_cpu, start, stop, text_length, told
from .slots import Carried
from .weights import Weights, weights_for

_CPU_ROWS, _GPU_ROWS = 32, 256


def load_engine(source: ModelSource, *, variant: str = "", options: Mapping[str, Any] | None = None) -> VllmEngine:
    """An engine for one model. ``options`` go to vLLM's EngineArgs, such as ``tensor_parallel_size``,
    ``gpu_memory_utilization`` or ``max_num_seqs``; the model is read when it is first needed."""
    check_options(options or {})
    _refuse_a_device(source.device)
    opened = ExitStack()
    weights = opened.enter_context(weights_for(source, on_cpu=on_cpu()))
    style = chat_format(source, variant, weights.loaded.tokenizer)
    return VllmEngine(weights, style, options or {}, opened)


@dataclass(frozen=True, slots=True)
class _Row:
    """A rollout that vLLM draws: whose it is in the order of the shards, and where it belongs."""

    shard: int
    prompt: Prompt
    prompt_index: int
    rollout: int


class VllmEngine(Front):
    """Implements :class:`canopy_stats.schema.Engine` over vLLM, in this process or in those that vLLM starts."""

    name = "vllm"

    def __init__(self, weights: Weights, style: ChatFormat, options: Mapping[str, Any],
                 opened: ExitStack | None = None):
        """``opened`` is closed once vLLM has read the weights."""
        loaded = weights.loaded
        super().__init__(loaded.model, loaded.tokenizer, style)
        refuse_a_small_vocabulary(self.vocabulary)
        self._weights, self._opened = weights, opened or ExitStack()
        self._options = {"max_num_seqs": _CPU_ROWS if on_cpu() else _GPU_ROWS, **options}
        self._loaded, self._longest, self._asked = loaded, 0, 0
        self._tables: dict[tuple[Any, ...], str] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="canopy-stats-vllm-")
        self.batch_size_used: int | None = None

    # --- vLLM itself --------------------------------------------------------------------------------------------

    @cached_property
    def llm(self) -> Any:
        """vLLM, started on first use for texts as long as the longest that was asked for so far."""
        self._allowed = text_length(max(self._longest, 2), self.context)
        try:
            return start(self._weights.name, self._weights.revision, self._weights.dtype, self._allowed, self._options)
        finally:
            self._opened.close()

    def close(self) -> None:
        """Stop vLLM and give its memory back."""
        if "llm" in self.__dict__:
            stop(self.__dict__.pop("llm"))
        self._opened.close()
        self._folder.cleanup()

    @property
    def batch_decides_bits(self) -> bool:
        """Whether equal batches give equal bits: on a CPU, where each shard is drawn by itself."""
        return on_cpu()

    @property
    def mixes_shards(self) -> bool:
        """Whether several shards are drawn at a time: on a GPU, where equal batches promise no bits anyway."""
        return not on_cpu()

    def describe(self) -> dict[str, Any]:
        """Provenance; see :class:`canopy_stats.schema.Engine`. Starts vLLM."""
        net = self._loaded.model
        return {**self._loaded.provenance, **told(self.llm, type(net).__name__, self._weights.dtype),
                **self.described(), **self.remarkable(self._loaded.cautions)}

    def tally(self) -> dict[str, int]:
        """Blocks of vLLM's cache, and how often it preempted a request since it was started."""
        return counters(self.llm)

    def check_length(self, prompt: Prompt, policy: SamplingPolicy) -> None:
        """Refuse what does not fit the model's context; or vLLM, once it is started for shorter texts."""
        super().check_length(prompt, policy)
        needed = len(prompt.token_ids) + policy.max_new_tokens
        self._longest = max(self._longest, needed)
        if "llm" in self.__dict__ and needed > self._allowed:
            raise UserError(f"Prompt {prompt.prompt_id!r} needs {needed} tokens with its rollout, and this engine was "
                            f"started for texts of {self._allowed}; make a new engine.")

    def suggest_batch_size(self, prompts: Sequence[Prompt], policy: SamplingPolicy) -> int:
        """What ``batch_size="auto"`` means: as many as vLLM may run at once; its scheduler fits them to its memory."""
        return int(self._options["max_num_seqs"])

    # --- drawing ------------------------------------------------------------------------------------------------

    def sample(self, prompts: Sequence[Prompt], rollouts: Sequence[tuple[int, int]], policy: SamplingPolicy,
               key: RunKey, batch_size: int) -> Iterator[Rollout]:
        """Draw one shard's (prompt index, rollout index) pairs; see :class:`canopy_stats.schema.Engine`."""
        if on_cpu():
            # What earlier shards left in the cache would change how this one's prompts are computed.
            self.llm.reset_prefix_cache()
        for _, rollout in self._drawn(_rows(0, prompts, rollouts), policy, key, batch_size):
            yield rollout

    def sample_shards(self, shards: Iterable[tuple[Sequence[Prompt], Sequence[tuple[int, int]]]],
                      policy: SamplingPolicy, key: RunKey, batch_size: int) -> Iterator[tuple[int, list[Rollout]]]:
        """Draw several shards, each given as for :meth:`sample`; (place of the shard, its rollouts) once it is whole.

        The next shard's rollouts enter as soon as there is room, so that nothing waits for a shard's longest.
        """
        wanted, found = Counter[int](), dict[int, list[Rollout]]()

        def rows() -> Iterator[_Row]:
            for number, (prompts, pairs) in enumerate(shards):
                wanted[number] = len(pairs)
                yield from _rows(number, prompts, pairs)

        for row, rollout in self._drawn(rows(), policy, key, batch_size):
            found.setdefault(row.shard, []).append(rollout)
            if len(found[row.shard]) == wanted[row.shard]:
                yield row.shard, found.pop(row.shard)

    def _drawn(self, rows: Iterator[_Row], policy: SamplingPolicy, key: RunKey,
               batch_size: int) -> Iterator[tuple[_Row, Rollout]]:
        """Every row's rollout, in the order in which they end; at most ``batch_size`` are in vLLM at a time."""
        endings = self.endings(policy)
        self.batch_size_used = min(batch_size, int(self._options["max_num_seqs"]))
        inside: dict[str, _Row] = {}
        try:
            while True:
                for row in islice(rows, self.batch_size_used - len(inside)):
                    self.check_length(row.prompt, policy)
                    inside[self._ask(row, policy, key, endings)] = row
                if not inside:
                    return
                for output in self.llm.step():
                    if output.finished:
                        row = inside.pop(output.request_id)
                        yield row, self._rollout(row, output.outputs[0], policy, endings)
        finally:
            if inside:
                self.llm.abort_request(list(inside))

    def _ask(self, row: _Row, policy: SamplingPolicy, key: RunKey, endings: Endings) -> str:
        """Hand a rollout to vLLM; the name under which it comes back."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        carried = Carried(rollout_key(key, row.prompt.prompt_hash, row.rollout), policy.to_dict(), endings.ids,
                          *self._stops(policy, endings, row.prompt))
        params = SamplingParams(
            temperature=0.0, max_tokens=policy.max_new_tokens, detokenize=False, ignore_eos=True,
            stop_token_ids=list(endings.ids), logprob_token_ids=list(range(PLACES)), flat_logprobs=True,
            output_kind=RequestOutputKind.FINAL_ONLY, extra_args=carried.to_args())
        self._asked += 1
        name = str(self._asked)
        self.llm.add_request(name, {"prompt_token_ids": list(row.prompt.token_ids)}, params)
        return name

    def _stops(self, policy: SamplingPolicy, endings: Endings, prompt: Prompt) -> tuple[str | None, int]:
        """The file of a law's tables of stop strings, and the prompt's state in them."""
        if endings.strings is None:
            return None, 0
        named = (endings.ids, policy.stop_strings)
        if named not in self._tables:
            path = Path(self._folder.name) / f"stops-{len(self._tables)}.npz"
            StopTables.of(policy.stop_strings, endings.strings.pieces, endings.ids).save(path)
            self._tables[named] = str(path)
        return self._tables[named], start_state(policy.stop_strings, endings.start(prompt.token_ids))

    def _rollout(self, row: _Row, drawn: Any, policy: SamplingPolicy, endings: Endings) -> Rollout:
        """What vLLM gave back for one request, up to its end."""
        ids = np.array(drawn.token_ids, dtype=np.int32)
        terms = unpack(drawn.logprobs.logprobs, ids)
        length, ended = _end(endings, row.prompt.token_ids, ids.tolist())
        bad = np.flatnonzero(np.isnan(terms[:length, 0]))
        if len(bad):
            raise bad_logits(row.prompt.prompt_id, int(bad[0]), getattr(torch, self._weights.dtype), policy)
        steps = {name: np.ascontiguousarray(terms[:length, i]) for i, name in enumerate(STEP_TERMS)}
        return Rollout(row.prompt_index, row.rollout, ids[:length], STOP if ended else LENGTH, steps)


def _rows(shard: int, prompts: Sequence[Prompt], pairs: Sequence[tuple[int, int]]) -> Iterator[_Row]:
    return (_Row(shard, prompts[index], index, rollout) for index, rollout in pairs)


def _end(endings: Endings, prompt_ids: Sequence[int], token_ids: Sequence[int]) -> tuple[int, bool]:
    """How many of the tokens belong to the rollout, and whether the last of them ended it: after a stop string vLLM has
    drawn one more."""
    tail = endings.start(prompt_ids)
    for length, token in enumerate(token_ids, 1):
        if endings.ends(tail, token):
            return length, True
        tail = endings.after(tail, token)
    return len(token_ids), False


def _refuse_a_device(device: str) -> None:
    """vLLM runs on what it was built for."""
    kind = device.partition(":")[0]
    if kind != "auto" and (kind == "cpu") != on_cpu():
        raise UserError(f"device is {device!r}, but this vLLM computes on {'a CPU' if on_cpu() else 'GPUs'}; leave "
                        "device='auto'.")
    if ":" in device:
        raise UserError(f"device is {device!r}; choose the GPUs of vLLM with CUDA_VISIBLE_DEVICES, and leave "
                        "device='auto'.")
