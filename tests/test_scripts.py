"""Every script of a table or figure runs without torch, and the tables' numbers are the stored ones."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import canopy_stats as cs
from canopy_stats.panel import read_panel, write_panel
from canopy_stats.schema import SamplingPolicy, UserError
from canopy_stats.study import catalogue
from canopy_stats.study.catalogue import FIGURES, TABLES, Material, open_study, skipped, write_tables

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted([*(ROOT / "analysis").glob("table_*.py"), *(ROOT / "analysis").glob("figure_*.py")])
STORED = ROOT / "analysis" / "results" / "tables"
ENTRIES = {"table": TABLES, "figure": FIGURES}


def entry_of(script: Path) -> catalogue.Entry:
    kind, name = script.stem.split("_", 1)
    return ENTRIES[kind][name]


ON_PANEL = [script for script in SCRIPTS if entry_of(script).needs == "panel"]

# One interpreter runs them all, each as its own __main__: loading pandas and matplotlib once a script is the slow part.
RUN_ALL = """
import json, runpy, sys
out, arguments, scripts = json.loads(sys.argv[1])
codes = {}
for script in scripts:
    sys.argv = [script, "--out", out, *arguments]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        codes[script] = end.code
heavy = sorted({"torch", "transformers", "sentence_transformers"} & set(sys.modules))
print(json.dumps([codes, heavy]))
"""


def run_all(scripts, out, *arguments):
    """Exit codes by script, and which heavy packages were imported."""
    asked = json.dumps([str(out), list(arguments), [str(s) for s in scripts]])
    done = subprocess.run([sys.executable, "-c", RUN_ALL, asked], capture_output=True, text=True, check=True, cwd=ROOT)
    codes, heavy = json.loads(done.stdout.splitlines()[-1])
    return codes, heavy


def test_every_entry_has_its_script_and_every_script_its_entry():
    names = {"table": set(TABLES), "figure": set(FIGURES)}
    assert {s.stem for s in SCRIPTS} == {f"{kind}_{name}" for kind, found in names.items() for name in found}


# --- on the demo panel ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def on_panel(tmp_path_factory):
    out = tmp_path_factory.mktemp("panel")
    return out, *run_all(ON_PANEL, out)


def test_scripts_of_the_panel_run_without_torch(on_panel):
    out, codes, heavy = on_panel
    assert set(codes.values()) == {0} and len(codes) == len(ON_PANEL) and heavy == []
    for script in ON_PANEL:
        kind, name = script.stem.split("_", 1)
        for suffix in (("csv", "tex", "html", "md", "txt") if kind == "table" else ("svg", "png")):
            assert (out / f"{name}.{suffix}").stat().st_size > 0


def tolerance(table: pd.DataFrame, stored: pd.DataFrame, column: str) -> np.ndarray:
    """How far a number may be from the stored one, by row.

    Fits stop where their optimiser's rule is met and sums depend on the machine's order of adding: 1e-4 of the number.
    Bootstrap quantiles are the same while numpy's multinomial stream is; with another stream their Monte-Carlo error
    is 0.06 standard errors (2,000 replicates, 2.5% tail), of which five are allowed. Small p-values amplify the rest.
    """
    size = stored[column].abs().to_numpy(float)
    if column in ("low", "high", "percentile_low", "percentile_high") and "se" in stored:
        return np.asarray(0.3 * stored["se"].to_numpy(float))
    if column in ("percent_low", "percent_high"):
        return np.asarray(0.3 * (stored["percent_high"] - stored["percent_low"]).to_numpy(float) / 3.92)
    if column == "se":
        return 0.08 * size
    if column in ("p", "q", "p_value", "difference_p", "lrt_p"):
        return 1e-2 * size + 1e-6
    return 1e-4 * size + 1e-7


@pytest.mark.parametrize("name", [name for name, entry in TABLES.items() if entry.needs == "panel"])
def test_tables_of_the_demo_panel_are_the_stored_ones(on_panel, name):
    table, stored = (pd.read_csv(folder / f"{name}.csv") for folder in (on_panel[0], STORED))
    assert list(table.columns) == list(stored.columns)
    for column in stored:
        if pd.api.types.is_numeric_dtype(stored[column]):
            assert (table[column].isna() == stored[column].isna()).all(), column
            away = (table[column] - stored[column]).abs().fillna(0).to_numpy(float)
            assert (away <= np.nan_to_num(tolerance(table, stored, column))).all(), column
        else:
            pd.testing.assert_series_equal(table[column], stored[column])


def test_a_script_runs_by_itself_and_prints_its_table():
    done = subprocess.run([sys.executable, "analysis/table_slopes.py", "--help"], capture_output=True, text=True,
                          check=True, cwd=ROOT)
    assert "--study" in done.stdout and "slope table" in done.stdout


# --- on a stored study ------------------------------------------------------------------------------------------


def markov(seed: int, sharpness: float):
    """A chain of 7 states and an end; a higher ``sharpness`` makes its rows more even, so its entropy higher."""
    table = np.random.default_rng(seed).dirichlet(np.full(8, sharpness), size=8)
    table[:, -1] = 0
    table *= 0.85 / table.sum(1, keepdims=True)
    table[:, -1] = 0.15
    return cs.oracle.MarkovLM(table, end_state=7)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Runs, panel and checks as a study leaves them, of two families of Markov chains."""
    out = tmp_path_factory.mktemp("study")
    runs = [cs.generate(markov(seed + 10 * (variant == "tuned"), 2.0 if variant == "base" else 0.5),
                        [[(first + i) % 7] for i in range(4)], out / "runs" / f"{task}-{family}-{variant}",
                        family=family, variant=variant, task=task, n_rollouts=6, drift_tokens=0, progress=False,
                        policy=SamplingPolicy(max_new_tokens=12))
            for seed, family in enumerate(("north", "south")) for variant in ("base", "tuned")
            for task, first in (("count", 0), ("walk", 3))]
    write_panel(cs.panel(runs, embedder="tfidf"), out / "panel.parquet")
    found = [cs.check(run, n_sample=2).to_frame().assign(run=run.path.name) for run in runs]
    pd.concat(found).to_csv(out / "checks.csv", index=False)
    (out / "panels").mkdir()
    return out


