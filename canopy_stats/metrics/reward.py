"""A reward model's opinion of each rollout, and the best of each prompt. torch is imported only when a model scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from importlib.util import find_spec
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from canopy_stats import files
from canopy_stats.metrics.subset import Selection
from canopy_stats.metrics.texts import prepare, with_openings
from canopy_stats.progress import Progress
from canopy_stats.schema import Column, UserError
from canopy_stats.store.kept import Kept

if TYPE_CHECKING:
    import pyarrow as pa

    from canopy_stats.store import Run

REWARD_COLUMNS = (
    Column("prompt_id", "string", "", "prompt within its task"),
    Column("rollout", "int32", "index", "rollout of the prompt, from 0"),
    Column("reward", "float64", "reward", "the reward model's output for prompt and rollout"),
    Column("truncated", "bool", "", "prompt and rollout are longer than the reward model reads; the end is left out"),
)

_UNLIMITED = 10**7
"""Tokenizers without a limit say 10^30."""


# ---------------------------------------------------------------------------------------------------- the best rollouts


def best_rollouts(model: Any, share: float = 0.7, **options: Any) -> Callable[[Run], Selection]:
    """For ``cs.panel(runs, rollouts=...)``: of each prompt of a run, the best ``share`` by a reward model.

    ``options`` are those of :func:`reward`.
    """
    return lambda run: keep_best(reward(run, model, **options), share)


def keep_best(rewards: pd.DataFrame, share: float = 0.7) -> Selection:
    """The ⌈share · M⌉ rollouts with the highest reward of each prompt, from the table that :func:`reward` gives.

    Among equal rewards the lower rollout index is kept: the index carries no information, since rollouts of a prompt
    are drawn alike.
    """
    if not 0 < share <= 1:
        raise UserError(f"share is {share!r}; it is above 0 and at most 1.")
    if not np.isfinite(rewards["reward"]).all():
        raise UserError("Some rewards are not numbers: score the run again in float32, or with another model.")
    order = rewards.sort_values(["reward", "rollout"], ascending=[False, True], kind="stable")
    rank = order.groupby("prompt_id", sort=False).cumcount().reindex(rewards.index)
    count = rewards.groupby("prompt_id")["reward"].transform("size")
    keep = count.map({m: ceil(Fraction(str(share)) * int(m)) for m in count.unique()})
    model = rewards.attrs.get("reward_model", "a reward model")
    return Selection((rank < keep).to_numpy(), f"best {100 * share:g}% by {model}")


# ------------------------------------------------------------------------------------------------------------ rewards


def reward(run: Run, model: Any, *, tokenizer: Any = None, think: str = "keep", max_length: int | None = None,
           batch_size: int = 16, dtype: str = "float32", device: str = "auto", progress: bool = True) -> pd.DataFrame:
    """Score each rollout of a run: one row per rollout in the run's order, in the columns of :data:`REWARD_COLUMNS`.

    Parameters
    ----------
    model : folder, hub name or loaded model
        Of a sequence classification with one output; a loaded one comes with its ``tokenizer``.
    think : "keep" or "drop"
        What becomes of the ``<think>`` part of the rollouts.
    max_length : int, optional
        Tokens that the model is given; None takes what its tokenizer and configuration allow.
    batch_size : int
        Texts per forward pass; 1 where the model's configuration has no padding token.

    Notes
    -----
    The model reads the prompt and the rollout's stripped text as a conversation in its tokenizer's chat template, or,
    without one, as the tokenizer's pair of texts. Equal texts are scored once, so that they tie exactly. The table is
    kept in the run's folder with the model's hash; ``attrs["reward_model"]`` names the model.
    """
    if find_spec("transformers") is None or find_spec("torch") is None:
        raise UserError("A reward model needs torch and transformers: install canopy-stats[generate].")
    for option, value in (("max_length", max_length), ("batch_size", batch_size)):
        if value is not None and (type(value) is not int or value < 1):
            raise UserError(f"{option} is {value!r}; it must be a whole number of at least 1.")
    scorer = _scorer(model, tokenizer, dtype, device)
    key = {**scorer.identity, "think": think, "max_length": max_length, "dtype": dtype}
    place = Kept(run, "reward", key, "reward")
    if (kept := place.read()) is not None:
        frame: pd.DataFrame = kept.to_pandas()
    else:
        frame = _scored(run, scorer.load(), think, max_length, batch_size, progress)
        place.write(_arrow(frame), "rewards")
    frame.attrs["reward_model"] = f"{key['name']}@{key['version']}"
    return frame


def _scored(run: Run, loaded: _RewardModel, think: str, max_length: int | None, batch_size: int,
            progress: bool) -> pd.DataFrame:
    """Part by part: each holds whole prompts, so that equal texts of a prompt meet; texts are held of one alone."""
    label = f"reward {run.config.family}/{run.config.variant}/{run.config.task}"
    sources = {p.prompt_id: p.source for p in run.prompts()}
    with Progress(label, run.n_stored, show=progress) as shown:
        scored = [_scored_part(part, sources, loaded, think, max_length, batch_size, shown) for part in run.parts()]
    return pd.concat(scored, ignore_index=True)


def _scored_part(part: Run, sources: Mapping[str, Any], loaded: _RewardModel, think: str, max_length: int | None,
                 batch_size: int, shown: Progress) -> pd.DataFrame:
    table = part.rollouts(["prompt_id", "rollout", "text"])
    ids, raw = table["prompt_id"].to_pylist(), table["text"].to_pylist()
    words = prepare(with_openings(part, raw, ids) if think == "drop" else raw, think)
    asked = list(zip(ids, words, strict=True))
    distinct = list(dict.fromkeys(asked))
    limit = max_length or loaded.longest
    encoded = [loaded.encode(sources[prompt_id], text, limit) for prompt_id, text in distinct]
    values = _in_batches(loaded, encoded, batch_size, shown)
    for _ in range(len(asked) - len(distinct)):
        shown.add(0)
    row = {pair: i for i, pair in enumerate(distinct)}
    rows = [row[pair] for pair in asked]
    return pd.DataFrame({"prompt_id": ids, "rollout": table["rollout"].to_numpy(), "reward": values[rows],
                         "truncated": [encoded[i].truncated for i in rows]})


def _in_batches(loaded: _RewardModel, encoded: Sequence[_Encoded], batch_size: int, shown: Progress) -> np.ndarray:
    """Rewards (n,), texts of similar length together."""
    values = np.empty(len(encoded))
    for batch in _batches([len(e.ids) for e in encoded], 1 if loaded.pad is None else batch_size):
        values[batch] = loaded.score([encoded[i] for i in batch])
        for i in batch:
            shown.add(len(encoded[i].ids))
    if not np.isfinite(values).all():
        raise UserError(f"The reward model gave {int((~np.isfinite(values)).sum())} rewards that are not numbers. Try "
                        "dtype='float32', and check its weights.")
    return values


def _batches(lengths: Sequence[int], size: int) -> Iterator[np.ndarray]:
    order = np.argsort(lengths, kind="stable")
    return (order[i:i + size] for i in range(0, len(order), size))


def _arrow(frame: pd.DataFrame) -> pa.Table:
    import pyarrow as pa

    return pa.Table.from_pandas(frame, preserve_index=False)


# ---------------------------------------------------------------------------------------------------------- the model


@dataclass(frozen=True, slots=True)
class _Scorer:
    """A reward model that may not be loaded yet. ``identity``: its name and version, and whatever else decides."""

    identity: dict[str, Any]
    load: Callable[[], _RewardModel]


@dataclass(frozen=True, slots=True)
class _Encoded:
    """One prompt with one rollout, as token ids."""

    ids: list[int]
    types: list[int] | None
    truncated: bool


@dataclass(frozen=True, slots=True)
class _RewardModel:
    """A model and its tokenizer; ``pad`` is the id that the model itself takes for padding, ``longest`` the tokens it
    reads."""

    model: Any
    tokenizer: Any
    pad: int | None
    longest: int | None

    def encode(self, source: Any, text: str, limit: int | None) -> _Encoded:
        if isinstance(source, list) and source and not isinstance(source[0], dict):
            raise UserError("The run's prompts are token ids; a reward model reads texts. Use a run with prompts in "
                            "words.")
        if getattr(self.tokenizer, "chat_template", None):
            return self._as_conversation(source, text, limit)
        return self._as_pair(source, text, limit)

    def _as_conversation(self, source: Any, text: str, limit: int | None) -> _Encoded:
        said = [{"role": "user", "content": source}] if isinstance(source, str) else list(source)
        try:
            ids = list(self.tokenizer.apply_chat_template([*said, {"role": "assistant", "content": text}],
                                                          tokenize=True, return_dict=True)["input_ids"])
        except Exception as error:  # templates are programs, and refuse in their own words
            raise UserError(f"The reward model's chat template refuses a prompt ({error}): use a reward model that "
                            "knows its roles.") from error
        return _Encoded(ids[:limit], None, limit is not None and len(ids) > limit)

    def _as_pair(self, source: Any, text: str, limit: int | None) -> _Encoded:
        """The tokenizer's pair of texts; where it is too long, the rollout's end is left out before the prompt's."""
        from canopy_stats.metrics.judging.comparisons import in_words

        prompt = in_words(source)
        made = self.tokenizer(prompt, text, verbose=False)
        over = False
        if limit is not None and len(made["input_ids"]) > limit:
            over = True
            room = len(self.tokenizer(prompt, "", verbose=False)["input_ids"]) < limit
            made = self.tokenizer(prompt, text, truncation="only_second" if room else "longest_first",
                                  max_length=limit)
        return _Encoded(list(made["input_ids"]), made.get("token_type_ids"), over)

    def score(self, batch: Sequence[_Encoded]) -> np.ndarray:
        """Rewards (n,) of one batch, padded on the right."""
        import torch

        width = max(len(e.ids) for e in batch)

        def padded(rows: Sequence[Sequence[int]], fill: int) -> Any:
            return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows], device=self.model.device)

        given = {"input_ids": padded([e.ids for e in batch], self.pad or 0),
                 "attention_mask": padded([[1] * len(e.ids) for e in batch], 0)}
        if batch[0].types is not None:
            given["token_type_ids"] = padded([e.types or [] for e in batch], 0)
        with torch.inference_mode():
            scores: np.ndarray = self.model(**given).logits[:, 0].float().cpu().numpy().astype(np.float64)
            return scores


