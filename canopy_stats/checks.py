"""Was a run drawn from the law it claims? Two martingales, a second scoring, rebuilt prompts, and a redraw."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from canopy_stats.drift import choose_some, measure_drift, stored_rollouts
from canopy_stats.files import canonical_json
from canopy_stats.notebook import Shown
from canopy_stats.schema import IMPORTED, LENGTH, STEP_TERMS, STOP, Engine, ModelSource, UserError
from canopy_stats.store import Excerpt, Run, excerpt, open_run

if TYPE_CHECKING:
    import pandas as pd

Z_LIMIT = 4.0
"""A correct run exceeds it in 1 of 16,000."""
EXACT = 1e-4
"""Largest difference of a stored term (nats or probability) from plain transformers, in float32 and wider."""
COARSE = 0.1
"""The same for the median in 16 bits, where logits carry three digits and depend on the batch."""
FLIPS = 1e-3
"""Largest share of tokens that may flip in a redraw, in float32; usual is a few in a million."""
COARSE_FLIPS = 0.2
DRIFT_ROLLOUTS = 8
"""Rollouts on which a run in 16 bits is compared with float32."""
IMPOSSIBLE = 1e-4
"""Largest share of tokens that the law may be unable to draw: another engine's rounding moves a filter's boundary."""
COARSE_IMPOSSIBLE = 1e-2
Looked: TypeAlias = Run | Excerpt
"""What is compared with a model: a run, or some rollouts of one."""
_ROUNDING = 1e-6
"""Nats a token by which float32 terms may be off: a mean within it is no evidence."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. ``ok`` is None where the line only informs; ``limit`` bounds the absolute value."""

    name: str
    value: float
    limit: float | None
    ok: bool | None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class CheckReport(Shown):
    """What the check of one run found."""

    run: str
    findings: tuple[Finding, ...]
    skipped: str = ""
    suspicion: str = ""
    """Which other law the tokens of an imported run look like, where they are not of the claimed one."""

    @property
    def ok(self) -> bool:
        """Whether nothing disagrees."""
        return all(f.ok is not False for f in self.findings)

    @property
    def verdict(self) -> str:
        """In words, with what to look at when something disagrees."""
        wrong = [f.name for f in self.findings if f.ok is False]
        if wrong:
            hints = " ".join(hint for name, hint in _HINTS.items() if name in wrong)
            said = f"The run does not agree with the law it claims: {', '.join(wrong)}."
            return " ".join(filter(None, [said, hints, self.suspicion]))
        held = "The two martingales hold" if self.skipped else "Martingales, rebuilt prompts, scores and redraw agree"
        return " ".join(filter(None, [f"{held}: nothing speaks against the law it claims.", self.skipped]))

    def to_frame(self) -> pd.DataFrame:
        """One row a finding: name, value, limit, ok, detail."""
        import pandas as pd

        return pd.DataFrame([asdict(f) for f in self.findings])

    def _shown(self) -> tuple[str, list[Any]]:
        return f"Check of {self.run}", [self.verdict, self.to_frame()]

    def __str__(self) -> str:
        width = max(len(f.name) for f in self.findings)
        lines = [f"  {f.name:<{width}}  {_number(f.value):>10}  {_limit(f):<12} {_MARKS[f.ok]:<5} {f.detail}".rstrip()
                 for f in self.findings]
        return "\n".join([f"check of {self.run}", *lines, self.verdict])


_MARKS = {True: "ok", False: "WRONG", None: ""}
_HINTS = {
    "z of S - H": "S - H: tokens were not drawn from the stored entropies' law (temperature or filter).",
    "z of stops - A": "stops - A: end tokens come at another rate than the law's (end tokens, cap).",
    "prompts rebuilt": "Prompts: the model was given other ids than its tokenizer and template make (template, BOS).",
    "entropy": "Scores: the stored terms belong to another law or model (temperature, filter, weights).",
    "tokens that the law cannot draw": "Impossible tokens: the filter was another one, or none.",
    "redraw flips": "Redraw: the stored tokens are not those of the key (seed, family, variant, law, model).",
}


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "-"
    return f"{value:.0f}" if value == round(value) and abs(value) < 1e6 else f"{value:.3g}"


