"""The text of each token of a run, by the tokenizer of the model that the run names. Torch is not needed for it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from canopy_stats.store import Run

PROBED = 16
"""Rollouts whose stored texts a tokenizer must reproduce before it is believed."""


@dataclass(frozen=True, slots=True)
class Reader:
    """``split`` gives each token's share of a rollout's text; ``special`` are the ids that are no text."""

    split: Callable[[Sequence[int]], list[str]] = field(repr=False)
    special: frozenset[int] = frozenset()


def reader(run: Run) -> Reader | None:
    """How to read the run's tokens; None where no tokenizer is at hand that gives its stored texts."""
    ends = frozenset(int(i) for i in run.config.model.get("end_token_ids", ()))
    if run.config.model.get("tokenizer", "unknown") is None:
        return Reader(lambda ids: [f"{i} " for i in ids], ends)
    tokenizer = _tokenizer(run.manifest.get("origin", {}))
    if tokenizer is None:
        return None
    special = ends | {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    found = Reader(lambda ids: split(tokenizer, ids, special), special)
    return found if _agrees(found, run) else None


def split(tokenizer: Any, ids: Sequence[int], special: Collection[int] = ()) -> list[str]:
    """Each token's share of the text of ``ids``; ``special`` tokens, which are no part of it, by their names.

    A character of several tokens belongs to the one that completes it; joined, the shares are the whole text.
    """
    text = iter(_shares(tokenizer, [int(i) for i in ids if int(i) not in special]))
    return [tokenizer.id_to_token(int(i)) or f"⟨{i}⟩" if int(i) in special else next(text) for i in ids]


def _shares(tokenizer: Any, ids: list[int]) -> list[str]:
    from tokenizers.decoders import DecodeStream

    stream = DecodeStream(skip_special_tokens=False)
    shares = [stream.step(tokenizer, i) or "" for i in ids]
    whole = tokenizer.decode(ids, skip_special_tokens=False)
    if shares and whole.startswith(joined := "".join(shares)):
        shares[-1] += whole[len(joined):]  # bytes of a character that the end cut off
    return shares


def _agrees(found: Reader, run: Run) -> bool:
    rows = next(run.parts()).rollouts(["token_ids", "text"]).slice(0, PROBED).to_pylist()
    return all(text_of(found, row["token_ids"]) == row["text"] for row in rows)


def text_of(found: Reader, ids: Sequence[int]) -> str:
    """The text of a rollout without its special tokens."""
    return "".join(piece for i, piece in zip(ids, found.split(ids), strict=True) if i not in found.special)


# --- where the tokenizer lies -----------------------------------------------------------------------------------


def _tokenizer(origin: dict[str, Any]) -> Any:
    """The tokenizer of a run's model: a folder's or cached hub model's tokenizer.json, or what a GGUF file holds."""
    named = origin.get("tokenizer") or origin.get("model")
    return None if named is None else _loaded(str(named), origin.get("revision"))


@lru_cache(maxsize=32)
def _loaded(named: str, revision: str | None) -> Any:
    """Kept, because the runs of one model follow each other and a GGUF file takes seconds to read."""
    try:
        if named.endswith(".gguf"):
            return _of_gguf(Path(named))
        file = Path(named).expanduser() / "tokenizer.json"
        found = file if file.is_file() else _cached(named, revision)
        if found is None:
            return None
        from tokenizers import Tokenizer

        return Tokenizer.from_file(str(found))
    # tokenizers raises plain Exception for a file that it cannot read
    except Exception:
        return None


def _cached(name: str, revision: str | None) -> Path | None:
    """tokenizer.json of a hub model, if the local cache has it."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, "tokenizer.json", revision=revision)
    return Path(found) if isinstance(found, str) else None


_CONTROL = 3
"""GGUF's type of a token that is no text."""


def _of_gguf(path: Path) -> Any:
    """A tokenizer that decodes as the GGUF file's own does; None for a kind that is not known here."""
    from gguf import GGUFReader
    from tokenizers import AddedToken, Tokenizer, decoders, models

    fields = GGUFReader(path).fields
    kind = bytes(fields["tokenizer.ggml.model"].parts[-1]).decode()
    texts = [bytes(fields["tokenizer.ggml.tokens"].parts[i]).decode() for i in fields["tokenizer.ggml.tokens"].data]
    kinds = [int(fields["tokenizer.ggml.token_type"].parts[i][0]) for i in fields["tokenizer.ggml.token_type"].data]
    known = {"gpt2": decoders.ByteLevel(), "llama": decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])}
    if kind not in known:
        return None
    tokenizer = Tokenizer(models.BPE(vocab={text: i for i, text in enumerate(texts)}, merges=[]))
    tokenizer.decoder = known[kind]
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t, k in zip(texts, kinds, strict=True)
                                  if k == _CONTROL])
    return tokenizer
