"""Semantic entropy of a run: who means the same as whom, judged pair by pair, and what follows from it."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from canopy_stats.metrics.judging.comparisons import (
    MISSING,
    NOT_ASKED,
    SAME,
    Comparison,
    JudgeContext,
    MeaningJudge,
    Verdicts,
    draw_comparisons,
    expand,
)
from canopy_stats.metrics.judging.local import EmbeddingJudge, FunctionJudge
from canopy_stats.metrics.judging.openai import OpenAIJudge
from canopy_stats.metrics.rse import asymmetric_share, semantic_entropy
from canopy_stats.mixed.formulas.frames import as_pandas
from canopy_stats.schema import Caution, Column, UserError
from canopy_stats.store.kept import Kept

if TYPE_CHECKING:
    import pyarrow as pa

    from canopy_stats.store import Run

JudgeLike = MeaningJudge | Callable[[list[str], list[str], str], Any]

JUDGE_COLUMNS = (
    Column("prompt_uid", "string", "", "task/prompt_id"),
    Column("RSE", "float64", "nats", "entropy of the shares of the clusters of equal meaning"),
    Column("RSE_cs", "float64", "nats", "coverage-adjusted RSE (Chao-Shen)"),
    Column("rse_m", "int64", "rollouts", "rollouts judged, m"),
    Column("clusters", "float64", "clusters", "connected components of mutual 'same meaning' verdicts"),
    Column("asymmetric_share", "float64", "share", "pairs whose two orders were judged differently"),
    Column("failed", "int64", "verdicts", "verdicts that failed; a single one makes the prompt's RSE NaN"),
    Column("equal_share", "float64", "share", "pairs of rollouts with equal texts, which nobody was asked about"),
    Column("empty", "int64", "rollouts", "rollouts whose text is empty"),
)
PANEL_NAMES = ("RSE", "RSE_cs", "rse_m")
"""The optional columns of a panel that a judge fills."""

_KEY = ["prompt_uid", "model_name", "model_variant"]


def judge(run: Run, judge: JudgeLike, *, m: int = 20, seed: int = 0, think: str = "keep", max_failed: float = 0.05,
          progress: bool = True) -> pd.DataFrame:
    """Semantic entropy of each prompt of a run: one row per prompt, in the columns of :data:`JUDGE_COLUMNS`.

    Parameters
    ----------
    judge : :class:`EmbeddingJudge`, :class:`OpenAIJudge`, or a function (texts_a, texts_b, prompt) -> bools
    m : rollouts of each prompt that are compared, chosen by (seed, task, prompt): m(m − 1) verdicts
    think : "keep" or "drop" the ``<think>`` part of the texts
    max_failed : share of the verdicts that may fail before the run is refused
    progress : report on stderr

    Texts that are equal once stripped mean the same and are not asked about; an empty text differs from every other.
    A prompt of which any verdict failed has no RSE (NaN): which way the verdict would have gone is not guessed. The
    result is kept in the run's folder by judge, m, seed and think, together with the rollouts chosen and every
    verdict, unless the judge is a function or verdicts failed.
    """
    return _frame(judged_table(run, judge, m=m, seed=seed, think=think, max_failed=max_failed, progress=progress))


def judged_table(run: Run, judge: JudgeLike, *, m: int = 20, seed: int = 0, think: str = "keep",
                 max_failed: float = 0.05, progress: bool = True) -> pa.Table:
    """What :func:`judge` gives, with the columns ``rollouts`` (m,), who was judged, and ``verdicts`` (m·m,)."""
    _refuse_options(m, seed, max_failed)
    chosen = judge if isinstance(judge, MeaningJudge) else FunctionJudge(judge)
    context = JudgeContext(run, think, max_failed, _speaker(run) if progress else lambda line: None)
    identity = chosen.identity(context)
    key = None if identity is None else {"judge": identity, "m": m, "seed": seed, "think": think}
    place = None if key is None else Kept(run, "rse", key, "made_by")
    if place is not None and (kept := place.read()) is not None:
        return kept
    made = _judged(draw_comparisons(run, m, seed, think), chosen, context)
    table = _arrow(made)
    if place is not None and not np.any(made["failed"]):
        place.write(table, "semantic entropies")
    return table


def _refuse_options(m: Any, seed: Any, max_failed: float) -> None:
    if type(m) is not int or m < 2:
        raise UserError(f"m is {m!r}; it must be a whole number of rollouts to compare, at least 2.")
    if type(seed) is not int:
        raise UserError(f"seed is {seed!r}; it must be a whole number.")
    if not 0 <= max_failed <= 1:
        raise UserError(f"max_failed is {max_failed!r}; it is a share between 0 and 1.")


def judge_run(run: Run, spec: Mapping[str, Any]) -> pd.DataFrame:
    """:func:`judge` with everything in one mapping, as a study file has it.

    ``{"kind": "embedding", "threshold": 0.8, "embedder": "minilm", "m": 20, "seed": 0}`` or ``{"kind": "openai",
    "base_url": ..., "model": ..., "api_key_env": ..., "m": 20, ...}`` with any field of :class:`OpenAIJudge`; and
    ``think``, ``max_failed``, ``progress``. Without "m", 20 rollouts are judged, or all where there are fewer.
    """
    return _frame(judged_by(run, spec))


def judged_by(run: Run, judge: JudgeLike | Mapping[str, Any]) -> pa.Table:
    """:func:`judged_table` of a judge with the options of :func:`judge`, or of a mapping as for :func:`judge_run`."""
    if not isinstance(judge, Mapping):
        return judged_table(run, judge, m=min(20, *run.counts))
    options = {"m": min(20, *run.counts), **{name: judge[name] for name in _OPTIONS if name in judge}}
    chosen = from_spec({name: value for name, value in judge.items() if name not in _OPTIONS})
    return judged_table(run, chosen, **options)


_OPTIONS = ("m", "seed", "think", "max_failed", "progress")
_KINDS: Mapping[str, type[EmbeddingJudge] | type[OpenAIJudge]] = {"embedding": EmbeddingJudge, "openai": OpenAIJudge}


def from_spec(spec: Mapping[str, Any]) -> EmbeddingJudge | OpenAIJudge:
    """The judge that a mapping describes; UserError names what it lacks or has too much."""
    fields = dict(spec)
    kind = fields.pop("kind", None)
    if kind not in _KINDS:
        raise UserError(f"The judge's kind is {kind!r}; it must be 'embedding' or 'openai'.")
    declared = _KINDS[kind].__dataclass_fields__
    if unknown := sorted(set(fields) - set(declared)):
        raise UserError(f"A judge of kind {kind} has no {', '.join(unknown)}; it has "
                        f"{', '.join([*declared, *_OPTIONS])}.")
    needed = [name for name in ("threshold", "base_url", "model") if name in declared and name not in fields]
    if needed:
        raise UserError(f"A judge of kind {kind} needs {' and '.join(needed)}: add it.")
    return _KINDS[kind](**fields)


def add_rse(panel: pd.DataFrame, runs: Iterable[Run | str | Path], judge: JudgeLike | Mapping[str, Any],
            **options: Any) -> pd.DataFrame:
    """A panel with the columns RSE, RSE_cs and rse_m from its runs (or their folders), judged if they were not yet.

    ``judge`` and ``options`` are those of :func:`judge`, or one mapping as for :func:`judge_run`. Rows that belong to
    none of the runs get NaN, and a warning counts them.
    """
    opened = [_opened(run) for run in runs]
    _refuse_strangers(panel, opened)
    return join_rse(panel, opened, [_rows(run, judge, options) for run in opened])


def join_rse(panel: pd.DataFrame, runs: Sequence[Run], judged: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """:func:`add_rse` from what :func:`judge` gave for each of the runs."""
    panel = as_pandas(panel)
    _refuse_strangers(panel, runs)
    if not runs:
        raise UserError("No runs were given: the panel's RSE comes from its runs.")
    found = pd.concat([rows.assign(model_name=run.config.family, model_variant=run.config.variant)
                       for run, rows in zip(runs, judged, strict=True)])[[*_KEY, *PANEL_NAMES]]
    joined = panel.drop(columns=list(PANEL_NAMES), errors="ignore").merge(found, on=_KEY, how="left",
                                                                         validate="one_to_one")
    if without := int(joined["rse_m"].isna().sum()):
        warnings.warn(f"{without:,} of {len(joined):,} rows of the panel belong to none of the runs given and have no "
                      "RSE.", Caution, stacklevel=3)
    joined.attrs = dict(panel.attrs)
    return joined


def _rows(run: Run, by: Any, options: Mapping[str, Any]) -> pd.DataFrame:
    return judge_run(run, {**by, **options}) if isinstance(by, Mapping) else judge(run, by, **options)


def _opened(run: Run | str | Path) -> Run:
    if not isinstance(run, (str, Path)):
        return run
    from canopy_stats.store import open_run

    return open_run(run)


def _refuse_strangers(panel: pd.DataFrame, runs: Iterable[Run]) -> None:
    """A panel's rows and the run that would be judged for them must be the same draws."""
    for run in runs:
        own = panel[(panel["model_name"] == run.config.family) & (panel["model_variant"] == run.config.variant)
                    & (panel["task"] == run.config.task)]
        if own.empty or (own["run_id"] != run.run_id).any():
            raise UserError(f"The panel was not made from {run.path} ({run.config.family}/{run.config.variant}/"
                            f"{run.config.task}): give the runs that the panel was made from.")
        if (own["law"] != run.config.policy.label()).any():
            raise UserError(f"The panel's rows of {run.path} are of the law {own['law'].iloc[0]!r}, and a judge reads "
                            "all rollouts whole: join RSE to a panel without a smaller cap or a selection.")


