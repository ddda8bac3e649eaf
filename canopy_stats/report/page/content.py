"""What a study's folder says, as the content of its page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from canopy_stats.report import summary
from canopy_stats.report.catalogue import CATALOGUE, FINDING, EntryKind
from canopy_stats.report.folder import Folder
from canopy_stats.report.page import cautions, provenance, sample
from canopy_stats.report.page.headline import headlines
from canopy_stats.report.page.html import Content, Picture, Table, read_table

if TYPE_CHECKING:
    import pandas as pd

    from canopy_stats.store import Run

LIMIT = 10_000_000
"""Bytes that the page should not exceed: what figures and tables leave is for rollouts."""
FRAME = 100_000
"""Bytes of the page without any of them."""


def of_folder(folder: Folder) -> Content:
    """All that the page of a study's folder says."""
    panel, runs, study = folder.panel, folder.runs, folder.settings
    printed, (opening, drawn), found = tables(folder), pictures(folder), finding(folder)
    room = LIMIT - FRAME - sum(len(p.svg) for p in drawn) - 50 * sum(len(t.rows) * len(t.head) for t in printed)
    drift = {name: run.manifest["drift"] for name, run in runs.items()}
    said = {name: run.config.model.get("cautions", ()) for name, run in runs.items()}
    return Content(
        title=str(study.get("title") or "Study"), contrast=str(study.get("contrast") or ""),
        finding=found, headlines=headlines(folder), opening=opening, facts=facts(panel, runs), tables=printed,
        pictures=drawn,
        warnings=tuple(cautions.cautions(panel, folder.findings, provenance.slopes(folder), drift, found, said)),
        explorer=sample.explorer(runs, panel, max(room, LIMIT // 10)) if runs else None,
        provenance=provenance.provenance(folder))


def finding(folder: Folder) -> str:
    """The finding in words, as the fits left it: in finding.txt, or in fits/scrutiny-<variant>.txt."""
    if (folder.root / "finding.txt").is_file():
        return (folder.root / "finding.txt").read_text(encoding="utf-8").strip()
    return summary.scrutinised(folder) or ("The folder holds no fits: run the study, or `canopy-stats scrutinise` on "
                                           "its panel.parquet.")


def facts(panel: pd.DataFrame, runs: Mapping[str, Run]) -> tuple[tuple[str, str], ...]:
    """The study's size, law and embedder in a few words."""
    sizes = {"families": panel["model_name"].nunique(), "variants": panel["model_variant"].nunique(),
             "tasks": panel["task"].nunique(), "prompts": panel["prompt_uid"].nunique(),
             "rollouts": int(panel["M"].sum()),
             "tokens": sum(shard["n_tokens"] for run in runs.values() for shard in run.shards)}
    named = {name: f"{value:,}" for name, value in sizes.items() if value}
    named |= {"law": provenance.distinct(panel, "law"), "embedder": provenance.distinct(panel, "embedder")}
    return tuple((name, value) for name, value in named.items() if value)


# --- tables and figures -----------------------------------------------------------------------------------------


def tables(folder: Folder) -> tuple[Table, ...]:
    """The study's tables, from their printed form."""
    return tuple(read_table(caption, path.read_text(encoding="utf-8"))
                 for path, caption in captioned(folder, "tables", ".html"))


def pictures(folder: Folder) -> tuple[Picture | None, tuple[Picture, ...]]:
    """The figure that the page opens with, where there is one, and the others."""
    drawn = {path.stem: Picture(caption, path.read_text(encoding="utf-8"))
             for path, caption in captioned(folder, "figures", ".svg")}
    return drawn.pop(FINDING, None), tuple(drawn.values())


def captioned(folder: Folder, kind: EntryKind, suffix: str) -> list[tuple[Path, str]]:
    """The files of one kind with their captions, in the order of its index.json or of the catalogue.

    A file that neither names comes last, under its own name.
    """
    known = folder.index(kind) or {name: {"caption": entry.caption} for name, entry in CATALOGUE[kind].items()}
    listed = {name: entry if isinstance(entry, str) else str(entry["caption"]) for name, entry in known.items()}
    there = folder.printed(kind, suffix)
    own = {name: name.replace("_", " ").capitalize() for name in there}
    return [(there[name], sentence(caption)) for name, caption in {**listed, **(own | listed)}.items() if name in own]


def sentence(caption: str) -> str:
    """The caption with a full stop at its end."""
    return caption if caption.endswith((".", "!", "?")) else f"{caption}."
