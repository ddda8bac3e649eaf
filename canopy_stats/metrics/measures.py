"""One row per prompt of a run: every quantity of the rollouts, its uncertainty, and where it comes from."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from canopy_stats.metrics import control, jackknife
from canopy_stats.metrics.bounded import bounded_metrics
from canopy_stats.metrics.cut_texts import Decode, cut_texts
from canopy_stats.metrics.diversity import dispersion, log_vendi, unit_rows
from canopy_stats.metrics.embed import embed, embed_texts
from canopy_stats.metrics.embedding.embedders import EmbedderLike
from canopy_stats.metrics.embedding.vectors import Embeddings
from canopy_stats.metrics.extra import asked_for
from canopy_stats.metrics.extra_of_run import JudgeOrSpec, Material, extra_columns
from canopy_stats.metrics.rollouts import RolloutTerms, StepTerms, prompt_codes, stored_terms
from canopy_stats.metrics.subset import SelectionLike, selection_of
from canopy_stats.metrics.texts import with_openings
from canopy_stats.metrics.tree import tree_metrics
from canopy_stats.schema import EXACT, IMPORTED, INTERVAL, PANELS_OF, Caution, UserError, names

if TYPE_CHECKING:
    from canopy_stats.store import Run

Floats = NDArray[np.float64]

_PANEL_NAMES = {"mean_length": "N_bar", "mean_rate": "R_bar"}
_ADJUSTED = ("CE", "N", "R")  # the order of the values given to control.adjust
STANDARD_ERRORS = ("se_CE", "se_CE_cv", "se_N_cv", "se_R_cv")
"""Columns of measure() beyond the panel's: standard error of CE, and of the three controlled means."""
_CONTROLLED = ("CE_cv", "N_bar_cv", "R_bar_cv", "cov_cv", "se_CE_cv", "se_N_cv", "se_R_cv")


def measure(run: Run, *, embedder: EmbedderLike | Embeddings | None = None, cap: int | None = None, think: str = "keep",
            reembed: bool = False, decode: Decode | None = None,
            rollouts: SelectionLike | None = None, extra: Sequence[str] = (), judge: JudgeOrSpec | None = None,
            reward: Any = None) -> pd.DataFrame:
    """Measure a run: one row per prompt, with the panel's columns and :data:`STANDARD_ERRORS`.

    Parameters
    ----------
    embedder : see :func:`canopy_stats.embed`; without one the diversity columns are NaN
    cap : a smaller length cap: entropy and length quantities are computed again from the stored steps, as if the
        rollouts had been drawn under it. Diversity is then NaN, unless ``reembed``
    think : "keep" or "drop" the ``<think>`` part of the texts that are embedded
    reembed : with ``cap``: cut the texts too and embed them again (the whole texts' embeddings are not reused)
    decode : token ids -> text, for ``reembed``; None loads the tokenizer that the run names
    rollouts : measure these alone: a boolean mask (R,), a table with prompt_id and rollout, or what
        :func:`canopy_stats.keep_best` gives. The controlled columns (``*_cv``) are then NaN, since S − H and
        1{stopped} − A have mean zero over all rollouts that the law drew, not over chosen ones; ``law`` says what was
        chosen; standard errors treat the chosen as if they had been drawn
    extra : further measures by name, each with its columns at the end: ``vendi_2``, ``length_diversity``,
        ``length_thirds``, ``semantic_entropy``, ``distinct_4``, ``utility_4`` (:mod:`canopy_stats.metrics.extra`)
    judge, reward : what some of these read: a judge as :func:`canopy_stats.judge` takes it or a mapping as a study file
        has it, and a reward model or the table that :func:`canopy_stats.reward` gives

    An imported run without its model has the columns of schema.PANELS_OF: bounds (``R_bar_low``, ``R_bar_high``, ...)
    or nothing in the place of what exact entropies give.
    """
    exact = run.config.terms == EXACT
    asked = asked_for(extra, {"embedder": embedder, "judge": judge, "reward": reward})
    if (cap is not None or rollouts is not None) and any("judge" in one.kind.needs for one in asked):
        raise UserError("A judge reads all rollouts whole: measures that need one go without cap= and rollouts=.")
    terms = stored_terms(run) if cap is None else cut_terms(run, cap)
    _look_at_single_rollouts(terms, run)
    chosen = None if rollouts is None else selection_of(rollouts, run)
    embeddings = _embeddings(run, embedder, cap, think, reembed, decode)
    if asked and embeddings is None and embedder is not None:
        raise UserError("The texts are cut by cap=: give reembed=True, so that measures on request have embeddings.")
    if chosen is not None:
        terms, embeddings = terms.take(chosen.kept), embeddings.take(chosen.kept) if embeddings is not None else None
    with _one_blas_thread():
        rows = [_prompt_row(terms, rows, embeddings) for rows in terms.groups()]
        controlled = _controlled(terms) if exact else {}
        more = extra_columns(run, asked, _for_extra(terms, embeddings), Material(judge, reward)) if asked else None
    frame = pd.DataFrame(rows).rename(columns=_PANEL_NAMES).assign(**controlled, **_provenance(run, cap))
    frame["embedder"] = embeddings.label if embeddings is not None else None
    if chosen is not None:
        frame[list(_CONTROLLED)] = np.nan
        frame["law"] += f", {chosen.label}"
    wanted = [*names(PANELS_OF[run.config.terms]), *(STANDARD_ERRORS if exact else ())]
    frame = frame.assign(**_prompt_identity(run))[wanted]
    return frame if more is None else pd.concat([frame, more], axis=1)


