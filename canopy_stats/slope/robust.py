"""The robust slope: how fine-tuning changes the slope at matched entropy rates, with the known artefacts taken out.

- Curvature, and rate and length acting together: base and tuned share one smooth surface of both
  (:mod:`canopy_stats.slope.cells`), and slopes are averaged over the rates and lengths that both reach within a cell
  (:mod:`canopy_stats.slope.support`). Where they reach no common lengths, the cell has an interaction of its own, whose
  error widens the interval.
- Slopes that vary: every family × task cell has its own, and they are combined as a sample of families and tasks
  (:mod:`canopy_stats.slope.combine`).
- Prompts that react alike: they are clusters (:mod:`canopy_stats.slope.clusters`).
- Measurement error: :mod:`canopy_stats.slope.reliability`, and what its own errors add:
  :mod:`canopy_stats.slope.correction`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from canopy_stats.mixed import Fit
from canopy_stats.schema import UserError
from canopy_stats.slope import robust_words as words
from canopy_stats.slope.cells import PARTS, CellSlopes, cell_slopes, fit_cells, with_terms
from canopy_stats.slope.change import SlopeChange
from canopy_stats.slope.claims import claims, grid_of, left_out
from canopy_stats.slope.coefficients import uncertified
from canopy_stats.slope.combine import Combined, combine
from canopy_stats.slope.correction import with_correction_errors
from canopy_stats.slope.estimates import Estimate, estimate, missing, ratio_of
from canopy_stats.slope.models import logit_unit
from canopy_stats.slope.prepare import PreparedPanel, prepare
from canopy_stats.slope.reliability import COLUMNS, Calibrated, calibrated, can_correct, uncorrected
from canopy_stats.slope.support import Support, common_support

LEAST_RATE = 1e-3
"""Rates below this share of the median are raised to it: their logarithm would decide everything."""


def robust_change(panel: pd.DataFrame, *, correct: bool | None = None) -> SlopeChange:
    """The robust slope of a panel; see :func:`canopy_stats.slope_change`.

    ``identified`` is False, and the verdict says why, where there is one family, or where base and tuned share too few
    rates. UserError for fewer than 10 prompts or a constant response.
    """
    prepared = prepare(panel)
    data, notes = _positive_rates(prepared)
    support = common_support(data)
    if why := words.not_identified(support):
        return _unidentified(prepared, support, why, notes)
    corrected = _calibration(data[support.usable], correct)
    slopes = _fit(corrected, support, float(data["R_bar"].mean()), float(data["R_bar"].std()))
    return _answer(prepared, support, corrected, slopes, (*notes, *words.correction_notes(corrected.table, correct)))


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


def _fit(corrected: Calibrated, support: Support, centre: float, scale: float) -> _Slopes:
    """The joint model on the cells with common support, and their slopes over the rows that may be compared."""
    terms = with_terms(corrected.data, centre, scale, support.apart[support.usable])
    fit = fit_cells(terms)
    rows = terms[support.inside[support.usable]]
    link, response = cell_slopes(fit, rows, centre, scale)
    return _Slopes(fit, *with_correction_errors(link, response, fit, rows, corrected.table))


def _answer(prepared: PreparedPanel, support: Support, corrected: Calibrated, slopes: _Slopes,
            notes: tuple[str, ...]) -> SlopeChange:
    combined = combined_slopes(slopes.link)
    base, tuned, change, ratio = change_of(combined)
    response = dict(zip(PARTS, change_of(combined_slopes(slopes.response))[:3], strict=True))
    cells = _cell_table(slopes.link, combined["difference"])
    notes = (*notes, *words.support_notes(support), *words.weight_notes(cells),
             *words.fit_notes(slopes.fit), *words.extreme_notes(slopes.fit), *uncertified(slopes.fit))
    verdict = words.verdict(change, ratio, combined["difference"], support, notes)
    return SlopeChange(
        "robust", base, tuned, change, ratio, True, verdict,
        words.estimand(support), notes, slopes.fit, unit=logit_unit(prepared.rate_sd), response=response, cells=cells,
        support=support.table, calibration=corrected.table if len(corrected.table) else None,
        claims=claims(slopes.link, change), left_out=left_out(slopes.link), panel=prepared.data)


# --- combining --------------------------------------------------------------------------------------------------


def combined_slopes(cells: CellSlopes) -> dict[str, Combined]:
    """Base, tuned and difference over the cells, all with the weights that suit the difference."""
    grid = grid_of(cells.names)
    change = combine(*cells.part("difference"), grid, sampling_df=cells.sampling_df("difference"))
    others = {which: combine(*cells.part(which), grid, change.weights, cells.sampling_df(which))
              for which in ("base", "tuned")}
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


def _unidentified(prepared: PreparedPanel, support: Support, why: str, notes: tuple[str, ...]) -> SlopeChange:
    nothing = missing()
    return SlopeChange("robust", nothing, nothing, nothing, nothing, False, why, words.estimand(support), notes,
                       unit=logit_unit(prepared.rate_sd), support=support.table, panel=prepared.data)