def _limit(finding: Finding) -> str:
    return "" if finding.limit is None else f"(at most {finding.limit:g})"


def check(run: Run | str | Path, *, model: Any = None, tokenizer: Any = None, n_sample: int = 32,
          seed: int = 0) -> CheckReport:
    """Check a run against the law it claims.

    S - H and 1{stopped} - A have mean zero, for every prompt, if the tokens were drawn from the law of the stored
    terms; their z-scores are over all rollouts. Then ``n_sample`` rollouts, chosen by ``seed``, are scored through
    plain transformers with the stored token ids after the prompt rebuilt from its source, and drawn again by key.

    ``model`` is needed for the second part where the run was drawn from a model object, or the model has moved;
    without it the report says that only the martingales were looked at.
    """
    opened = run if isinstance(run, Run) else open_run(run)
    if n_sample < 1:
        raise UserError(f"n_sample is {n_sample}; at least one rollout must be scored.")
    findings, source = stored_findings(opened), at_hand(opened, model, tokenizer)
    if source is None:
        return report_of(opened, findings)
    from canopy_stats.generation.torch_engine import load_engine

    engine, pairs = load_engine(source), choose_some(opened, n_sample, seed)
    findings += _against_model(opened, engine, source, pairs)
    wrong = opened.config.engine == IMPORTED and any(f.ok is False for f in findings)
    return CheckReport(_name(opened), tuple(findings), suspicion=_suspicion(opened, engine, pairs) if wrong else "")


def report_of(run: Run, stored: Sequence[Finding], with_model: Sequence[Finding] | None = None) -> CheckReport:
    """The report of a run from both halves of its check; the second is None where there was no model."""
    if with_model is not None:
        return CheckReport(_name(run), (*stored, *with_model))
    return CheckReport(_name(run), tuple(stored), "Prompts, scores and redraw were not looked at: the run was drawn "
                       "from a model object; pass it as model=.")


def stored_findings(run: Run) -> list[Finding]:
    """The first half of a check: what the stored rows say by themselves."""
    rows = _told(run)
    return [*martingales(run, rows), *bookkeeping(run, rows)]


Rows: TypeAlias = Mapping[str, np.ndarray]
_LOOKED_AT = ("length", "finish_reason", "entropy_sum", "surprisal_sum", "stop_hazard_sum", "surprisal_variance_sum",
              "stop_variance_sum")


def _told(run: Run) -> Rows:
    """What is looked at of every rollout (R,), read once."""
    table = run.rollouts(_LOOKED_AT)
    return {name: table[name].to_numpy(zero_copy_only=False) for name in _LOOKED_AT}


def model_findings(run: Looked, source: ModelSource, pairs: Sequence[tuple[int, int]]) -> list[Finding]:
    """The second half, of some rollouts; an excerpt of the run is enough."""
    from canopy_stats.generation.torch_engine import load_engine

    return _against_model(run, load_engine(source), source, pairs)


def _name(run: Run) -> str:
    return f"{run.path} ({run.config.family}/{run.config.variant}/{run.config.task}, {run.config.policy.label()})"


# ----------------------------------------------------------------------------------- what needs the stored rows only


def martingales(run: Run, rows: Rows | None = None) -> list[Finding]:
    """z-scores of mean(S - H) and mean(1{stopped} - A) over all rollouts.

    Their standard errors are the predictable ones: the variance of a step's surprisal, and p(1 - p) for its end
    tokens, summed over all steps. The sample's own spread would miss what rare tokens add when none was drawn: where
    nearly every step is certain it is far too small.
    """
    rows = rows or _told(run)
    excess = rows["surprisal_sum"] - rows["entropy_sum"]
    stops = (rows["finish_reason"] == STOP) - rows["stop_hazard_sum"]
    possible = np.isfinite(excess)
    return [_z_finding("z of S - H", excess[possible], rows["surprisal_variance_sum"][possible].sum(),
                       rows["length"][possible], "nats"),
            _z_finding("z of stops - A", stops, rows["stop_variance_sum"].sum(), rows["length"], "stops"),
            *_impossible(run, possible)]


