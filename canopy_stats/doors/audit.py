"""Are logged entropies and log-probabilities what they are called? Against the model, and if not, what they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from canopy_stats.candidates import Steps, Values, merged, stated, under_all
from canopy_stats.diagnosis import LARGEST, dresses_of
from canopy_stats.doors.arguments import check_law, check_whole
from canopy_stats.doors.audit_laws import (
    ENTROPY,
    LOGPROB,
    SUM,
    TOKEN,
    LoggedNumbers,
    Meaning,
    distance,
    predictions,
)
from canopy_stats.doors.records import Logged
from canopy_stats.doors.sources import records
from canopy_stats.doors.validate import Validator
from canopy_stats.doors.words import words_of
from canopy_stats.schema import ModelSource, SamplingPolicy, UserError

if TYPE_CHECKING:
    import pandas as pd

EXACT = 1e-3
"""Mean absolute difference (in the log's unit) up to which numbers are what they are called."""
COARSE = 0.05
"""The same for numbers of a model in 16 bits, or written with few digits, as long as nothing else is much closer."""
CLOSER = 4.0
"""Another reading is named where it is so many times closer than the claimed one."""
_AT_MOST = 1024
_FINER = (0.05, 0.0125, 0.003)
"""Steps, in shares of the temperature, in which the closest one is looked for."""


@dataclass(frozen=True, slots=True)
class Audited:
    """One logged column: what it was called, what it is, how far each is (mean absolute difference), and all others.

    ``candidates`` are (reading, distance) from the closest on.
    """

    name: str
    claimed: str
    claimed_distance: float
    found: str
    found_distance: float
    ok: bool
    candidates: tuple[tuple[str, float], ...]

    @property
    def verdict(self) -> str:
        """In words."""
        if self.ok:
            return f"{self.name}: is the {self.claimed} (mean difference {self.claimed_distance:.2g})."
        if self.found_distance <= COARSE:
            return (f"{self.name}: is not the {self.claimed} (mean difference {self.claimed_distance:.3g}) but the "
                    f"{self.found} ({self.found_distance:.2g}).")
        return (f"{self.name}: is not the {self.claimed} (mean difference {self.claimed_distance:.3g}), and no "
                f"candidate fits; the closest is the {self.found} ({self.found_distance:.3g}). Look for another "
                "checkpoint, adapter, prompt or repetition penalty; others={'name': MODEL} tries more.")


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What was found of each logged column. ``str`` says it in words."""

    columns: tuple[Audited, ...]
    tokens: int

    @property
    def ok(self) -> bool:
        """Whether every column is what it is called."""
        return all(column.ok for column in self.columns)

    def to_frame(self) -> pd.DataFrame:
        """One row a column and reading: column, reading, distance, from the closest on."""
        import pandas as pd

        return pd.DataFrame([{"column": c.name, "reading": reading, "distance": size, "claimed": reading == c.claimed}
                             for c in self.columns for reading, size in c.candidates])

    def __str__(self) -> str:
        return "\n".join(c.verdict for c in self.columns)


def audit(
    source: Any,
    model: Any,
    *,
    policy: SamplingPolicy | None = None,
    format: str = "auto",
    fields: Mapping[str, str] | None = None,
    variant: str = "base",
    others: Mapping[str, Any] | None = None,
    max_tokens: int = _AT_MOST,
    tokenizer: Any = None,
    chat: bool | str | None = None,
    system: str | None = None,
    enable_thinking: bool | None = None,
    template_kwargs: Mapping[str, Any] | None = None,
    adapter: Any = None,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
) -> AuditReport:
    """Compare logged entropies and log-probabilities with the model, and name what they are.

    Parameters
    ----------
    source, format, fields
        Completions as :func:`canopy_stats.import_rollouts` reads them, with ``logprobs`` or ``entropy``: a number for
        each token, or one for each completion (then called a sum).
    policy : SamplingPolicy, optional
        The law that the numbers are said to belong to; None means the full law at temperature 1.
    others : mapping, optional
        Other checkpoints to try, by name; their tokenizer must be the model's.
    max_tokens : int
        Tokens of the first completions that are compared.

    The candidates are entropy, surprisal, log-probability and probability; nats, bits and log10; tokens (also one
    step off), sums and means; temperatures, top-k, top-p and min-p in use; with and without template and BOS.
    Distances are mean absolute differences in the log's own unit.
    """
    check_law(policy)
    check_whole("max_tokens", max_tokens)
    claim = policy or SamplingPolicy()
    origin = ModelSource(model, tokenizer, adapter, revision, chat, system, enable_thinking, template_kwargs or {},
                         dtype, device)
    engine = _engine(origin, variant)
    logged = _some(records(source, format, fields), engine, claim, max_tokens)
    columns = _columns(logged)
    laws = _laws(logged, engine, claim, columns)
    for name, other in (others or {}).items():
        laws |= _of_other(name, replace(origin, model=other, tokenizer=engine.tokenizer, adapter=None, revision=None),
                          logged, variant, columns)
    return AuditReport(tuple(_judged(c, laws, claim) for c in columns), sum(len(o.token_ids) for o in logged))


def _engine(source: ModelSource, variant: str) -> Any:
    from canopy_stats.generation.torch_engine import load_engine

    return load_engine(source, variant=variant)


@dataclass(frozen=True, slots=True)
class _Scored:
    """A logged completion with its tokens, and the prompts under which it may have been scored."""

    logged: Logged
    prompt_ids: tuple[int, ...]
    token_ids: list[int]
    dresses: dict[str, list[int]]


def _some(logged: Any, engine: Any, claim: SamplingPolicy, max_tokens: int) -> list[_Scored]:
    """The first completions, up to so many tokens."""
    words = words_of(engine, None, None, claim)
    size = int(engine.model.config.get_text_config().vocab_size)
    limit, found, tokens = min(max_tokens, LARGEST // (4 * size)), list[_Scored](), 0
    for one in logged:
        if one.logprobs is None and one.entropy is None:
            raise UserError(f"{one.where} has neither logprobs nor entropy, so there is nothing to audit. Name their "
                            "field (--map entropy=NAME).")
        ids = _ids(one, Validator(words, None, exact=True))
        if found and tokens + len(ids) > limit:
            break
        source = one.prompt
        prompt = tuple(one.prompt_token_ids) if one.prompt_token_ids is not None else engine.encode(source)
        arguments = {"system": engine.style.system, "arguments": dict(engine.style.arguments)}
        found.append(_Scored(one, prompt, ids, dresses_of(engine.tokenizer, source, prompt, arguments)))
        tokens += len(ids)
    return found


def _ids(one: Logged, validator: Validator) -> list[int]:
    """The ids as they were logged: with as many numbers as there are, without an end token put there."""
    if one.token_ids is not None:
        return validator.checked(one)
    return validator.words.tokenise(one.text or "", one.where)


def _columns(scored: Sequence[_Scored]) -> list[LoggedNumbers]:
    lengths = np.array([len(s.token_ids) for s in scored], dtype=np.intp)
    found = []
    for name in ("entropy", "logprobs"):
        values = [getattr(s.logged, name) for s in scored]
        if all(v is not None for v in values):
            found.append(_column(name, values, lengths, scored))
    if not found:
        raise UserError("Some completions have numbers that others lack; give a log in which all have entropy, or all "
                        "have logprobs.")
    return found


def _column(name: str, values: Sequence[Any], lengths: np.ndarray, scored: Sequence[_Scored]) -> LoggedNumbers:
    single = [np.ndim(v) == 0 for v in values]
    if any(single) != all(single):
        raise UserError(f"{name} is a list in some completions and one number in others; give one kind.")
    if not all(single):
        for v, s in zip(values, scored, strict=True):
            if len(v) != len(s.token_ids):
                raise UserError(f"{s.logged.where} has {len(s.token_ids)} tokens and {len(v)} numbers called {name}; "
                                "give one for each token.")
    flat = np.array([v for value in values for v in np.atleast_1d(value)], dtype=np.float64)
    if not np.isfinite(flat).all():
        raise UserError(f"{name} holds numbers that are not finite; correct the log.")
    return LoggedNumbers(name, flat, lengths, not all(single))


# --- the laws ---------------------------------------------------------------------------------------------------


def _laws(scored: Sequence[_Scored], engine: Any, claim: SamplingPolicy,
          columns: Sequence[LoggedNumbers]) -> dict[str, Values]:
    """Every candidate law's values, by its label; the claimed one exactly, as the engine has it."""
    laws = {_CLAIMED: _claimed(scored, engine, claim)}
    for dress in ["", *sorted(set.intersection(*(set(s.dresses) for s in scored)))]:
        laws |= _under(_blocks(scored, engine, dress), f" with {dress}" if dress else "", columns)
    if (own := stated(claim)) is not None:
        laws.pop(own.label, None)  # the claimed law is there already
    return laws


_CLAIMED, _FULL = "the claimed law", "the full law"


def _claimed(scored: Sequence[_Scored], engine: Any, claim: SamplingPolicy) -> Values:
    from canopy_stats.generation.plain import score
    from canopy_stats.schema import STEP_TERMS

    at = {name: i for i, name in enumerate(STEP_TERMS)}
    endings = engine.endings(claim)
    terms = np.concatenate([score(engine.model, s.prompt_ids, s.token_ids, endings, claim,
                                  one_shot=engine.decoder.one_shot) for s in scored]).astype(np.float64)
    return Values(*(terms[:, at[name]] for name in ("entropy", "logprob", "surprisal_variance")))


def _blocks(scored: Sequence[_Scored], engine: Any, dress: str) -> list[Steps]:
    from canopy_stats.generation.plain import plain_logits

    found = []
    for s in scored:
        prompt = s.dresses[dress] if dress else s.prompt_ids
        raw = plain_logits(engine.model, prompt, s.token_ids, one_shot=engine.decoder.one_shot)
        found.append(Steps.of(raw.float().cpu().numpy(), s.token_ids))
    return merged(found)


def _under(blocks: Sequence[Steps], suffix: str, columns: Sequence[LoggedNumbers]) -> dict[str, Values]:
    """All usual laws of one model and prompt, and temperatures around the one that comes closest."""
    found = under_all(blocks)
    sizes = {c: _nearest(v, columns) for c, v in found.items()}
    for step in _FINER:
        best = min(sizes, key=sizes.__getitem__)
        settings: dict[str, float] = {best.name: best.value} if best.name else {}
        finer = under_all(blocks, [best.temperature * (1 + step * k) for k in (-2, -1, 1, 2)], [settings])
        found |= finer
        sizes |= {c: _nearest(v, columns) for c, v in finer.items()}
    return {c.label + suffix: v for c, v in found.items()}


def _nearest(values: Values, columns: Sequence[LoggedNumbers]) -> float:
    """The distance of the closest reading of any column under one law."""
    return min(distance(column.values, p) for column in columns for _, p in predictions(column, "", values))


def _of_other(name: str, source: ModelSource, scored: Sequence[_Scored], variant: str,
              columns: Sequence[LoggedNumbers]) -> dict[str, Values]:
    """The usual laws of another checkpoint, with the prompts of the first."""
    return _under(_blocks(scored, _engine(source, variant), ""), f" of {name}", columns)


# --- the verdict ------------------------------------------------------------------------------------------------


def _judged(column: LoggedNumbers, laws: Mapping[str, Values], claim: SamplingPolicy) -> Audited:
    quantity = ENTROPY if column.name == "entropy" else LOGPROB
    claimed = Meaning(quantity, _CLAIMED, "nats", TOKEN if column.per_token else SUM)
    sizes: dict[Meaning, float] = {}
    for law, values in laws.items():
        for meaning, predicted in predictions(column, law, values, odd=law in (_CLAIMED, _FULL)):
            sizes[meaning] = distance(column.values, predicted)
    ordered = sorted(sizes, key=lambda m: (sizes[m], _surprise(m, claimed)))
    best = _simplest(ordered, sizes, claimed)
    own, found = sizes[claimed], sizes[best]
    ok = own <= EXACT or (own <= COARSE and own <= CLOSER * found)
    named = {m: _named(m, claim) for m in ordered}
    listed = tuple((named[m], sizes[m]) for m in ordered if np.isfinite(sizes[m]))
    best = claimed if ok else best
    return Audited(column.name, named[claimed], own, named[best], sizes[best], ok, listed)


def _surprise(meaning: Meaning, claimed: Meaning) -> int:
    """In how many respects a reading differs from the claimed one."""
    names = ("quantity", "law", "unit", "whole", "shift")
    return int(sum(getattr(meaning, n) != getattr(claimed, n) for n in names)) + meaning.law.count(",")


def _simplest(ordered: Sequence[Meaning], sizes: Mapping[Meaning, float], claimed: Meaning) -> Meaning:
    """Among readings as close as the closest up to rounding, the one that differs least from the claim."""
    limit = 1.5 * sizes[ordered[0]] + 1e-6
    return min((m for m in ordered if sizes[m] <= limit), key=lambda m: (_surprise(m, claimed), sizes[m]))


def _named(meaning: Meaning, claim: SamplingPolicy) -> str:
    if meaning.law != _CLAIMED:
        return meaning.label
    law = claim.label().rpartition(" cap=")[0]
    said = "the full law" if claim == SamplingPolicy(max_new_tokens=claim.max_new_tokens) else f"the stated law ({law})"
    return meaning.label.replace(_CLAIMED, said)

