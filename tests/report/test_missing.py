"""What a finished study is said to lack: what was asked for and could not be made, and nothing else."""

import pytest

import canopy_stats as cs
from canopy_stats import slope
from canopy_stats.panels import write_panel
from canopy_stats.report import catalogue
from canopy_stats.report.folder import Folder
from canopy_stats.report.missing import missing
from canopy_stats.report.source import Source
from canopy_stats.schema import UserError


def study(folder, **left_out):
    """A study's folder in which tables were left out for these reasons."""
    write_panel(cs.load_demo_panel().head(40), folder / "panel.parquet")
    (folder / "tables").mkdir()
    lines = [f"left out: {name}: {reason}\n" for name, reason in left_out.items()]
    (folder / "tables" / "left_out.txt").write_text("".join(lines))
    return Folder(folder)


def reason(kind, name, source, folder):
    with pytest.raises(UserError) as told:
        catalogue.write_one(kind, name, source, folder)
    return str(told.value)


def test_what_nobody_asked_for_is_not_missing(tmp_path):
    """Of every table and figure that needs more than a panel."""
    alone = Source(cs.load_demo_panel().head(40), slope)
    kinds = {"tables": catalogue.TABLES, "figures": catalogue.FIGURES}
    reasons = {name: reason(kind, name, alone, tmp_path) for kind, entries in kinds.items()
               for name, entry in entries.items() if entry.needs != "panel"}
    assert len(reasons) > 10 and missing(study(tmp_path, **reasons)) == []


def test_a_robust_slope_that_says_why_there_is_none_is_an_answer(tmp_path):
    panel = cs.load_demo_panel().query("model_name == 'alder' and task == 'math'").reset_index(drop=True)
    told = reason("tables", "cells", Source(panel, slope), tmp_path)
    assert "one family" in told and missing(study(tmp_path, cells=told)) == []


def test_what_could_not_be_made_is_missing_once_for_each_reason(tmp_path):
    found = missing(study(tmp_path, slopes="Something broke.", paired="Something broke.", cells="The disk is full."))
    assert found == ["the table slopes and the table paired: Something broke", "the table cells: The disk is full"]
