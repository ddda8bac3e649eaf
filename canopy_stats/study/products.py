"""What is made of the fits and panels: tables, figures, and the report."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from canopy_stats import files
from canopy_stats.schema import UserError
from canopy_stats.study import fits, summary
from canopy_stats.study.parts import MAIN, Part, read_checks
from canopy_stats.study.result import read_result
from canopy_stats.study.stages import Key, Say, Stage, code_hash, stamped, versions_of

if TYPE_CHECKING:
    from canopy_stats.study.catalogue import Material


def stages_of(parts: Sequence[Part], say: Say) -> Iterator[Stage]:
    """Fit, tables, figures and report, in order."""
    main, out = parts[0], parts[0].out
    yield Stage("fit", "fit", lambda: fits.fit_key(out), lambda: fits.fit(out, say), "the study's panel")
    everything = "the panels, the check of the runs, and the fits"
    yield Stage("tables", "tables", lambda: material_key(parts), lambda: tables(parts, say), everything)
    yield Stage("figures", "figures", lambda: material_key(parts), lambda: figures(parts, say), everything)
    yield Stage("report", "report", lambda: report_key(main), lambda: report(main), "tables and figures")


# --- tables and figures -----------------------------------------------------------------------------------------


def material_key(parts: Sequence[Part]) -> Key | None:
    """What tables and figures are made from: panels, runs, checks, fits, and the code that makes them."""
    out, main = parts[0].out, parts[0]
    hashes = {"panels": {part.name: files.file_sha256(part.panel_path) for part in parts},
              "checks": {"checks": files.file_sha256(out / "checks.csv")},
              "fits": {"changes": files.file_sha256(out / "fits" / "changes.json")}}
    if main.contents is None or any(value is None for group in hashes.values() for value in group.values()):
        return None
    return {"runs": main.contents, **hashes, "versions": versions_of(*fits.FITTING, "matplotlib"),
            "code": code_hash("report", "slope", "mixed", "metrics", *_CATALOGUE)}


_CATALOGUE = ("study/catalogue", "study/material", "study/entries")


def material_of(parts: Sequence[Part]) -> Material:
    """Everything that tables and figures are made from, as the disk has it: kept or just made, the same numbers."""
    from canopy_stats.panel import read_panel
    from canopy_stats.study.catalogue import Material

    main = parts[0]
    further = {part.name: read_panel(part.panel_path) for part in parts if part.name != MAIN}
    return Material(read_panel(main.panel_path), main.opened(), read_checks(main.out / "checks.csv"), further or None,
                    known=fits.read_changes(main.out))


def tables(parts: Sequence[Part], say: Say) -> list[Path]:
    """Every table in every printed form."""
    from canopy_stats.study.catalogue import TABLES, write_tables

    return _each(TABLES, write_tables, material_of(parts), parts[0].out / "tables", say)


def figures(parts: Sequence[Part], say: Say) -> list[Path]:
    """Every figure as SVG and PNG."""
    from canopy_stats.study.catalogue import FIGURES, write_figures

    return _each(FIGURES, write_figures, material_of(parts), parts[0].out / "figures", say)


def _each(names: Iterable[str], write: Callable[..., list[Path]], material: Material, folder: Path,
          say: Say) -> list[Path]:
    """Write one after the other; what the data do not allow is said, and kept in left_out.txt with the reason."""
    made, left_out = list[Path](), list[str]()
    files.make_folder(folder)
    for name in names:
        try:
            made += write(material, folder, only=[name], say=left_out.append)
        except UserError as error:
            left_out.append(f"  left out: {name}: {error}")
    for line in left_out:
        say(line)
    if left_out:
        made.append(folder / "left_out.txt")
        files.write_atomic(made[-1], "".join(f"{line.strip()}\n" for line in left_out).encode())
    return made


# --- report -----------------------------------------------------------------------------------------------------


def report_key(main: Part) -> Key | None:
    """What the report shows: the study's settings, and every file of the stages that it reads."""
    shown = {stage: stamp["files"] for stage in ("check", "panel", "fit", "tables", "figures")
             if (stamp := stamped(main.out, stage)) is not None}
    if len(shown) < 5:
        return None
    return {"study": main.study.described(), **shown, "code": code_hash("report", "study/page", "study/summary")}


def report(main: Part) -> list[Path]:
    """study.json, summary.md, and report.html."""
    from canopy_stats.study.page import write_report

    out = main.out
    files.write_atomic(out / "study.json", json.dumps(main.study.described(), indent=1, ensure_ascii=False).encode())
    files.write_atomic(out / "summary.md", summary.page(read_result(main)).encode())
    return [out / "study.json", out / "summary.md", write_report(out)]