# ------------------------------------------------------------------------------------------------ rows and keeping


def _judged(comparisons: list[Comparison], chosen: MeaningJudge, context: JudgeContext) -> dict[str, list[Any]]:
    """The kept columns as lists: JUDGE_COLUMNS, then ``rollouts`` (m,) and ``verdicts`` (m·m,) of each prompt."""
    compared = chosen.compare(comparisons, context)
    _refuse_missing(compared, context)
    rows = [_row(comparison, verdicts) for comparison, verdicts in zip(comparisons, compared, strict=True)]
    return {name: [row[name] for row in rows] for name in rows[0]}


def _row(comparison: Comparison, verdicts: Verdicts) -> dict[str, Any]:
    off = ~np.eye(len(verdicts), dtype=bool)
    failed, whole = int((verdicts[off] == MISSING).sum()), expand(verdicts, comparison)
    found = semantic_entropy(whole == SAME)
    found["asymmetric_share"] = _asymmetric(verdicts)
    if failed:
        found |= dict.fromkeys(("RSE", "RSE_cs", "clusters", "asymmetric_share"), float("nan"))
    m = len(comparison.code)
    code = comparison.code
    equal = (code[:, None] == code[None, :]) & (code[:, None] >= 0)
    return {"prompt_uid": comparison.prompt_uid, **found, "failed": failed,
            "equal_share": float((equal.sum() - np.trace(equal)) / (m * (m - 1))), "empty": int((code < 0).sum()),
            "rollouts": comparison.rollouts, "verdicts": whole.ravel()}


