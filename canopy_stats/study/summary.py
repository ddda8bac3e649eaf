"""What a study says at its end: on the terminal, and as one page of Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from canopy_stats.slope import SlopeChange
    from canopy_stats.study.record import Study
    from canopy_stats.study.result import StudyResult


def closing(result: StudyResult) -> str:
    """The last words on the terminal: slopes, check, and where everything lies."""
    from canopy_stats.report import tables

    return "\n".join([
        "", result.study.title, result.study.contrast, "",
        "Slope of semantic diversity D on mean entropy rate (D per nat/token), standard errors in brackets:", "",
        slopes(result, tables.console), "", scrutinised(result), "",
        "Check of the rollouts (z-scores within 4; differences from plain transformers in nats):", "",
        tables.console(result.checks), "",
        f"Panel:   {result.out / 'panel.parquet'} ({len(result.panel)} rows)",
        f"Tables:  {result.out / 'tables'}", f"Figures: {result.out / 'figures'}",
        f"Summary: {result.out / 'summary.md'}",
        *(f"Report:  {path}" for path in result.report if path.suffix == ".html"),
        "Time:    " + ", ".join(f"{stage} {took:.0f} s" for stage, took in result.seconds.items())])


def slopes(result: StudyResult, printed: Callable[[pd.DataFrame], str]) -> str:
    """The slope table as text; why there is none where the panel does not suffice."""
    from canopy_stats.report import tables

    if result.slopes.empty:
        return "\n".join(result.slopes.attrs["notes"])
    return printed(tables.slopes(result.slopes))


def finding(changes: Sequence[SlopeChange]) -> str:
    """The interaction model's slopes and its verdict, in words."""
    change = next(c for c in changes if c.model == "interaction")
    if not change.identified:
        return change.verdict
    return (f"For each nat per token D changes by {change.base.estimate:.3f} in the base models and by "
            f"{change.tuned.estimate:.3f} in the tuned ones. {change.verdict}")


def scrutinised(result: StudyResult) -> str:
    """What the slopes say in words: the paper's model held against one that withstands the known artefacts."""
    several = len(result.verdicts) > 1
    return "\n\n".join(f"{variant}: {words}" if several else words for variant, words in result.verdicts.items())


def page(result: StudyResult) -> str:
    """The study on one Markdown page."""
    from canopy_stats.report import tables

    study, panel = result.study, result.panel
    pictures = [path for path in result.figures if path.suffix == ".png"]
    return "\n".join([
        f"# {study.title}", "", study.contrast, "", scrutinised(result), "",
        "## Slopes", "", "Change of D for each nat per token, standard errors in brackets.", "",
        slopes(result, tables.markdown), "",
        *(f"- {note}" for note in result.slopes.attrs.get("notes", [])), "",
        "## Base against tuned", "", tables.markdown(tables.base_tuned(panel)), "",
        "## Canopy entropy in three terms", "", tables.markdown(tables.decomposition(panel)), "",
        "## Check", "", tables.markdown(result.checks), "",
        "## Settings and warnings", "", *(f"- {line}" for line in settings(study, panel)), "",
        "## Figures", "", *(f"![{path.stem}](figures/{path.name})\n" for path in pictures)])


def settings(study: Study, panel: pd.DataFrame) -> list[str]:
    """Sizes, law and embedder, and the shares that a reader should know."""
    cut, long, empty = (panel[name].mean() for name in ("truncation_rate", "embed_truncated_share", "empty_share"))
    checkpoints = panel.groupby(["model_name", "model_variant"]).ngroups
    return [f"{panel['prompt_uid'].nunique()} prompts in {panel['task'].nunique()} tasks, {study.n_rollouts} rollouts "
            f"of each by {checkpoints} checkpoints; law {study.policy.label()}; seed {study.seed}",
            f"embedder {panel['embedder'].iloc[0]}",
            f"the length cap ended {cut:.1%} of the rollouts; {long:.1%} of the texts are longer than the embedder "
            f"reads; {empty:.1%} are empty"]
