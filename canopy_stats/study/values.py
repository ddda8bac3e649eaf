"""The kinds of values that a study is made of: names, paths, models, counts, and what each may hold."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo
from pydantic_core import PydanticCustomError

from canopy_stats.metrics.embedding.embedders import BUILT_IN

LONGEST_NAME, LONGEST_RUN = 100, 180
"""Bytes of a name, and of a run's folder name: file systems allow 255, and we add a little before and behind."""
ENGINES = ("torch", "vllm")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_DEVICE = re.compile(r"auto|cpu|(cuda|mps|xpu|hpu|npu)(:\d+)?")


class Record(BaseModel):
    """Unknown fields are refused, values keep their types, and nothing changes afterwards."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, arbitrary_types_allowed=True,
                              use_attribute_docstrings=True)


# --- kinds of values --------------------------------------------------------------------------------------------


def _named(value: str) -> str:
    """A name that may be a folder's: printable, without slashes, not too long."""
    if not value.strip() or value != value.strip() or "/" in value or "\\" in value or value in (".", ".."):
        raise PydanticCustomError("name", "a name without slashes")
    if _CONTROL.search(value):
        raise PydanticCustomError("name", "a name without control characters")
    if len(value.encode()) > LONGEST_NAME:
        raise PydanticCustomError("name", f"a name of at most {LONGEST_NAME} bytes")
    return value


def _as_text(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def folder_of(info: ValidationInfo) -> Path | None:
    """The folder of the study file that is being read; None for a study that is written in Python."""
    return (info.context or {}).get("folder")


def _file(given: str, info: ValidationInfo) -> str:
    """The path of a file that must be there."""
    folder = folder_of(info)
    if folder is None:
        return given
    path = _joined(folder, given)
    if not path.is_file():
        raise ValueError(f"is {given!r}, but there is no file {path}. Paths are relative to the study file")
    return str(path)


def _run_folder(given: str, info: ValidationInfo) -> str:
    """The folder of a stored run."""
    folder = folder_of(info)
    if folder is None:
        return given
    path = _joined(folder, given)
    if not (path / "manifest.json").is_file():
        raise ValueError(f"is {given!r}, but there is no run in {path} (no manifest.json). Paths are relative to the "
                         "study file")
    return str(path)


def _model_name(given: str, info: ValidationInfo) -> str:
    """A model: the path of one that is on the disk, or a hub name as it is."""
    folder = folder_of(info)
    if folder is None or given in BUILT_IN:
        return given
    path = _joined(folder, given)
    if path.exists():
        return str(path.resolve())
    if given.startswith((".", "/", "~")) or given.endswith(".gguf") or given.count("/") > 1:
        raise ValueError(f"is {given!r}, but there is nothing at {path}. Paths are relative to the study file; a hub "
                         "name is organisation/name")
    return given


def _joined(folder: Path, given: str) -> Path:
    if _CONTROL.search(given):
        raise PydanticCustomError("name", "a path without control characters")
    if len(given.encode()) > 4000 or any(len(part.encode()) > 255 for part in given.split("/")):
        raise PydanticCustomError("name", "a path as file systems allow it: at most 255 bytes between slashes")
    try:
        return folder / Path(given).expanduser()
    except RuntimeError:
        raise ValueError(f"is {given!r}, but there is no such user") from None


def model_or_object(value: Any, info: ValidationInfo) -> Any:
    """A model's name or path, or a loaded model; what YAML alone can make is neither."""
    if isinstance(value, (str, Path)):
        return _model_name(str(value), info)
    if value is None or isinstance(value, (bool, int, float, list, dict, bytes)):
        raise PydanticCustomError("string_type", "a text")
    return value


def engine_or_object(value: Any) -> Any:
    if value in ENGINES or (not isinstance(value, (str, bool, int, float, list, dict)) and value is not None):
        return value
    raise PydanticCustomError("name", f"one of {', '.join(map(repr, ENGINES))}")


def device_name(value: str) -> str:
    if not _DEVICE.fullmatch(value):
        raise PydanticCustomError("name", "'auto', 'cpu', 'mps', 'cuda' or 'cuda:N'")
    return value


def model_alone(value: Any) -> Any:
    """A model's name may stand for the mapping that holds nothing else."""
    return {"model": value} if isinstance(value, str) else value


def whole_or_auto(value: Any) -> Any:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise PydanticCustomError("name", "'auto' or a whole number of at least 1")


Name = Annotated[str, AfterValidator(_named)]
PlainText = Annotated[str, BeforeValidator(_as_text)]
FilePath = Annotated[PlainText, AfterValidator(_file)]
RunFolder = Annotated[PlainText, AfterValidator(_run_folder)]
ModelName = Annotated[PlainText, AfterValidator(_model_name)]
PositiveCount = Annotated[int, Field(ge=1, le=10**9)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


def shown(model: Any) -> str | None:
    """A hub name whole, a path by its last part, an object by its type."""
    if model is None:
        return None
    if not isinstance(model, (str, Path)):
        return type(model).__name__
    path = Path(model)
    return path.name if os.path.exists(path) or path.is_absolute() else str(model)