def test_scripts_that_need_runs_have_them_from_a_study_and_no_torch(study, tmp_path):
    chosen = [script for script in SCRIPTS if script not in ON_PANEL or script.stem == "table_slopes"]
    codes, heavy = run_all(chosen, tmp_path, "--study", str(study))
    assert {Path(s).stem: code for s, code in codes.items() if code != 0} == {} and heavy == []
    assert {p.stem for p in tmp_path.glob("*.csv")} == {"checks", "slopes"}
    assert {p.stem for p in tmp_path.glob("*.png")} == {n for n, entry in FIGURES.items() if entry.needs == "runs"}


def test_a_script_that_needs_rollouts_says_how_to_get_them(capsys, tmp_path):
    code = catalogue.script("figure_end_hazard.py", "", ["--out", str(tmp_path)])
    assert code == 2 and "--study FOLDER" in capsys.readouterr().out


def test_a_folder_that_is_no_study_is_refused(capsys, tmp_path):
    assert catalogue.script("table_slopes.py", "", ["--study", str(tmp_path)]) == 2
    assert "panel.parquet" in capsys.readouterr().out


# --- the catalogue ----------------------------------------------------------------------------------------------


def test_what_the_material_lacks_is_named_and_left_out(tmp_path):
    material = Material(cs.load_demo_panel())
    assert set(skipped(TABLES, material)) == {"checks"}
    assert set(skipped(FIGURES, material)) == {name for name, entry in FIGURES.items() if entry.needs == "runs"}
    said: list[str] = []
    written = write_tables(material, tmp_path, only=["checks", "decomposition"], say=said.append)
    assert {p.stem for p in written} == {"decomposition"} and "checks needs the check" in said[0]


