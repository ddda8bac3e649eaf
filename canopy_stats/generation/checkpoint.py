"""One checkpoint into memory: whole, as transformers reads it, or refused in a line that says what is wrong.

Transformers fills what a checkpoint lacks with random numbers and passes over what it does not know. Here nothing is
drawn from such weights: tensors that are missing, mismatched or unknown are named.
"""

from __future__ import annotations

import json
import pickle
import re
import struct
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING
from transformers.utils import logging as transformers_logging

from ..files import place
from ..schema import UserError

UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, AssertionError,
              ArithmeticError, EOFError, ImportError, pickle.UnpicklingError, struct.error, SafetensorError,
              StrictDataclassError)
"""What libraries raise at files that are cut off, not what their name says, or for another library."""

_BESIDE_THE_LANGUAGE_MODEL = re.compile(
    r"^(?:\w+\.)?(?:score|v_head|value_head|reward_head|regression_head|classifier|classification_head|qa_outputs|"
    r"medusa_head|mtp|visual|vision_\w+|audio_\w+|embed_vision|embed_audio|multi_modal_projector|mm_projector)\.")
"""Heads and towers that a checkpoint may bring along and that no next token depends on."""
_OLD_BUFFERS = re.compile(r"(?:\.rotary_emb\.\w+|\.(?:attn|attention)\.(?:masked_bias|bias|causal_mask))$")
"""Masks and tables that older versions stored: here ``attn`` and ``attention`` are no layers with weights."""
_UNPRINTABLE = re.compile(r"\x1b\[[0-9;]*m|[^\x20-\x7e\xa0-\U0010ffff]")
_SHOWN = 3
_CAUSE = 400


def read_checkpoint(name: str, revision: str | None, dtype: Any, device: torch.device) -> PreTrainedModel:
    """The causal language model of a folder, a ``.gguf`` file or a hub name, on its device.

    ``dtype`` is what transformers takes, None where nothing was asked for: float32 on a CPU, else (and for quantised
    weights, which are not free to choose) the checkpoint's own. After ``from_pretrained`` only the device changes:
    transformers keeps some parameters and buffers in float32, and those of quantised layers are no plain numbers.
    """
    path = place(name)
    _refuse_what_is_no_checkpoint(name, path)
    where, options = location(path if path.exists() else name)
    quantised = said_quantisation(name)
    _refuse_an_unknown_format(name, quantised)
    if dtype is None:
        dtype = torch.float32 if device.type == "cpu" and not quantised else "auto"
    if device.type == "cuda":
        options["device_map"] = {"": device}
    with _refused_in_one_line(name, path, quantised), _quiet(path.exists()):
        net, found = AutoModelForCausalLM.from_pretrained(
            where, revision=revision, dtype=dtype, trust_remote_code=False, output_loading_info=True,
            ignore_mismatched_sizes=True, **options)
        _refuse_incomplete(name, type(net).__name__, found)
        if quantised:
            _try_out(net)
        return net if device.type in ("cpu", "cuda") else net.to(device)


def read_outline(name: str, revision: str | None) -> PreTrainedModel:
    """The same model without its weights, on torch's meta device, for an engine that reads them itself."""
    path = place(name)
    _refuse_what_is_no_checkpoint(name, path)
    where, options = location(path if path.exists() else name)
    with _refused_in_one_line(name, path, said_quantisation(name)), _quiet(path.exists()):
        config = AutoConfig.from_pretrained(where, revision=revision, trust_remote_code=False, **options)
        with torch.device("meta"):
            net = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        net.generation_config = _said_generation(where, revision) or net.generation_config
    return net.eval()


def _said_generation(where: str, revision: str | None) -> GenerationConfig | None:
    """The generation configuration of a checkpoint; None where it has none."""
    try:
        return GenerationConfig.from_pretrained(where, revision=revision)
    except OSError:
        return None


def location(model: str | Path) -> tuple[str, dict[str, Any]]:
    """Where transformers should look, and the options that say it is a GGUF file."""
    if isinstance(model, Path) and model.suffix == ".gguf":
        return str(model.parent), {"gguf_file": model.name}
    return str(model), {}


