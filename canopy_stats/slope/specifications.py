"""The defensible ways to model one panel: which choices there are, which apply, and the formula of each combination."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from canopy_stats.schema import UserError
from canopy_stats.slope import models
from canopy_stats.slope.prepare import prepare
from canopy_stats.slope.support import common_support

MakeResponse = Callable[[pd.DataFrame], pd.Series]
Choices = Mapping[str, Sequence[str] | Mapping[str, Any]]
DIMENSIONS = ("embedder", "response", "model", "rate", "length", "task", "family", "slopes", "support")
"""Every decision, in the order in which they are made: what is measured, how it is modelled, on which rows."""

RESPONSES: Mapping[str, MakeResponse] = {"D": models.D.made, "Vendi": models.VENDI.made, "RSE": models.RSE.made}
"""Diversity on a scale from 0 to 1, from a panel. Vendi: (VS - 1)/(M - 1); RSE: over its maximum log m."""

TERMS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "rate": {"straight": ("R_sc*model_variant",), "smooth": ("R_sc*model_variant", "ns(R_sc, 4)")},
    "length": {"spline": ("ns(invN_sc, 4)*model_variant",), "log": ("logN_sc",), "none": ()},
    "task": {"fixed": ("task",), "by variant": ("task*model_variant",), "random": ("(1|task)",)},
    "family": {"fixed": ("model_name",), "random": ("(1|model_name)",)},
    "slopes": {"same": (), "vary": ("(0 + R_sc + R_tuned || task)", "(0 + R_sc + R_tuned || model_name)")},
}
"""Terms of the mean by dimension and option. ``smooth`` gives both variants one curve and keeps their difference; a
task ``by variant`` has its own level in each variant, so that levels that shift by task are not taken for slopes."""

FACTORS = {"task": "task", "family": "model_name"}
MODELS = ("beta", "linear")
ALL_MODELS = (*MODELS, "ordbeta")
SUPPORTS = ("all", "shared")


@dataclass(frozen=True, slots=True)
class Specification:
    """One combination of choices (dimension -> option), its formula, and its dispersion (None: linear model)."""

    choices: Mapping[str, str]
    formula: str
    dispersion: str | None


@dataclass(frozen=True)
class EmbeddedPanel:
    """One embedder's rows with the columns that formulas use, and its responses by name.

    ``data`` has the columns of :func:`~canopy_stats.slope.columns.with_columns` and ``shared`` (the rate lies where
    base and tuned overlap within the task).
    """

    data: pd.DataFrame
    tuned: str
    responses: Mapping[str, pd.Series]


@dataclass(frozen=True)
class Grid:
    """All specifications that apply, the sources they use, the options of each dimension, and what was left out."""

    specifications: tuple[Specification, ...]
    sources: Mapping[str, EmbeddedPanel]
    options: Mapping[str, tuple[str, ...]]
    left_out: tuple[str, ...]


def make_grid(panels: Mapping[str, pd.DataFrame], choices: Choices | None = None) -> Grid:
    """Every combination of the choices that apply to the panels (embedder -> panel)."""
    asked = _asked(choices or {})
    notes: list[str] = []
    sources = _sources(panels, asked["response"], notes)
    first = next(iter(sources.values()))
    kept = {name: _applicable(name, asked[name], first, notes) for name in DIMENSIONS[2:]}
    combinations = [dict(zip(kept, options, strict=True)) for options in product(*kept.values())]
    terms = {name: asked[name] for name in TERMS}
    specifications = tuple(
        _specification({"embedder": embedder, "response": response, **rest}, terms, source)
        for embedder, source in sources.items() for response in source.responses for rest in combinations)
    options = {"embedder": tuple(sources), "response": _responses(sources), **{k: tuple(v) for k, v in kept.items()}}
    return Grid(specifications, sources, options, tuple(notes))


def _asked(choices: Choices) -> dict[str, dict[str, Any]]:
    """Options by dimension: the standard ones, those named, or those given with their own terms or functions."""
    known: dict[str, Mapping[str, Any]] = {
        "response": RESPONSES, "model": dict.fromkeys(ALL_MODELS), **TERMS, "support": dict.fromkeys(SUPPORTS)}
    unknown = [name for name in choices if name not in known]
    if unknown:
        raise UserError(f"There is no choice called {', '.join(unknown)}; choose among {', '.join(known)}."
                        " Embedders are given as a mapping from their name to a panel.")
    standard = {**known, "model": dict.fromkeys(MODELS)}
    return {name: _options(name, choices.get(name, standard[name]), known[name]) for name in known}


def _options(name: str, given: Sequence[str] | Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    own = dict(given) if isinstance(given, Mapping) else {}
    names = [given] if isinstance(given, str) else list(given)
    strange = [option for option in names if option not in known and option not in own]
    if strange or not names:
        raise UserError(f"{name} has no option {', '.join(strange) or '(none given)'}; choose among {', '.join(known)}"
                        f"{' or give a mapping from your own names to terms' if name in TERMS else ''}.")
    if name not in TERMS:
        return {option: own.get(option) or known.get(option) for option in names}
    return {option: _terms(own[option] if option in own else known[option]) for option in names}


def _terms(given: str | Sequence[str]) -> tuple[str, ...]:
    return ((given,) if given.strip() else ()) if isinstance(given, str) else tuple(given)


# --- sources ----------------------------------------------------------------------------------------------------


def _sources(panels: Mapping[str, pd.DataFrame], responses: Mapping[str, Any], notes: list[str]
             ) -> dict[str, EmbeddedPanel]:
    """Prepared panels; a response that an earlier embedder has already, value for value, is left out and named."""
    frames = {name: prepare(panel) for name, panel in panels.items()}
    _check_same_runs({name: frame.data for name, frame in frames.items()})
    sources: dict[str, EmbeddedPanel] = {}
    for name, frame in frames.items():
        found = _found_responses(frame.data, responses, notes if not sources else [])
        for earlier, source in sources.items():
            for same in [r for r in found if r in source.responses and found[r].equals(source.responses[r])]:
                del found[same]
                notes.append(f"embedder {name}, response {same}: the same values as under {earlier}.")
        if found:
            sources[name] = EmbeddedPanel(frame.data.assign(shared=shared_rates(frame.data)), frame.tuned, found)
    if not sources:
        raise UserError(f"None of the responses asked for can be computed from this panel. {' '.join(notes)}")
    return sources


def _check_same_runs(frames: Mapping[str, pd.DataFrame]) -> None:
    """Refuse panels that differ in more than the embedder."""
    keys = ["task", "prompt_uid", "model_name", "model_variant"]
    (first, one), *others = ((name, frame.sort_values(keys)) for name, frame in frames.items())
    for name, other in others:
        same = len(one) == len(other) and (one[keys].to_numpy() == other[keys].to_numpy()).all()
        if not same or not np.allclose(one["R_bar"], other["R_bar"], rtol=1e-9):
            raise UserError(f"The panels {first} and {name} differ in their rows or entropy rates; embedders are"
                            " compared on the same runs. Make both panels from the same run folders.")


def _found_responses(data: pd.DataFrame, asked: Mapping[str, Any], notes: list[str]) -> dict[str, pd.Series]:
    found = {}
    for name, function in asked.items():
        try:
            values = pd.Series(function(data), index=data.index, dtype=float)
        except KeyError as error:
            notes.append(f"response {name}: the panel has no column {error.args[0]}.")
            continue
        found[name] = values
    return found


def _responses(sources: Mapping[str, EmbeddedPanel]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for source in sources.values() for name in source.responses))


def shared_rates(data: pd.DataFrame) -> np.ndarray:
    """Whether each row's rate (n,) lies where base and tuned overlap within its task (see ``slope.support``)."""
    return common_support(data).near


