"""What a study's folder says, as the content of its page."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from canopy_stats.report.html import Content, Picture, Table, read_table
from canopy_stats.schema import UserError
from canopy_stats.study.page import cautions, provenance, shown

if TYPE_CHECKING:
    import pandas as pd

    from canopy_stats.store import Run

LIMIT = 10_000_000
"""Bytes that the page should not exceed: what figures and tables leave is for rollouts."""
FRAME = 100_000
"""Bytes of the page without any of them."""


def content(out: Path) -> Content:
    """All that the page of a study's folder says."""
    from canopy_stats.panel import read_panel

    panel, note = read_panel(out / "panel.parquet"), read_json(out / "panel.json") or {}
    study = read_json(out / "study.json") or note.get("study", {})
    runs = opened(out, note.get("runs"))
    printed, drawn = tables(out), pictures(out)
    found = finding(out, panel)
    room = LIMIT - FRAME - sum(len(p.svg) for p in drawn) - 50 * sum(len(t.rows) * len(t.head) for t in printed)
    return Content(
        title=str(study.get("title") or "Study"), contrast=str(study.get("contrast") or ""),
        finding=found, facts=facts(panel, runs), tables=printed, pictures=drawn,
        warnings=tuple(cautions.cautions(panel, checks(out), provenance.slopes(out),
                                         {name: run.manifest["drift"] for name, run in runs.items()}, found)),
        explorer=shown.explorer(runs, panel, max(room, LIMIT // 10)) if runs else None,
        provenance=provenance.provenance(out, panel, study, runs))


def opened(out: Path, names: Iterable[str] | None) -> dict[str, Run]:
    """The study's runs that are there, each checked against its hashes: the panel's, else all of the folder."""
    from canopy_stats.store import open_run

    there = names if names is not None else sorted(path.name for path in (out / "runs").glob("*"))
    return {name: open_run(out / "runs" / name) for name in there if (out / "runs" / name / "manifest.json").is_file()}


def read_json(path: Path) -> Any:
    """What a JSON file holds; None where there is none."""
    return json.loads(path.read_bytes()) if path.is_file() else None


def checks(out: Path) -> pd.DataFrame | None:
    """A row for each finding of each run; None where the runs were not checked."""
    import pandas as pd

    return pd.read_csv(out / "checks.csv") if (out / "checks.csv").is_file() else None


def finding(out: Path, panel: pd.DataFrame) -> str:
    """The finding in words: what the fits left in finding.txt or fits/scrutiny-<variant>.txt, else made here."""
    if (out / "finding.txt").is_file():
        return (out / "finding.txt").read_text(encoding="utf-8").strip()
    verdicts = {path.stem.removeprefix("scrutiny-"): path.read_text(encoding="utf-8").strip()
                for path in sorted((out / "fits").glob("scrutiny-*.txt"))}
    if verdicts:
        return "\n\n".join(text if len(verdicts) == 1 else f"{variant}: {text}" for variant, text in verdicts.items())
    return in_words(panel)


def in_words(panel: pd.DataFrame) -> str:
    """The paper's slope change and the robust one in words, or why there is none."""
    from canopy_stats.slope import slope_scrutiny

    try:
        return slope_scrutiny(panel).verdict
    except UserError as error:
        return str(error)


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


def tables(out: Path) -> tuple[Table, ...]:
    """The study's tables, from their printed form."""
    return tuple(read_table(caption, path.read_text(encoding="utf-8"))
                 for path, caption in captioned(out / "tables", ".html", "TABLES"))


def pictures(out: Path) -> tuple[Picture, ...]:
    """The study's figures."""
    return tuple(Picture(caption, path.read_text(encoding="utf-8"))
                 for path, caption in captioned(out / "figures", ".svg", "FIGURES"))


def captioned(folder: Path, suffix: str, listed_in: str) -> list[tuple[Path, str]]:
    """The folder's files of one kind with their captions, in the order of its index.json or of the catalogue.

    A file that neither names comes last, under its own name.
    """
    known = read_json(folder / "index.json") or _catalogue(listed_in)
    listed = {name: entry if isinstance(entry, str) else entry["caption"] for name, entry in known.items()}
    own = {path.stem: path.stem.replace("_", " ").capitalize() for path in sorted(folder.glob(f"*{suffix}"))}
    return [(folder / f"{name}{suffix}", sentence(caption)) for name, caption in {**listed, **(own | listed)}.items()
            if name in own]


def _catalogue(name: str) -> dict[str, str]:
    """The captions of the catalogue's tables or figures."""
    if find_spec("canopy_stats.study.catalogue") is None:
        return {}
    entries = getattr(import_module("canopy_stats.study.catalogue"), name)
    return {key: entry.caption for key, entry in entries.items()}


def sentence(caption: str) -> str:
    """The caption with a full stop at its end."""
    return caption if caption.endswith((".", "!", "?")) else f"{caption}."