def _impossible(run: Run, possible: np.ndarray) -> list[Finding]:
    """The share of tokens that the law cannot draw. Rollouts with one have no S, and are left out of its z-score."""
    if run.config.engine != IMPORTED and possible.all():
        return []  # an engine draws from its own law
    logprob = np.concatenate([part.steps(["logprob"])["logprob"].to_numpy() for part in run.parts()])
    share, limit = float(np.isneginf(logprob).mean()), COARSE_IMPOSSIBLE if _coarse(run) else IMPOSSIBLE
    return [Finding("tokens that the law cannot draw", share, limit, share <= limit,
                    f"{np.isneginf(logprob).sum()} of {len(logprob)}, in {(~possible).sum()} rollouts")]


def _z_finding(name: str, values: np.ndarray, variance: float, length: np.ndarray, unit: str) -> Finding:
    """``variance`` is that of the values' sum."""
    if not len(values):
        return Finding(name, float("nan"), None, None, "no rollout that the law can draw")
    mean, error = float(values.mean()), float(np.sqrt(variance) / len(values))
    z = mean / float(np.hypot(error, _ROUNDING * length.mean()))
    return Finding(name, z, Z_LIMIT, abs(z) <= Z_LIMIT, f"mean {mean:.3g} {unit}, standard error {error:.2g}")


def bookkeeping(run: Run, rows: Rows | None = None) -> list[Finding]:
    """Rollouts whose length or reason to end contradicts the cap."""
    rows = rows or _told(run)
    length, capped = rows["length"], rows["finish_reason"] == LENGTH
    cap = run.config.policy.max_new_tokens
    wrong = int(((length > cap) | (capped & (length != cap))).sum())
    if run.config.model.get("token_ids") == "tokenised":
        return [Finding("lengths against the cap", wrong, None, None, "texts were tokenised: lengths may be others")]
    return [Finding("lengths against the cap", wrong, 0, wrong == 0, f"of {len(length)} rollouts, cap {cap}")]


# ------------------------------------------------------------------------------------------ what needs the model


def _against_model(run: Looked, engine: Any, source: ModelSource, pairs: Sequence[tuple[int, int]]) -> list[Finding]:
    """The findings of the second part: scores by a model of another loader, redraws by the engine."""
    run = run if isinstance(run, Excerpt) else excerpt(run, pairs)  # the rollouts are read once
    rebuilt, prompts = _rebuilt_prompts(run, engine.tokenizer, pairs)
    reference = _reference(engine, source)
    return [_identity(run, engine), prompts, *_prompt_forms(run, engine.tokenizer, source),
            *_scores(run, engine, reference, rebuilt, pairs),
            *_format_drift(run, source, reference, rebuilt, pairs), _redraw(run, engine, pairs)]


def _suspicion(run: Run, engine: Any, pairs: Sequence[tuple[int, int]]) -> str:
    """Which law some rollouts of an imported run look like."""
    from canopy_stats.diagnosis import dresses_of, suspect
    from canopy_stats.generation.plain import plain_logits

    prompts, drawn = run.prompts(), run.stored_steps(pairs, ["token_id"])
    said = run.config.model
    arguments = {"system": said.get("system"), "day": said.get("template_date"),
                 "arguments": _source(run).template_arguments}
    other = {p: dresses_of(engine.tokenizer, prompts[p].source, prompts[p].token_ids, arguments)
             for p in {p for p, _ in pairs}}
    shared = set.intersection(*(set(of) for of in other.values()))
    dresses = {name: [other[p][name] for p, _ in pairs] for name in sorted(shared)}
    texts = [(prompts[p].token_ids, rows["token_id"].tolist()) for (p, _), rows in drawn.items()]

    def logits(prompt: Sequence[int], own: Sequence[int]) -> np.ndarray:
        raw = plain_logits(engine.model, prompt, own, one_shot=engine.decoder.one_shot)
        return np.asarray(raw.float().cpu().numpy())

    return suspect(texts, dresses, logits, run.config.policy).words


def _reference(engine: Any, source: ModelSource) -> Any:
    """The model by plain ``from_pretrained``, in the engine's number format; the engine's own where memory is short."""
    from canopy_stats.generation.reference import fits_in_memory, load_reference

    dtype = str(engine.model.dtype).removeprefix("torch.")
    if not fits_in_memory(engine.model, dtype):
        return engine.model
    return load_reference(source, dtype=dtype, device=str(engine.model.device))