# --- what applies, and its formula ------------------------------------------------------------------------------


def _applicable(name: str, asked: Mapping[str, Any], source: EmbeddedPanel, notes: list[str]) -> list[str]:
    """Options of one dimension that make a difference in this panel; the others are named in ``notes``."""
    data, options = source.data, list(asked)
    if name in FACTORS and data[FACTORS[name]].nunique() == 1:
        notes.append(f"{name}: the panel has one ({data[FACTORS[name]].iloc[0]}); its terms are left out.")
        return ["none"]
    if name == "slopes" and "vary" in options and all(data[column].nunique() == 1 for column in FACTORS.values()):
        notes.append("slopes vary: the panel has one task and one family to vary over.")
        options = [option for option in options if option != "vary"] or ["same"]
    if name == "support" and not data["shared"].any():
        notes.append("support shared: base and tuned share too few entropy rates in every task.")
        return ["all"]
    return options


def _specification(choices: dict[str, str], terms: Mapping[str, Mapping[str, tuple[str, ...]]],
                   source: EmbeddedPanel) -> Specification:
    single = [column for column in FACTORS.values() if source.data[column].nunique() == 1]
    used = [term for name in TERMS for term in terms[name].get(choices[name], ())
            if not any(column in term for column in single)]
    formula = f"y ~ {' + '.join([*used, '(1|prompt_uid)'])}"
    paper = models.TABLE["paper_vendi" if choices["response"] == "Vendi" else "paper_beta"].dispersion_formula(
        frozenset(single))
    return Specification(choices, formula, None if choices["model"] == "linear" else paper)


PAPER = {"model": "beta", "rate": "straight", "length": "spline", "task": "fixed", "family": "random",
         "slopes": "same", "support": "all"}


def is_paper(choices: Mapping[str, str]) -> bool:
    """Whether a combination is the paper's model of its response (D, Vendi or RSE)."""
    return choices["response"] in RESPONSES and all(
        choices[name] == option or (name in FACTORS and choices[name] == "none") for name, option in PAPER.items())
