"""The fit stage: every slope model on a study's panels, as files that give the same numbers back."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from canopy_stats import files
from canopy_stats.schema import UserError
from canopy_stats.study.stages import Key, Say, code_hash, versions_of

if TYPE_CHECKING:
    import pandas as pd

    from canopy_stats.slope import Estimate, Interval, SlopeChange
    from canopy_stats.slope.models import AnyModel
    from canopy_stats.study.catalogue import Material

FITTING = ("mixedlm", "numpy", "scipy", "pandas", "formulaic")
"""Packages whose versions decide a fit."""
_QUANTITIES = ("base", "tuned", "difference", "ratio")
_FRAMES = ("cells", "support", "calibration", "replicates")



def fit_key(out: Path) -> Key | None:
    panel = files.file_sha256(out / "panel.parquet")
    made = {"panel": panel, "code": code_hash("slope", "mixed"), "versions": versions_of(*FITTING)}
    return made if panel is not None else None


def fit(out: Path, say: Say) -> list[Path]:
    """Every slope model on the study's panel: the slope table, each model's change in words and numbers, its fit."""
    from canopy_stats.panel import read_panel
    from canopy_stats.study.catalogue import Material

    material = Material(read_panel(out / "panel.parquet"))
    files.make_folder(out / "fits")
    made = [_slopes(material, out / "fits", say), *_scrutiny(material, out / "fits", say)]
    return [*made, *_changes(material, out / "fits", say)]


def _slopes(material: Material, folder: Path, say: Say) -> Path:
    """The slope table, for each tuned variant; without a row where the panel does not suffice, with the reason."""
    import pandas as pd

    from canopy_stats.slope import slope_table

    made, notes = [], list[str]()
    for tuned in material.tuned:
        try:
            table = slope_table(material.pair(tuned))
        except UserError as error:
            notes.append(f"No slopes ({tuned}): {error}")
            say(f"  {notes[-1]}")
            continue
        notes += table.attrs.get("notes", [])
        made.append(table if len(material.tuned) == 1 else table.assign(tuned=tuned))
    table = pd.concat(made, ignore_index=True) if made else pd.DataFrame(columns=["model"])
    files.write_atomic(folder / "notes.json", json.dumps(list(dict.fromkeys(notes)), ensure_ascii=False).encode())
    files.write_atomic(folder / "slopes.csv", table.to_csv(index=False).encode())
    return folder / "slopes.csv"


def _changes(material: Material, folder: Path, say: Say) -> list[Path]:
    """changes.json, and the fits as files; a model that cannot be fitted is kept with the reason."""
    entries, made = [], [folder / "notes.json", folder / "changes.json"]
    for tuned, model in product(material.tuned, _models(material.panel)):
        entry: dict[str, Any] = {"model": model, "variant": tuned}
        try:
            change = material.change(model, tuned)
        except UserError as error:
            entries.append(entry | {"failed": str(error)})
            say(f"  the model {model} ({tuned}) was not fitted: {error}")
            continue
        if change.fit is not None:
            made.append(change.fit.save(folder / f"{model}-{tuned}.npz"))
            entry["fit"] = made[-1].name
        entries.append(entry | change_to_dict(change))
    files.write_atomic(folder / "changes.json", json.dumps(entries, indent=1, ensure_ascii=False).encode())
    return made


def _models(panel: pd.DataFrame) -> list[AnyModel]:
    """The slope models that the panel has the columns for: without a judge there is no RSE."""
    from canopy_stats.slope.models import MODELS

    return [model for model in MODELS if model != "paper_rse" or "RSE" in panel]


def _scrutiny(material: Material, folder: Path, say: Say) -> list[Path]:
    """The paper's slopes against robust ones for each tuned variant, in a table and in words."""
    from canopy_stats.slope import slope_scrutiny

    made = []
    for tuned in material.tuned:
        try:
            found = slope_scrutiny(material.pair(tuned))
            texts = {"csv": found.table.to_csv(index=False), "txt": f"{found.verdict}\n"}
        except UserError as error:
            say(f"  the paper's slope was not held against the robust one ({tuned}): {error}")
            texts = {"txt": f"The paper's slope could not be held against the robust one: {error}\n"}
        for suffix, text in texts.items():
            made.append(folder / f"scrutiny-{tuned}.{suffix}")
            files.write_atomic(made[-1], text.encode())
    return made


def read_verdicts(out: Path) -> dict[str, str]:
    """What the scrutiny says in words, for each tuned variant."""
    return {path.stem.removeprefix("scrutiny-"): path.read_text(encoding="utf-8").strip()
            for path in sorted((out / "fits").glob("scrutiny-*.txt"))}


# --- slope changes as JSON --------------------------------------------------------------------------------------


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
    from canopy_stats.slope import SlopeChange

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
    from canopy_stats.slope import Estimate

    numbers = {name: float(_number(values[name])) for name in ("estimate", "se", "pvalue", "df")}
    return Estimate(**numbers, interval=_interval_from_dict(values))


def _interval_to_dict(interval: Interval) -> dict[str, Any]:
    return {"low": _plain(interval[0]), "high": _plain(interval[1]), "kind": interval.kind}


def _interval_from_dict(values: Mapping[str, Any]) -> Interval:
    from canopy_stats.slope import Interval

    return Interval(float(_number(values["low"])), float(_number(values["high"])), values["kind"])


def _frame_to_dict(frame: pd.DataFrame) -> dict[str, Any]:
    rows = [[_plain(value) for value in row] for row in frame.itertuples(index=False, name=None)]
    return {"columns": [str(name) for name in frame.columns], "rows": rows}


def _frame_from_dict(values: Mapping[str, Any]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame([[_number(value) for value in row] for row in values["rows"]], columns=values["columns"])


def _plain(value: Any) -> Any:
    """A value as JSON has it, which knows no number that is not finite."""
    value = value.item() if hasattr(value, "item") else value
    return {"number": str(value)} if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: Any) -> Any:
    return float(value["number"]) if isinstance(value, Mapping) else value


_FORMER = {"base_se": "base_std_error", "tuned_se": "tuned_std_error", "difference": "estimate",
           "difference_se": "std_error", "difference_p": "p_value", "ratio_low": "ratio_conf_low",
           "ratio_high": "ratio_conf_high"}
"""Columns of slope tables that were written under other names."""


# --- reading ----------------------------------------------------------------------------------------------------


def read_slopes(out: Path) -> pd.DataFrame:
    """The slope table of a finished fit stage."""
    import pandas as pd

    table = pd.read_csv(out / "fits" / "slopes.csv").rename(columns=_FORMER)
    table.attrs["notes"] = json.loads((out / "fits" / "notes.json").read_bytes())
    return table


def read_changes(out: Path) -> dict[tuple[str, str], SlopeChange]:
    """Every slope change of a finished fit stage, by (model, tuned variant), with its fit."""
    from canopy_stats.mixed import load_fit

    found = {}
    for entry in json.loads((out / "fits" / "changes.json").read_bytes()):
        if "failed" not in entry:
            fit = load_fit(out / "fits" / entry["fit"]) if "fit" in entry else None
            found[entry["model"], entry["variant"]] = change_from_dict(entry, fit)
    return found
