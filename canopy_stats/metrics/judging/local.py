"""Judges that ask nobody: the cosine of embeddings, and a function of your own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from canopy_stats.metrics.diversity import unit_rows
from canopy_stats.metrics.embed import embed, the_kept_embedding
from canopy_stats.metrics.embedding.embedders import EmbedderLike
from canopy_stats.metrics.embedding.vectors import Embeddings
from canopy_stats.metrics.judging.comparisons import DIFFERENT, MISSING, SAME, Comparison, JudgeContext, Verdicts
from canopy_stats.schema import UserError


@dataclass(frozen=True, slots=True)
class EmbeddingJudge:
    """Two texts mean the same if the cosine of their embeddings is at least ``threshold``: the angle between them is
    at most arccos(threshold), 37 degrees for 0.8.

    Local, free, symmetric, and cruder than a reader: an embedding puts a text and its negation close together. What
    cosine separates "same" from "different" depends on the embedder and on the length of the texts, and it decides
    the result: choose the threshold on pairs that you have judged yourself, and report several. Clusters chain: texts
    that are each near the next form one cluster although its ends may be far apart. ``embedder`` None takes the
    embeddings that the run's folder keeps.
    """

    threshold: float
    embedder: EmbedderLike | Embeddings | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.threshold, (int, float)) or not -1 < self.threshold <= 1:
            raise UserError(f"threshold is {self.threshold!r}; it is a cosine above -1 and at most 1, such as 0.8.")

    def identity(self, context: JudgeContext) -> dict[str, Any] | None:
        if callable(self.embedder):  # a function may change under its name
            return None
        made = self._embeddings(context)
        return {"kind": "embedding", "threshold": float(self.threshold), "embedding": dict(made.provenance)}

    def compare(self, comparisons: Sequence[Comparison], context: JudgeContext) -> list[Verdicts]:
        made = self._embeddings(context)
        return [_near(made.of(comparison.rows), self.threshold) for comparison in comparisons]

    def _embeddings(self, context: JudgeContext) -> Embeddings:
        made = (embed(context.run, self.embedder, think=context.think) if self.embedder is not None
                else the_kept_embedding(context.run))
        if made is None:
            raise UserError(f"{context.run.path} keeps no embeddings: run `canopy-stats embed` first, or name an "
                            "embedder, such as 'minilm'.")
        if made.provenance.get("think", context.think) != context.think:
            raise UserError(f"The embeddings were made with think={made.provenance['think']!r}, the judge reads texts "
                            f"with think={context.think!r}: ask for the same in both.")
        if len(made) != (rollouts := context.run.rollouts(["rollout"]).num_rows):
            raise UserError(f"There are embeddings of {len(made)} texts for a run of {rollouts} rollouts: give "
                            "the embeddings of this run.")
        return made


def _near(vectors: np.ndarray, threshold: float) -> Verdicts:
    """SAME where two rows (k, d) have a cosine of at least the threshold."""
    if len(vectors) < 2:
        return np.full((len(vectors), len(vectors)), SAME, np.int8)
    unit = unit_rows(vectors)
    cosine = unit @ unit.T
    # A matrix product need not be symmetric in its last digit; a verdict must be.
    return np.where((cosine + cosine.T) / 2 >= threshold, SAME, DIFFERENT).astype(np.int8)


@dataclass(frozen=True, slots=True)
class FunctionJudge:
    """A function (texts_a, texts_b, prompt) -> one bool for each pair, called once a prompt with all ordered pairs of
    different texts. None in place of a bool is a failed verdict. Its results are not kept, since nothing tells
    whether the function is still the same."""

    function: Callable[[list[str], list[str], str], Sequence[Any]]

    def identity(self, context: JudgeContext) -> dict[str, Any] | None:
        return None

    def compare(self, comparisons: Sequence[Comparison], context: JudgeContext) -> list[Verdicts]:
        return [self._one(comparison) for comparison in comparisons]

    def _one(self, comparison: Comparison) -> Verdicts:
        k, pairs = len(comparison.distinct), comparison.pairs
        verdicts = np.full((k, k), SAME, np.int8)
        if pairs:
            first, second = ([comparison.distinct[pair[side]] for pair in pairs] for side in (0, 1))
            answers = list(self.function(first, second, comparison.prompt))
            _refuse_strange(answers, len(pairs))
            verdicts[tuple(np.transpose(pairs))] = [MISSING if a is None else int(a) for a in answers]
        return verdicts


def _refuse_strange(answers: list[Any], pairs: int) -> None:
    if len(answers) != pairs or not all(a is None or isinstance(a, (bool, np.bool_)) for a in answers):
        raise UserError(f"The judging function gave {len(answers)} answer(s) for {pairs} pairs of texts, or something "
                        "other than True, False and None: it must return one of these for each pair.")
