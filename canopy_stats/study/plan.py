"""What a study would take, before anything runs: rollouts, tokens, disk, hours, texts to embed. Nothing is loaded."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from canopy_stats.files import readable_size
from canopy_stats.progress import duration
from canopy_stats.report.folder import MAIN
from canopy_stats.report.printed import console
from canopy_stats.schema import UserError
from canopy_stats.study.ablations import Part, parts_of
from canopy_stats.study.prompts import chosen
from canopy_stats.study.ready import ready
from canopy_stats.study.rollouts import RunState
from canopy_stats.study.spec import Checkpoint, Study

if TYPE_CHECKING:
    import pandas as pd

BYTES_PER_TOKEN = 43.0
MEASURED = "43 bytes a token (41 to 45 in stored runs of the small families and of SmolLM2-135M)"
SHARE_OF_CAP = 0.25
"""Assumed mean length where no rollout tells better, as a share of the cap."""
DIMENSIONS = {"tfidf": 1025, "minilm": 384}
OTHER_DIMENSIONS = 1024
JUDGED = 20
"""Rollouts of a prompt that are judged where the study does not say."""
SPEED_OF_A_BILLION, FASTEST = 20_000.0, 5_000.0
"""Guess: tokens a second of one large GPU, times the billions of parameters; and at most this many."""


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What cannot be known before: mean length of a rollout and tokens a second; None takes the stated guesses."""

    mean_length: float | None = None
    tokens_per_second: float | None = None

    def __post_init__(self) -> None:
        for name in ("mean_length", "tokens_per_second"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise UserError(f"{name} is {value}; it must be a positive number.")


def plan(study: Study, out: Path, assumed: Assumptions | None = None) -> pd.DataFrame:
    """A row for each run of the study and of its ablations.

    Columns: part, family, variant, task, prompts, rollouts, stored_tokens, most_tokens (all rollouts at the cap),
    expected_tokens, length_from (what tells the mean length), bytes (of the expected tokens), tokens_per_second, hours
    (of the tokens that are not stored yet).
    """
    import pandas as pd

    return pd.DataFrame([row for part in parts_of(study, out) if part.lender is None
                         for row in _rows(part, assumed or Assumptions())])


def _rows(part: Part, assumed: Assumptions) -> list[dict[str, Any]]:
    states = part.states
    known = _known_lengths(part.study, states)
    # Of each checkpoint once: its folder is looked through.
    speeds = {(f.name, arm.variant): assumed.tokens_per_second or guessed_speed(arm)
              for f in part.study.families for arm in f.arms}
    return [_row(part, name, states[name], known, assumed, speeds) for name in states]


def _row(part: Part, name: str, state: RunState, known: Mapping[str, tuple[float, str]], assumed: Assumptions,
         speeds: Mapping[tuple[str, str | None], float]) -> dict[str, Any]:
    study, run = part.study, part.study.runs[name]
    prompts = chosen(study.tasks[run.task], study.prompts_per_task, study.few_shot, run.task).count
    length, source = known.get(name) or known.get(f"variant {run.checkpoint.variant}") or _assumed(study, assumed)
    tokens, stored = state.wanted * length, state.tokens if state.state != "stale" else 0
    speed = speeds[run.family, run.checkpoint.variant]
    return {"part": part.name, "family": run.family, "variant": run.checkpoint.variant, "task": run.task,
            "prompts": prompts, "rollouts": state.wanted, "stored_tokens": stored,
            "most_tokens": state.wanted * study.policy.max_new_tokens, "expected_tokens": round(tokens),
            "length_from": source, "bytes": round(tokens * BYTES_PER_TOKEN), "tokens_per_second": speed,
            "hours": max(tokens - stored, 0.0) / speed / 3600}


def _known_lengths(study: Study, states: Mapping[str, RunState]) -> dict[str, tuple[float, str]]:
    """Tokens a rollout and what says so: of each run that has rollouts, and of each variant over its runs."""
    usable = {name: s for name, s in states.items() if s.rollouts and s.state != "stale"}
    known = {name: (s.tokens / s.rollouts, "its own rollouts") for name, s in usable.items()}
    by_variant: dict[str, list[RunState]] = {}
    for name, s in usable.items():
        by_variant.setdefault(str(study.runs[name].checkpoint.variant), []).append(s)
    return known | {f"variant {variant}": (sum(s.tokens for s in like) / sum(s.rollouts for s in like),
                                           f"other {variant} runs") for variant, like in by_variant.items()}


def _assumed(study: Study, assumed: Assumptions) -> tuple[float, str]:
    if assumed.mean_length is not None:
        return min(assumed.mean_length, study.policy.max_new_tokens), "given"
    return SHARE_OF_CAP * study.policy.max_new_tokens, "assumed"


# --- speed ------------------------------------------------------------------------------------------------------


def guessed_speed(checkpoint: Checkpoint) -> float:
    """A guess of the tokens a second that one large GPU draws, from the size of the model."""
    size = billions(checkpoint.model)
    return FASTEST if size is None else min(FASTEST, SPEED_OF_A_BILLION / size)


def billions(model: Any) -> float | None:
    """Billions of parameters: as the name says, else from the size of the weights in 16 bits; None if unknown."""
    if not isinstance(model, (str, Path)):
        return None
    path = Path(model)
    weights = [path] if path.is_file() else [*path.glob("*.safetensors"), *path.glob("*.bin")]
    found = re.search(r"(\d+(?:\.\d+)?)\s?([bm])(?![a-z])", path.name.lower())
    if found:
        return float(found[1]) / (1 if found[2] == "b" else 1000)
    return sum(p.stat().st_size for p in weights) / 2e9 if weights else None


# --- in words ---------------------------------------------------------------------------------------------------


def told(study: Study, out: Path, assumed: Assumptions | None = None) -> str:
    """The plan as text: :func:`parts` below each other."""
    return "\n".join(part if isinstance(part, str) else console(part) for part in parts(study, out, assumed))


def parts(study: Study, out: Path, assumed: Assumptions | None = None) -> list[str | pd.DataFrame]:
    """The plan as tables for a terminal, its totals, and what they rest on."""
    assumed, rows = assumed or Assumptions(), plan(study, out, assumed or Assumptions())
    own, further = rows[rows["part"] == MAIN], rows[rows["part"] != MAIN]
    lines: list[str | pd.DataFrame] = [study.title, "", _shown(own, ["family", "variant", "task"], ["length_from"])]
    if len(further):
        sums = further.groupby("part", sort=False)[_SUMMED].sum().reset_index()
        lines += ["", "Ablations that draw rollouts of their own:", "", _shown(sums, ["part"], [])]
    lines += ["", *_totals(study, out, rows), "", *_grounds(rows, assumed)]
    return [*lines, *(f"Before it can run: {problem}" for problem in ready(study))]


_SUMMED = ["prompts", "rollouts", "stored_tokens", "most_tokens", "expected_tokens", "bytes", "hours"]


def _shown(rows: pd.DataFrame, names: list[str], more: list[str]) -> pd.DataFrame:
    """The rows with numbers as people read them."""
    words = {"prompts": rows["prompts"].map("{:,}".format), "rollouts": rows["rollouts"].map("{:,}".format),
             "tokens at most": rows["most_tokens"].map(_count), "expected": rows["expected_tokens"].map(_count),
             "disk": rows["bytes"].map(readable_size), "time": (3600 * rows["hours"]).map(duration)}
    return rows[names].assign(**words, **{name.replace("_", " "): rows[name] for name in more})


def _count(tokens: float) -> str:
    return f"{tokens / 1e6:,.1f} M" if tokens >= 1e5 else f"{tokens:,.0f}"


def _totals(study: Study, out: Path, rows: pd.DataFrame) -> list[str]:
    texts = embeddings(study, out)
    lines = [f"Rollouts:   {rows['rollouts'].sum():,} in {len(rows)} runs",
             f"Tokens:     {_count(rows['expected_tokens'].sum())} expected, {_count(rows['most_tokens'].sum())} at "
             f"most, {_count(rows['stored_tokens'].sum())} stored",
             f"Disk:       {readable_size(rows['bytes'].sum())} for the runs, "
             f"{readable_size(sum(t['bytes'] for t in texts))} for embeddings",
             f"Drawing:    {duration(3600 * rows['hours'].sum())} on one GPU (a guess)",
             f"Embeddings: {sum(t['texts'] for t in texts):,} texts",
             *(f"            {t['texts']:,} by {t['embedder']}" for t in texts)]
    if study.judge is not None:
        asked = "" if study.asked_judge else "; optional, and not asked: its api_key_env is not set"
        lines.append(f"Verdicts:   at most {verdicts(study, rows):,} (m(m-1) for each prompt and checkpoint{asked})")
    return lines


def embeddings(study: Study, out: Path) -> list[dict[str, Any]]:
    """A row for each embedder, with how many texts it embeds in all parts and what their vectors take."""
    totals: dict[str, dict[str, Any]] = {}
    seen = set()
    for part in parts_of(study, out):
        label = part.study.embedder.label
        if (label, part.home) in seen:
            continue
        seen.add((label, part.home))
        texts = sum(chosen(part.study.tasks[run.task], part.study.prompts_per_task).count
                    for run in part.study.runs.values()) * part.study.rollouts
        row = totals.setdefault(label, {"embedder": label, "texts": 0, "bytes": 0})
        row["texts"] += texts
        row["bytes"] += texts * 4 * DIMENSIONS.get(part.study.embedder.model, OTHER_DIMENSIONS)
    return list(totals.values())


def verdicts(study: Study, rows: pd.DataFrame) -> int:
    """Verdicts that the judge is asked for at most."""
    m = min((study.judge.m if study.judge else None) or JUDGED, study.rollouts)
    return int(rows["prompts"].sum()) * m * (m - 1)


def _grounds(rows: pd.DataFrame, assumed: Assumptions) -> list[str]:
    """What the figures rest on, and what would make them better."""
    length = (f"{assumed.mean_length:g} tokens, as given" if assumed.mean_length is not None
              else f"{SHARE_OF_CAP:.0%} of the cap, an assumption; --mean-length gives another")
    speed = (f"{assumed.tokens_per_second:,.0f} tokens/s, as given" if assumed.tokens_per_second is not None
             else f"a guess from the models' size ({_speeds(rows)}): measure yours and give --tokens-per-second")
    return [f"Mean length where no rollout is stored: {length}.",
            f"Disk: {MEASURED}; 4 bytes for each of a vector's dimensions, {OTHER_DIMENSIONS:,} where unknown.",
            f"Speed: {speed}."]


def _speeds(rows: pd.DataFrame) -> str:
    values: Sequence[float] = sorted(set(rows["tokens_per_second"]))
    return f"{values[0]:,.0f}" + (f" to {values[-1]:,.0f}" if len(values) > 1 else "") + " tokens/s on one large GPU"
