"""Texts cut at a smaller length cap: only those that are longer are decoded again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from canopy_stats import files
from canopy_stats.schema import UserError

if TYPE_CHECKING:
    from canopy_stats.store import Run

Decode = Callable[[Sequence[int]], str]


def cut_texts(run: Run, cap: int, decode: Decode | None = None) -> list[str]:
    """Each rollout's text (R,) cut after ``cap`` tokens; only those that are longer are decoded again."""
    table = run.rollouts(["length", "token_ids", "text"])
    longer = table["length"].to_numpy() > cap
    if longer.any() and decode is None:
        decode = stored_decoder(run)
    ids, whole = table["token_ids"], table["text"].to_pylist()
    return [decode(ids[i].as_py()[:cap]) if decode and longer[i] else whole[i] for i in range(len(whole))]


def stored_decoder(run: Run) -> Decode:
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
