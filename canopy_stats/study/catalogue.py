"""Every table and figure by name: what it shows, how it is made, and what it needs.

A study writes all that its material allows; ``analysis/table_NAME.py`` and ``analysis/figure_NAME.py`` make one each.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from canopy_stats.report import regressions, tables
from canopy_stats.schema import UserError
from canopy_stats.study import entries
from canopy_stats.study.material import Material, open_study

__all__ = ["FIGURES", "TABLES", "Entry", "Material", "open_study", "script", "skipped", "write_figures",
           "write_tables"]

Needs = Literal["panel", "runs", "checks", "ablations"]
_HOW = {"panel": "a panel", "runs": "rollouts (a study folder has them)", "checks": "the check of the runs",
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


def _printed_slopes(table: pd.DataFrame) -> pd.DataFrame:
    shown = tables.slopes(table)
    shown.attrs.update(table.attrs)
    return shown


# --- the catalogue ----------------------------------------------------------------------------------------------

TABLES: Mapping[str, Entry] = {
    "slopes": Entry("Slope of semantic diversity on entropy rate", entries.slopes, shown=_printed_slopes),
    "base_tuned": Entry("Base against tuned: every measure, pooled over prompts", entries.base_tuned),
    "paired": Entry("Base against tuned on the same prompts, with a paired bootstrap", entries.paired,
                    shown=tables.paired),
    "regressions": Entry("Linear mixed models of semantic diversity", entries.coefficients(entries.LINEAR),
                         shown=regressions.side_by_side),
    "ablations": Entry("Slopes on parts of the panel and under other choices", entries.ablations,
                       shown=tables.printed_changes),
    "decomposition": Entry("Canopy entropy in three terms", entries.decomposition),
    "lengths": Entry("Lengths, truncation and diversity by thirds of length", entries.lengths),
    "checks": Entry("Check of the runs", entries.checks, needs="checks"),
}
FIGURES: Mapping[str, Entry] = {
    "diversity_by_family": Entry("Semantic diversity against entropy rate, by family", entries.cloud("model_name")),
    "diversity_by_task": Entry("Semantic diversity against entropy rate, by task", entries.cloud("task")),
    "diversity_curves": Entry("Semantic diversity against entropy rate, with the curves of two models",
                              entries.curves({"interaction": "interaction", "quadratic": "quadratic"})),
    "slopes": Entry("Slope of semantic diversity on entropy rate", entries.forest(entries.LINEAR)),
    "decomposition": Entry("Canopy entropy in three terms", entries.decomposition_figure),
    "residuals": Entry("Quantile residuals of the models", entries.residuals(("interaction", "quadratic"))),
    "lengths": Entry("Lengths of the rollouts", entries.length_figure, needs="runs"),
    "length_densities": Entry("Densities of the lengths that ended by themselves", entries.density_figure, "runs"),
    "within_prompt": Entry("Variance of length and rate over a prompt's rollouts", entries.within_figure, "runs"),
    "entropy_profile": Entry("Entropy rate along the rollout", entries.profile_figure, needs="runs"),
    "entropy_cohorts": Entry("Entropy along fixed cohorts of rollouts", entries.cohort_figure, needs="runs"),
    "end_hazard": Entry("Chance of an end token by position", entries.hazard_figure, needs="runs"),
    "cap_sensitivity": Entry("Sensitivity to the length cap", entries.cap_figure, needs="runs"),
}


# --- writing ----------------------------------------------------------------------------------------------------

Say = Callable[[str], None]


def write_tables(material: Material, out: str | Path, *, only: Sequence[str] | None = None,
                 say: Say | None = None) -> list[Path]:
    """Write every table as ``out/NAME`` .csv, .tex, .html, .md and .txt; ``say`` hears of those that are left out."""
    return [path for name, entry in _possible(TABLES, material, only, say)
            for path in _write_table(entry, material, Path(out) / name)]


def write_figures(material: Material, out: str | Path, *, only: Sequence[str] | None = None,
                  say: Say | None = None) -> list[Path]:
    """Write every figure as ``out/NAME`` .svg and .png; ``say`` hears of those that are left out."""
    from canopy_stats.report.style import save

    return [path for name, entry in _possible(FIGURES, material, only, say)
            for path in save(entry.make(material), Path(out) / name)]


def skipped(entries: Mapping[str, Entry], material: Material) -> dict[str, str]:
    """The entries that the material does not suffice for, and what each lacks."""
    return {name: lacks for name, entry in entries.items() if (lacks := entry.lacks(material))}


def _possible(entries: Mapping[str, Entry], material: Material, only: Sequence[str] | None,
              say: Say | None) -> Iterator[tuple[str, Entry]]:
    unknown = [name for name in only or () if name not in entries]
    if unknown:
        raise UserError(f"There is no {', '.join(unknown)}; choose among {', '.join(entries)}.")
    lacking = skipped(entries, material)
    for name, entry in entries.items():
        if only is not None and name not in only:
            continue
        if name in lacking:
            if say is not None:
                say(f"  left out: {name} needs {lacking[name]}")
        else:
            yield name, entry


def _write_table(entry: Entry, material: Material, stem: Path) -> list[Path]:
    table = entry.make(material)
    return tables.write(table, stem, entry.caption, shown=entry.shown(table) if entry.shown else None)


# --- the scripts ------------------------------------------------------------------------------------------------


def script(file: str, description: str | None, arguments: Sequence[str] | None = None) -> int:
    """The command line of ``analysis/table_NAME.py`` or ``figure_NAME.py``: make that one entry and print it."""
    kind, name = Path(file).stem.split("_", 1)
    entry = {"table": TABLES, "figure": FIGURES}[kind][name]
    options = _parsed(kind, name, description, arguments)
    try:
        material = _material(options)
        if lacks := entry.lacks(material):
            raise UserError(f"{kind} {name} needs {lacks}: name a study with --study FOLDER, such as one that "
                            "`canopy-stats demo --out FOLDER` makes.")
        write = write_tables if kind == "table" else write_figures
        _tell(write(material, options.out, only=[name]))
    except UserError as error:
        print(error)
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