def _scorer(model: Any, tokenizer: Any, dtype: str, device: str) -> _Scorer:
    if not isinstance(model, (str, Path)):
        return _scorer_in_memory(model, tokenizer)
    folder = files.place(model)
    if folder.is_dir():
        version = _folder_version(folder)
        return _Scorer({"name": folder.resolve().name, "version": version, "tokenizer": _named(tokenizer)},
                       lambda: _load(str(folder), version, tokenizer, dtype, device))
    loaded = _load(str(model), "hub", tokenizer, dtype, device)
    commit = str(getattr(loaded.model.config, "_commit_hash", None) or "unknown")
    return _Scorer({"name": str(model), "version": commit[:12], "tokenizer": _named(tokenizer)}, lambda: loaded)


def _scorer_in_memory(model: Any, tokenizer: Any) -> _Scorer:
    from canopy_stats.generation.provenance import tensors_sha256

    if tokenizer is None or isinstance(tokenizer, (str, Path)) or not hasattr(model, "config"):
        raise UserError("A loaded reward model needs its loaded tokenizer beside it: reward(run, model, "
                        "tokenizer=tokenizer); or give the model's folder or hub name.")
    words = files.sha256(tokenizer.backend_tokenizer.to_str().encode(), str(tokenizer.chat_template).encode())
    return _Scorer({"name": type(model).__name__, "version": tensors_sha256(model)[:12], "tokenizer": words[:12]},
                   lambda: _ready(model.eval(), tokenizer))


