"""The robust slope: how fine-tuning changes the slope at matched entropy rates, with the known artefacts taken out.

- Curvature: base and tuned share one smooth curve of the rate (:mod:`canopy_stats.slope.cells`), and slopes are
  averaged over the rates that both reach within a task (:mod:`canopy_stats.slope.support`).
- Slopes that vary: every family × task cell has its own, and they are combined as a sample of families and tasks
  (:mod:`canopy_stats.slope.combine`).
- Measurement error: :mod:`canopy_stats.slope.reliability`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from canopy_stats.mixed import Fit
from canopy_stats.schema import UserError
from canopy_stats.slope.cells import CellSlopes, cell_slopes, fit_cells, with_terms
from canopy_stats.slope.change import SlopeChange
from canopy_stats.slope.coefficients import uncertified
from canopy_stats.slope.combine import CellGrid, Combined, combine
from canopy_stats.slope.estimates import ALPHA, Estimate, estimate, missing, ratio_of
from canopy_stats.slope.models import logit_unit
from canopy_stats.slope.prepare import PreparedPanel, prepare
from canopy_stats.slope.reliability import COLUMNS, Calibrated, calibrated, can_correct, uncorrected
from canopy_stats.slope.support import LEAST_SHARE, TRIM, Support, common_support

LEAST_RATE = 1e-3
"""Rates below this share of the median are raised to it: their logarithm would decide everything."""
PARTS = ("base", "tuned", "difference")
LOW = 0.5
"""Cells whose rates are less reliable than this are counted in a note."""


def robust_change(panel: pd.DataFrame, *, correct: bool | None = None) -> SlopeChange:
    """The robust slope of a panel; see :func:`canopy_stats.slope_change`.

    UserError for one family, fewer than 10 prompts, a constant response, or rates that base and tuned nowhere share;
    ``identified`` is False, without numbers, where they share too few.
    """
    prepared = prepare(panel)
    if "model_name" in prepared.single:
        raise UserError("The robust slope needs at least two families: from one nobody can tell fine-tuning from this "
                        "family's own ways. Add a family, or use model='paper_beta' for a statement about this one.")
    data, notes = _positive_rates(prepared)
    support = common_support(data)
    if not support.enough:
        return _not_identified(prepared, support, notes)
    corrected = _calibration(data, correct)
    return _answer(prepared, support, corrected, _fit(corrected.data, support), notes)


@dataclass(frozen=True)
class _Slopes:
    """The joint fit, and the cells' slopes on the link and on the response scale."""

    fit: Fit
    link: CellSlopes
    response: CellSlopes


def _positive_rates(prepared: PreparedPanel) -> tuple[pd.DataFrame, tuple[str, ...]]:
    data = prepared.data
    floor = LEAST_RATE * float(data["R_bar"].median())
    low = int((data["R_bar"] < floor).sum())
    note = (f"{low} rate(s) below {floor:.2g} nats/token were raised to it.",) if low else ()
    return data.assign(R_bar=data["R_bar"].clip(lower=floor)), note


def _calibration(data: pd.DataFrame, correct: bool | None) -> Calibrated:
    if correct and not can_correct(data):
        raise UserError(f"correct=True needs finite jackknife columns {', '.join(COLUMNS)}; canopy_stats.measure makes "
                        "them from runs with at least three rollouts a prompt. correct=False goes without.")
    return calibrated(data) if correct or (correct is None and can_correct(data)) else uncorrected(data)


def _fit(data: pd.DataFrame, support: Support) -> _Slopes:
    """The joint model on the tasks with common support, and its cells' slopes over the shared rates."""
    centre, scale = float(data["R_bar"].mean()), float(data["R_bar"].std())
    terms = with_terms(data, centre, scale)
    used, shared = terms[support.usable], terms[support.inside]
    fit = fit_cells(used)
    return _Slopes(fit, *cell_slopes(fit, shared, centre, scale))


def _answer(prepared: PreparedPanel, support: Support, corrected: Calibrated, slopes: _Slopes,
            notes: tuple[str, ...]) -> SlopeChange:
    combined = combined_slopes(slopes.link)
    base, tuned, change, ratio = change_of(combined)
    response = dict(zip(PARTS, change_of(combined_slopes(slopes.response))[:3], strict=True))
    is_corrected = len(corrected.table) > 0
    notes = (*notes, *_support_notes(support), *_weight_note(combined["difference"]), *uncertified(slopes.fit),
             _error_note(corrected.table))
    return SlopeChange(
        "robust", base, tuned, change, ratio, True, _verdict(change, ratio, combined["difference"], is_corrected),
        _estimand(support), notes, slopes.fit,
        unit=logit_unit(prepared.rate_sd), response=response,
        cells=_cell_table(slopes.link, combined["difference"]), support=support.table,
        calibration=corrected.table if is_corrected else None, panel=prepared.data)


# --- combining --------------------------------------------------------------------------------------------------


