"""The slope models by name, in one table: formula, dispersion, response, rate, unit, and how they are estimated.

==============  ====================================================================================================
main            linear, one slope for both variants
interaction     linear, a slope for each variant
quadratic       linear in a parabola of the centred rate for each variant, by maximum likelihood; slopes at the mean
paper_beta      beta, logit link: standardised rate × variant, spline of 1/N × variant, dispersion model (headline)
paper_vendi     the same mean for (VS - 1)/(M - 1), a richer dispersion model
paper_rse       as paper_beta for RSE / log m
robust          at matched rates, cell by cell (:mod:`canopy_stats.slope.robust`)
==============  ====================================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd

from canopy_stats.schema import UserError

PaperModel = Literal["main", "interaction", "quadratic", "paper_beta", "paper_vendi", "paper_rse"]
AnyModel = Literal["main", "interaction", "quadratic", "paper_beta", "paper_vendi", "paper_rse", "robust"]
PAPER_MODELS: tuple[PaperModel, ...] = get_args(PaperModel)
MODELS: tuple[AnyModel, ...] = get_args(AnyModel)


@dataclass(frozen=True, slots=True)
class Response:
    """A diversity on a scale from 0 to 1: the column that holds it, what it is made from and how, and its words."""

    column: str
    needs: tuple[str, ...]
    made: Callable[[pd.DataFrame], pd.Series]
    words: str
    remedy: str = ""

    def added_to(self, panel: pd.DataFrame, model: str) -> pd.DataFrame:
        """The panel with this response; UserError where it lacks what that is made from."""
        lacking = [name for name in self.needs if name not in panel.columns]
        if lacking:
            raise UserError(f"{model} needs the column{'s'[:len(lacking) - 1]} {', '.join(lacking)}; {self.remedy}.")
        return panel.assign(**{self.column: self.made(panel)}) if self.needs else panel


D = Response("D", (), lambda panel: panel["D"], "semantic diversity D")
VENDI = Response("vendi_share", ("VS", "M"), lambda panel: (panel["VS"] - 1) / (panel["M"] - 1),
                 "the Vendi score's share (VS - 1)/(M - 1)", "make the panel with an embedder")
RSE = Response("rse_share", ("RSE", "rse_m"), lambda panel: panel["RSE"] / np.log(panel["rse_m"]), "RSE / log m",
               "judge the runs first (canopy_stats.judge)")


@dataclass(frozen=True, slots=True)
class SlopeModel:
    """One of the paper's models. ``rate`` is the column whose coefficient is the base slope; without ``dispersion``
    the model is linear. ``reml`` applies to linear models."""

    name: PaperModel
    terms: tuple[str, ...]
    rate: str
    response: Response = D
    dispersion: tuple[str, ...] = ()
    reml: bool = True

    @property
    def linear(self) -> bool:
        """Whether the response itself is modelled, not its log-odds."""
        return not self.dispersion

    def formula(self, single: frozenset[str] = frozenset()) -> str:
        """The mean's formula, without the factors in ``single``, which have one level only."""
        return f"{self.response.column} ~ {' + '.join([*_without(self.terms, single), '(1|prompt_uid)'])}"

    def dispersion_formula(self, single: frozenset[str] = frozenset()) -> str:
        """The formula of log phi."""
        return f"~ {' + '.join(_without(self.dispersion, single))}"

    def unit(self, rate_sd: float) -> str:
        """What slopes are per, with the panel's standard deviation of the rate."""
        return "D per nat/token" if self.linear else logit_unit(rate_sd)


def logit_unit(rate_sd: float) -> str:
    """Log-odds per standard deviation of the rate."""
    return f"log-odds per SD of R ({rate_sd:.4g} nats/token)"


def _without(terms: tuple[str, ...], single: frozenset[str]) -> list[str]:
    """Terms without the factors that have one level: a*b becomes a, (1|b) goes."""
    kept = ["*".join(part for part in term.split("*") if part not in single) for term in terms]
    return [term for term in kept if term and not any(term == f"(1|{name})" for name in single)]


_LINEAR_TAIL = ("N_bar", "task", "model_name")
_BETA_MEAN = ("R_sc*model_variant", "ns(invN_sc, 4)*model_variant", "task", "(1|model_name)")
_RATE = ("R_sc*model_variant", "model_name")
_PHI = ("model_variant*task", "ns(invN_sc, 3)", *_RATE)
_PHI_VENDI = ("model_variant*task", "ns(invN_sc, 4)*model_variant", *_RATE)

TABLE: Mapping[PaperModel, SlopeModel] = {model.name: model for model in (
    SlopeModel("main", ("R_bar", "N_bar", "task", "model_name*model_variant"), "R_bar"),
    SlopeModel("interaction", ("R_bar*model_variant", *_LINEAR_TAIL), "R_bar"),
    SlopeModel("quadratic", ("(R_c + R_c2)*model_variant", *_LINEAR_TAIL), "R_c", reml=False),
    SlopeModel("paper_beta", _BETA_MEAN, "R_sc", D, _PHI),
    SlopeModel("paper_vendi", _BETA_MEAN, "R_sc", VENDI, _PHI_VENDI),
    SlopeModel("paper_rse", _BETA_MEAN, "R_sc", RSE, _PHI),
)}
LINEAR: tuple[PaperModel, ...] = tuple(name for name, model in TABLE.items() if model.linear)
BETA: tuple[PaperModel, ...] = tuple(name for name, model in TABLE.items() if not model.linear)


def check_model(model: str, choices: tuple[str, ...] = MODELS) -> None:
    """UserError for a model that is not among the choices."""
    if model not in choices:
        raise UserError(f"model is {model!r}; choose one of {', '.join(choices)}.")
