"""Every table and figure by name: what it shows, how it is made, and what it needs.

A study writes all that its material allows; ``analysis/table_NAME.py`` and ``analysis/figure_NAME.py`` make one each.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from canopy_stats.report import regressions, tables
from canopy_stats.schema import UserError
from canopy_stats.study.entries import figures as draw
from canopy_stats.study.entries import tables as make
from canopy_stats.study.entries.changes import BETA, LINEAR, ROBUST
from canopy_stats.study.material import Material, open_study

__all__ = ["FIGURES", "TABLES", "Entry", "Material", "open_study", "script", "skipped", "write_figures",
           "write_tables"]

Needs = Literal["panel", "runs", "checks", "ablations"]
_HOW = {"panel": "a panel", "runs": "rollouts, which a panel alone does not have", "checks": "the check of the runs",
        "ablations": "panels of ablations"}


@dataclass(frozen=True, slots=True)
class Entry:
    """A table or figure: its caption, the function that makes it, what that needs beyond the panel, and of a table
    the text that is printed (None: the numbers, formatted)."""

    caption: str
    make: Callable[[Material], Any]
    needs: Needs = "panel"
    shown: Callable[[pd.DataFrame], pd.DataFrame] | None = None

    def lacks(self, material: Material) -> str:
        """What the material does not have, in words; empty when it has everything."""
        needed = getattr(material, self.needs)
        return "" if needed is not None and len(needed) else _HOW[self.needs]


def _with_notes(shown: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """The printed view of a table, with the table's notes below it."""
    def view(table: pd.DataFrame) -> pd.DataFrame:
        printed = shown(table)
        printed.attrs["notes"] = list(table.attrs.get("notes", []))
        return printed

    return view


# --- the catalogue ----------------------------------------------------------------------------------------------

TABLES: Mapping[str, Entry] = {
    "slopes": Entry("Slope of semantic diversity on entropy rate", make.slopes, shown=_with_notes(tables.slopes)),
    "base_tuned": Entry("Base against tuned", make.base_tuned),
    "paired": Entry("Base against tuned on the same prompts, with a paired bootstrap", make.paired,
                    shown=tables.paired),
    "regressions": Entry("Linear mixed models of semantic diversity", make.coefficients(LINEAR),
                         shown=regressions.side_by_side),
    "regressions_beta": Entry("Beta mixed models of semantic diversity, Vendi score and semantic entropy",
                              make.coefficients(BETA), shown=regressions.side_by_side),
    "scrutiny": Entry("The paper's slope and the robust one", make.scrutiny, shown=_with_notes(tables.scrutiny)),
    "ablations": Entry("Slopes on parts of the panel and under other choices", make.ablations,
                       shown=tables.printed_changes),
    "decomposition": Entry("Canopy entropy in three terms", make.decomposition),
    "lengths": Entry("Lengths, truncation and diversity by thirds of length", make.lengths),
    "checks": Entry("Check of the runs", make.checks, needs="checks"),
}
FIGURES: Mapping[str, Entry] = {
    "diversity_by_family": Entry("Semantic diversity against entropy rate, by family", draw.cloud("model_name")),
    "diversity_by_task": Entry("Semantic diversity against entropy rate, by task", draw.cloud("task")),
    "diversity_curves": Entry("Semantic diversity against entropy rate, with the curves of two models",
                              draw.curves({"paper_beta": "paper's beta model", "robust": "robust model"})),
    "slopes": Entry("Slope of semantic diversity on entropy rate", draw.forest(LINEAR)),
    "slopes_beta": Entry("Slopes of the paper's beta models and the robust slope",
                         draw.forest((*BETA, ROBUST))),
    "decomposition": Entry("Canopy entropy in three terms", draw.decomposition_figure),
    "residuals": Entry("Quantile residuals of the models", draw.residuals(("interaction", "paper_beta", "robust"))),
    "lengths": Entry("Lengths of the rollouts", draw.length_figure, needs="runs"),
    "length_densities": Entry("Densities of the lengths that ended by themselves", draw.density_figure, "runs"),
    "within_prompt": Entry("Variance of length and rate over a prompt's rollouts", draw.within_figure, "runs"),
    "entropy_profile": Entry("Entropy rate along the rollout", draw.profile_figure, needs="runs"),
    "entropy_cohorts": Entry("Entropy along fixed cohorts of rollouts", draw.cohort_figure, needs="runs"),
    "end_hazard": Entry("Chance of an end token by position", draw.hazard_figure, needs="runs"),
    "cap_sensitivity": Entry("Sensitivity to the length cap", draw.cap_figure, needs="runs"),
}


