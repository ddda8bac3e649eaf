"""What a study says at its end, from its folder: on the terminal, and as one page of Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from canopy_stats.report import frames, views
from canopy_stats.report.folder import Folder
from canopy_stats.report.missing import missing
from canopy_stats.report.printed import console, markdown
from canopy_stats.schema import SamplingPolicy


def closing(folder: Folder, seconds: Mapping[str, float]) -> str:
    """The last words on the terminal: slopes, check, and where everything lies."""
    out, study = folder.root, folder.settings
    return "\n".join([
        "", study["title"], study["contrast"], "",
        "Slope of semantic diversity D on mean entropy rate (D per nat/token), standard errors in brackets:", "",
        slopes(folder, console), "", *([words, ""] if (words := _told(folder)) else []),
        "Check of the rollouts (z-scores within 4; differences from plain transformers in nats):", "",
        console(checks(folder)), "", *incomplete(folder),
        f"Panel:   {out / 'panel.parquet'} ({len(folder.panel)} rows)",
        f"Tables:  {out / 'tables'}", f"Figures: {out / 'figures'}", f"Summary: {out / 'summary.md'}",
        f"Report:  {out / 'report.html'}",
        "Time:    " + ", ".join(f"{stage} {took:.0f} s" for stage, took in seconds.items())])


def incomplete(folder: Folder) -> list[str]:
    """What the study lacks, as lines; none for one that has everything."""
    lines = missing(folder)
    return ["The study is incomplete:", *(f"  missing: {line}." for line in lines), ""] if lines else []


def slopes(folder: Folder, printed: Callable[[pd.DataFrame], str]) -> str:
    """The slope table as text; why there is none where the panel does not suffice."""
    if folder.slopes.empty:
        return "\n".join(folder.slopes.attrs["notes"])
    return printed(views.slopes(folder.slopes))


def checks(folder: Folder) -> pd.DataFrame:
    """The check as one row a run."""
    return folder.checks if folder.checks is not None else pd.DataFrame(columns=["run", "holds"])


def scrutinised(folder: Folder) -> str:
    """What the slopes say in words: the paper's model held against one that withstands the known artefacts."""
    several = len(folder.verdicts) > 1
    return "\n\n".join(f"{variant}: {words}" if several else words for variant, words in folder.verdicts.items())


def _told(folder: Folder) -> str:
    """What the scrutiny says, unless it only says why there is none: what is missing stands below, once."""
    return "" if any(" could not be held against " in words for words in folder.verdicts.values()) else (
        scrutinised(folder))


def page(folder: Folder) -> str:
    """The study on one Markdown page."""
    study, panel = folder.settings, folder.panel
    return "\n".join([
        f"# {study['title']}", "", study["contrast"], "", scrutinised(folder), "",
        "## Slopes", "", "Change of D for each nat per token, standard errors in brackets.", "",
        slopes(folder, markdown), "", *(f"- {note}" for note in folder.slopes.attrs.get("notes", [])), "",
        "## Base against tuned", "", markdown(frames.base_tuned(panel)), "",
        "## Canopy entropy in three terms", "", markdown(frames.decomposition(panel)), "",
        "## Check", "", markdown(checks(folder)), "",
        *(["## Missing", "", *(f"- {line}" for line in lacking), ""] if (lacking := missing(folder)) else []),
        "## Settings and warnings", "", *(f"- {line}" for line in settings(study, panel)), "",
        "## Figures", "", *(f"![{name}](figures/{path.name})\n" for name, path in pictures(folder).items())])


def pictures(folder: Folder) -> dict[str, Any]:
    """The figures' PNG files, in the order of their index."""
    there = folder.printed("figures", ".png")
    return {name: there[name] for name in (*folder.index("figures"), *there) if name in there}


def settings(study: Mapping[str, Any], panel: pd.DataFrame) -> list[str]:
    """Sizes, law and embedder, and the shares that a reader should know."""
    cut, long, empty = (panel[name].mean() for name in ("truncation_rate", "embed_truncated_share", "empty_share"))
    checkpoints = panel.groupby(["model_name", "model_variant"]).ngroups
    law = SamplingPolicy(**study["law"]).label()
    return [f"{panel['prompt_uid'].nunique()} prompts in {panel['task'].nunique()} tasks, {study['n_rollouts']} "
            f"rollouts of each by {checkpoints} checkpoints; law {law}; seed {study['seed']}",
            f"embedder {panel['embedder'].iloc[0]}",
            f"the length cap ended {cut:.1%} of the rollouts; {long:.1%} of the texts are longer than the embedder "
            f"reads; {empty:.1%} are empty"]