def quantisation(settings: Any) -> str | None:
    """The name of a checkpoint's quantised format, by its configuration (a mapping or a record)."""
    said = _field(settings, "quantization_config")
    if not said:
        return None
    method = _field(said, "quant_method")
    return str(getattr(method, "value", method) or "an unnamed format")


def _field(record: Any, name: str) -> Any:
    return record.get(name) if isinstance(record, dict) else getattr(record, name, None)


def said_quantisation(name: str) -> str | None:
    """The quantised format that a checkpoint's configuration names, as far as it can be read."""
    try:
        return quantisation(PreTrainedConfig.get_config_dict(str(place(name)), local_files_only=True)[0])
    except UNREADABLE:
        return None


def cause(error: BaseException) -> str:
    """What an error says, in one line of bounded length: its first line, and the others where that announces them."""
    lines = [" ".join(_UNPRINTABLE.sub(" ", line).split()) for line in str(error).splitlines()]
    lines = [line for line in lines if line] or [type(error).__name__]
    said = (" ".join(lines) if lines[0].endswith(":") else lines[0]).rstrip(". ")
    if isinstance(error, KeyError):
        said = f"no {said}"
    return said if len(said) <= _CAUSE else said[: _CAUSE - 4] + " ..."


def drawn_at_random(net: PreTrainedModel) -> set[str]:
    """Tensors of a loaded model that its checkpoint lacks. Nothing is read but names and shapes."""
    with _quiet(True):
        _, found = type(net).from_pretrained(net.name_or_path, device_map="meta", output_loading_info=True,
                                             trust_remote_code=False, local_files_only=True)
    return set(found["missing_keys"])


def listed(names: Collection[str]) -> str:
    """The first of some tensors' names, and how many more there are."""
    first = sorted(names)[:_SHOWN]
    return ", ".join(first) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


# --- before anything is read ------------------------------------------------------------------------------------------


def _refuse_what_is_no_checkpoint(name: str, path: Path) -> None:
    """Refuse what is evidently meant as a path and isn't there, before anything asks the network; and adapters."""
    looks_like_path = name.startswith((".", "/", "~")) or name.endswith(".gguf") or name.count("/") > 1
    if not path.exists() and (looks_like_path or not name):
        raise UserError(f"There is no model at {name}; give an existing folder or .gguf file, or the name of a model "
                        "on the hub.")
    if path.exists() and not path.is_dir() and path.suffix != ".gguf":
        raise UserError(f"The model {name} can't be loaded (a file that does not end in .gguf); give the folder that "
                        "it lies in.")
    if (path / "adapter_config.json").exists():
        raise UserError(f"{name} holds an adapter (adapter_config.json), which transformers would put into a model "
                        "unasked; give the folder of the base as the model and this one as the adapter, or move the "
                        "adapter to a folder of its own.")
    _refuse_unread_settings(path / "generation_config.json")
    _refuse_an_index_that_leaves(path / "model.safetensors.index.json")


def _refuse_unread_settings(file: Path) -> None:
    """Refuse a file that transformers would pass over in silence, although end tokens stand in it."""
    try:
        whole = not file.exists() or isinstance(json.loads(file.read_text(encoding="utf-8")), dict)
    except (OSError, ValueError, RecursionError):
        whole = False
    if not whole:
        raise UserError(f"{file} can't be read as a JSON object; the model's end tokens may stand in it, so correct or "
                        "remove it.")


def _refuse_an_index_that_leaves(file: Path) -> None:
    """Refuse an index that names files outside its folder: no hash of the folder would tell what was loaded."""
    try:
        named = set(json.loads(file.read_text(encoding="utf-8"))["weight_map"].values()) if file.exists() else set()
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return  # from_pretrained says what is wrong with it
    leaving = sorted(str(n) for n in named if Path(str(n)).name != n)
    if leaving:
        raise UserError(f"{file} names a weights file outside its folder ({leaving[0]}); put it there and correct the "
                        "index.")


