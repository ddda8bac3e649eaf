"""Which checkpoint vLLM reads: the one that was named, or one that is written for it.

Adapters are merged by the code that merges them for the torch engine, and GGUF files and loaded models are models of
transformers first: all three are saved to a temporary folder in the number format that they will run in.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from ...schema import ModelSource, UserError
from ..loading import Loaded, load, outline

_RAN = ("cpu_capability", "architecture", "dtype", "device", "device_name", "threads", "attention", "versions")


@dataclass(frozen=True, slots=True)
class Weights:
    """A checkpoint that vLLM can read, and what is known of it: ``loaded`` without weights."""

    name: str
    revision: str | None
    dtype: str
    loaded: Loaded


@contextmanager
def weights_for(source: ModelSource, *, on_cpu: bool) -> Iterator[Weights]:
    """The checkpoint of a source. What was written for vLLM is there while this lasts: longer than vLLM reads it."""
    if not _is_written(source):
        known = outline(source)
        path = Path(str(source.model)).expanduser()
        yield Weights(str(path) if path.exists() else str(source.model), source.revision,
                      _dtype(source.dtype, known.model, on_cpu), known)
        return
    with tempfile.TemporaryDirectory(prefix="canopy-stats-vllm-") as folder:
        yield _written(source, folder, on_cpu)


def _is_written(source: ModelSource) -> bool:
    in_memory = isinstance(source.model, torch.nn.Module)
    return in_memory or source.adapter is not None or str(source.model).endswith(".gguf")


def _written(source: ModelSource, folder: str, on_cpu: bool) -> Weights:
    """Load and merge on the CPU, save, and keep what is known of it."""
    if not isinstance(source.model, torch.nn.Module):
        dtype = _dtype(source.dtype, outline(replace(source, adapter=None)).model, on_cpu)
        source = replace(source, device="cpu", dtype=dtype)
    loaded = load(source)
    net = loaded.model
    dtype = _dtype(source.dtype, net, on_cpu and not isinstance(source.model, torch.nn.Module))
    _save(net, folder)
    said = {name: value for name, value in loaded.provenance.items() if name not in _RAN}
    return Weights(folder, None, dtype, replace(loaded, model=_emptied(net), provenance=said))


def _save(net: PreTrainedModel, folder: str) -> None:
    if hasattr(net, "check_prompt") or not hasattr(net.config, "architectures"):
        raise UserError(f"vLLM has no {type(net).__name__}; use engine='torch'.")
    if getattr(net.config, "quantization_config", None) is not None:
        # What a GGUF file held is plain numbers by now; the model still says that it is quantised, and can't be saved.
        del net.config.quantization_config
        plain = AutoModelForCausalLM.from_config(net.config, dtype=net.dtype)
        plain.load_state_dict(net.state_dict(), assign=True)
        plain.generation_config = net.generation_config
        net = plain
    net.save_pretrained(folder)


def _emptied(net: PreTrainedModel) -> PreTrainedModel:
    """A model of the same configuration without weights."""
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(net.config)
    empty.generation_config = net.generation_config
    return empty.eval()


def _dtype(asked: str, net: PreTrainedModel, on_cpu: bool) -> str:
    """The number format by name: "auto" is float32 on a CPU, else the checkpoint's own, as with the torch engine."""
    if asked not in ("auto", "float32", "bfloat16", "float16"):
        raise UserError(f"There is no dtype {asked!r}; use 'auto', 'float32', 'bfloat16' or 'float16'.")
    if asked != "auto":
        return asked
    if on_cpu:
        return "float32"
    own: Any = net.config.get_text_config().dtype or net.config.dtype
    if own is None:
        raise UserError("The checkpoint's config.json names no dtype; give dtype='bfloat16' (or another).")
    return str(own).removeprefix("torch.")
