"""Starting vLLM: which of its interfaces is in use, what may be set, and what is said of it."""

from __future__ import annotations

import inspect
import os
import platform
from collections.abc import Mapping
from typing import Any

import torch

from ...schema import UserError
from ..checkpoint import cause
from ..provenance import versions

# Before vllm is imported: it reads them once. What a user has set stays.
for _name, _value in {"VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # one process, which a signal ends whole
                      "VLLM_NO_USAGE_STATS": "1",             # nobody is told that it runs
                      "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # the process keeps its cores and threads
                      "VLLM_USE_FLASHINFER_SAMPLER": "0",     # our rows are greedy, and logits were wrong beside it
                      "VLLM_LOGGING_LEVEL": "WARNING"}.items():
    os.environ.setdefault(_name, _value)

import vllm  # noqa: E402
from vllm.engine.arg_utils import EngineArgs  # noqa: E402
from vllm.platforms import current_platform  # noqa: E402
from vllm.v1.engine.llm_engine import LLMEngine  # noqa: E402

_DECIDED = {"model", "tokenizer", "revision", "dtype", "max_model_len", "logits_processors", "logprobs_mode",
            "max_logprobs", "generation_config", "override_generation_config", "skip_tokenizer_init",
            "disable_log_stats", "hf_overrides", "trust_remote_code", "enable_lora", "runner"}
_INTERFACES = {
    "V1": ("vllm.v1.sample.logits_processor", "LogitsProcessor", {
        "__init__": ["self", "vllm_config", "device", "is_pin_memory"], "update_state": ["self", "batch_update"],
        "apply": ["self", "logits"], "is_argmax_invariant": ["self"]}),
    "V2": ("vllm.v1.worker.gpu.sample.logits_processor", "LogitsProcessor", {
        "__init__": ["self", "vllm_config", "req_states"], "add_request": ["self", "req_idx", "sampling_params"],
        "apply_staged_writes": ["self"], "apply": ["self", "logits", "ctx"]})}
_FAILURES = (ValueError, RuntimeError, NotImplementedError, OSError, AssertionError, LookupError, TypeError,
             AttributeError, ImportError)
"""What vLLM raises at models and settings that it can't use."""
_ROUND = 256
"""Texts are allowed this many tokens, or a multiple: runs that differ a little start the same engine."""
CPU_CACHE_BYTES = 2 << 30
"""Of the caches on a CPU, where vLLM would take a share of what is free just now: a run shall find the same again."""


