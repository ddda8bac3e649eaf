"""What the manifest says of a model: hashes of its weights, of its tokenizer, and where it ran."""

from __future__ import annotations

import hashlib
import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from .. import files

_PACKAGES = ("torch", "transformers", "tokenizers", "peft", "gguf")
_CONTENT = (".safetensors", ".bin", ".gguf", "config.json", "adapter_config.json")
_INCIDENTAL = ("_name_or_path", "transformers_version")


def surroundings(net: PreTrainedModel) -> dict[str, Any]:
    """Numbers may differ wherever any of these does."""
    device = torch.cuda.get_device_name(net.device) if net.device.type == "cuda" else platform.machine()
    capability = {"cpu_capability": torch.backends.cpu.get_cpu_capability()} if net.device.type == "cpu" else {}
    return {**capability, "architecture": type(net).__name__, "dtype": str(net.dtype).removeprefix("torch."),
            "device": net.device.type, "device_name": device, "threads": torch.get_num_threads(),
            "attention": net.config.get_text_config()._attn_implementation, "versions": versions()}


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def files_sha256(path: Path) -> str:
    """SHA-256 over a checkpoint's weights and configuration (file names and contents, by name), or over one file."""
    return files.model_sha256(path, _CONTENT)


def tensors_sha256(model: PreTrainedModel) -> str:
    """SHA-256 over a loaded model: its configuration, and each tensor's name, type, shape and bytes, by name."""
    config = {k: v for k, v in model.config.to_dict().items() if k not in _INCIDENTAL}
    total = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        total.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}\n".encode())
        total.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def tokenizer_sha256(tokenizer: Any) -> str:
    """SHA-256 over what a tokenizer makes of a text: its whole machine where it is a fast one, else its vocabulary."""
    machine = getattr(tokenizer, "backend_tokenizer", None)
    words = machine.to_str() if machine is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    special = json.dumps({k: str(v) for k, v in sorted(tokenizer.special_tokens_map.items())})
    return hashlib.sha256(f"{type(tokenizer).__name__}\n{words}\n{special}".encode()).hexdigest()