def _for_extra(terms: RolloutTerms, embeddings: Embeddings | None) -> Iterator[tuple[Floats, Floats | None]]:
    """Each prompt's lengths and unit embeddings, one prompt in memory at a time."""
    for rows in terms.groups():
        yield terms.length[rows], _unit_of(embeddings, rows)


def _unit_of(embeddings: Embeddings | None, rows: NDArray[np.intp]) -> Floats | None:
    return unit_rows(embeddings.of(rows)) if embeddings is not None and len(rows) > 1 else None


def _one_blas_thread() -> AbstractContextManager[Any]:
    """A prompt's matrices are small: on a busy machine threads that wait for each other took ten times as long."""
    from threadpoolctl import threadpool_limits

    limited: AbstractContextManager[Any] = threadpool_limits(limits=1, user_api="blas")
    return limited


def cut_terms(run: Run, cap: int) -> RolloutTerms:
    """A run's terms under a smaller cap; UserError for a larger one, of which nothing is known."""
    drawn = run.config.policy.max_new_tokens
    if isinstance(cap, (int, np.integer)) and cap > drawn:
        raise UserError(f"cap is {cap}, but the rollouts were drawn with a cap of {drawn} tokens: give at most that, "
                        "or generate again with a larger one.")
    return RolloutTerms.joined([StepTerms.of(part).cut(cap) for part in run.parts()])


def _look_at_single_rollouts(terms: RolloutTerms, run: Run) -> None:
    """UserError for prompts with one rollout; a warning where they came from elsewhere."""
    alone = np.flatnonzero(np.bincount(terms.prompt) < 2)
    if not alone.size:
        return
    ids = prompt_codes(run.rollouts(["prompt_id"]))[1]
    listed = ", ".join(ids[i] for i in alone[:5]) + (", ..." if alone.size > 5 else "")
    what = f"{alone.size} prompt(s) have a single rollout ({listed}): covariance and diversity need at least two."
    if run.config.engine != IMPORTED:
        raise UserError(f"{what} Generate again with n_rollouts=2 or more (the paper uses 100).")
    warnings.warn(f"{what} They have lengths and entropies alone.", Caution, stacklevel=3)


def _prompt_row(terms: RolloutTerms, rows: NDArray[np.intp], embeddings: Embeddings | None) -> dict[str, float]:
    """Section by section, one prompt's raw metrics and their jackknife uncertainty."""
    length, unit = terms.length[rows], _unit_of(embeddings, rows)
    return {
        **_entropy(terms, rows),
        **_diversity(unit),
        **jackknife.uncertainty(length, terms.rate[rows], unit),
        "truncation_rate": float(1 - terms.stopped[rows].mean()),
        "M": len(rows),
        "embed_truncated_share": float(embeddings.truncated[rows].mean()) if embeddings is not None else np.nan,
        "empty_share": float(embeddings.empty[rows].mean()) if embeddings is not None else np.nan,
    }


