"""Which embedder a name, a folder, a function or a model with settings means."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from canopy_stats import files
from canopy_stats.metrics import hashed
from canopy_stats.metrics.embedding.encoder import Encoder
from canopy_stats.metrics.embedding.models import from_folder, hub_folder, minilm_folder
from canopy_stats.schema import UserError


@dataclass(frozen=True, slots=True)
class Prompted:
    """A sentence-transformers model with an instruction that goes before each text, such as ``"clustering: "``, in a
    number format of its own ("float32", "bfloat16", "float16"; None: that of its checkpoint) and with a limit on the
    tokens of a text that it reads (None: that of its settings)."""

    model: str
    prompt: str = ""
    dtype: str | None = None
    max_tokens: int | None = None

    @property
    def suffix(self) -> str:
        """What tells it from the plain model, in words."""
        said = [f"prompt {self.prompt!r}"] if self.prompt else []
        said += [self.dtype] if self.dtype else []
        said += [f"{self.max_tokens} tokens"] if self.max_tokens else []
        return f" ({', '.join(said)})" if said else ""


EmbedderLike = str | Path | Prompted | Callable[[list[str]], Any]

BUILT_IN = ("minilm", "tfidf")
"""Embedders that are neither a folder nor a hub name."""
DTYPES = ("float32", "bfloat16", "float16")


def resolve(embedder: EmbedderLike) -> Encoder:
    """The embedder that a name, folder or function means; UserError where it means none."""
    if isinstance(embedder, Prompted):
        return _prompted(embedder)
    if callable(embedder):
        name = getattr(embedder, "__qualname__", type(embedder).__name__)
        return Encoder(None, embedder, name=f"function:{name}")
    if embedder == "tfidf":
        return Encoder(hashed.identity(), hashed.encode, name="tfidf")
    return from_folder(*_folder_and_name(embedder))


def _folder_and_name(embedder: str | Path) -> tuple[Path, str]:
    """Where a sentence-transformers model lies, and what it is called."""
    if embedder == "minilm":
        return minilm_folder(), "all-MiniLM-L6-v2"
    folder = files.place(embedder)
    if folder.is_dir():
        return folder, folder.resolve().name
    if _looks_like_a_hub_name(str(embedder)):
        return hub_folder(str(embedder)), str(embedder)
    raise UserError(f"There is no embedder {str(embedder)!r}. Give 'tfidf', 'minilm', an existing folder with a "
                    "sentence-transformers model, or a hub name written as organisation/name.")


def _prompted(asked: Prompted) -> Encoder:
    """A model with settings: all are part of its identity, an instruction also of the length that it reads."""
    if asked.model == "tfidf":
        raise UserError("The embedder 'tfidf' counts words and heeds no prompt, dtype or max_tokens: leave them out, "
                        "or name a model.")
    if asked.dtype not in (None, *DTYPES):
        raise UserError(f"The embedder's dtype is {asked.dtype!r}; it must be one of {', '.join(DTYPES)}.")
    folder, plain_name = _folder_and_name(asked.model)
    plain = from_folder(folder, plain_name, asked.dtype, asked.max_tokens)
    name = plain_name + asked.suffix
    given = {"prompt": asked.prompt, "dtype": asked.dtype}
    identity = {**(plain.identity or {}), "name": name, **{key: value for key, value in given.items() if value}}
    return Encoder(identity, partial(plain.encode, prompt=asked.prompt or None),
                   lambda distinct: plain.too_long([asked.prompt + text for text in distinct]), name)


def _looks_like_a_hub_name(name: str) -> bool:
    """organisation/name; anything else never reaches the network, so that a typo stays a typo."""
    parts = name.split("/")
    return len(parts) == 2 and all(parts) and parts[0][0] not in ".~" and "\\" not in name
