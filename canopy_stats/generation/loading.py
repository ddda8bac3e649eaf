"""Models from a hub name, a local path, a GGUF file or memory, with what the manifest must say of them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedModel

from ..files import place
from ..schema import ModelSource, UserError
from . import adapters
from .checkpoint import UNREADABLE, cause, location, quantisation, read_checkpoint, read_outline, said_quantisation
from .provenance import files_sha256, surroundings, tensors_sha256, tokenizer_sha256

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in evaluation mode on its device, its tokenizer if there is one, its provenance, and what has to be said
    of the parts that were put together."""

    model: PreTrainedModel
    tokenizer: Any
    provenance: dict[str, Any] = field(default_factory=dict)
    cautions: tuple[str, ...] = ()


def load(source: ModelSource) -> Loaded:
    """Load a causal language model; see :class:`canopy_stats.schema.ModelSource` for what may be given.

    The weights are those that transformers' own load gives in this type; an adapter is merged into them in float32. A
    loaded model stays where it is and keeps its type unless another was asked for. The tokenizer, chat template and end
    tokens saved beside an adapter go before the base's. Code from a checkpoint is never run (``trust_remote_code``
    stays off).
    """
    in_memory = isinstance(source.model, torch.nn.Module)
    net, said, cautions = _taken(source) if in_memory else _read(source)
    _refuse_a_look_ahead(net.eval())
    words = _tokenizer(source)
    if words is not None:
        if not in_memory:
            _refuse_a_larger_vocabulary(net, words)
        said["tokenizer_sha256"] = tokenizer_sha256(words)
    return Loaded(net, words, {**said, **surroundings(net)}, tuple(cautions))


def outline(source: ModelSource) -> Loaded:
    """What :func:`load` gives for the checkpoint of a name or path, without its weights and without what is known only
    once it runs, for an engine that reads the weights itself. ``provenance`` says the same of them."""
    name = str(source.model)
    net, words = read_outline(name, source.revision), _tokenizer(source)
    _refuse_a_larger_vocabulary(net, words)
    said = {**_named(name, net, source.revision), "tokenizer_sha256": tokenizer_sha256(words)}
    return Loaded(net, words, said)


def _read(source: ModelSource) -> tuple[PreTrainedModel, dict[str, Any], list[str]]:
    """The model of a name or path with its adapter, and which weights it is made of."""
    name, device = str(source.model), _device(source.device)
    net = read_checkpoint(name, source.revision, _dtype(source.dtype), device)
    said, cautions = _named(name, net, source.revision), list[str]()
    if source.adapter is not None:
        net, cautions = adapters.merged(net, source.adapter, name)
        adapters.adopt_end_tokens(net, source.adapter)
        said |= _adapter_provenance(source.adapter)
    return net, said, cautions


@torch.inference_mode()
def _refuse_a_look_ahead(net: PreTrainedModel) -> None:
    """Refuse a model whose logits depend on later tokens: it has no law of the next one.

    Encoders such as BERT load as causal models and stay what they are unless their configuration says ``is_decoder``.
    """
    try:
        texts = torch.tensor([[3, 4, 5], [3, 4, 6]], device=net.device) % net.config.get_text_config().vocab_size
        first, other = net(input_ids=texts, use_cache=False).logits[:, 0].float()
    except UNREADABLE:
        return  # no model for a text alone; whoever decodes with it says so
    spread = first[first.isfinite()].std()
    if (first - other).abs().nan_to_num(0.0).max() > 0.1 * spread:
        raise UserError(f"{type(net).__name__} reads ahead: its logits at a token depend on later ones, so nothing can "
                        "be drawn from it token by token. Give a causal language model.")


def _named(name: str, net: PreTrainedModel, revision: str | None) -> dict[str, Any]:
    path = place(name)
    quantised = said_quantisation(name)
    said = {"quantisation": quantised} if quantised else {}
    if path.exists():
        return {"model": path.name, "weights_sha256": files_sha256(path), **said}
    return {"model": name, "revision": getattr(net.config, "_commit_hash", None) or revision, **said}


def _adapter_provenance(adapter: str | Path) -> dict[str, Any]:
    path = place(adapter)
    digest = {"adapter_sha256": files_sha256(path)} if path.exists() else {}
    return {"adapter": path.name if path.exists() else str(adapter), "adapter_use": "merged in float32", **digest}


# --- a model in memory ------------------------------------------------------------------------------------------------


