"""From a model and prompts to a stored run, and the terms of given rollouts under another model or law."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from canopy_stats.drawing import (
    AskedRun,
    begin,
    draw_shards,
    drift_stamp,
    encoded_prompts,
    load_engine_by_name,
    ready_engine,
    redraws,
    refuse_long_prompts,
    writer_of,
)
from canopy_stats.drift import measure_drift
from canopy_stats.files import canonical_json, place
from canopy_stats.progress import Progress
from canopy_stats.schema import (
    LENGTH,
    STEP_TERMS,
    STOP,
    Caution,
    Engine,
    ModelSource,
    Prompt,
    Rollout,
    RunConfig,
    SamplingPolicy,
    UserError,
)
from canopy_stats.seeds import checked_seed
from canopy_stats.store import Run, RunWriter, step_table, stored_config

DRIFT_TOKENS = 512


def generate(
    model: Any,
    prompts: Any,
    out: str | Path,
    *,
    family: str,
    variant: str,
    task: str,
    n_rollouts: int = 100,
    policy: SamplingPolicy | None = None,
    seed: int = 0,
    engine: str | Engine = "torch",
    engine_options: Mapping[str, Any] | None = None,
    tokenizer: Any = None,
    chat: bool | str | None = None,
    system: str | None = None,
    enable_thinking: bool | None = None,
    template_kwargs: Mapping[str, Any] | None = None,
    adapter: str | Path | None = None,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    batch_size: int | str = "auto",
    drift_tokens: int = DRIFT_TOKENS,
    strict: bool = False,
    progress: bool = True,
) -> Run:
    """Draw ``n_rollouts`` rollouts of each prompt with their exact entropy terms, and store them in the folder ``out``.

    An interrupted call resumes: shards that are intact stay, the others are drawn anew, and the content is that of an
    uninterrupted run. A stored run may grow by more rollouts or more prompts: what is drawn stays, and the content is
    that of a run drawn at once. On a CPU the torch engine draws blocks of 32 rollouts that were not full again, since
    the batch decides the last bits of the terms. Another model, law, seed or template, fewer rollouts, and a prompt
    that was edited or is gone are refused by name.

    Parameters
    ----------
    model : str, path or transformers model
        Hub name, folder, GGUF file, or a loaded causal language model.
    prompts : path or list
        JSONL file with a ``prompt`` key on each line, or a list of strings, chat message lists, or token id lists.
    family, variant, task : str
        Names for the panel: which models belong together, which checkpoint this is, what the prompts ask.
    n_rollouts : int
        Rollouts of each prompt; at least 2, because every metric compares rollouts of one prompt.
    engine : "torch", "vllm" or an Engine
        What draws. vLLM draws the same tokens at a higher rate (docs/engines.md); it needs the extra ``vllm``.
    engine_options : mapping, optional
        For vLLM's EngineArgs, such as ``{"tensor_parallel_size": 2}``; for torch ``mix_shards`` and ``compile``
        (docs/engines.md). They decide no law.
    chat : bool or "rendered-text", optional
        Whether the chat template is applied; None means for every variant but ``base``.
    template_kwargs : mapping, optional
        Arguments of the chat template. They, ``tokenizer``, ``system``, ``enable_thinking``, ``adapter``, ``revision``,
        ``dtype`` and ``device`` are those of :class:`canopy_stats.schema.ModelSource`.
    batch_size : int or "auto"
        Rollouts decoded at once. It decides the rounding, and "auto" goes on with that of a stored run.
    drift_tokens : int
        Tokens drawn again at other batch sizes when the run is complete, and of each place (hardware, versions,
        threads) where a part of the run was drawn; the flips are stamped on it. 0 skips it.
    strict : bool
        Refuse to go on with a run that was begun on other hardware, threads, versions, batch size or code.
    """
    _refuse_few_rollouts(n_rollouts)
    seed, out = checked_seed(seed), place(out)
    policy = policy or SamplingPolicy()
    source = ModelSource(model, tokenizer, adapter, revision, chat, system, enable_thinking, template_kwargs or {},
                         dtype, device)
    asked = AskedRun(family, variant, task, int(n_rollouts), policy, seed)
    with ready_engine(engine, source, variant, engine_options) as engine:
        begun = begin(engine, encoded_prompts(prompts, engine), asked, batch_size, stored_config(out))
        for line in begun.config.model.get("cautions", ()):
            warnings.warn(line, Caution, stacklevel=2)
        with writer_of(out, begun, source, strict=strict) as writer:
            _draw_missing(writer, engine, begun.config, progress)
            if not writer.finished:
                run = writer.run()
                found = [(one, measure_drift(run, engine, one.pairs, one.batch_size))
                         for one in redraws(run, drift_tokens, writer.here)]
                writer.finish(drift_stamp(run, found), getattr(engine, "tally", dict)())
            return writer.run()


def _refuse_few_rollouts(n_rollouts: int) -> None:
    if n_rollouts < 2:
        raise UserError(f"n_rollouts is {n_rollouts}; at least 2 rollouts a prompt are needed, because diversity, "
                        "covariance and correlation compare rollouts of one prompt (the paper draws 100).")


def _draw_missing(writer: RunWriter, engine: Engine, config: RunConfig, show: bool) -> None:
    total, missing = len(writer.prompts) * config.n_rollouts, writer.missing
    stored = total - sum(len(shard.pairs) for shard in missing)
    blocks = [(writer.shard_prompts(shard), shard) for shard in missing]
    with Progress(f"{config.family}/{config.variant}/{config.task}", total, stored, show=show) as bar:
        for number, tables, used in draw_shards(engine, blocks, config, bar.add):
            writer.write_tables(missing[number], tables, batch_size=used)


def rescore(
    model: Any,
    run_or_texts: Run | Sequence[Sequence[str | Sequence[int]]],
    prompts: Any = None,
    *,
    policy: SamplingPolicy | None = None,
    by: str = "tokens",
    variant: str | None = None,
    tokenizer: Any = None,
    chat: bool | str | None = None,
    system: str | None = None,
    enable_thinking: bool | None = None,
    template_kwargs: Mapping[str, Any] | None = None,
    adapter: str | Path | None = None,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
) -> pa.Table:
    """The terms of given rollouts under another model or law: a table with the columns of schema.STEP_COLUMNS.

    These terms are **off-policy** unless model and law are those that drew the rollouts: their means are no canopy
    entropy, and S - H has no mean of zero. The table's metadata (``canopy_stats``) says so. A token that the law
    cannot draw has log-probability minus infinity.

    Parameters
    ----------
    run_or_texts : Run, or a list with the rollouts of each prompt
        A rollout is a text or a list of token ids; texts need ``prompts``, one for each list.
    policy : SamplingPolicy, optional
        The law to score under; None means the run's, or plain sampling for texts.
    by : "tokens" or "text"
        How a run's rollouts are read: by their stored ids, which the model's tokenizer must decode to the stored
        texts, or by their texts tokenised anew (an end token follows where the rollout had drawn one).
    variant : str, optional
        With ``chat`` None the prompts go through the chat template unless this is ``base``; None means the run's.
    """
    run = run_or_texts if isinstance(run_or_texts, Run) else None
    law = policy or (run.config.policy if run else SamplingPolicy())
    source = ModelSource(model, tokenizer, adapter, revision, chat, system, enable_thinking, template_kwargs or {},
                         dtype, device)
    engine = load_engine_by_name("torch", source, variant or (run.config.variant if run else "base"))
    given = [p.source for p in run.prompts()] if run else prompts
    encoded = encoded_prompts(given, engine)
    if run:
        encoded = [replace(p, prompt_id=old.prompt_id) for p, old in zip(encoded, run.prompts(), strict=True)]
        rollouts = _rollouts_of(run, engine, by)
    else:
        rollouts = _given_rollouts(run_or_texts, engine, len(encoded))
    table = step_table([_scored(engine, encoded[i], i, r, ids, law) for i, r, ids in rollouts], encoded)
    note = {"off_policy": not (run and _same_law(run, engine, law)), "law": law.label(),
            "model": engine.describe().get("model"), "drawn_by": run.run_id if run else "given rollouts"}
    return table.replace_schema_metadata({"canopy_stats": canonical_json(note)})


def _rollouts_of(run: Run, engine: Any, by: str) -> Iterator[tuple[int, int, list[int]]]:
    """(prompt index, rollout, token ids) of a run's rollouts, as the scoring model reads them."""
    if by not in ("tokens", "text"):
        raise UserError(f"by is {by!r}; choose 'tokens' (the stored ids) or 'text' (tokenised anew).")
    rows = run.rollouts(["prompt_id", "rollout", "token_ids", "text", "finish_reason"]).to_pylist()
    position = {p.prompt_id: i for i, p in enumerate(run.prompts())}
    # An end token is no part of the text; a token that completed a stop string is.
    ends = run.config.model.get("end_token_ids")
    for row in rows:
        if by == "tokens" and engine.decode(row["token_ids"]) != row["text"]:
            raise UserError("The model's tokenizer reads the stored token ids as other texts than the run holds; pass "
                            "by='text' to tokenise the texts anew.")
        ended = row["finish_reason"] == STOP and (ends is None or row["token_ids"][-1] in ends)
        ids = row["token_ids"] if by == "tokens" else _tokenised(engine, row["text"], ended)
        if ids:
            yield position[row["prompt_id"]], row["rollout"], ids


