"""Every table and figure by name: what it shows, how it is made, and what it needs.

A study writes all that its source allows; ``analysis/table_NAME.py`` and ``analysis/figure_NAME.py`` make one each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from canopy_stats import files
from canopy_stats.report import drawings as draw
from canopy_stats.report import end_drawings, frames, printed, rollout_frames, views
from canopy_stats.report.figures import save
from canopy_stats.report.source import Source
from canopy_stats.schema import UserError

FINDING = "finding"
"""The figure that a report opens with."""
LINEAR, BETA, ROBUST = ("main", "interaction", "quadratic"), ("paper_beta", "paper_vendi", "paper_rse"), "robust"
"""The slope models by kind."""

Needs = Literal["panel", "runs", "checks", "findings", "ablations", "agreement"]
HOW = {"panel": "a panel", "runs": "rollouts, which a panel alone does not have", "checks": "the check of the runs",
        "findings": "the check of the runs", "ablations": "panels of ablations",
        "agreement": "people's verdicts (key judge.people of a study file)"}
"""What each of them is called in a reason; of a finished study such a reason says that nobody asked for it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A table or figure: its caption, the function that makes it, what that needs beyond the panel, and of a table
    the text that is printed (None: the numbers, formatted)."""

    caption: str
    make: Callable[[Source], Any]
    needs: Needs = "panel"
    shown: Callable[[pd.DataFrame], pd.DataFrame] | None = None

    def lacks(self, source: Source) -> str:
        """What the source does not have, in words; empty when it has everything."""
        needed = getattr(source, self.needs)
        return "" if needed is not None and len(needed) else HOW[self.needs]


def _with_notes(shown: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """The printed view of a table, with the table's notes below it."""
    def view(table: pd.DataFrame) -> pd.DataFrame:
        text = shown(table)
        text.attrs["notes"] = list(table.attrs.get("notes", []))
        return text

    return view


# --- the catalogue ----------------------------------------------------------------------------------------------

TABLES: Mapping[str, Entry] = {
    "slopes": Entry("Slope of semantic diversity on entropy rate", frames.slopes, shown=_with_notes(views.slopes)),
    "base_tuned": Entry("Base against tuned", lambda source: frames.base_tuned(source.panel)),
    "paired": Entry("Base against tuned on the same prompts, with a paired bootstrap", lambda source: source.paired,
                    shown=views.paired),
    "regressions": Entry("Linear mixed models of semantic diversity", frames.coefficient_table(LINEAR),
                         shown=views.side_by_side),
    "regressions_beta": Entry("Beta mixed models of semantic diversity, Vendi score and semantic entropy",
                              frames.coefficient_table(BETA), shown=views.side_by_side),
    "quadratic": Entry("The paper's check of linearity: what a parabola changes, in standard errors", frames.quadratic,
                       shown=_with_notes(views.quadratic)),
    "scrutiny": Entry("The paper's slope and the robust one", frames.scrutiny, shown=_with_notes(views.scrutiny)),
    "cells": Entry("The robust slope by family and task", frames.cells, shown=_with_notes(views.cells)),
    "ablations": Entry("Slopes on parts of the panel and under other choices", frames.ablations,
                       shown=views.printed_changes),
    "decomposition": Entry("Canopy entropy in three terms", lambda source: frames.decomposition(source.panel)),
    "lengths": Entry("Lengths, truncation and diversity by thirds of length",
                     lambda source: frames.length_thirds(source.panel)),
    "length_diversity": Entry("Length against each rollout's own diversity, and D by thirds of a prompt's rollouts",
                              rollout_frames.length_diversity, "runs", rollout_frames.shown_length_diversity),
    "rendered_text": Entry("The same prompts by chat template and by rendered text", rollout_frames.rendered_text,
                           "findings"),
    "judge_agreement": Entry("The judge against people, on pairs of rollouts that both read",
                             lambda source: source.agreement, "agreement"),
    "checks": Entry("Check of the runs", lambda source: source.checks, needs="checks"),
}
FIGURES: Mapping[str, Entry] = {
    FINDING: Entry("The finding: the change of the slope in every version, and the change of ρ(N, r)", draw.finding),
    "diversity_by_family": Entry("Semantic diversity against entropy rate, by family", draw.cloud("model_name")),
    "diversity_by_task": Entry("Semantic diversity against entropy rate, by task", draw.cloud("task")),
    "diversity_curves": Entry("Semantic diversity against entropy rate, with the curves of two models",
                              draw.curves({"paper_beta": "paper's beta model", "robust": "robust model"})),
    "slopes": Entry("Slope of semantic diversity on entropy rate", draw.forest(LINEAR)),
    "slopes_beta": Entry("Slopes of the paper's beta models and the robust slope",
                         draw.forest((*BETA, ROBUST))),
    "cells": Entry("The robust slope by family and task", draw.cell_forest),
    "decomposition": Entry("Canopy entropy in three terms", draw.decomposition_figure),
    "decomposition_shares": Entry("Canopy entropy's three terms as signed shares", draw.share_figure),
    "residuals": Entry("Quantile residuals of the models", draw.residuals(("interaction", "paper_beta", "robust"))),
    "lengths": Entry("Lengths of the rollouts", draw.length_figure, needs="runs"),
    "length_densities": Entry("Densities of the lengths that ended by themselves", draw.density_figure, "runs"),
    "within_prompt": Entry("Variance of length and rate over a prompt's rollouts", draw.within_figure, "runs"),
    "entropy_profile": Entry("Step profile: mean entropy of the next token at each position, over the rollouts that "
                             "still run there", draw.profile_figure, needs="runs"),
    "running_rate": Entry("Running entropy rate: mean of H_t / t, the entropy of a rollout's first t tokens over t, "
                          "every 5 tokens. It lags behind the step profile", draw.running_figure, needs="runs"),
    "entropy_cohorts": Entry("Entropy along fixed cohorts of rollouts", draw.cohort_figure, needs="runs"),
    "end_hazard": Entry("Chance of an end token by position", draw.hazard_figure, needs="runs"),
    "end_logprob": Entry("Log-probability of an end token at each step, a row a rollout", end_drawings.logprobs,
                         "runs"),
    "end_top_k": Entry("Steps at which an end token is among the k most likely, a row a rollout",
                       end_drawings.membership, "runs"),
    "cap_sensitivity": Entry("Sensitivity to the length cap", draw.cap_figure, needs="runs"),
}


