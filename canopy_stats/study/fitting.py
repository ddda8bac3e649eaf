"""The fit stage: every slope model on a study's panel, as files that give the same numbers back."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from canopy_stats import files, slope
from canopy_stats.metrics.rho_change import rho_change
from canopy_stats.report.folder import Folder
from canopy_stats.report.missing import cause
from canopy_stats.report.source import Source
from canopy_stats.schema import UserError
from canopy_stats.slope.estimates import plain
from canopy_stats.slope.models import MODELS
from canopy_stats.study.stamps import Key, code_hash, versions_of

if TYPE_CHECKING:
    import pandas as pd

    from canopy_stats.slope.models import AnyModel

RHO = ("coefficient", "quantity", "estimate", "std_error", "p_value", "conf_low", "conf_high", "predict_low",
       "predict_high", "cells")
"""What is kept of the change of rho."""
FITTING = ("mixedlm", "numpy", "scipy", "pandas", "formulaic")
"""Packages whose versions decide a fit."""


def fit_key(out: Path) -> Key | None:
    panel = files.file_sha256(out / "panel.parquet")
    made = {"panel": panel, "code": code_hash("slope", "mixed", "metrics"), "versions": versions_of(*FITTING)}
    return made if panel is not None else None


def fit(out: Path) -> list[Path]:
    """Every slope model on the study's panel: the slope table, each model's change in words and numbers, its fit."""
    source, folder = Source(Folder(out).panel, slope), out / "fits"
    files.make_folder(folder)
    return [_slopes(source, folder), *_scrutiny(source, folder), *_rho(source, folder), *_changes(source, folder)]


def _slopes(source: Source, folder: Path) -> Path:
    """The slope table, for each tuned variant; without a row where the panel does not suffice, with the reason."""
    import pandas as pd

    made, notes = [], list[str]()
    for tuned in source.tuned:
        try:
            table = slope.slope_table(source.pair(tuned))
        except UserError as error:
            notes.append(f"No slopes ({tuned}): {error}")
            continue
        notes += table.attrs.get("notes", [])
        made.append(table if len(source.tuned) == 1 else table.assign(tuned=tuned))
    table = pd.concat(made, ignore_index=True) if made else pd.DataFrame(columns=["model"])
    files.write_json(folder / "notes.json", list(dict.fromkeys(notes)))
    files.write_atomic(folder / "slopes.csv", table.to_csv(index=False).encode())
    return folder / "slopes.csv"


def _changes(source: Source, folder: Path) -> list[Path]:
    """changes.json, and the fits as files; a model that cannot be fitted is kept with the reason."""
    entries, made = [], [folder / "notes.json", folder / "changes.json"]
    for tuned, model in product(source.tuned, _models(source.panel)):
        entry: dict[str, Any] = {"model": model, "variant": tuned}
        try:
            change = source.change(model, tuned)
        except UserError as error:
            entries.append(entry | {"failed": cause(source.panel, str(error))})
            continue
        if change.fit is not None:
            made.append(change.fit.save(folder / f"{model}-{tuned}.npz"))
            entry["fit"] = made[-1].name
        entries.append(entry | change.to_dict())
    files.write_json(folder / "changes.json", entries)
    return made


def _models(panel: pd.DataFrame) -> list[AnyModel]:
    """The slope models that the panel has the columns for: without a judge there is no RSE."""
    return [model for model in MODELS if model != "paper_rse" or "RSE" in panel]


def _scrutiny(source: Source, folder: Path) -> list[Path]:
    """The paper's slopes against robust ones for each tuned variant, in a table and in words."""
    made = []
    for tuned in source.tuned:
        try:
            found = slope.slope_scrutiny(source.pair(tuned))
            texts = {"csv": found.table.to_csv(index=False), "txt": f"{found.verdict}\n"}
            made.append(folder / f"claims-{tuned}.csv")
            files.write_atomic(made[-1], found.claims.to_csv(index=False).encode())
        except UserError as error:
            texts = {"txt": f"The paper's slope could not be held against the robust one: "
                            f"{cause(source.panel, str(error))}\n"}
        for suffix, text in texts.items():
            made.append(folder / f"scrutiny-{tuned}.{suffix}")
            files.write_atomic(made[-1], text.encode())
    return made


def _rho(source: Source, folder: Path) -> list[Path]:
    """The change of rho(N, r) for each tuned variant, in numbers and in words; the reason where there is none."""
    made = []
    for tuned in source.tuned:
        try:
            found = rho_change(source.pair(tuned))
            row = found.table[found.table["primary"].astype(bool)].iloc[0]
            said = {name: plain(row[name]) for name in RHO} | {"verdict": found.verdict}
        except UserError as error:
            said = {"verdict": f"The change of rho(N, r) cannot be told: {error}"}
        made.append(folder / f"rho-{tuned}.json")
        files.write_json(made[-1], said)
    return made