def _given_rollouts(texts: Any, engine: Any, n_prompts: int) -> Iterator[tuple[int, int, list[int]]]:
    if len(texts) != n_prompts:
        raise UserError(f"There are rollouts for {len(texts)} prompts, and {n_prompts} prompts; give one list of "
                        "rollouts for each prompt.")
    for i, of_prompt in enumerate(texts):
        for r, rollout in enumerate(of_prompt):
            ids = _tokenised(engine, rollout, False) if isinstance(rollout, str) else [int(t) for t in rollout]
            if ids:
                yield i, r, ids


def _tokenised(engine: Any, text: str, ended: bool) -> list[int]:
    """A rollout's text as token ids, without special tokens of the tokenizer's own; the end token where it ended."""
    if engine.tokenizer is None:
        raise UserError("Texts can only be scored by a model with a tokenizer; give one with tokenizer=, or give the "
                        "rollouts as lists of token ids.")
    ids = list(engine.tokenizer(text, add_special_tokens=False)["input_ids"])
    return [*ids, _end_id(engine)] if ended else ids


def _end_id(engine: Any) -> int:
    own, ends = engine.tokenizer.eos_token_id, engine.end_ids
    return int(own if own in ends else ends[0])


def _scored(engine: Any, prompt: Prompt, index: int, rollout: int, ids: Sequence[int], law: SamplingPolicy) -> Rollout:
    from canopy_stats.generation.plain import score

    refuse_long_prompts([prompt], engine, replace(law, max_new_tokens=len(ids), min_new_tokens=0))
    endings = engine.endings(law)
    terms = score(engine.model, prompt.token_ids, ids, endings, law, one_shot=engine.decoder.one_shot)
    reason = STOP if endings.ended([*prompt.token_ids, *ids[:-1]], ids[-1]) else LENGTH
    return Rollout(index, rollout, np.array(ids, dtype=np.int32), reason, dict(zip(STEP_TERMS, terms.T, strict=True)))


def _same_law(run: Run, engine: Any, law: SamplingPolicy) -> bool:
    """Whether the run was drawn from this very model and law."""
    described, drawn = engine.describe(), run.config.model
    same_model = all(described.get(k) == drawn.get(k) for k in ("weights_sha256", "revision", "adapter_sha256", "chat"))
    return same_model and law == run.config.policy
