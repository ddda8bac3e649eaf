"""Completions that somebody has already drawn, to a stored run: with their model every term, without it what is known.
"""

from __future__ import annotations

import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from canopy_stats.doors.arguments import check_law, check_names, check_whole
from canopy_stats.doors.sources import records
from canopy_stats.doors.staging import Staged
from canopy_stats.doors.validate import Completion, Validator
from canopy_stats.doors.words import Words, words_of
from canopy_stats.drawing import code_version, versions
from canopy_stats.progress import Progress
from canopy_stats.schema import (
    EXACT,
    IMPORTED,
    INTERVAL,
    MISSING,
    STEP_TERMS,
    Caution,
    ModelSource,
    Prompt,
    Rollout,
    RunConfig,
    SamplingPolicy,
)
from canopy_stats.schema.problems import require
from canopy_stats.store import Run, RunWriter, ShardPlan, prompts_hash

_BATCH = 32
_SAID = {
    "tokenised": "{n} completions came as texts and were tokenised: these may not be the tokens that were drawn.",
    "untold": "{n} completions came with log-probabilities and without token ids: ids are stored as unknown (-1).",
    "unsaid": "{n} completions do not say how they ended; those with an end token and texts below the cap are read "
              "as stopped, the others as cut.",
    "end added": "{n} completions that stopped were logged without their end token; it was put there.",
    "end at the cap": "{n} completions were logged as cut and end with an end token: they are read as stopped.",
    "cut": "{n} completions went on after their end token and were cut there.",
    "other text": "{n} completions have token ids that this tokenizer reads as another text than the logged one.",
    "no text": "{n} completions have neither a text nor a tokenizer that reads their token ids: the ids stand in its "
               "place, and D and Vendi are those of ids. Give tokenizer=.",
    "likeliest alone": "{n} completions have top_logprobs without logprobs, which were left out: bounds need both.",
    "end unlogged": "{n} completions that stopped were logged without their end token: length and entropy lack it.",
}


def import_rollouts(
    source: Any,
    out: str | Path,
    *,
    family: str,
    variant: str,
    task: str,
    model: Any = None,
    policy: SamplingPolicy | None = None,
    format: str = "auto",
    fields: Mapping[str, str] | None = None,
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
    vocabulary: int | None = None,
    after_end: str = "refuse",
    progress: bool = True,
) -> Run:
    """Store completions that were drawn elsewhere as a run (engine "imported"), which is then measured like any other.

    With ``model`` every term is computed by teacher forcing under ``policy``, the law that you state: ``cs.check``
    says whether the completions can come from it. Without it, logged log-probabilities bound each step's entropy
    (``entropy_sum_low``, ``entropy_sum_high``); without those too, lengths and texts remain. What had to be assumed is
    said in warnings and in the manifest's ``cautions``. An interrupted call resumes.

    Parameters
    ----------
    source : path, paths, table, or list
        JSONL, OpenAI or vLLM logs, inspect_ai logs, lm-eval samples, a pandas, polars or pyarrow table, a Hugging Face
        data set, mappings, or vLLM's RequestOutput objects. See ``docs/import.md``.
    policy : SamplingPolicy, optional
        None assumes plain sampling that ends where the longest cut completion does.
    format, fields
        "auto", "jsonl", "openai", "vllm", "inspect" or "lm-eval"; names of fields that are called otherwise, such as
        ``{"completion": "answer"}``.
    tokenizer : str, path or tokenizer, optional
        Without a model: what makes tokens of texts, and tells which token ends one.
    vocabulary : int, optional
        Size of the model's vocabulary, for bounds; None takes the tokenizer's.
    after_end : "refuse" or "cut"
        What becomes of a completion that goes on after its end token (padding).
    batch_size : int or "auto"
        Completions in one forward pass, at most.

    Notes
    -----
    The others are those of :func:`canopy_stats.generate`. Raises UserError with the place of whatever cannot be a
    rollout.
    """
    _check(family, variant, task, policy, after_end, batch_size, vocabulary)
    origin = ModelSource(model, tokenizer, adapter, revision, chat, system, enable_thinking, template_kwargs or {},
                         dtype, device)
    engine = _engine(origin, variant) if model is not None else None
    words = words_of(engine, tokenizer, vocabulary, policy)
    validator = Validator(words, policy, engine is not None, after_end)
    with tempfile.TemporaryDirectory(prefix="canopy-import-") as folder:
        staged = Staged(Path(folder))
        try:
            for one in records(source, format, fields):
                staged.add(one, validator.completion(one))
            incoming = Incoming(staged, words, engine, policy or assumed_law(staged), validator.noted)
            rows = _BATCH if batch_size == "auto" else int(batch_size)
            return _store(incoming, Path(out), origin, family, variant, task, rows, progress, assumed=policy is None)
        finally:
            staged.close()


def _check(family: Any, variant: Any, task: Any, policy: Any, after_end: Any, batch_size: Any, vocabulary: Any) -> None:
    check_names(family=family, variant=variant, task=task)
    check_law(policy)
    require(after_end in ("refuse", "cut"), "after_end", after_end, "'refuse' or 'cut'")
    check_whole("batch_size", batch_size, "auto")
    check_whole("vocabulary", vocabulary, None)


def _engine(source: ModelSource, variant: str) -> Any:
    from canopy_stats.generation.torch_engine import load_engine

    return load_engine(source, variant=variant)


def assumed_law(staged: Staged) -> SamplingPolicy:
    """Plain sampling, up to the longest completion that was cut, or that there is."""
    return SamplingPolicy(max_new_tokens=max(staged.longest_cut, staged.longest, 1))


