"""The scrutiny of a slope's change in a paragraph: the paper's answer, the robust one, and what that rests on."""

from __future__ import annotations

import numpy as np
import pandas as pd

from canopy_stats.slope.change import SlopeChange
from canopy_stats.slope.claims import CONDITIONAL, PRIOR
from canopy_stats.slope.estimates import ALPHA
from canopy_stats.slope.robust_words import HEAVY


def sign(change: SlopeChange) -> int:
    """Sign of a difference that is clear at the 5% level, else zero."""
    found = change.difference
    return 0 if not found.pvalue < ALPHA else 1 if found.estimate > 0 else -1


def agreement(paper: SlopeChange, robust: SlopeChange) -> bool | None:
    """Whether both find a difference of one sign, or neither finds one; None where one of them has no answer."""
    return None if not robust.identified or not paper.identified else sign(paper) == sign(robust)


def verdict(paper: SlopeChange, robust: SlopeChange, uncorrected: SlopeChange | None, agree: bool | None) -> str:
    """The paragraph."""
    parts = [_of_paper(paper), _of_robust(robust)]
    if robust.identified:
        parts += [_of_claims(robust), _of_correction(robust, uncorrected), _of_leaning(robust)]
    return " ".join(filter(None, [*parts, _conclusion(paper, robust, agree)]))


def heavy_cells(robust: SlopeChange) -> pd.DataFrame:
    """Cells with more than a third of the weight."""
    columns = ["task", "model_name", "weight"]
    if robust.cells is None:
        return pd.DataFrame(columns=columns)
    return robust.cells.loc[robust.cells["weight"] > HEAVY, columns].reset_index(drop=True)


# --- the two answers --------------------------------------------------------------------------------------------


def _of_paper(paper: SlopeChange) -> str:
    if not paper.identified:
        return f"The paper's model ({paper.model}) has no answer: {paper.verdict}"
    return (f"The paper's model ({paper.model}) puts the slope of diversity on entropy rate at "
            f"{paper.base.estimate:.3g} in base and {paper.tuned.estimate:.3g} in fine-tuned models ({paper.unit}): a "
            f"difference of {_interval(paper)}, {_p(paper.difference.pvalue)}{_ratio(paper)}.")


def _of_robust(robust: SlopeChange) -> str:
    if not robust.identified:
        return f"The robust slope: {robust.verdict}"
    return ("At matched rates, with the surface of rate and length that both variants share taken out, levels and "
            f"slopes free to vary by family and task{_error_words(robust)}, the slopes are {robust.base.estimate:.3g} "
            f"and {robust.tuned.estimate:.3g}: a difference of {_interval(robust)}, {_p(robust.difference.pvalue)}"
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


# --- what it rests on -------------------------------------------------------------------------------------------


def _of_claims(robust: SlopeChange) -> str:
    assert robust.claims is not None
    rows = {str(row["claim"]): row for _, row in robust.claims.iterrows()}
    return (f"With a prior on how much families and tasks vary it is {_row(rows[PRIOR])}; for these families and "
            f"tasks alone, {_row(rows[CONDITIONAL])}.")


def _row(row: pd.Series) -> str:
    return f"{row['estimate']:.3g} ({row['conf_low']:.3g} to {row['conf_high']:.3g})"


def _of_correction(robust: SlopeChange, uncorrected: SlopeChange | None) -> str:
    if uncorrected is None or not uncorrected.identified:
        return ""
    one, other = robust.difference.estimate, uncorrected.difference.estimate
    text = f"Without correction of measurement error it is {_interval(uncorrected)}"
    if np.sign(one) != np.sign(other):
        return f"{text}: the sign rests on the correction."
    return f"{text}: the size rests on the correction." if abs(one) > 2 * abs(other) else f"{text}."


def _of_leaning(robust: SlopeChange) -> str:
    """Ranges without one family or one task, and the cells that carry much."""
    found = []
    if robust.left_out is not None and len(robust.left_out):
        ranges = robust.left_out.groupby("left_out", sort=False)["estimate"].agg(["min", "max"])
        found = [f"without one {kind} it lies between {row['min']:.3g} and {row['max']:.3g}"
                 for kind, row in ranges.iterrows()]
    text = f"{'; '.join(found).capitalize()}." if found else ""
    heavy = [f"{row.task} / {row.model_name} carries {row.weight:.0%} of the weight."
             for row in heavy_cells(robust).itertuples()]
    apart, kept = _apart(robust)
    lengths = (f"In {apart} of {kept} cells base and tuned hardly share lengths: equal length there is carried over "
               "the gap by how each cell's own slope changes with length.") if apart else ""
    return " ".join(filter(None, [text, *heavy, lengths]))


def _apart(robust: SlopeChange) -> tuple[int, int]:
    """Compared cells whose variants hardly share lengths, and all compared cells."""
    assert robust.support is not None
    kept = robust.support[robust.support["kept"].astype(bool)]
    return int((~kept["matched"].astype(bool)).sum()), len(kept)


# --- conclusion -------------------------------------------------------------------------------------------------


def _conclusion(paper: SlopeChange, robust: SlopeChange, agree: bool | None) -> str:
    if agree is None:
        return "This panel cannot say whether the paper's finding would survive: do not report its ratio alone."
    if agree:
        return _agreed(robust)
    if not sign(robust):
        return ("They do not agree: what the paper's model finds can come from one curve of the rate, or one law of "
                "rate and length, that both variants share, from levels or slopes that differ by family or task, or "
                "from measurement error. This panel does not show that fine-tuning changes the slope; nor does it show "
                "that it does not. " + _hint(paper, robust))
    if not sign(paper):
        return "They do not agree: the robust slope finds a change that the paper's model hides."
    return "They do not agree: both find a change, of opposite signs. Look at the cells before anything else."


def _agreed(robust: SlopeChange) -> str:
    """Only what was taken care of is ruled out."""
    if not sign(robust):
        return "They agree: neither finds a change of slope."
    error = ", or of measurement error" if robust.calibration is not None else (
        "; measurement error is not ruled out, since the panel lacks the jackknife columns")
    return ("They agree: the change of slope is not an artefact of a shared curve or law of rate and length, of shifted"
            f" levels, or of few families and tasks{error}.")


def _hint(paper: SlopeChange, robust: SlopeChange) -> str:
    """Whether the robust interval rules the paper's estimate out."""
    low, high = robust.difference.interval
    start = f"The paper's {paper.difference.estimate:.3g} lies"
    if low <= paper.difference.estimate <= high:
        apart, kept = _apart(robust)
        wanted = "prompts that both answer at like lengths" if 2 * apart > kept else "more families, tasks or prompts"
        return f"{start} inside the robust interval: {wanted} would decide."
    return f"{start} outside the robust interval."