def test_an_unknown_name_is_refused(tmp_path):
    with pytest.raises(UserError, match="no nonsense; choose among slopes, base_tuned"):
        write_tables(Material(cs.load_demo_panel()), tmp_path, only=["nonsense"])


def test_a_study_is_opened_with_its_runs_checks_and_ablations(study):
    whole = read_panel(study / "panel.parquet")
    write_panel(whole[whole["task"] == "walk"], study / "panels" / "walks.parquet")
    material = open_study(study)
    assert len(material.opened) == 8 and len(material.checks) == 8 and list(material.ablations) == ["walks"]
    table = TABLES["ablations"].make(material)
    assert list(dict.fromkeys(table["panel"])) == ["all", "without family north", "without family south",
                                                   "without task count", "without task walk", "walks"]
    alone = cs.slope_change(material.ablations["walks"], model="interaction")
    assert table[table["panel"] == "walks"]["base_slope"].iloc[0] == pytest.approx(alone.base.estimate)
    leave_out = table[table["panel"] == "without task count"]["base_slope"].iloc[0]
    assert leave_out == pytest.approx(alone.base.estimate)


def test_steps_know_their_rollouts_length(study):
    material = open_study(study)
    first = material.steps[material.steps["step"] == 0]
    assert list(first["length"]) == list(material.rollouts["length"])
    assert len(material.steps) == material.rollouts["length"].sum()


def test_a_slope_change_is_fitted_once_and_may_come_from_elsewhere():
    panel = cs.load_demo_panel()
    change = cs.slope_change(panel, model="interaction")
    material = Material(panel, known={("interaction", "instruct"): change})
    assert material.change("interaction") is change
    assert material.change("main") is material.change("main", "instruct")


def test_several_tuned_variants_get_a_column_each():
    panel = cs.load_demo_panel()
    tuned = panel[panel["model_variant"] == "instruct"]
    more = pd.concat([panel, tuned.assign(model_variant="rl", D=1.1 * tuned["D"])], ignore_index=True)
    material = Material(more)
    assert material.tuned == ("instruct", "rl")
    columns = list(TABLES["regressions"].shown(TABLES["regressions"].make(material)).columns)
    assert columns[1:3] == ["main, instruct", "interaction, instruct"] and "quadratic, rl" in columns
    slopes = TABLES["slopes"].make(material)
    assert list(slopes["tuned"]) == 3 * ["instruct"] + 3 * ["rl"]
    assert list(TABLES["slopes"].shown(slopes).columns[:2]) == ["tuned", "model"]
    found = TABLES["ablations"].make(material)
    assert set(found["tuned"]) == {"instruct", "rl"}
    expected = cs.slope_change(more[more["model_variant"] != "instruct"], model="interaction")
    row = found[(found["tuned"] == "rl") & (found["panel"] == "all")].iloc[0]
    assert row["ratio"] == pytest.approx(expected.ratio.estimate)


def test_a_panel_without_a_tuned_variant_is_refused():
    base = cs.load_demo_panel().query("model_variant == 'base'")
    with pytest.raises(UserError, match="fine-tuned variant"):
        TABLES["slopes"].make(Material(base))


@pytest.mark.parametrize("model", ["interaction", "quadratic"])
def test_a_models_curve_is_the_mean_of_its_predictions(model):
    from canopy_stats.study.entries import model_curve

    panel = cs.load_demo_panel().query("model_name == 'alder'").reset_index(drop=True)
    change = cs.slope_change(panel, model=model)
    curve = model_curve(change, panel, "task")
    own = curve[(curve["task"] == "math") & (curve["model_variant"] == "instruct")]
    rows = panel[(panel["task"] == "math") & (panel["model_variant"] == "instruct")]
    rate = own["R_bar"].iloc[7]
    centred = rate - panel["R_bar"].mean()
    at = rows.assign(R_bar=rate, R_c=centred, R_c2=centred**2)
    assert own["D"].iloc[7] == pytest.approx(np.mean(change.fit.predict(at)))
    assert (own["R_bar"].min(), own["R_bar"].max()) == pytest.approx((rows["R_bar"].min(), rows["R_bar"].max()))
