"""The paper's answer and the robust one side by side, and in plain words whether they agree."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from canopy_stats.slope.change import SlopeChange
from canopy_stats.slope.estimates import ALPHA
from canopy_stats.slope.front import slope_change
from canopy_stats.slope.models import AnyModel


@dataclass(frozen=True)
class Scrutiny:
    """Two answers to one question. ``agree`` is None where the robust slope is not identified.

    They agree when both find a difference of the same sign, or neither finds one. ``verdict`` is a paragraph;
    ``table`` has a row for each model.
    """

    paper: SlopeChange
    robust: SlopeChange
    agree: bool | None
    verdict: str
    table: pd.DataFrame

    def __str__(self) -> str:
        return self.verdict


def slope_scrutiny(panel: pd.DataFrame, *, paper: AnyModel = "paper_beta", bootstrap: int = 0, seed: int | None = None,
                   workers: int = 1) -> Scrutiny:
    """A paper model and the robust slope on one panel; see :func:`canopy_stats.slope_change` for the bootstrap."""
    first, second = (slope_change(panel, model=model, bootstrap=bootstrap, seed=seed, workers=workers)
                     for model in (paper, "robust"))
    agree = _agree(first, second)
    table = pd.DataFrame([first.row(), second.row()])
    return Scrutiny(first, second, agree, _verdict(first, second, agree), table)


def _sign(change: SlopeChange) -> int:
    """Sign of a difference that is clear at the 5% level, else zero."""
    found = change.difference
    return 0 if not found.pvalue < ALPHA else 1 if found.estimate > 0 else -1


def _agree(paper: SlopeChange, robust: SlopeChange) -> bool | None:
    return None if not robust.identified or not paper.identified else _sign(paper) == _sign(robust)


# --- words ------------------------------------------------------------------------------------------------------


def _verdict(paper: SlopeChange, robust: SlopeChange, agree: bool | None) -> str:
    return " ".join([_of_paper(paper), _of_robust(robust), _conclusion(paper, robust, agree)])


def _of_paper(paper: SlopeChange) -> str:
    if not paper.identified:
        return f"The paper's model ({paper.model}) has no answer: {paper.verdict}"
    return (f"The paper's model ({paper.model}) puts the slope of diversity on entropy rate at "
            f"{paper.base.estimate:.3g} in base and {paper.tuned.estimate:.3g} in fine-tuned models ({paper.unit}): a "
            f"difference of {_interval(paper)}, {_p(paper.difference.pvalue)}{_ratio(paper)}.")


def _of_robust(robust: SlopeChange) -> str:
    if not robust.identified:
        return f"The robust slope: {robust.verdict}"
    return ("At matched rates, with the curve that both variants share taken out, levels and slopes free to vary by "
            f"family and task{_error_words(robust)}, the slopes are {robust.base.estimate:.3g} and "
            f"{robust.tuned.estimate:.3g}: a difference of {_interval(robust)}, {_p(robust.difference.pvalue)}"
            f"{_ratio(robust)}.")


def _interval(change: SlopeChange) -> str:
    d = change.difference
    return f"{d.estimate:.3g} (95% interval {d.interval[0]:.3g} to {d.interval[1]:.3g})"


def _p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _ratio(change: SlopeChange) -> str:
    """The ratio, only behind a clear difference and with a bounded set."""
    if not change.difference.pvalue < ALPHA:
        return ""
    ratio = change.ratio
    if ratio.kind != "bounded":
        return ", with a ratio that the data do not bound"
    return f", a ratio of {ratio.estimate:.2f} ({ratio.interval[0]:.2f} to {ratio.interval[1]:.2f})"


def _error_words(robust: SlopeChange) -> str:
    return ", and measurement error corrected" if robust.calibration is not None else ""


def _conclusion(paper: SlopeChange, robust: SlopeChange, agree: bool | None) -> str:
    if agree is None:
        return "This panel cannot say whether the paper's finding would survive: do not report its ratio alone."
    if agree:
        return _agreement(robust)
    if not _sign(robust):
        return ("They do not agree: what the paper's model finds can come from one curve that both variants share, "
                "from levels or slopes that differ by family or task, or from measurement error. This panel does not "
                "show that fine-tuning changes the slope; nor does it show that it does not. " + _hint(paper, robust))
    if not _sign(paper):
        return "They do not agree: the robust slope finds a change that the paper's model hides."
    return "They do not agree: both find a change, of opposite signs. Look at the cells before anything else."


def _agreement(robust: SlopeChange) -> str:
    """Only what was taken care of is ruled out."""
    if not _sign(robust):
        return "They agree: neither finds a change of slope."
    error = ", or of measurement error" if robust.calibration is not None else (
        "; measurement error is not ruled out, since the panel lacks the jackknife columns")
    return ("They agree: the change of slope is not an artefact of shared curvature, of shifted levels, or of few "
            f"families and tasks{error}.")


def _hint(paper: SlopeChange, robust: SlopeChange) -> str:
    """Whether the robust interval rules the paper's estimate out."""
    low, high = robust.difference.interval
    start = f"The paper's {paper.difference.estimate:.3g} lies"
    if low <= paper.difference.estimate <= high:
        return f"{start} inside the robust interval: more families, tasks or prompts would decide."
    return f"{start} outside the robust interval."
