"""A study's folder: where each result lies, and how it is read; everything is read once.

What a file in the folder names is looked for inside the folder alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from canopy_stats import files
from canopy_stats.schema import UserError

if TYPE_CHECKING:
    from canopy_stats.slope import SlopeChange
    from canopy_stats.store import Run

MAIN = "main"
"""The study itself, as against one of its ablations."""


_FORMER = {"base_se": "base_std_error", "tuned_se": "tuned_std_error", "difference": "estimate",
           "difference_se": "std_error", "difference_p": "p_value", "ratio_low": "ratio_conf_low",
           "ratio_high": "ratio_conf_high"}
"""Columns of slope tables that were written under other names."""


@dataclass(frozen=True)
class Folder:
    """The folder ``root`` of a study."""

    root: Path

    # --- where things lie ---------------------------------------------------------------------------------------

    def panel_path(self, part: str = MAIN) -> Path:
        """The panel of the study, or of one of its ablations."""
        return self.root / "panel.parquet" if part == MAIN else self.root / "panels" / f"{part}.parquet"

    def inside(self, *parts: str) -> Path:
        """A place in the folder; UserError for one outside, which no file of ours names."""
        return files.inside(self.root, "/".join(parts))

    # --- panels and runs ----------------------------------------------------------------------------------------

    @cached_property
    def panel(self) -> pd.DataFrame:
        """The study's panel; UserError where there is none."""
        from canopy_stats.panels import read_panel

        if not self.panel_path().is_file():
            raise UserError(f"{self.root} is not a finished study: it has no panel.parquet. Run the study there; the "
                            "same command resumes one that was interrupted.")
        return read_panel(self.panel_path())

    @cached_property
    def note(self) -> dict[str, Any]:
        """How the panel was made; empty where nothing says so."""
        return _object(self.root / "panel.json")

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The study's settings in plain values."""
        return _object(self.root / "study.json") or dict(self.note.get("study", {}))

    @property
    def ablation_names(self) -> list[str]:
        """The study's ablations; of a folder that names none, every panel in panels/."""
        if not self.settings:
            return self._stems("panels", ".parquet")
        return [str(one["name"]) for one in self.settings.get("ablations", ())]

    def ablations(self, names: Iterable[str]) -> dict[str, pd.DataFrame]:
        """The panels of some ablations, as far as they are there."""
        from canopy_stats.panels import read_panel

        paths = {name: self.inside("panels", f"{name}.parquet") for name in names}
        return {name: read_panel(path) for name, path in paths.items() if path.is_file()}

    @cached_property
    def runs(self) -> dict[str, Run]:
        """The runs that are there, each checked against its hashes: the panel's, else all of the folder."""
        from canopy_stats.store import open_run

        named = self.note.get("runs") or sorted(path.name for path in (self.root / "runs").glob("*"))
        paths = {str(name): self.inside("runs", str(name)) for name in named}
        return {name: open_run(path) for name, path in paths.items() if (path / "manifest.json").is_file()}

    @cached_property
    def findings(self) -> pd.DataFrame | None:
        """A row for each finding of each run's check; None where the runs were not checked."""
        path = self.root / "checks.csv"
        return pd.read_csv(path, dtype={"ok": "object"}) if path.is_file() else None

    @cached_property
    def checks(self) -> pd.DataFrame | None:
        """The check as one row a run."""
        return None if self.findings is None else one_row_each(self.findings)

    @cached_property
    def agreement(self) -> pd.DataFrame | None:
        """How the judge agrees with people, one row; None where no people judged."""
        path = self.root / "agreement" / f"{MAIN}.csv"
        return pd.read_csv(path) if path.is_file() else None

    # --- fits ---------------------------------------------------------------------------------------------------

    @cached_property
    def slopes(self) -> pd.DataFrame:
        """The slope table of the fit stage."""
        table = pd.read_csv(self.root / "fits" / "slopes.csv").rename(columns=_FORMER)
        table.attrs["notes"] = json.loads((self.root / "fits" / "notes.json").read_bytes())
        return table

    @cached_property
    def entries(self) -> list[dict[str, Any]]:
        """Each slope model's entry in fits/changes.json: its numbers, or why it could not be fitted."""
        path = self.root / "fits" / "changes.json"
        return list(json.loads(path.read_bytes())) if path.is_file() else []

    @cached_property
    def changes(self) -> dict[tuple[str, str], SlopeChange]:
        """Every slope change by (model, tuned variant), with its fit."""
        from canopy_stats.mixed import load_fit
        from canopy_stats.slope import change_from_dict

        fitted = [entry for entry in self.entries if "failed" not in entry]
        fits = [load_fit(self.inside("fits", entry["fit"])) if "fit" in entry else None for entry in fitted]
        return {(entry["model"], entry["variant"]): change_from_dict(entry, fit)
                for entry, fit in zip(fitted, fits, strict=True)}

    @cached_property
    def verdicts(self) -> dict[str, str]:
        """What the scrutiny of the paper's slope says in words, by tuned variant."""
        return {name.removeprefix("scrutiny-"): (self.root / "fits" / f"{name}.txt").read_text(encoding="utf-8").strip()
                for name in self._stems("fits", ".txt") if name.startswith("scrutiny-")}

    @cached_property
    def claims(self) -> dict[str, pd.DataFrame]:
        """Every version of the change of slope, by tuned variant; without those that a study of before did not keep."""
        return {name.removeprefix("claims-"): pd.read_csv(self.root / "fits" / f"{name}.csv")
                for name in self._stems("fits", ".csv") if name.startswith("claims-")}

    @cached_property
    def rho_changes(self) -> dict[str, dict[str, Any]]:
        """The change of rho(N, r) by tuned variant: the primary row's numbers and ``verdict``; or why there is none."""
        return {name.removeprefix("rho-"): _object(self.root / "fits" / f"{name}.json")
                for name in self._stems("fits", ".json") if name.startswith("rho-")}

    # --- tables and figures -------------------------------------------------------------------------------------

    def printed(self, kind: str, suffix: str) -> dict[str, Path]:
        """The files of one suffix in tables/ or figures/ by name."""
        return {name: self.root / kind / f"{name}{suffix}" for name in self._stems(kind, suffix)}

    def index(self, kind: str) -> dict[str, Any]:
        """What tables/ or figures/ says of itself: name to caption; empty where nothing does."""
        return _object(self.root / kind / "index.json")

    def _stems(self, folder: str, suffix: str) -> list[str]:
        return [path.stem for path in sorted((self.root / folder).glob(f"*{suffix}")) if path.is_file()]


def one_row_each(found: pd.DataFrame) -> pd.DataFrame:
    """Findings as one row a run: z-scores, the worst difference from plain transformers, flips, and the verdict.

    ``ok`` is empty where a finding only informs.
    """
    ok = found["ok"].map({"True": True, "False": False, True: True, False: False})
    by_run = found.pivot(index="run", columns="name", values="value").reindex(found["run"].unique())
    wrong = ok.eq(False).groupby(found["run"]).any()
    shown = {"z of S - H": "z of S - H", "z of stops - A": "z of stops - A", "entropy": "entropy off by",
             "logprob": "log-prob off by", "redraw flips": "redraw flips"}
    table = pd.DataFrame({title: by_run[name] for name, title in shown.items() if name in by_run})
    return table.assign(holds=~wrong.reindex(table.index)).reset_index(names="run")


def _object(path: Path) -> dict[str, Any]:
    """What a JSON file holds; nothing where there is none."""
    return dict(json.loads(path.read_bytes())) if path.is_file() else {}