def _format_drift(run: Looked, source: ModelSource, reference: Any, rebuilt: Mapping[int, tuple[int, ...]],
                  pairs: Sequence[tuple[int, int]]) -> list[Finding]:
    """What 16 bits cost: how far the model's laws are from those of float32, where that fits into memory."""
    from canopy_stats.generation.reference import dtype_drift, fits_in_memory, load_reference

    if not _coarse(run):
        return []
    if not fits_in_memory(reference):
        return [Finding("drift from float32", float("nan"), None, None, "not measured: memory is short")]
    wide = load_reference(source, dtype="float32", device=str(reference.device))
    drawn = stored_rollouts(run, pairs[:DRIFT_ROLLOUTS])
    drift = dtype_drift(reference, wide, [(rebuilt[p], old["token_id"]) for (p, _), old in drawn.items()])
    return [Finding("drift from float32", drift.divergence, None, None, f"nats a step (mean divergence, {drift.steps} "
                    f"laws); entropy within {drift.entropy:.2g}, log-probability within {drift.logprob:.2g}")]


def _identity(run: Looked, engine: Any) -> Finding:
    """Whether the model at hand is the one that the manifest names."""
    stored, found = run.config.model, json.loads(canonical_json(engine.describe()))
    # The hash of files and that of a loaded model's tensors differ for the same weights.
    fields = _IDENTITY + (_WEIGHTS if stored.get("model") == found.get("model") else ())
    differing = [name for name in fields if stored.get(name) != found.get(name)]
    return Finding("fields of the model that differ", len(differing), 0, not differing, ", ".join(differing))


_IDENTITY = ("architecture", "end_token_ids", "chat_template")
_WEIGHTS = ("weights_sha256", "revision", "adapter_sha256")


def _rebuilt_prompts(run: Looked, tokenizer: Any,
                     pairs: Sequence[tuple[int, int]]) -> tuple[dict[int, tuple[int, ...]], Finding]:
    """The sampled rollouts' prompts as token ids made anew from their source, and how many differ from the stored."""
    from canopy_stats.generation.reference import plain_prompt

    source = _source(run)
    prompts, wanted = run.prompts(), sorted({index for index, _ in pairs})
    rebuilt = {index: plain_prompt(tokenizer, prompts[index].source, chat=source.chat, system=source.system,
                                   arguments=source.template_arguments,
                                   day=run.config.model.get("template_date")) for index in wanted}
    different = [prompts[i].prompt_id for i in wanted if rebuilt[i] != prompts[i].token_ids]
    detail = f"of {len(wanted)} prompts differ" + (f", first {different[0]!r}" if different else "")
    return rebuilt, Finding("prompts rebuilt", len(different), 0, not different, detail)


def _prompt_forms(run: Looked, tokenizer: Any, source: ModelSource) -> list[Finding]:
    """Of a run whose prompts go through a chat template: what tokenising the rendered text once more changes."""
    from canopy_stats.generation.retokenised import retokenised

    words = [p.source for p in run.prompts() if isinstance(p.source, str) or isinstance(p.source[0], dict)]
    if not source.chat or not words:
        return []
    both = retokenised(tokenizer, words, system=source.system, arguments=source.template_arguments,
                       day=run.config.model.get("template_date"))
    return [Finding(f"{FORMS}: {name}", value, None, None, f"of {len(words)} prompts")
            for name, value in asdict(both).items() if name != "prompts"]


FORMS = "prompt forms"
"""How findings begin that compare prompts by template with those by rendered text."""


