"""Models from a hub name, a local path, a GGUF file or memory, with what the manifest must say of them."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_logging

from ..schema import ModelSource, UserError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_PACKAGES = ("torch", "transformers", "tokenizers", "peft", "gguf")
_CONTENT = ("*.safetensors", "*.bin", "*.gguf", "config.json", "adapter_config.json")
_INCIDENTAL = ("_name_or_path", "transformers_version")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in evaluation mode on its device, its tokenizer if there is one, and its provenance."""

    model: PreTrainedModel
    tokenizer: Any
    provenance: dict[str, Any] = field(default_factory=dict)


def load(source: ModelSource) -> Loaded:
    """Load a causal language model; see :class:`canopy_stats.schema.ModelSource` for what may be given.

    A loaded model stays where it is and keeps its type unless another was asked for. A LoRA adapter is merged into the
    weights in float32, then cast: the law sampled is that of the merged weights. Code from a checkpoint is never run
    (``trust_remote_code`` stays off).
    """
    if isinstance(source.model, torch.nn.Module):
        return _take(source)
    where = _device(source.device)
    kind = _dtype(source.dtype, where)
    net, said = _read(str(source.model), source.revision, torch.float32 if source.adapter else kind)
    if source.adapter is not None:
        net = _merged(net, str(source.adapter))
    net = net.to(device=where, dtype=net.dtype if kind == "auto" else kind).eval()
    words = _tokenizer(source.tokenizer, source.model, source.revision)
    return Loaded(net, words, {**said, **_adapter_provenance(source.adapter), **_surroundings(net)})


def _take(source: ModelSource) -> Loaded:
    """A model that is already loaded: used as it is, moved or cast only where that was asked for."""
    model, tokenizer, dtype = source.model, source.tokenizer, source.dtype
    if source.adapter is not None:
        raise UserError("An adapter was given together with a loaded model; load the adapter into the model yourself "
                        "(peft: PeftModel.from_pretrained(model, adapter).merge_and_unload()), or name the model.")
    if not isinstance(model, PreTrainedModel) and hasattr(model, "get_base_model"):
        raise UserError("The model is wrapped by peft; call its merge_and_unload() and pass what that returns.")
    if not isinstance(model, PreTrainedModel):
        raise UserError(f"A {type(model).__name__} is not a transformers model; give a hub name, a path, a GGUF file "
                        "or a loaded transformers causal language model.")
    if source.device != "auto" and _device(source.device).type != model.device.type:
        model = model.to(_device(source.device))
    if dtype != "auto" and _dtype(dtype, model.device) != model.dtype:
        model = model.to(_dtype(dtype, model.device))
    words = _tokenizer(tokenizer, None, None) if isinstance(tokenizer, str | Path) else tokenizer
    said = {"model": type(model).__name__, "weights_sha256": tensors_sha256(model)}
    return Loaded(model.eval(), words, {**said, **_surroundings(model)})


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
    return chosen


def _dtype(dtype: str, device: torch.device) -> Any:
    """A torch dtype, or "auto" where the checkpoint decides."""
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else "auto"
    if dtype not in _DTYPES:
        raise UserError(f"There is no dtype {dtype!r}; use 'auto', 'float32', 'bfloat16' or 'float16'.")
    return _DTYPES[dtype]