def _named(tokenizer: Any) -> str | None:
    if tokenizer is None or isinstance(tokenizer, (str, Path)):
        return None if tokenizer is None else str(tokenizer)
    raise UserError("Give a loaded tokenizer only with a loaded reward model; with a folder or hub name, its name.")


def _folder_version(folder: Path) -> str:
    """12 digits of the SHA-256 over everything in a model's folder that decides its rewards."""
    return files.model_sha256(folder)[:12]


@lru_cache(maxsize=1)
def _load(name: str, version: str, tokenizer: str | Path | None, dtype: str, device: str) -> _RewardModel:
    """The model, read once for all runs of a panel. ``version`` makes a changed folder another model."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from canopy_stats.generation.checkpoint import UNREADABLE, cause, listed

    where = torch.device("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else torch.device(device)
    if dtype not in ("float32", "bfloat16", "float16"):
        raise UserError(f"There is no dtype {dtype!r}; use 'float32', 'bfloat16' or 'float16'.")
    try:
        net, found = AutoModelForSequenceClassification.from_pretrained(
            name, dtype=getattr(torch, dtype), trust_remote_code=False, output_loading_info=True,
            ignore_mismatched_sizes=True)
        words = AutoTokenizer.from_pretrained(str(tokenizer or name), trust_remote_code=False)
    except UNREADABLE as error:
        raise UserError(f"The reward model {name} can't be loaded ({cause(error)}); give the folder or hub name of a "
                        "transformers sequence-classification model.") from error
    lacking = {*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])}
    if lacking and net.config.num_labels == 1:
        raise UserError(f"The reward model {name} lacks tensors that its config.json names ({listed(lacking)}); "
                        "nothing is scored with random weights: copy it whole.")
    return _ready(net.to(where).eval(), words)


def _ready(model: Any, tokenizer: Any) -> _RewardModel:
    if model.config.num_labels != 1:
        raise UserError(f"{type(model).__name__} has {model.config.num_labels} outputs; a reward model has one. (A "
                        "checkpoint without a scoring head is no reward model.)")
    config = model.config.get_text_config()
    limits = [getattr(config, "max_position_embeddings", None), getattr(tokenizer, "model_max_length", None)]
    known = [limit for limit in limits if limit and limit < _UNLIMITED]
    return _RewardModel(model, tokenizer, config.pad_token_id, min(known, default=None))
