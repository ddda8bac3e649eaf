"""Slope changes as plain values that JSON can hold, but for their fits; the same numbers come back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from canopy_stats.slope.estimates import Estimate, Interval, SlopeChange

_QUANTITIES = ("base", "tuned", "difference", "ratio")
_FRAMES = ("cells", "support", "calibration", "replicates")


def change_to_dict(change: SlopeChange) -> dict[str, Any]:
    """A slope change, but for its fit, as plain values that JSON can hold; :func:`change_from_dict` reads them."""
    numbers = {name: _estimate_to_dict(getattr(change, name)) for name in _QUANTITIES}
    frames = {name: _frame_to_dict(getattr(change, name)) for name in _FRAMES if getattr(change, name) is not None}
    return {"model": change.model, **numbers, "identified": change.identified, "verdict": change.verdict,
            "estimand": change.estimand, "notes": list(change.notes), "unit": change.unit,
            "response": {name: _estimate_to_dict(e) for name, e in change.response.items()}, **frames,
            "intervals": {name: _interval_to_dict(i) for name, i in change.intervals.items()}}


def change_from_dict(values: Mapping[str, Any], fit: Any = None) -> SlopeChange:
    """The slope change that :func:`change_to_dict` wrote."""
    read: dict[str, Any] = {name: _estimate_from_dict(values[name]) for name in _QUANTITIES}
    read |= {name: _frame_from_dict(values[name]) for name in _FRAMES if name in values}
    read |= {name: values[name] for name in ("model", "identified", "verdict", "estimand", "unit")}
    return SlopeChange(
        **read, notes=tuple(values["notes"]), fit=fit,
        response={name: _estimate_from_dict(e) for name, e in values["response"].items()},
        intervals={name: _interval_from_dict(i) for name, i in values["intervals"].items()})


def _estimate_to_dict(estimate: Estimate) -> dict[str, Any]:
    numbers = {name: _plain(getattr(estimate, name)) for name in ("estimate", "se", "pvalue", "df")}
    return {**numbers, **_interval_to_dict(estimate.interval)}


def _estimate_from_dict(values: Mapping[str, Any]) -> Estimate:
    numbers = {name: float(_number(values[name])) for name in ("estimate", "se", "pvalue", "df")}
    return Estimate(**numbers, interval=_interval_from_dict(values))


def _interval_to_dict(interval: Interval) -> dict[str, Any]:
    return {"low": _plain(interval[0]), "high": _plain(interval[1]), "kind": interval.kind}


def _interval_from_dict(values: Mapping[str, Any]) -> Interval:
    return Interval(float(_number(values["low"])), float(_number(values["high"])), values["kind"])


def _frame_to_dict(frame: pd.DataFrame) -> dict[str, Any]:
    rows = [[_plain(value) for value in row] for row in frame.itertuples(index=False, name=None)]
    return {"columns": [str(name) for name in frame.columns], "rows": rows}


def _frame_from_dict(values: Mapping[str, Any]) -> pd.DataFrame:
    return pd.DataFrame([[_number(value) for value in row] for row in values["rows"]], columns=values["columns"])


def _plain(value: Any) -> Any:
    """A value as JSON has it, which knows no number that is not finite."""
    value = value.item() if hasattr(value, "item") else value
    return {"number": str(value)} if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: Any) -> Any:
    return float(value["number"]) if isinstance(value, Mapping) else value
