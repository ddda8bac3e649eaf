"""From a model and prompts to a stored run, and the terms of given rollouts under another model or law."""

from __future__ import annotations

import hashlib
import platform
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from canopy_stats import __version__
from canopy_stats.drift import BATCH_SIZES, choose_rollouts, measure_drift
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
    RunKey,
    SamplingPolicy,
    UserError,
)
from canopy_stats.seeds import checked_seed
from canopy_stats.store import (
    Run,
    RunWriter,
    ShardPlan,
    ShardTables,
    prompts_hash,
    shard_tables,
    step_table,
    stored_config,
)

DRIFT_TOKENS = 512
BATCH_SIZE = 32
"""What "auto" means for an engine that suggests nothing."""
_RECORDED = ("torch", "transformers", "tokenizers", "peft", "gguf", "numpy", "pyarrow")


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
        For vLLM's EngineArgs, such as ``{"tensor_parallel_size": 2}``. They decide no law.
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
    with _ready(engine, source, variant, engine_options) as engine:
        encoded = encoded_prompts(prompts, engine)
        _refuse_long_prompts(encoded, engine, policy)
        size = _batch_size(batch_size, engine, encoded, policy, out)
        config = RunConfig(family=family, variant=variant, task=task, n_rollouts=int(n_rollouts), seed=seed,
                           policy=policy, engine=engine.name, batch_size=size, prompts_hash=prompts_hash(encoded),
                           model=engine.describe(), code_version=code_version())
        for line in config.model.get("cautions", ()):
            warnings.warn(line, Caution, stacklevel=2)
        with RunWriter(out, config, encoded, versions=versions(), origin=source.origin, strict=strict,
                       whole=getattr(engine, "batch_decides_bits", False)) as writer:
            _draw_missing(writer, engine, config, progress)
            if not writer.finished:
                drift = _drift_stamp(writer.run(), engine, drift_tokens, writer.here)
                writer.finish(drift, getattr(engine, "tally", dict)())
            return writer.run()


def _refuse_few_rollouts(n_rollouts: int) -> None:
    if n_rollouts < 2:
        raise UserError(f"n_rollouts is {n_rollouts}; at least 2 rollouts a prompt are needed, because diversity, "
                        "covariance and correlation compare rollouts of one prompt (the paper draws 100).")


@contextmanager
def _ready(engine: str | Engine, source: ModelSource, variant: str,
           options: Mapping[str, Any] | None) -> Iterator[Engine]:
    """An engine that was given, or one by its name, which lasts no longer than this."""
    if not isinstance(engine, str):
        if options:
            raise UserError("engine_options are for an engine by name; set them where the engine is made.")
        yield engine
        return
    made = _load_engine(engine, source, variant, options)
    try:
        yield made
    finally:
        getattr(made, "close", lambda: None)()


def _load_engine(name: str, source: ModelSource, variant: str, options: Mapping[str, Any] | None = None) -> Engine:
    if name == "vllm":
        found = find_spec("vllm")
        if found is None or found.origin is None:  # a folder of this name is no package
            raise UserError("engine='vllm' needs vLLM, in an environment of its own: pip install 'canopy-stats[vllm]' "
                            "-c constraints-vllm.txt (docs/engines.md).")
        from canopy_stats.generation.vllm.engine import load_engine as load_vllm

        return load_vllm(source, variant=variant, options=options)
    if name != "torch":
        raise UserError(f"There is no engine {name!r}. Use 'torch' or 'vllm', or pass an object with the Engine "
                        "methods.")
    if options:
        raise UserError(f"engine_options ({', '.join(options)}) are for engine='vllm'; leave them out.")
    from canopy_stats.generation.torch_engine import load_engine

    return load_engine(source, variant=variant)


def encoded_prompts(prompts: Any, engine: Engine) -> list[Prompt]:
    """A prompt file or list as the model receives it."""
    from canopy_stats.generation.prompt_file import prompt_hash, read_prompts

    return [Prompt(prompt_id, prompt_hash(source), source, engine.encode(source))
            for prompt_id, source in read_prompts(prompts)]


def _refuse_long_prompts(prompts: Sequence[Prompt], engine: Any, policy: SamplingPolicy) -> None:
    """Look at all prompts before the first is drawn, where the engine knows of a limit."""
    if hasattr(engine, "check_length"):
        for prompt in prompts:
            engine.check_length(prompt, policy)


def _batch_size(asked: int | str, engine: Engine, prompts: Sequence[Prompt], policy: SamplingPolicy,
                out: str | Path) -> int:
    if asked == "auto":
        # What fits may differ from day to day; a run goes on with the batch size that it began with.
        stored = stored_config(Path(out))
        suggest = getattr(engine, "suggest_batch_size", lambda prompts, policy: BATCH_SIZE)
        return stored["batch_size"] if stored else suggest(prompts, policy)
    if isinstance(asked, str) or asked < 1:
        raise UserError(f"batch_size is {asked!r}; it must be 'auto' or a whole number of at least 1.")
    return int(asked)


def _draw_missing(writer: RunWriter, engine: Engine, config: RunConfig, show: bool) -> None:
    total, missing = len(writer.prompts) * config.n_rollouts, writer.missing
    stored = total - sum(len(shard.pairs) for shard in missing)
    with Progress(f"{config.family}/{config.variant}/{config.task}", total, stored, show=show) as bar:
        draw = _draw_mixed if getattr(engine, "mixes_shards", False) else _draw_apart
        for shard, tables, used in draw(writer, engine, missing, config, bar):
            writer.write_tables(shard, tables, batch_size=used)