def combined_slopes(cells: CellSlopes) -> dict[str, Combined]:
    """Base, tuned and difference over the cells, all with the weights that suit the difference."""
    grid = CellGrid(*(pd.factorize(cells.names[name])[0] for name in ("model_name", "task")))
    change = combine(*cells.part("difference"), grid)
    others = {which: combine(*cells.part(which), grid, change.weights) for which in ("base", "tuned")}
    return {**others, "difference": change}


def change_of(combined: dict[str, Combined]) -> tuple[Estimate, Estimate, Estimate, Estimate]:
    """Base, tuned, difference and ratio as estimates; Fieller's set from the three variances."""
    base, tuned, change = (estimate(c.value, c.se, c.df) for c in (combined[which] for which in PARTS))
    joint = (base.se**2 + tuned.se**2 - change.se**2) / 2
    most = 0.999 * base.se * tuned.se
    covariance = np.array([[tuned.se**2, np.clip(joint, -most, most)], [np.clip(joint, -most, most), base.se**2]])
    df = min(base.df, tuned.df, change.df)
    return base, tuned, change, ratio_of(tuned.estimate, base.estimate, covariance, df, change.pvalue)


def _cell_table(cells: CellSlopes, change: Combined) -> pd.DataFrame:
    columns: dict[str, np.ndarray] = {}
    for which in PARTS:
        values, covariance = cells.part(which)
        value, error = ("estimate", "std_error") if which == "difference" else (f"{which}_slope", f"{which}_std_error")
        columns |= {value: values, error: np.sqrt(np.diag(covariance))}
    return cells.names.assign(**columns, weight=change.weights)


# --- words ------------------------------------------------------------------------------------------------------


def _estimand(support: Support) -> str:
    return (
        "Average derivative of the log-odds of the expected semantic diversity in the mean entropy rate (per standard "
        "deviation), over the rates that base and tuned share within a task "
        f"(between their {100 * TRIM:g}% and {100 - 100 * TRIM:g}% quantiles; {', '.join(support.kept)}), at equal "
        "length, for an average prompt; tuned = base + difference. Families and tasks are taken as samples of those "
        "that could have been studied, and weigh by what they tell about the difference."
    )


def _verdict(change: Estimate, ratio: Estimate, combined: Combined, corrected: bool) -> str:
    word = "differ" if change.pvalue < ALPHA else "are not shown to differ"
    text = (f"At matched rates, with one curve shared by both variants, the slopes {word} "
            f"(difference {change.estimate:.3g}, 95% interval {change.interval[0]:.3g} to {change.interval[1]:.3g}, "
            f"p = {change.pvalue:.3g}, {change.df:.1f} degrees of freedom).")
    spread = [f"{sd:.2g} by {source}" for source, sd in combined.spread.items() if sd > 0.005]
    if spread:
        text += f" The difference varies with standard deviation {', '.join(spread)}."
    if ratio.kind != "bounded":
        text += " The base slope is too uncertain for a bounded interval of the ratio; report the difference."
    return text if corrected else f"{text} Measurement error is not corrected: the panel lacks the jackknife columns."


def _error_note(reliabilities: pd.DataFrame) -> str:
    if reliabilities.empty:
        return "Measurement error is not corrected."
    low = reliabilities["reliability_R"] < LOW
    weak = (f" The rate's reliability is below {LOW} in {low.sum()} of {len(low)} cells (lowest "
            f"{reliabilities['reliability_R'].min():.2f}): more rollouts would tell most there.") if low.any() else ""
    return f"Rate, length and diversity are corrected for measurement error by the jackknife columns.{weak}"


def _support_notes(support: Support) -> tuple[str, ...]:
    dropped = support.table.loc[~support.table["kept"], "task"]
    share = support.inside.sum() / len(support.inside)
    notes = [f"{share:.0%} of the rows lie within the rates that base and tuned share."]
    if len(dropped):
        notes.append(f"Left out for want of common support: {', '.join(dropped)}.")
    return tuple(notes)


def _weight_note(change: Combined) -> tuple[str, ...]:
    return ("Some cells weigh less than nothing: their errors go with those of better known cells, and generalised "
            "least squares takes that off.",) if change.weights.min() < 0 else ()


def _not_identified(prepared: PreparedPanel, support: Support, notes: tuple[str, ...]) -> SlopeChange:
    least = support.table[["base_share", "tuned_share"]].min(axis=1)
    shares = ", ".join(f"{task} {share:.0%}" for task, share in zip(support.table["task"], least, strict=True))
    verdict = ("Not identified from common support: base and tuned share too few entropy rates within a task (rows "
               f"within the shared rates: {shares}; at least {LEAST_SHARE:.0%} of each variant's are needed in half of "
               "the tasks). A number here would rest on the shape of the curve alone.")
    nothing = missing()
    return SlopeChange("robust", nothing, nothing, nothing, nothing, False, verdict, _estimand(support), notes,
                       unit=logit_unit(prepared.rate_sd), support=support.table, panel=prepared.data)