def _refuse_an_unknown_format(name: str, quantised: str | None) -> None:
    """Refuse weights that transformers would take as plain numbers, since it does not know their format."""
    if quantised and quantised not in AUTO_QUANTIZER_MAPPING:
        raise UserError(f"The model {name} is quantised in a format that this version of transformers does not know "
                        f"({quantised}); give an unquantised checkpoint.")


# --- what went wrong while reading ------------------------------------------------------------------------------------


@contextmanager
def _refused_in_one_line(name: str, path: Path, quantised: str | None) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except UNREADABLE as error:
        damaged = _damaged_file(path)
        if damaged:
            raise UserError(f"The model {name} can't be loaded: its file {damaged}.") from error
        if quantised:
            raise UserError(f"The model {name} is quantised ({quantised}), and that can't be loaded here as asked "
                            f"({cause(error)}); give an unquantised checkpoint, leave dtype='auto', or install what is "
                            "missing.") from error
        if isinstance(error, ImportError):
            raise UserError(f"Loading {name} needs a package that is not installed ({cause(error)}); install "
                            "canopy-stats[generate].") from error
        raise _unreadable(name, error) from error


def _unreadable(name: str, error: BaseException) -> UserError:
    return UserError(f"The model {name} can't be loaded ({cause(error)}); give a transformers checkpoint folder, a "
                     ".gguf file, or the name of a causal language model on the hub.")


def _damaged_file(path: Path) -> str | None:
    """The first weights file of a folder that does not open, with what is wrong; nothing is unpickled."""
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else []
    for file in files:
        try:
            with safe_open(file, framework="pt"):
                pass
        except UNREADABLE:
            return f"{file.name} is empty, cut off or no safetensors file; copy or download it again"
    pickled = [] if files or not path.is_dir() else sorted(path.glob("*.bin"))
    if pickled and not (path / "model.safetensors.index.json").exists():
        return (f"{pickled[0].name} is cut off, or pickled with more than tensors in it, which is never run; give "
                "the weights as safetensors")
    return None


@contextmanager
def _quiet(local: bool) -> Iterator[None]:
    """Transformers draws a bar for every local load (only a download is worth one), and tables of what it passes over,
    which are judged here."""
    bars, verbosity = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    if local and bars:
        transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if local and bars:
            transformers_logging.enable_progress_bar()


@torch.inference_mode()
def _try_out(net: PreTrainedModel) -> None:
    """One pass of a quantised model, which loads in some types and on some devices without working there."""
    logits = net(input_ids=torch.zeros(1, 2, dtype=torch.long, device=net.device)).logits
    if not logits.isfinite().all():
        raise ValueError("its logits are not numbers")


# --- after it ---------------------------------------------------------------------------------------------------------


def _refuse_incomplete(name: str, architecture: str, found: dict[str, Any]) -> None:
    """Refuse a checkpoint whose tensors are not those of the model that its configuration describes."""
    if found["mismatched_keys"]:
        shapes = [f"{key} ({_shape(stored)} stored, {_shape(wanted)} by the configuration)"
                  for key, stored, wanted in found["mismatched_keys"]]
        raise UserError(f"The model {name} can't be loaded: it has {_counted(shapes)} of another shape than its "
                        f"config.json says: {listed(shapes)}. Correct the one or the other.")
    if found["missing_keys"]:
        raise UserError(f"The model {name} lacks {_counted(found['missing_keys'])} that {architecture} needs: "
                        f"{listed(found['missing_keys'])}. Nothing is drawn from random weights: complete the "
                        "checkpoint, or correct its config.json.")
    unknown = {key for key in found["unexpected_keys"]
               if not _BESIDE_THE_LANGUAGE_MODEL.search(key) and not _OLD_BUFFERS.search(key)}
    if unknown:
        raise UserError(f"The model {name} holds {_counted(unknown)} for which {architecture} has no place: "
                        f"{listed(unknown)}. Its config.json describes another model than its weights: correct it.")


def _counted(names: Collection[str]) -> str:
    return f"{len(names)} tensor{'s' * (len(names) != 1)}"


def _shape(sizes: Any) -> str:
    return " x ".join(map(str, sizes))