def _entropy(terms: RolloutTerms, rows: NDArray[np.intp]) -> dict[str, float]:
    """What is known of one prompt's length and entropy."""
    length = terms.length[rows]
    if terms.known == EXACT:
        found = tree_metrics(length, terms.entropy_sum[rows])
        return found if len(rows) > 1 else {**found, "cov_NR": np.nan}
    bounds = bounded_metrics(length, *(b[rows] for b in terms.bounds)) if terms.known == INTERVAL else {}
    return {"mean_length": float(length.mean()), **bounds}


def _diversity(unit: Floats | None) -> dict[str, float]:
    if unit is None:
        return dict.fromkeys(("D", "log_VS", "VS"), float("nan"))
    log_vs = log_vendi(unit)
    return {"D": dispersion(unit), "log_VS": log_vs, "VS": float(np.exp(log_vs))}


def _controlled(terms: RolloutTerms) -> dict[str, Floats]:
    """CE, mean N and mean r with control variates, and the covariance that follows from them."""
    values, martingales = np.column_stack([terms.entropy_sum, terms.length, terms.rate]), terms.martingales
    a = control.adjust(values, np.where(np.isfinite(martingales), martingales, 0.0), terms.prompt, terms.length)
    if not np.isfinite(martingales).all():
        warnings.warn("The run holds tokens that its law cannot draw (see `check`): control variates are left out.",
                      Caution, stacklevel=3)
        a = replace(a, mean=np.full_like(a.mean, np.nan), se=np.full_like(a.se, np.nan))
    ce, length, rate = a.mean.T
    errors = {f"se_{name}_cv": a.se[:, i] for i, name in enumerate(_ADJUSTED)}
    return {"CE_cv": ce, "N_bar_cv": length, "R_bar_cv": rate, "cov_cv": ce - length * rate,
            "se_CE": a.se_raw[:, 0], **errors}


# ---------------------------------------------------------------------------------------------------- provenance


def _provenance(run: Run, cap: int | None) -> dict[str, Any]:
    config = run.config
    policy = config.policy if cap is None else replace(config.policy, max_new_tokens=int(cap))
    return {"task": config.task, "model_name": config.family, "model_variant": config.variant, "law": policy.label(),
            "dtype": str(config.model.get("dtype", "")), "engine": config.engine, "seed": config.seed,
            "run_id": run.run_id}


def _prompt_identity(run: Run) -> dict[str, list[str]]:
    """prompt_id, prompt_uid and prompt_hash of the prompts that have rollouts, in their order."""
    ids = prompt_codes(run.rollouts(["prompt_id"]))[1]
    hashes = {p.prompt_id: p.prompt_hash for p in run.prompts()}
    return {"prompt_id": ids, "prompt_uid": [f"{run.config.task}/{i}" for i in ids],
            "prompt_hash": [hashes[i] for i in ids]}


# -------------------------------------------------------------------------------------------------------- texts


def _embeddings(run: Run, embedder: EmbedderLike | Embeddings | None, cap: int | None, think: str, reembed: bool,
                decode: Decode | None) -> Embeddings | None:
    if embedder is None or (cap is not None and not reembed):
        return None
    if cap is None:
        return _aligned(embed(run, embedder, think=think), run)
    if isinstance(embedder, Embeddings):
        raise UserError("reembed needs an embedder for the cut texts; these embeddings are of the whole ones.")
    cut = cut_texts(run, cap, decode)
    if think == "drop":
        cut = with_openings(run, cut, run.rollouts(["prompt_id"])["prompt_id"].to_pylist())
    return embed_texts(cut, embedder, think=think)


def _aligned(embeddings: Embeddings, run: Run) -> Embeddings:
    rollouts = run.rollouts(["rollout"]).num_rows
    if len(embeddings) != rollouts:
        raise UserError(f"There are embeddings of {len(embeddings)} texts for a run of {rollouts} rollouts: "
                        "give the embeddings of this run.")
    return embeddings