def _asymmetric(verdicts: Verdicts) -> float:
    """Share of the pairs (k, k) judged differently in the two orders.

    Where the second order was asked only after SAME, the pairs that said DIFFERENT first are missing. The first order
    is chosen by a hash, so they are expected to be as many as those that said it second: these count twice.
    """
    if (k := len(verdicts)) < 2:
        return float("nan")
    unasked = verdicts == NOT_ASKED
    if not unasked.any():
        return asymmetric_share(verdicts == SAME)
    changed = (verdicts == SAME) & (verdicts.T != SAME) & ~unasked.T
    return float(2 * changed.sum() / (k * (k - 1) / 2))


def _refuse_missing(compared: list[Verdicts], context: JudgeContext) -> None:
    off = [verdicts[~np.eye(len(verdicts), dtype=bool)] for verdicts in compared]
    asked, failed = (sum(int(count.sum()) for count in counts)
                     for counts in ([v != NOT_ASKED for v in off], [v == MISSING for v in off]))
    if failed > context.max_failed * asked:
        raise UserError(f"{failed:,} of {asked:,} verdicts are missing, more than max_failed={context.max_failed:.0%} "
                        "allows: mend the judge, or raise max_failed.")


def _arrow(made: Mapping[str, list[Any]]) -> pa.Table:
    import pyarrow as pa

    types = {"string": pa.string(), "float64": pa.float64(), "int64": pa.int64()}
    fields = [pa.field(c.name, types[c.dtype], metadata={"unit": c.unit, "meaning": c.meaning}) for c in JUDGE_COLUMNS]
    fields += [pa.field("rollouts", pa.list_(pa.int32())), pa.field("verdicts", pa.list_(pa.int8()))]
    return pa.table({f.name: made[f.name] for f in fields}, schema=pa.schema(fields))


def _frame(table: pa.Table) -> pd.DataFrame:
    frame: pd.DataFrame = table.select([c.name for c in JUDGE_COLUMNS]).to_pandas()
    return frame


def _speaker(run: Run) -> Callable[[str], None]:
    label = f"{run.config.family}/{run.config.variant}/{run.config.task}"
    return lambda line: print(f"judge {label}: {line}", file=sys.stderr, flush=True)