# --- writing ----------------------------------------------------------------------------------------------------

EntryKind = Literal["tables", "figures"]
CATALOGUE: dict[EntryKind, Mapping[str, Entry]] = {"tables": TABLES, "figures": FIGURES}


def write(kind: EntryKind, source: Source, out: Path) -> list[Path]:
    """Write every table (``out/NAME`` .csv, .tex, .html, .md, .txt) or figure (.svg, .png) that the source allows.

    What it does not suffice for is left out, and left_out.txt keeps the reasons. index.json has the captions of what
    was written.
    """
    files.make_folder(out)
    made, left_out = list[Path](), dict[str, str]()
    for name in CATALOGUE[kind]:
        try:
            made += write_one(kind, name, source, out)
        except UserError as error:
            left_out[name] = str(error)
    return [*made, *_kept_index(kind, out, left_out)]


def write_one(kind: EntryKind, name: str, source: Source, out: Path) -> Sequence[Path]:
    """Write one table or figure; UserError where the source does not suffice for it."""
    entry = CATALOGUE[kind][name]
    if lacks := entry.lacks(source):
        raise UserError(f"{name} needs {lacks}: name a study with --study FOLDER, such as one that `canopy-stats demo "
                        "--out FOLDER` makes.")
    made = entry.make(source)
    if kind == "figures":
        return save(made, out / name)
    return printed.write(made, out / name, entry.caption, shown=entry.shown(made) if entry.shown else None)


def _kept_index(kind: EntryKind, out: Path, left_out: Mapping[str, str]) -> list[Path]:
    captions = {name: {"caption": entry.caption} for name, entry in CATALOGUE[kind].items() if name not in left_out}
    files.write_json(out / "index.json", captions)
    if not left_out:
        return [out / "index.json"]
    lines = "".join(f"left out: {name}: {' '.join(reason.split())}\n" for name, reason in left_out.items())
    files.write_atomic(out / "left_out.txt", lines.encode())
    return [out / "index.json", out / "left_out.txt"]
