"""The answer of a slope model: slopes before and after fine-tuning, as a row, as a curve and as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from canopy_stats.mixed import Fit
from canopy_stats.notebook import Shown
from canopy_stats.slope.estimates import (
    Estimate,
    Interval,
    estimate_from_dict,
    interval_from_dict,
    interval_to_dict,
    number,
    plain,
)
from canopy_stats.slope.mean_curve import mean_curve

QUANTITIES = ("base", "tuned", "difference", "ratio")
FRAMES = ("cells", "support", "calibration", "claims", "left_out", "replicates")
ROW = ("model", "base_slope", "base_std_error", "tuned_slope", "tuned_std_error", "estimate", "std_error", "df",
       "statistic", "p_value", "conf_low", "conf_high", "ratio", "ratio_conf_low", "ratio_conf_high", "ratio_kind",
       "unit", "nobs")
"""Columns of :meth:`SlopeChange.row`."""


@dataclass(frozen=True, repr=False)
class SlopeChange(Shown):
    """Slope of diversity on entropy rate in the base and the fine-tuned variant, their difference and ratio.

    ``unit`` says what the slopes are per. ``response`` has the slopes on the response scale where the model is not
    linear (of the robust model: at matched rates). For the robust model ``cells`` has a row per family and task,
    ``support`` what its variants share, ``calibration`` the reliabilities; ``claims`` says the difference for families
    and tasks at large, with a prior, and for these alone, ``left_out`` without each family and task. ``replicates`` and
    ``intervals`` hold a bootstrap over prompts, when one was asked for. ``panel`` are the rows that were asked about.
    """

    model: str
    base: Estimate
    tuned: Estimate
    difference: Estimate
    ratio: Estimate
    identified: bool
    verdict: str
    estimand: str
    notes: tuple[str, ...] = ()
    fit: Fit | None = field(default=None, repr=False)
    unit: str = "D per nat/token"
    response: dict[str, Estimate] = field(default_factory=dict, repr=False)
    cells: pd.DataFrame | None = field(default=None, repr=False)
    support: pd.DataFrame | None = field(default=None, repr=False)
    calibration: pd.DataFrame | None = field(default=None, repr=False)
    claims: pd.DataFrame | None = field(default=None, repr=False)
    left_out: pd.DataFrame | None = field(default=None, repr=False)
    replicates: pd.DataFrame | None = field(default=None, repr=False)
    intervals: dict[str, Interval] = field(default_factory=dict)
    panel: pd.DataFrame | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        if not self.identified:
            return f"<SlopeChange {self.model}: not identified>"
        change, (low, high) = self.difference, self.difference.interval
        return (f"<SlopeChange {self.model}: base {self.base.estimate:.3g}, tuned {self.tuned.estimate:.3g}, "
                f"difference {change.estimate:.3g} [{low:.3g}, {high:.3g}], p = {change.pvalue:.3g} ({self.unit})>")

    def __str__(self) -> str:
        return "\n".join([repr(self)[1:-1], self.verdict])

    def _shown(self) -> tuple[str, list[Any]]:
        return (f"Change of slope, {self.model}",
                [self.verdict, f"Slopes are {self.unit}.", self.to_frame(), *self.notes])

    def to_frame(self) -> pd.DataFrame:
        """One row each for base, tuned, difference and ratio: quantity, estimate, std_error, test and interval."""
        return pd.DataFrame([{"quantity": name, **getattr(self, name).row()} for name in QUANTITIES])

    def row(self) -> dict[str, float | str]:
        """One row of a table, columns :data:`ROW`: the difference as estimate, std_error, df, statistic, p_value,
        conf_low and conf_high; both slopes with their errors; the ratio with its set and the set's kind."""
        ratio = self.ratio
        found: dict[str, float | str] = {
            "model": self.model, "base_slope": self.base.estimate, "base_std_error": self.base.se,
            "tuned_slope": self.tuned.estimate, "tuned_std_error": self.tuned.se, **self.difference.row(),
            "ratio": ratio.estimate, "ratio_conf_low": ratio.interval[0], "ratio_conf_high": ratio.interval[1],
            "ratio_kind": ratio.kind, "unit": self.unit, "nobs": self.fit.nobs if self.fit else 0}
        return {name: found[name] for name in ROW}

    def curve(self, by: str, panel: pd.DataFrame | None = None) -> pd.DataFrame:
        """Mean D over each variant's own rates, averaged over its own rows, for each level of ``by`` (task,
        model_name, ...). Columns: ``by``, model_variant, R_bar, D.

        ``panel`` are the rows that the model was asked about, where the change was read from a file. UserError where
        the model has no fit, or rows of the fit are not in the panel.
        """
        return mean_curve(self.fit, self.panel if panel is None else panel, by, self.verdict)

    def to_dict(self) -> dict[str, Any]:
        """All but the fit and the panel as plain values that JSON can hold; :func:`change_from_dict` reads them."""
        numbers = {name: getattr(self, name).to_dict() for name in QUANTITIES}
        frames = {name: _frame_to_dict(getattr(self, name)) for name in FRAMES if getattr(self, name) is not None}
        return {"model": self.model, **numbers, "identified": self.identified, "verdict": self.verdict,
                "estimand": self.estimand, "notes": list(self.notes), "unit": self.unit,
                "response": {name: one.to_dict() for name, one in self.response.items()}, **frames,
                "intervals": {name: interval_to_dict(one) for name, one in self.intervals.items()}}


def change_from_dict(values: Mapping[str, Any], fit: Fit | None = None) -> SlopeChange:
    """The slope change that :meth:`SlopeChange.to_dict` wrote, with its fit where there is one."""
    read: dict[str, Any] = {name: estimate_from_dict(values[name]) for name in QUANTITIES}
    read |= {name: _frame_from_dict(values[name]) for name in FRAMES if name in values}
    read |= {name: values[name] for name in ("model", "identified", "verdict", "estimand", "unit")}
    return SlopeChange(
        **read, notes=tuple(values["notes"]), fit=fit,
        response={name: estimate_from_dict(one) for name, one in values["response"].items()},
        intervals={name: interval_from_dict(one) for name, one in values["intervals"].items()})


def _frame_to_dict(frame: pd.DataFrame) -> dict[str, Any]:
    rows = [[plain(value) for value in row] for row in frame.itertuples(index=False, name=None)]
    return {"columns": [str(name) for name in frame.columns], "rows": rows}


def _frame_from_dict(values: Mapping[str, Any]) -> pd.DataFrame:
    return pd.DataFrame([[number(value) for value in row] for row in values["rows"]], columns=values["columns"])