def _taken(source: ModelSource) -> tuple[PreTrainedModel, dict[str, Any], list[str]]:
    """A model that is already loaded: used as it is, moved or cast only where that was asked for."""
    model = source.model
    if source.adapter is not None:
        raise UserError("An adapter was given together with a loaded model; load the adapter into the model yourself "
                        "(peft: PeftModel.from_pretrained(model, adapter).merge_and_unload()), or name the model.")
    if not isinstance(model, PreTrainedModel) and hasattr(model, "get_base_model"):
        raise UserError("The model is wrapped by peft; call its merge_and_unload() and pass what that returns.")
    if not isinstance(model, PreTrainedModel):
        raise UserError(f"A {type(model).__name__} is not a transformers model; give a hub name, a path, a GGUF file "
                        "or a loaded transformers causal language model.")
    if source.device != "auto" and _device(source.device).type != model.device.type:
        _refuse_quantised(model, "moved", "device")
        model = model.to(_device(source.device))
    dtype = _dtype(source.dtype)
    if dtype not in (None, model.dtype):
        _cast(model, dtype)
    return model, {"model": type(model).__name__, "weights_sha256": tensors_sha256(model)}, []


def _cast(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Give a loaded model's parameters another type, except those that its class keeps in float32; buffers stay."""
    _refuse_quantised(model, "cast", "dtype")
    kept = set(getattr(model, "_keep_in_fp32_modules_strict", None) or ())
    kept |= set(getattr(model, "_keep_in_fp32_modules", None) or ()) if dtype == torch.float16 else set()
    stays = re.compile("|".join(map(re.escape, kept)) or r"(?!)")
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and not stays.search(name):
            parameter.data = parameter.data.to(dtype)


def _refuse_quantised(model: PreTrainedModel, done: str, option: str) -> None:
    if quantisation(model.config):
        raise UserError(f"The loaded model is quantised ({quantisation(model.config)}), so it can't be {done}; leave "
                        f"{option}='auto'.")


# --- where, and in which type -----------------------------------------------------------------------------------------


def _device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise UserError(f"There is no device {device!r}; use 'auto', 'cpu' or 'cuda'.") from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise UserError("device='cuda' was asked for, but torch sees no GPU; use device='cpu', or install a CUDA build "
                        "of torch.")
    if chosen.type == "meta" or (chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count()):
        raise UserError(f"Nothing can be computed on the device {device!r}; use 'auto', 'cpu' or 'cuda'.")
    return chosen


def _dtype(dtype: str) -> Any:
    """A torch dtype; None where it is left to the device and the checkpoint."""
    if dtype != "auto" and dtype not in _DTYPES:
        raise UserError(f"There is no dtype {dtype!r}; use 'auto', 'float32', 'bfloat16' or 'float16'.")
    return _DTYPES.get(dtype)


# --- the tokenizer ----------------------------------------------------------------------------------------------------


def _tokenizer(source: ModelSource) -> Any:
    """The tokenizer that was given, else the adapter's, else the model's; None for a model in memory alone."""
    given = source.tokenizer
    if given is not None and not isinstance(given, str | Path):
        return given
    if given is not None:
        return read_tokenizer(str(given), None)
    if isinstance(source.model, torch.nn.Module):
        return None
    if source.adapter is not None and adapters.brings_tokenizer(source.adapter):
        return read_tokenizer(str(source.adapter), None)
    words = read_tokenizer(str(source.model), source.revision)
    template = adapters.brought_template(source.adapter) if source.adapter is not None else None
    if template is not None:
        words.chat_template = template
    return words


def read_tokenizer(name: str, revision: str | None = None) -> Any:
    """The tokenizer of a hub name, a folder or a GGUF file."""
    path = place(name)
    where, options = location(path if path.exists() else name)
    try:
        return AutoTokenizer.from_pretrained(where, revision=revision, trust_remote_code=False, **options)
    except UNREADABLE as error:
        raise UserError(f"No tokenizer can be loaded from {name} ({cause(error)}); give one with "
                        "tokenizer=.") from error


def _refuse_a_larger_vocabulary(net: PreTrainedModel, words: Any) -> None:
    """Refuse a tokenizer that may make ids for which the model has no embedding; a padding token is never fed."""
    size = net.config.get_text_config().vocab_size
    over = {word for word, i in words.get_vocab().items() if i >= size} - {words.pad_token}
    if over:
        raise UserError(f"The tokenizer has {len(over)} tokens beyond the model's vocabulary of {size} (such as "
                        f"{min(over)!r}): it is another model's, or the embeddings were not resized. Give the model's "
                        "own with tokenizer=.")
