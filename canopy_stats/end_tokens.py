"""Where the end token stands among the model's tokens, step by step: what a run stores of it, and what it does not.

Stored is its probability under the law and before the filters. Whether it is among the k most likely follows from that
where top-k is the law's only filter; for other laws the rollouts are scored again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from canopy_stats.schema import SamplingPolicy, UserError

if TYPE_CHECKING:
    import pyarrow as pa

    from canopy_stats.store import Run

Pair = tuple[int, int]
TOP_K = 100
"""The paper's k."""


def own_top_k(policy: SamplingPolicy) -> int | None:
    """The law's k where top-k is its only filter: an end token has a chance under it exactly if it is among the k most
    likely (or tied with the k-th). Chances below 1e-45 of the likeliest token's look like none (float32)."""
    others = (policy.top_p or 1.0) < 1 or (policy.min_p or 0.0) > 0 or bool(policy.stop_strings)
    return None if others else policy.top_k


def end_in_top_k(run: Run | str | Path, k: int = TOP_K, *, model: Any = None, tokenizer: Any = None) -> pa.Table:
    """Whether an end token is among the k most likely at each step: a row a rollout, ``prompt_id``, ``rollout``,
    ``inside`` (N,). Ties at the k-th place are inside. Repetition penalty, minimum length and
    suppressed tokens act first.

    Follows from the stored steps where the law's only filter is this top-k; else every rollout is scored again (one
    forward pass each) by the model that the run names, or by ``model``. The table is kept in the run's folder.
    """
    from canopy_stats.store import open_run

    if type(k) is not int or k < 1:
        raise UserError(f"k is {k!r}; it must be a whole number of at least 1.")
    opened = open_run(run) if isinstance(run, (str, Path)) else run
    if (kept := opened.read_table(_name(k))) is not None:
        return kept[0]
    stored = own_top_k(opened.config.policy) == k
    steps = opened.steps(["stop_probability"]) if stored else _scored(opened, k, model, tokenizer)
    made = _by_rollout(opened, steps["stop_probability"].to_numpy() > 0)
    opened.write_table(_name(k), made, {"k": k, "by": "stored steps" if stored else "scored again"})
    return made


def _scored(run: Run, k: int, model: Any, tokenizer: Any) -> pa.Table:
    from canopy_stats.checks import at_hand
    from canopy_stats.runs import rescore

    source = at_hand(run, model, tokenizer)
    if source is None:
        raise UserError(f"{run.path} was drawn from a model object: pass it as model=, to score its rollouts "
                        "again.")
    law = replace(run.config.policy, top_k=k, top_p=None, min_p=None, stop_strings=())
    return rescore(source.model, run, policy=law, tokenizer=source.tokenizer, chat=source.chat, system=source.system,
                   enable_thinking=source.enable_thinking, template_kwargs=source.template_kwargs,
                   adapter=source.adapter, revision=source.revision, dtype=source.dtype)


def _by_rollout(run: Run, inside: NDArray[np.bool_]) -> pa.Table:
    import pyarrow as pa

    rows = run.rollouts(["prompt_id", "rollout", "length"])
    ends = np.cumsum(rows["length"].to_numpy())
    if len(inside) != ends[-1]:
        raise UserError(f"There are {len(inside)} scored steps for rollouts of {ends[-1]} tokens: give the model that "
                        "drew the run.")
    lists = pa.ListArray.from_arrays(pa.array(np.append(0, ends), pa.int32()), pa.array(inside))
    return rows.select(["prompt_id", "rollout"]).append_column("inside", lists)


def kept_top_k(run: Run) -> int | None:
    """The k of which the run can say at each step whether an end token is among the k most likely: that of its law, or
    the first that its folder keeps."""
    own = own_top_k(run.config.policy)
    kept = sorted(int(p.stem.removeprefix(_PREFIX)) for p in (run.path / "tables").glob(f"{_PREFIX}*.parquet"))
    return own if own is not None else next(iter(kept), None)


_PREFIX = "end-top-"


def _name(k: int) -> str:
    return f"{_PREFIX}{k}"


# --- matrices of some rollouts ----------------------------------------------------------------------------------


def by_length(run: Run, most: int) -> tuple[list[Pair], NDArray[np.int64]]:
    """At most ``most`` rollouts as (prompt index, rollout), from the shortest to the longest, evenly over the run's;
    and the lengths of all of them."""
    rows = run.rollouts(["rollout", "length"])
    length = rows["length"].to_numpy().astype(np.int64)
    order = np.argsort(length, kind="stable")
    chosen = order[np.unique(np.linspace(0, len(order) - 1, min(most, len(order))).round().astype(int))]
    rollout, prompt = rows["rollout"].to_numpy(), np.repeat(np.arange(len(run.counts)), run.counts)
    return [(int(prompt[i]), int(rollout[i])) for i in chosen], length


def logprob_matrix(run: Run, pairs: Sequence[Pair]) -> NDArray[np.float32]:
    """Log-probability of an end token (rows, longest), in nats, before top-k, top-p and min-p; NaN after the end."""
    steps = run.stored_steps(pairs, ["stop_probability_full_offpolicy"])
    with np.errstate(divide="ignore"):
        return _padded([np.log(steps[pair]["stop_probability_full_offpolicy"]) for pair in pairs])


def top_k_matrix(run: Run, pairs: Sequence[Pair], k: int) -> NDArray[np.float32]:
    """1 where an end token is among the k most likely and else 0 (rows, longest); NaN after the end."""
    if own_top_k(run.config.policy) == k:
        steps = run.stored_steps(pairs, ["stop_probability"])
        return _padded([steps[pair]["stop_probability"] > 0 for pair in pairs])
    inside, first = end_in_top_k(run, k)["inside"], np.cumsum(run.counts) - run.counts
    return _padded([np.array(inside[int(first[p]) + r].as_py()) for p, r in pairs])


def _padded(rows: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
    out = np.full((len(rows), max(map(len, rows))), np.nan, np.float32)
    for row, values in zip(out, rows, strict=True):
        row[:len(values)] = values
    return out
