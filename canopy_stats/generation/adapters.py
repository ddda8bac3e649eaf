"""An adapter into the weights: merged in float32, every one of its tensors used, or refused with what does not fit."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel
from transformers.utils import cached_file

from ..files import place
from ..schema import UserError
from .checkpoint import UNREADABLE, cause, listed, quantisation

_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_WORDS = ("tokenizer.json", "tokenizer_config.json")


def merged(net: PreTrainedModel, adapter: str | Path, model: str) -> tuple[PreTrainedModel, list[str]]:
    """The model with an adapter in its weights, and what is to be said of the pair.

    Each layer is merged in float32 and takes back the type that it was loaded in, so that nothing else changes. Raises
    UserError where a tensor of the adapter finds no place or one that it should bring is missing.
    """
    try:
        from peft import PeftConfig
    except ImportError:
        raise UserError("An adapter needs the package peft; install canopy-stats[generate].") from None
    name = str(place(adapter)) if place(adapter).exists() else str(adapter)
    _refuse_a_folder_without_one(Path(name))
    with _refused_in_one_line(name):
        config = PeftConfig.from_pretrained(name)
        _refuse_what_has_no_merge(name, config, net)
        return _merge(_wrapped(net, config, name)), _other_base(name, config, model)


def _wrapped(net: PreTrainedModel, config: Any, name: str) -> Any:
    """The model as peft wraps it, with every tensor of the adapter in its place."""
    from peft import PeftModel

    config.inference_mode = True
    wrapped = PeftModel(net, config)
    mapping = getattr(net, "_checkpoint_conversion_mapping", {})
    found = wrapped.load_adapter(name, "default", torch_device=str(net.device), key_mapping=mapping)
    lost, wanted = found.unexpected_keys, found.missing_keys
    if lost:
        raise UserError(f"The adapter {name} does not fit this model: {len(lost)} of its tensors match nothing in it: "
                        f"{listed(lost)}. Give the base that it was trained on, or save it again with peft's "
                        "save_pretrained.")
    if wanted:
        raise UserError(f"The adapter {name} is incomplete: it brings nothing for {len(wanted)} places that its "
                        f"configuration names: {listed(wanted)}. Copy or save it again.")
    return wrapped


def _merge(wrapped: Any) -> PreTrainedModel:
    from peft.tuners.tuners_utils import BaseTunerLayer

    for layer in [module for module in wrapped.modules() if isinstance(module, BaseTunerLayer)]:
        with _in_float32(layer.get_base_layer()):
            layer.merge()
            if not all(p.isfinite().all() for p in layer.get_base_layer().parameters(recurse=False)):
                raise ValueError("merging it gives weights that are not numbers")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="All adapters are already merged")
        return wrapped.merge_and_unload()


@contextmanager
def _in_float32(layer: torch.nn.Module) -> Iterator[None]:
    """While it lasts, the layer's own 16-bit parameters are float32."""
    short = [(p, p.dtype) for p in layer.parameters(recurse=False) if p.dtype in (torch.float16, torch.bfloat16)]
    for parameter, _ in short:
        parameter.data = parameter.data.float()
    try:
        yield
    finally:
        for parameter, dtype in short:
            parameter.data = parameter.data.to(dtype)


# --- what is refused, and what is said --------------------------------------------------------------------------------


def _refuse_a_folder_without_one(folder: Path) -> None:
    """Refuse a folder without an adapter of its own; name those in the folders below it."""
    if not folder.is_dir():
        return
    if (folder / "adapter_config.json").is_file():
        if not any((folder / file).is_file() for file in _WEIGHTS):
            raise UserError(f"The adapter {folder} can't be loaded (neither {' nor '.join(_WEIGHTS)} is there); copy "
                            "it whole.")
        return
    below = sorted(p.parent.name for p in folder.glob("*/adapter_config.json"))
    what = f"it holds several, in {', '.join(below)}: name one" if below else "give the folder that peft's " \
        "save_pretrained wrote"
    raise UserError(f"The adapter {folder} can't be loaded (no adapter_config.json); {what}.")


def _refuse_what_has_no_merge(name: str, config: Any, net: PreTrainedModel) -> None:
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    if config.is_prompt_learning or kind in ("ADAPTION_PROMPT", "XLORA", "POLY"):
        raise UserError(f"The adapter {name} is of the kind {kind}, which adds to the model's input or routes between "
                        "adapters and can't be merged into weights; give a LoRA adapter or another one that can.")
    if quantisation(net.config):
        raise UserError(f"The adapter {name} can't be merged: the model's weights are quantised "
                        f"({quantisation(net.config)}), and merging would round them anew. Give the unquantised base.")


@contextmanager
def _refused_in_one_line(name: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except UNREADABLE as error:
        said = cause(error)
        advice = ("its tensors have other shapes than the model's (another base, or embeddings that were resized for "
                  "new tokens: resize the base to the adapter's tokenizer, save it, and give that)"
                  if "size mismatch" in said else "give the folder that peft's save_pretrained wrote for this base")
        raise UserError(f"The adapter {name} can't be loaded into this model ({said}); {advice}.") from error


def _other_base(name: str, config: Any, model: str) -> list[str]:
    """A line where the adapter says that it was trained on another base."""
    trained = str(config.base_model_name_or_path or "")
    if not trained or Path(trained).name == Path(model).name:
        return []
    return [f"The adapter {Path(name).name} says that it was trained on {trained}, and is merged into {model}."]


# --- what is saved beside an adapter ----------------------------------------------------------------------------------


def brings_tokenizer(adapter: str | Path) -> bool:
    """Whether a tokenizer lies beside the adapter."""
    return any(_beside(adapter, name) for name in _WORDS)


def brought_template(adapter: str | Path) -> str | None:
    """The chat template that lies beside an adapter as a file of its own."""
    found = _beside(adapter, "chat_template.jinja")
    return found.read_text(encoding="utf-8") if found else None


def adopt_end_tokens(net: PreTrainedModel, adapter: str | Path) -> None:
    """Add the end tokens of a generation configuration beside the adapter to the model's own."""
    found = _beside(adapter, "generation_config.json")
    if found is None:
        return
    own = net.generation_config or GenerationConfig()
    net.generation_config = own
    own.eos_token_id = sorted({*_ids(own.eos_token_id), *_said_ends(found)}) or None


def _said_ends(file: Path) -> list[int]:
    try:
        ends = _ids(json.loads(file.read_text(encoding="utf-8")).get("eos_token_id"))
    except (ValueError, AttributeError, TypeError, OSError, RecursionError):
        ends = [None]
    if not all(isinstance(end, int) for end in ends):
        raise UserError(f"{file} can't be read as a JSON object with whole numbers as eos_token_id; correct or remove "
                        "it.")
    return ends


def _ids(said: Any) -> list[Any]:
    return list(said) if isinstance(said, list | tuple) else [] if said is None else [said]


def _beside(adapter: str | Path, name: str) -> Path | None:
    """A file beside an adapter, in its folder or on the hub."""
    folder = place(adapter)
    if folder.exists():
        return folder / name if (folder / name).is_file() else None
    try:
        found = cached_file(str(adapter), name, _raise_exceptions_for_missing_entries=False,
                            _raise_exceptions_for_connection_errors=False)
    except (OSError, ValueError):
        return None
    return Path(found) if found else None