Drawn = Iterator[tuple[ShardPlan, ShardTables, int]]


def _draw_apart(writer: RunWriter, engine: Engine, missing: Sequence[ShardPlan], config: RunConfig,
                bar: Progress) -> Drawn:
    """One shard after the other."""
    for shard in missing:
        yield shard, *draw_shard(engine, writer.shard_prompts(shard), shard, config, bar)


def _draw_mixed(writer: RunWriter, engine: Any, missing: Sequence[ShardPlan], config: RunConfig,
                bar: Progress) -> Drawn:
    """Several shards at a time, each as soon as it is whole, by an engine that does not wait for a shard's tail."""
    key = RunKey(config.seed, config.family, config.variant)
    asked = ((writer.shard_prompts(shard), shard.pairs) for shard in missing)
    for number, drawn in engine.sample_shards(asked, config.policy, key, config.batch_size):
        shard = missing[number]
        rollouts = _all_of(shard.pairs, _counted(iter(drawn), bar))
        tables = shard_tables(writer.shard_prompts(shard), rollouts, config.task, engine.decode)
        yield shard, tables, engine.batch_size_used or config.batch_size


def draw_shard(engine: Engine, prompts: Sequence[Prompt], shard: ShardPlan, config: RunConfig,
               bar: Progress | None = None) -> tuple[ShardTables, int]:
    """One shard of a run, drawn here: its tables, for whoever holds the run's writer, and the batch size really used.

    ``prompts`` are the shard's own. It depends on these arguments alone, and may be called in any process.
    """
    key = RunKey(config.seed, config.family, config.variant)
    drawn = engine.sample(prompts, shard.pairs, config.policy, key, config.batch_size)
    rollouts = _all_of(shard.pairs, drawn if bar is None else _counted(drawn, bar))
    tables = shard_tables(prompts, rollouts, config.task, engine.decode)
    return tables, getattr(engine, "batch_size_used", None) or config.batch_size


def _counted(drawn: Iterator[Rollout], bar: Progress) -> Iterator[Rollout]:
    for rollout in drawn:
        bar.add(len(rollout.token_ids))
        yield rollout


def _all_of(pairs: Sequence[tuple[int, int]], drawn: Iterator[Rollout]) -> list[Rollout]:
    """The rollouts, after making sure that the engine gave each one that was asked for, once."""
    rollouts = list(drawn)
    if sorted((r.prompt_index, r.rollout) for r in rollouts) != sorted(pairs):
        raise RuntimeError("the engine did not return every rollout of the shard exactly once")
    return rollouts


def _drift_stamp(run: Run, engine: Engine, tokens: int, here: str) -> dict[str, Any] | None:
    """What changes when some rollouts are drawn again at other batch sizes, and those that were drawn ``elsewhere`` in
    the surroundings of today; None when that was not asked for."""
    if tokens <= 0:
        return None
    pairs = choose_rollouts(run, tokens, seed=run.config.seed)
    sizes = [b for b in BATCH_SIZES if b != run.config.batch_size]
    stamp = {"batch_size": run.config.batch_size,
             "redrawn": [measure_drift(run, engine, pairs, b).to_dict() for b in sizes]}
    others = sorted({s.get("surroundings", "") for s in run.shards} - {here})
    if others:
        stamp["elsewhere"] = {name: _drift_of(run, engine, tokens, name) for name in others}
    return stamp


def _drift_of(run: Run, engine: Engine, tokens: int, surroundings: str) -> dict[str, Any]:
    """Some rollouts that were drawn in these surroundings, drawn again here."""
    numbers = {s["number"] for s in run.shards if s.get("surroundings", "") == surroundings}
    pairs = choose_rollouts(run, tokens, run.config.seed, numbers)
    return measure_drift(run, engine, pairs, run.config.batch_size).to_dict()


def code_version() -> str:
    """The package's version and a hash of the sources that decide what is drawn and which terms are stored."""
    only_looking = ("plain.py", "reference.py")
    sources = sorted(p for p in (Path(__file__).parent / "generation").rglob("*.py") if p.name not in only_looking)
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    return f"{__version__}+{digest[:12]}"


def versions() -> dict[str, str]:
    """Versions of Python and of the packages behind a run, as far as they are installed."""
    found = {"canopy_stats": __version__, "python": platform.python_version(), "platform": platform.platform()}
    for name in _RECORDED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


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
    engine = _load_engine("torch", source, variant or (run.config.variant if run else "base"))
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

    _refuse_long_prompts([prompt], engine, replace(law, max_new_tokens=len(ids), min_new_tokens=0))
    endings = engine.endings(law)
    terms = score(engine.model, prompt.token_ids, ids, endings, law, one_shot=engine.decoder.one_shot)
    reason = STOP if endings.ended([*prompt.token_ids, *ids[:-1]], ids[-1]) else LENGTH
    return Rollout(index, rollout, np.array(ids, dtype=np.int32), reason, dict(zip(STEP_TERMS, terms.T, strict=True)))


def _same_law(run: Run, engine: Any, law: SamplingPolicy) -> bool:
    """Whether the run was drawn from this very model and law."""
    described, drawn = engine.describe(), run.config.model
    same_model = all(described.get(k) == drawn.get(k) for k in ("weights_sha256", "revision", "adapter_sha256", "chat"))
    return same_model and law == run.config.policy