# --- writing ----------------------------------------------------------------------------------------------------

Say = Callable[[str], None]


def write_tables(material: Material, out: str | Path, *, only: Sequence[str] | None = None,
                 say: Say | None = None) -> list[Path]:
    """Write every table as ``out/NAME`` .csv, .tex, .html, .md and .txt.

    What the material does not suffice for is left out, and ``say`` hears of it; of tables that are asked for by name
    (``only``) that is an error.
    """
    return _written(TABLES, _write_table, material, Path(out), only, say)


def write_figures(material: Material, out: str | Path, *, only: Sequence[str] | None = None,
                  say: Say | None = None) -> list[Path]:
    """Write every figure as ``out/NAME`` .svg and .png; what is left out as for :func:`write_tables`."""
    return _written(FIGURES, _write_figure, material, Path(out), only, say)


def skipped(entries: Mapping[str, Entry], material: Material) -> dict[str, str]:
    """The entries that the material does not suffice for, and what each lacks."""
    return {name: lacks for name, entry in entries.items() if (lacks := entry.lacks(material))}


def _written(entries: Mapping[str, Entry], write: Callable[[Entry, Material, Path], Sequence[Path]],
             material: Material, out: Path, only: Sequence[str] | None, say: Say | None) -> list[Path]:
    unknown = [name for name in only or () if name not in entries]
    if unknown:
        raise UserError(f"There is no {', '.join(unknown)}; choose among {', '.join(entries)}.")
    written: list[Path] = []
    for name in entries if only is None else only:
        try:
            _refuse_lacking(name, entries[name], material)
            written += write(entries[name], material, out / name)
        except UserError as error:
            if only is not None:
                raise
            if say is not None:
                say(f"  left out: {error}")
    return written


def _refuse_lacking(name: str, entry: Entry, material: Material) -> None:
    if lacks := entry.lacks(material):
        raise UserError(f"{name} needs {lacks}: name a study with --study FOLDER, such as one that `canopy-stats demo "
                        "--out FOLDER` makes.")


def _write_table(entry: Entry, material: Material, stem: Path) -> list[Path]:
    table = entry.make(material)
    return tables.write(table, stem, entry.caption, shown=entry.shown(table) if entry.shown else None)


def _write_figure(entry: Entry, material: Material, stem: Path) -> tuple[Path, Path]:
    from canopy_stats.report.style import save

    return save(entry.make(material), stem)


# --- the scripts ------------------------------------------------------------------------------------------------


def script(file: str, description: str | None, arguments: Sequence[str] | None = None) -> int:
    """The command line of ``analysis/table_NAME.py`` or ``figure_NAME.py``: make that one entry and print it."""
    kind, name = Path(file).stem.split("_", 1)
    options = _parsed(kind, name, description, arguments)
    write = {"table": write_tables, "figure": write_figures}[kind]
    try:
        _tell(write(_material(options), options.out, only=[name]))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _parsed(kind: str, name: str, description: str | None, arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"{kind}_{name}.py", description=description,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--panel", type=Path, help="a panel file (default: the demo panel in the package)")
    source.add_argument("--study", type=Path, help="a study folder: its panel, runs, checks and ablations")
    parser.add_argument("--out", type=Path, default=Path("runs") / f"{kind}s", help="where to write (%(default)s)")
    return parser.parse_args(arguments)


def _material(options: argparse.Namespace) -> Material:
    from canopy_stats.panel import load_demo_panel, read_panel

    if options.study is not None:
        return open_study(options.study)
    return Material(read_panel(options.panel) if options.panel is not None else load_demo_panel())


def _tell(paths: Sequence[Path]) -> None:
    text = next((path for path in paths if path.suffix == ".txt"), None)
    if text is not None:
        print(text.read_text(encoding="utf-8"))
    print("\n".join(map(str, paths)))