def _scores(run: Looked, engine: Any, reference: Any, rebuilt: Mapping[int, tuple[int, ...]],
            pairs: Sequence[tuple[int, int]]) -> list[Finding]:
    """How far each stored term is from plain transformers.

    Steps at a filter boundary are left out and counted, except for the untruncated law's terms.
    """
    from canopy_stats.generation.plain import plain_end_ids, plain_logits
    from canopy_stats.generation.plain_law import law_terms
    from canopy_stats.generation.token_bytes import token_bytes

    ends, law = plain_end_ids(reference, engine.tokenizer), run.config.policy
    pieces = token_bytes(engine.tokenizer, engine.model.config.get_text_config().vocab_size) if law.stop_strings else ()
    sizes: dict[str, list[np.ndarray]] = {name: [] for name in STEP_TERMS}
    near, total, misplaced = 0, 0, 0
    for (prompt, _), old in stored_rollouts(run, pairs).items():
        raw = plain_logits(reference, rebuilt[prompt], old["token_id"], one_shot=engine.decoder.one_shot)
        logits = raw.float().cpu().numpy()
        terms = law_terms(logits, old["token_id"], ends, law, prompt_ids=rebuilt[prompt], pieces=pieces)
        near, total = near + int(terms.near.sum()), total + len(terms.near)
        misplaced += bool(terms.ended[:-1].any())
        for name, size in _differences(old, terms.steps, ~terms.near):
            sizes[name].append(size)
    judged = [_judged(name, np.concatenate(parts), _coarse(run)) for name, parts in sizes.items()]
    left_out = f"of {total} scored; left out of the differences"
    return [*judged, Finding("steps at a filter boundary", near, None, None, left_out),
            Finding("end tokens before the end", misplaced, 0, misplaced == 0, f"of {len(pairs)} rollouts")]


def _differences(stored: Mapping[str, np.ndarray], scored: Mapping[str, np.ndarray],
                 compared: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    for name in STEP_TERMS:
        # A token that the law cannot draw has log-probability -inf: an infinite difference, not a NaN.
        rows = slice(None) if name.endswith("_full_offpolicy") else compared
        old, new = stored[name].astype(np.float64)[rows], scored[name][rows]
        size = np.abs(np.subtract(old, new, out=np.zeros_like(old), where=old != new))
        # A variance weighs a logit's rounding by twice its surprisal: relative above one.
        yield name, size / np.maximum(scored[name][rows], 1.0) if name == "surprisal_variance" else size


def _judged(name: str, sizes: np.ndarray, coarse: bool) -> Finding:
    """The largest of a term's differences (T,) against EXACT; in 16 bits the median against COARSE.

    In 16 bits single steps may differ by tenths of a nat, and a drawn token may fall out of the filter; half of
    the steps do not.
    """
    largest = float(sizes.max(initial=0.0))
    if not coarse:
        return Finding(name, largest, EXACT, largest <= EXACT, "largest difference")
    median = float(np.median(sizes)) if len(sizes) else 0.0
    return Finding(name, median, COARSE, median <= COARSE, f"median difference in 16 bits, largest {largest:.2g}")


def _redraw(run: Looked, engine: Engine, pairs: Sequence[tuple[int, int]]) -> Finding:
    """Tokens that flip when the rollouts are drawn again, alone in their batch, with the same key."""
    if run.config.engine == IMPORTED:
        return Finding("redraw flips", float("nan"), None, None, "drawn elsewhere: there is no key to draw it by")
    drift = measure_drift(run, engine, pairs, batch_size=1)
    limit = COARSE_FLIPS if _coarse(run) else FLIPS
    # One flip among few tokens is a large share and no evidence.
    held = drift.flips <= 1 or drift.flip_rate <= limit
    return Finding("redraw flips", drift.flip_rate, limit, held, f"{drift.flips} in {drift.tokens} tokens, batch 1")


def _coarse(run: Looked) -> bool:
    return "16" in str(run.config.model.get("dtype", ""))


def at_hand(run: Run, model: Any, tokenizer: Any) -> ModelSource | None:
    """The model with the prompts' dress that the manifest names; None where it says nothing of where the model is."""
    if model is None and run.manifest["origin"].get("model") is None:
        return None
    source = _source(run)
    if model is not None:
        return replace(source, model=model, tokenizer=tokenizer, adapter=None, revision=None)
    return replace(source, tokenizer=tokenizer or source.tokenizer)


def _source(run: Looked) -> ModelSource:
    """Where the manifest says that the model is, and how its prompts were put to it."""
    said = run.config.model
    return ModelSource(**{"model": None, **run.manifest["origin"]}, chat=said.get("chat") or False,
                       system=said.get("system"), enable_thinking=said.get("enable_thinking"),
                       template_kwargs=said.get("template_kwargs") or {}, dtype=str(said.get("dtype", "auto")))