def _read(name: str, revision: str | None, dtype: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The model, and which weights it is made of."""
    path = Path(name).expanduser()
    _check_exists(name, path)
    where, options = _location(path if path.exists() else name)
    try:
        with _no_bars(path.exists()):
            net = AutoModelForCausalLM.from_pretrained(where, revision=revision, dtype=dtype, trust_remote_code=False,
                                                       **options)
    except ImportError as error:
        raise UserError(f"Loading {name} needs a package that is not installed ({_first_line(error)}); install "
                        "canopy-stats[generate].") from error
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"The model {name} can't be loaded ({_first_line(error)}); give a transformers checkpoint "
                        "folder, a .gguf file, or the name of a causal language model on the hub.") from error
    if path.exists():
        return net, {"model": path.name, "weights_sha256": files_sha256(path)}
    return net, {"model": name, "revision": getattr(net.config, "_commit_hash", None) or revision}


@contextmanager
def _no_bars(local: bool) -> Iterator[None]:
    """Transformers draws a bar for every local load; only a download is worth one."""
    silence = local and transformers_logging.is_progress_bar_enabled()
    if silence:
        transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if silence:
            transformers_logging.enable_progress_bar()


def _location(model: str | Path) -> tuple[str, dict[str, Any]]:
    """Where transformers should look, and the options that say it is a GGUF file."""
    if isinstance(model, Path) and model.suffix == ".gguf":
        return str(model.parent), {"gguf_file": model.name}
    return str(model), {}


def _check_exists(name: str, path: Path) -> None:
    """Refuse what is evidently meant as a path and isn't there, before anything asks the network."""
    looks_like_path = name.startswith((".", "/", "~")) or name.endswith(".gguf") or name.count("/") > 1
    if not path.exists() and (looks_like_path or not name):
        raise UserError(f"There is no model at {name}; give an existing folder or .gguf file, or the name of a model "
                        "on the hub.")


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def _merged(net: PreTrainedModel, adapter: str) -> PreTrainedModel:
    """The model with a LoRA adapter added into its weights."""
    try:
        from peft import PeftModel
    except ImportError:
        raise UserError("An adapter needs the package peft; install canopy-stats[generate].") from None
    try:
        return PeftModel.from_pretrained(net, adapter).merge_and_unload()
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise UserError(f"The adapter {adapter} can't be loaded into this model ({_first_line(error)}); give the "
                        "folder that peft's save_pretrained wrote for the same base model.") from error


def _adapter_provenance(adapter: str | Path | None) -> dict[str, Any]:
    if adapter is None:
        return {}
    path = Path(adapter).expanduser()
    digest = {"adapter_sha256": files_sha256(path)} if path.exists() else {}
    return {"adapter": path.name if path.exists() else str(adapter), "adapter_use": "merged in float32", **digest}


def _tokenizer(tokenizer: Any, model: str | Path | None, revision: str | None) -> Any:
    """A tokenizer by name or path, the model's own by default; an already loaded one passes through."""
    if tokenizer is not None and not isinstance(tokenizer, str | Path):
        return tokenizer
    name = str(tokenizer if tokenizer is not None else model)
    path = Path(name).expanduser()
    where, options = _location(path if path.exists() else name)
    try:
        return AutoTokenizer.from_pretrained(where, revision=None if tokenizer else revision, trust_remote_code=False,
                                             **options)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"No tokenizer can be loaded from {name} ({_first_line(error)}); give one with "
                        "tokenizer=.") from error


def _surroundings(net: PreTrainedModel) -> dict[str, Any]:
    """Numbers may differ wherever any of these does."""
    device = torch.cuda.get_device_name(net.device) if net.device.type == "cuda" else platform.machine()
    return {"architecture": type(net).__name__, "dtype": str(net.dtype).removeprefix("torch."),
            "device": net.device.type, "device_name": device, "threads": torch.get_num_threads(),
            "attention": net.config.get_text_config()._attn_implementation, "versions": _versions()}


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def files_sha256(path: Path) -> str:
    """SHA-256 over a checkpoint's weights and configuration (file names and contents, by name), or over one file."""
    files = [path] if path.is_file() else sorted({f for pattern in _CONTENT for f in path.glob(pattern)})
    total = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        total.update(f"{file.name}:{digest}\n".encode())
    return total.hexdigest()


def tensors_sha256(model: PreTrainedModel) -> str:
    """SHA-256 over a loaded model: its configuration, and each tensor's name, type, shape and bytes, by name."""
    config = {k: v for k, v in model.config.to_dict().items() if k not in _INCIDENTAL}
    total = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        total.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}\n".encode())
        total.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