def on_cpu() -> bool:
    """Whether this vLLM computes on a CPU."""
    return bool(current_platform.is_cpu())


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse what is decided here, what would change the law, and what vLLM does not know."""
    if options.get("speculative_config") is not None:
        raise UserError("Speculative decoding draws tokens in another way, without exact terms; leave "
                        "speculative_config out.")
    known = set(inspect.signature(EngineArgs).parameters)
    for name in options:
        if name in _DECIDED:
            raise UserError(f"engine_options holds {name!r}, which is decided by the other arguments; leave it out.")
        if name not in known:
            raise UserError(f"engine_options holds {name!r}, which vLLM {vllm.__version__} does not know; see its "
                            "EngineArgs.")


def text_length(needed: int, context: int | None) -> int:
    """How many tokens a text may have: what is needed, rounded up, within the model's context."""
    rounded = -(-needed // _ROUND) * _ROUND
    return min(rounded, context) if context is not None else rounded


def start(name: str, revision: str | None, dtype: str, length: int, options: Mapping[str, Any]) -> LLMEngine:
    """vLLM with one checkpoint and our logits processor in it. UserError where it can't."""
    given = dict(options)
    if on_cpu() and "VLLM_CPU_KVCACHE_SPACE" not in os.environ:
        given.setdefault("kv_cache_memory_bytes", CPU_CACHE_BYTES)
    try:
        args = EngineArgs(model=name, revision=revision, dtype=dtype, max_model_len=length, skip_tokenizer_init=True,
                          generation_config="vllm", logprobs_mode="processed_logits", runner="generate", **given)
        config = args.create_engine_config()
        if config.speculative_config is not None:
            raise UserError("vLLM would decode speculatively, without exact terms; use a checkpoint without a draft.")
        config.model_config.logits_processors = [_processor(runner_of(config))]
        return LLMEngine.from_vllm_config(config)
    except UserError:
        raise
    except _FAILURES as error:
        raise UserError(f"vLLM can't run {name} ({cause(error)}); use engine='torch', or change engine_options.") \
            from error


def stop(engine: LLMEngine) -> None:
    """End vLLM's processes, and free what it holds in this one."""
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    engine.engine_core.shutdown()
    cleanup_dist_env_and_memory()


def runner_of(config: Any) -> str:
    """V1 or V2: which of its model runners vLLM uses."""
    return "V2" if config.use_v2_model_runner else "V1"


def _processor(runner: str) -> type:
    """The class for a model runner, after a look at whether its interface is the one that we know."""
    refuse_an_unknown_interface(runner)
    from . import processor

    return processor.SecondRunner if runner == "V2" else processor.FirstRunner


def refuse_an_unknown_interface(runner: str) -> None:
    """Refuse a version of vLLM whose logits processors are called otherwise."""
    from vllm.v1.sample import logits_processor as first
    from vllm.v1.worker.gpu.sample import logits_processor as second

    _, name, wanted = _INTERFACES[runner]
    base = getattr({"V1": first, "V2": second}[runner], name)
    found = {method: list(inspect.signature(getattr(base, method)).parameters) for method in wanted
             if hasattr(base, method)}
    if found != wanted:
        differing = sorted(method for method in wanted if found.get(method) != wanted[method])
        raise UserError(f"vLLM {vllm.__version__} calls logits processors of its runner {runner} in an unknown way "
                        f"({', '.join(differing)}); install vllm 0.32 or 0.33, or use engine='torch'.")


def told(engine: LLMEngine, architecture: str, dtype: str) -> dict[str, Any]:
    """What the manifest says of where vLLM ran, under the names that the torch engine uses."""
    config = engine.vllm_config
    device = str(current_platform.device_type)
    capability = {"cpu_capability": torch.backends.cpu.get_cpu_capability()} if device == "cpu" else {}
    return {**capability, "architecture": architecture, "dtype": dtype, "device": device,
            "device_name": platform.machine() if device == "cpu" else current_platform.get_device_name(),
            "threads": torch.get_num_threads(), "attention": _attention(config),
            "versions": {**versions(), "vllm": vllm.__version__}, "cache": "paged (vLLM)",
            "vllm": {"runner": runner_of(config), "max_model_len": config.model_config.max_model_len,
                     "max_num_seqs": config.scheduler_config.max_num_seqs,
                     "tensor_parallel_size": config.parallel_config.tensor_parallel_size,
                     "pipeline_parallel_size": config.parallel_config.pipeline_parallel_size,
                     "block_size": config.cache_config.block_size,
                     "prefix_caching": bool(config.cache_config.enable_prefix_caching),
                     "async_scheduling": bool(config.scheduler_config.async_scheduling),
                     "quantization": config.model_config.quantization,
                     "batch_invariant": bool(vllm.envs.VLLM_BATCH_INVARIANT)}}


def _attention(config: Any) -> str:
    """The attention that was asked for by name, else vLLM's choice."""
    backend = getattr(config.attention_config, "backend", None)
    return str(getattr(backend, "name", backend) or "vLLM's choice")


def counters(engine: LLMEngine) -> dict[str, int]:
    """Blocks of the cache, and how often a request had to give its blocks up and begin its text again."""
    preempted = [m.value for m in engine.get_metrics() if m.name == "vllm:num_preemptions"]
    return {"kv_blocks": int(engine.vllm_config.cache_config.num_gpu_blocks or 0), "preemptions": int(sum(preempted))}
