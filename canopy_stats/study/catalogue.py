"""Every table and figure by name: what it shows, how it is made, and what it needs.

A study writes all that its material allows; ``analysis/table_NAME.py`` and ``analysis/figure_NAME.py`` make one each.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from canopy_stats.report import tables
from canopy_stats.schema import UserError
from canopy_stats.study.material import BASE, Material, identity, open_study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["BASE", "FIGURES", "TABLES", "Entry", "Material", "open_study", "script", "skipped", "write_figures",
           "write_tables"]

Needs = Literal["panel", "runs", "checks", "ablations"]
MODELS = ("main", "interaction", "quadratic")
_HOW = {"runs": "rollouts (a study folder has them)", "checks": "the check of the runs",
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


# --- what each is made from -------------------------------------------------------------------------------------


def _slopes(material: Material) -> pd.DataFrame:
    from canopy_stats.slope import slope_table

    return slope_table(material.pair(material.tuned[0]))


def _checks(material: Material) -> Any:
    return material.checks


def _cloud(by: str) -> Callable[[Material], Figure]:
    def draw(material: Material) -> Figure:
        from canopy_stats.report import figures

        return figures.diversity_against_rate(material.panel, material.change("interaction").fit, by=by)

    return draw


def _forest(material: Material) -> Figure:
    from canopy_stats.report import figures

    return figures.slope_forest(forest_rows([material.change(model) for model in MODELS]))


def _decomposition(material: Material) -> Figure:
    from canopy_stats.report import figures

    return figures.decomposition_bars(tables.decomposition(material.panel))


def _lengths(material: Material) -> Figure:
    from canopy_stats.report import figures

    return figures.length_histograms(material.rows("rollouts", ["length", "finish_reason"]))


def _profile(material: Material) -> Figure:
    from canopy_stats.report import figures

    return figures.entropy_profile(material.rows("steps", ["step", "entropy"]), by="task")


def _caps(material: Material) -> Figure:
    from canopy_stats.report import figures

    return figures.cap_curves(curves_by_checkpoint(material))


def curves_by_checkpoint(material: Material) -> pd.DataFrame:
    """Each checkpoint's cap curve, averaged over its tasks, which all have the same number of prompts."""
    from canopy_stats.metrics import cap_curve

    names = {"mean_length": "N_bar", "mean_rate": "R_bar"}
    parts = [cap_curve(run).rename(columns=names).assign(**identity(run)) for run in material.opened.values()]
    grouped = pd.concat(parts, ignore_index=True).groupby(["model_name", "model_variant", "cap"], sort=False)
    return grouped[["CE", "N_bar", "R_bar", "truncation_rate"]].mean().reset_index()


def forest_rows(changes: Sequence[Any]) -> pd.DataFrame:
    """Slope changes as the forest draws them; of a model with one slope for both variants only that one."""
    return pd.DataFrame([_forest_row(change) for change in changes])


def _forest_row(change: Any) -> dict[str, Any]:
    row: dict[str, Any] = {"model": f"{change.model} model"}
    for name in ("base", "tuned", "difference"):
        estimate, hidden = getattr(change, name), change.model == "main" and name != "base"
        values = [float("nan")] * 3 if hidden else [estimate.estimate, *estimate.interval]
        row |= dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))
    return row | {"ratio": None if change.model == "main" else f"{change.ratio.estimate:.2f}"}


# --- the catalogue ----------------------------------------------------------------------------------------------

TABLES: Mapping[str, Entry] = {
    "slopes": Entry("Slope of semantic diversity on entropy rate", _slopes, shown=tables.slopes),
    "base_tuned": Entry("Base against tuned", lambda m: tables.base_tuned(m.panel)),
    "decomposition": Entry("Canopy entropy in three terms", lambda m: tables.decomposition(m.panel)),
    "checks": Entry("Check of the runs", _checks, needs="checks"),
}
FIGURES: Mapping[str, Entry] = {
    "diversity_by_family": Entry("Semantic diversity against entropy rate, by family", _cloud("model_name")),
    "diversity_by_task": Entry("Semantic diversity against entropy rate, by task", _cloud("task")),
    "slopes": Entry("Slope of semantic diversity on entropy rate", _forest),
    "decomposition": Entry("Canopy entropy in three terms", _decomposition),
    "lengths": Entry("Lengths of the rollouts", _lengths, needs="runs"),
    "entropy_profile": Entry("Entropy rate along the rollout", _profile, needs="runs"),
    "cap_sensitivity": Entry("Sensitivity to the length cap", _caps, needs="runs"),
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
