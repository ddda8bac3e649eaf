"""The paper's answer and the robust one side by side, in every version that a reader may ask for, and in plain words
whether they agree and what the answer rests on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from canopy_stats.mixed.formulas.frames import as_pandas
from canopy_stats.notebook import Shown
from canopy_stats.slope import scrutiny_words as words
from canopy_stats.slope.change import SlopeChange
from canopy_stats.slope.front import slope_change
from canopy_stats.slope.models import AnyModel


@dataclass(frozen=True)
class Scrutiny(Shown):
    """Two answers to one question. ``agree`` is None where the robust slope is not identified.

    They agree when both find a difference of the same sign, or neither finds one. ``verdict`` is a paragraph;
    ``table`` has a row for each model. ``uncorrected`` is the robust slope without correction of measurement error
    (None where ``robust`` is that already, or has no answer).
    """

    paper: SlopeChange
    robust: SlopeChange
    uncorrected: SlopeChange | None
    agree: bool | None
    verdict: str
    table: pd.DataFrame

    def __str__(self) -> str:
        return self.verdict

    def _shown(self) -> tuple[str, list[Any]]:
        claims = self.claims.drop(columns=["df", "statistic"])
        return "The slope, scrutinised", [self.verdict, "The difference of slopes, in every version:", claims]

    @property
    def claims(self) -> pd.DataFrame:
        """Every version of the difference, a row each: model, claim, corrected, estimate, std_error, df, statistic,
        p_value, conf_low, conf_high, meaning. Claims of the robust model are for families and tasks at large, the same
        with a prior, and for these alone; one row without numbers, and why, where it has no answer."""
        paper = {"model": self.paper.model, "claim": "the paper's", "corrected": False, **self.paper.difference.row(),
                 "meaning": "one straight line, these families and tasks, no correction"}
        parts = [pd.DataFrame([paper]), *(_claims(change) for change in self._versions)]
        return pd.concat(parts, ignore_index=True)

    @property
    def left_out(self) -> pd.DataFrame:
        """The robust difference without each family and each task: corrected, left_out ('family', 'task'), name, and
        the estimate's columns; empty where it has no answer."""
        found = [change.left_out.assign(corrected=change.calibration is not None) for change in self._versions
                 if change.left_out is not None and len(change.left_out)]
        return pd.concat(found, ignore_index=True) if found else pd.DataFrame()

    @property
    def heavy(self) -> pd.DataFrame:
        """The cells that carry more than a third of the robust difference's weight: task, model_name, weight."""
        return words.heavy_cells(self.robust)

    @property
    def _versions(self) -> list[SlopeChange]:
        return [self.robust, *([self.uncorrected] if self.uncorrected is not None else [])]


def slope_scrutiny(panel: pd.DataFrame, *, paper: AnyModel = "paper_beta", bootstrap: int = 0, seed: int | None = None,
                   workers: int = 1) -> Scrutiny:
    """A paper model and the robust slope on one panel; see :func:`canopy_stats.slope_change` for the bootstrap."""
    panel = as_pandas(panel)
    first, second = (slope_change(panel, model=model, bootstrap=bootstrap, seed=seed, workers=workers)
                     for model in (paper, "robust"))
    without = slope_change(panel, model="robust", correct=False) if second.calibration is not None else None
    agree = words.agreement(first, second)
    table = pd.DataFrame([first.row(), second.row()])
    return Scrutiny(first, second, without, agree, words.verdict(first, second, without, agree), table)


def _claims(change: SlopeChange) -> pd.DataFrame:
    labels: dict[str, Any] = {"model": change.model, "corrected": change.calibration is not None}
    if change.claims is None:
        nothing = {"claim": "not available", **change.difference.row(), "meaning": change.verdict}
        return pd.DataFrame([{**labels, **nothing}])
    return change.claims.assign(**labels)
