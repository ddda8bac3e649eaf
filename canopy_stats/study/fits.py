"""The fit stage: every slope model on a study's panels, as files that give the same numbers back."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from canopy_stats import files
from canopy_stats.schema import UserError
from canopy_stats.study.stages import Key, Say, code_hash, versions_of

if TYPE_CHECKING:
    import pandas as pd

    from canopy_stats.slope import SlopeChange
    from canopy_stats.study.catalogue import Material

FITTING = ("mixedlm", "numpy", "scipy", "pandas", "formulaic")
"""Packages whose versions decide a fit."""
_QUANTITIES = ("base", "tuned", "difference", "ratio")



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
    made = [_slopes(material, out / "fits"), *_scrutiny(material, out / "fits", say)]
    return [*made, *_changes(material, out / "fits", say)]


def _slopes(material: Material, folder: Path) -> Path:
    """The slope table, for each tuned variant."""
    import pandas as pd

    from canopy_stats.slope import slope_table

    made = {tuned: slope_table(material.pair(tuned)) for tuned in material.tuned}
    table = pd.concat([t if len(made) == 1 else t.assign(tuned=tuned) for tuned, t in made.items()], ignore_index=True)
    notes = list(dict.fromkeys(note for t in made.values() for note in t.attrs.get("notes", [])))
    files.write_atomic(folder / "notes.json", json.dumps(notes, ensure_ascii=False).encode())
    files.write_atomic(folder / "slopes.csv", table.to_csv(index=False).encode())
    return folder / "slopes.csv"


def _changes(material: Material, folder: Path, say: Say) -> list[Path]:
    """changes.json, and the fits as files; a model that cannot be fitted is kept with the reason."""
    from canopy_stats.slope.paper import MODELS

    entries, made = [], [folder / "notes.json", folder / "changes.json"]
    for tuned in material.tuned:
        for model in MODELS:
            entry: dict[str, Any] = {"model": model, "variant": tuned}
            try:
                change = material.change(model, tuned)
            except UserError as error:
                entries.append(entry | {"failed": str(error)})
                say(f"  the model {model} ({tuned}) was not fitted: {error}")
                continue
            if change.fit is not None and hasattr(change.fit, "save"):
                made.append(change.fit.save(folder / f"{model}-{tuned}.npz"))
                entry["fit"] = made[-1].name
            entries.append(entry | change_to_dict(change))
    files.write_atomic(folder / "changes.json", json.dumps(entries, indent=1, ensure_ascii=False).encode())
    return made


def _scrutiny(material: Material, folder: Path, say: Say) -> list[Path]:
    """The paper's slopes against robust ones, in a table and in words, where the slope models have them."""
    import canopy_stats.slope as slope

    if not hasattr(slope, "slope_scrutiny"):
        return []
    made = []
    for tuned in material.tuned:
        found = slope.slope_scrutiny(material.pair(tuned))
        for suffix, text in (("csv", found.table.to_csv(index=False)), ("txt", f"{found.verdict}\n")):
            made.append(folder / f"scrutiny-{tuned}.{suffix}")
            files.write_atomic(made[-1], text.encode())
    return made


def change_to_dict(change: SlopeChange) -> dict[str, Any]:
    """A slope change as plain values that JSON can hold; :func:`change_from_dict` reads them back."""
    numbers = {name: _estimate_to_dict(getattr(change, name)) for name in _QUANTITIES}
    return {"model": change.model, **numbers, "identified": change.identified, "verdict": change.verdict,
            "estimand": change.estimand, "notes": list(change.notes)}


def _estimate_to_dict(estimate: Any) -> dict[str, Any]:
    values = {"estimate": estimate.estimate, "se": estimate.se, "low": estimate.interval[0],
              "high": estimate.interval[1], "pvalue": estimate.pvalue}
    return {name: _finite(value) for name, value in values.items()} | {"kind": estimate.interval.kind}


def _finite(value: float) -> float | str:
    """JSON has no word for what is not a finite number."""
    return float(value) if math.isfinite(value) else str(float(value))


def change_from_dict(values: Mapping[str, Any], fit: Any = None) -> SlopeChange:
    """The slope change that :func:`change_to_dict` wrote."""
    from canopy_stats.slope import SlopeChange

    numbers = {name: _estimate_from_dict(values[name]) for name in _QUANTITIES}
    return SlopeChange(model=values["model"], **numbers, identified=values["identified"], verdict=values["verdict"],
                       estimand=values["estimand"], notes=tuple(values["notes"]), fit=fit)


def _estimate_from_dict(values: Mapping[str, Any]) -> Any:
    from canopy_stats.slope.paper import Estimate, Interval

    low, high, estimate, se, pvalue = (float(values[n]) for n in ("low", "high", "estimate", "se", "pvalue"))
    return Estimate(estimate, se, Interval(low, high, values["kind"]), pvalue)


def read_slopes(out: Path) -> pd.DataFrame:
    """The slope table of a finished fit stage."""
    import pandas as pd

    table = pd.read_csv(out / "fits" / "slopes.csv")
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