@dataclass(frozen=True, slots=True)
class Incoming:
    """Staged completions with what gives their terms."""

    staged: Staged
    words: Words
    engine: Any
    policy: SamplingPolicy
    noted: Counter[str]

    @property
    def terms(self) -> str:
        """What will be known of the entropies: one of schema.TERMS."""
        if self.engine is not None:
            return EXACT
        return INTERVAL if self.staged.bounded == sum(self.staged.counts) else MISSING

    def prompts(self) -> list[Prompt]:
        """The prompts as the model receives them; without a model, as the log says that it did."""
        staged = self.staged
        return [Prompt(name, digest, source, self._received(i)) for i, (name, digest, source) in enumerate(
            zip(staged.names, staged.hashes, staged.sources, strict=True))]

    def _received(self, i: int) -> tuple[int, ...]:
        told = self.staged.received.get(i)
        if self.engine is None:
            return told or ()
        made = tuple(self.engine.encode(self.staged.sources[i]))
        self.noted["prompt ids"] += told is not None and told != made
        return told if told is not None else made

    def cautions(self, assumed: bool) -> list[str]:
        """A line for each thing that had to be assumed or that is missing."""
        lines = [_SAID[name].format(n=n) for name, n in self.noted.items() if n and name in _SAID]
        if n := self.noted["prompt ids"]:
            lines.append(f"The log's token ids of {n} prompts are not those that this tokenizer and template make; the "
                         "log's were scored. Look at chat, system and template_kwargs.")
        if assumed:
            lines.append(f"No law was stated: {self.policy.label()} is assumed. State it with policy=.")
        return lines + self._lacking()

    def _lacking(self) -> list[str]:
        if self.terms == MISSING:
            some = f" ({self.staged.bounded} completions have log-probabilities)" if self.staged.bounded else ""
            return [f"No entropies: neither a model nor log-probabilities of every completion{some}. Length, D, Vendi "
                    "and RSE can be measured; H, r, CE* and rho need model=."]
        if self.terms == INTERVAL:
            plain = self.policy == SamplingPolicy(max_new_tokens=self.policy.max_new_tokens)
            whose = "" if plain else " They hold for the law whose log-probabilities were logged."
            return [f"Entropies are bounds from the logged log-probabilities; exact ones need model=.{whose}"]
        return []


def _store(incoming: Incoming, out: Path, origin: ModelSource, family: str, variant: str, task: str, batch_size: int,
           show: bool, *, assumed: bool) -> Run:
    prompts, counts = incoming.prompts(), incoming.staged.counts
    cautions = incoming.cautions(assumed)
    said = incoming.engine.describe() if incoming.engine is not None else {}
    said = {**said, "completions_sha256": incoming.staged.sha256,
            "cautions": [*said.get("cautions", ()), *cautions],
            "token_ids": "tokenised" if incoming.noted["tokenised"] else "logged"}
    config = RunConfig(
        family=family, variant=variant, task=task, n_rollouts=max(counts), seed=0, policy=incoming.policy,
        engine=IMPORTED, batch_size=batch_size, prompts_hash=prompts_hash(prompts), model=said,
        code_version=code_version(), terms=incoming.terms,
        counts=None if len(set(counts)) == 1 else tuple(counts))
    for line in said["cautions"]:
        warnings.warn(line, Caution, stacklevel=3)
    with RunWriter(out, config, prompts, versions=versions(), origin=origin.origin) as writer:
        _write_missing(writer, incoming, config, show)
        if not writer.finished:
            writer.finish(None)
        return writer.run()


def _write_missing(writer: RunWriter, incoming: Incoming, config: RunConfig, show: bool) -> None:
    missing = writer.missing
    total = sum(incoming.staged.counts)
    with Progress(f"{config.family}/{config.variant}/{config.task}", total,
                  total - sum(len(s.pairs) for s in missing), show=show) as bar:
        teacher = _teacher(incoming, config) if missing and incoming.engine is not None else None
        for shard in missing:
            writer.write_shard(shard, _counted(_rollouts(writer, incoming, shard, teacher), bar), incoming.words.decode,
                               batch_size=config.batch_size)


def _teacher(incoming: Incoming, config: RunConfig) -> Any:
    from canopy_stats.generation.teacher import Teacher

    return Teacher(incoming.engine, config.policy, config.batch_size)


def _counted(rollouts: Iterable[Rollout], bar: Progress) -> Iterator[Rollout]:
    for rollout in rollouts:
        bar.add(len(rollout.token_ids))
        yield rollout


def _rollouts(writer: RunWriter, incoming: Incoming, shard: ShardPlan, teacher: Any) -> Iterator[Rollout]:
    """The rollouts of one shard with what is known of each, prompts counted within the shard."""
    found = [(i, r, c) for i, p in enumerate(shard.prompts) for r, c in incoming.staged.completions(p, shard.rollouts)]
    if teacher is None:
        kind = incoming.terms
        yield from (Rollout(i, r, c.token_ids, c.finish_reason, _known(c, kind), c.text) for i, r, c in found)
        return
    prompts = writer.shard_prompts(shard)
    for k, terms in teacher.terms([(prompts[i].token_ids, c.token_ids) for i, _, c in found]):
        i, r, completion = found[k]
        yield Rollout(i, r, completion.token_ids, completion.finish_reason,
                      dict(zip(STEP_TERMS, terms.T, strict=True)), completion.text)


def _known(completion: Completion, kind: str) -> dict[str, np.ndarray]:
    if kind == MISSING:
        return {}
    assert completion.low is not None and completion.high is not None and completion.logprob is not None
    return {"entropy_low": completion.low, "entropy_high": completion.high, "logprob": completion.logprob}
