"""Measures on request: names such as ``vendi_2`` to columns of :func:`canopy_stats.measure`, a value for each prompt.

===================  =====================================================  ======================================
name                 columns                                                needs
===================  =====================================================  ======================================
vendi_Q              VS_qQ and its error: Vendi score of order Q (0, 2,     an embedder
                     0.5, inf)
length_diversity     rho_ND_pearson, _spearman, _kendall, cov_ND: length    an embedder
                     and each rollout's own diversity d_i
length_thirds        D_short, D_middle, D_long: D among the shortest        an embedder
                     third of the prompt's rollouts, ...
semantic_entropy     SE_weighted: clusters weighted by likelihood, and      a judge
                     SE_per_token by likelihood^(1/N), with errors
distinct_K           distinct_K and its error: clusters among K rollouts    a judge
utility_K            utility_K and its error: reward of K rollouts, of      a judge and a reward model
                     which only new ones count
===================  =====================================================  ======================================

Errors are ``se_*``, jackknife over the rollouts; of what a judge read, over the rollouts that it read, whose clusters
are found again without each.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from canopy_stats.metrics.association import correlations
from canopy_stats.metrics.diversity import dispersion_by_length, dispersion_of_each, vendi_of_order
from canopy_stats.metrics.jackknife import with_error
from canopy_stats.metrics.likelihood import weighted_semantic_entropy
from canopy_stats.metrics.novelty import distinct_k, utility_k
from canopy_stats.metrics.rse import clusters
from canopy_stats.schema import UserError

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Judged:
    """The m rollouts of a prompt that a judge read: who means the same (m, m), their log-likelihoods in nats, lengths
    and token ids, and their rewards where they were scored. ``whole`` is false where a verdict failed."""

    same: NDArray[np.bool_]
    log_likelihood: Floats
    length: Floats
    tokens: Sequence[tuple[int, ...]]
    reward: Floats | None = None
    whole: bool = True


@dataclass(frozen=True, slots=True)
class OnePrompt:
    """What measures on request are made of: lengths (M,), unit embeddings (M, d) and verdicts, where there are any."""

    length: Floats
    unit: Floats | None = None
    judged: Judged | None = None


NamedNumbers = dict[str, float]


def _vendi(prompt: OnePrompt, order: str) -> NamedNumbers:
    assert prompt.unit is not None
    unit, q = prompt.unit, float(order)
    value, error = with_error(lambda rows: vendi_of_order(unit[rows], q), len(unit))
    return {f"VS_q{order}": value, f"se_VS_q{order}": error}


def _length_diversity(prompt: OnePrompt, _: str) -> NamedNumbers:
    assert prompt.unit is not None
    own = dispersion_of_each(prompt.unit)
    found = correlations(prompt.length, own)
    covariance = float(np.mean((prompt.length - prompt.length.mean()) * (own - own.mean())))
    return {**{name.replace("rho_", "rho_ND_"): value for name, value in found.items()}, "cov_ND": covariance}


def _length_thirds(prompt: OnePrompt, _: str) -> NamedNumbers:
    assert prompt.unit is not None
    return dict(zip(("D_short", "D_middle", "D_long"), dispersion_by_length(prompt.length, prompt.unit).tolist(),
                    strict=True))


def _semantic_entropy(prompt: OnePrompt, _: str) -> NamedNumbers:
    judged = prompt.judged
    assert judged is not None
    found: NamedNumbers = {}
    for name, log in (("SE_weighted", judged.log_likelihood), ("SE_per_token", judged.log_likelihood / judged.length)):
        found[name], found[f"se_{name}"] = _of_clusters(judged, lambda code, rows, log=log: weighted_semantic_entropy(
            code, log[rows], [judged.tokens[i] for i in rows]))
    return found


def _distinct(prompt: OnePrompt, k: str) -> NamedNumbers:
    assert prompt.judged is not None
    value, error = _of_clusters(prompt.judged, lambda code, rows: distinct_k(code, int(k)), int(k))
    return {f"distinct_{k}": value, f"se_distinct_{k}": error}


def _utility(prompt: OnePrompt, k: str) -> NamedNumbers:
    judged = prompt.judged
    assert judged is not None and judged.reward is not None
    worth = judged.reward
    value, error = _of_clusters(judged, lambda code, rows: utility_k(code, worth[rows], int(k)), int(k))
    return {f"utility_{k}": value, f"se_utility_{k}": error}


def _of_clusters(judged: Judged, statistic: Callable[..., float], k: int = 1) -> tuple[float, float]:
    """A statistic of cluster codes and rows, with its error; NaN where a verdict failed. Of all m rollouts there is no
    error: without one of them fewer than ``k`` are left."""
    if not judged.whole:
        return float("nan"), float("nan")

    def of(rows: Ints) -> float:
        return statistic(clusters(judged.same[np.ix_(rows, rows)]), rows)

    m = len(judged.same)
    return (of(np.arange(m)), float("nan")) if k >= m else with_error(of, m)


# --- names ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MeasureKind:
    """A kind of measure: the pattern of its number (none: it has none), what it needs, and how it is made."""

    number: str
    needs: tuple[str, ...]
    made: Callable[[OnePrompt, str], NamedNumbers]


KINDS: Mapping[str, MeasureKind] = {
    "vendi": MeasureKind(r"inf|\d+(?:\.\d+)?", ("embedder",), _vendi),
    "length_diversity": MeasureKind("", ("embedder",), _length_diversity),
    "length_thirds": MeasureKind("", ("embedder",), _length_thirds),
    "semantic_entropy": MeasureKind("", ("judge",), _semantic_entropy),
    "distinct": MeasureKind("[1-9]\\d*", ("judge",), _distinct),
    "utility": MeasureKind("[1-9]\\d*", ("judge", "reward"), _utility),
}


@dataclass(frozen=True, slots=True)
class AskedMeasure:
    """One measure that was asked for by its name."""

    kind: MeasureKind
    number: str

    def of(self, prompt: OnePrompt) -> NamedNumbers:
        return self.kind.made(prompt, self.number)


def asked_for(names: Sequence[str], given: Mapping[str, Any]) -> list[AskedMeasure]:
    """The measures of some names; UserError for an unknown one, and for one that needs what is not ``given``."""
    if isinstance(names, str):
        raise UserError(f"extra is the text {names!r}; give a list of names, such as ['vendi_2'].")
    found = [_asked(name) for name in names]
    for name, one in zip(names, found, strict=True):
        if lacking := [need for need in one.kind.needs if given.get(need) is None]:
            raise UserError(f"{name} needs {' and '.join(lacking)}: give {', '.join(f'{need}=' for need in lacking)}.")
    return found


def needs_of(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """What each measure needs of embedder, judge and reward; UserError for an unknown one."""
    return {name: _asked(name).kind.needs for name in names}


def _asked(name: str) -> AskedMeasure:
    for kind, one in KINDS.items():
        found = re.fullmatch(f"{kind}_({one.number})" if one.number else f"{kind}()", str(name))
        if found:
            return AskedMeasure(one, found[1])
    shown = [f"{kind}_{'2' if one.number else ''}".removesuffix("_") for kind, one in KINDS.items()]
    raise UserError(f"There is no measure {name!r} on request; there are {', '.join(shown)} (any number).")
