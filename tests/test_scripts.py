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
from canopy_stats.cli import script as command
from canopy_stats.panels import read_panel, write_panel
from canopy_stats.report import catalogue
from canopy_stats.report.catalogue import FIGURES, TABLES
from canopy_stats.report.folder import Folder
from canopy_stats.report.source import Source
from canopy_stats.schema import SamplingPolicy, UserError

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
    """Tables of the demo panel, whose numbers are stored, and figures of every fourth of its prompts."""
    out = tmp_path_factory.mktemp("panel")
    panel = cs.load_demo_panel()
    write_panel(panel[panel["prompt_id"].astype(int) % 4 == 0], out / "part.parquet")
    codes, heavy = run_all([s for s in ON_PANEL if s.stem.startswith("table")], out)
    more = run_all([s for s in ON_PANEL if s.stem.startswith("figure")], out, "--panel", str(out / "part.parquet"))
    return out, codes | more[0], heavy + more[1]


@pytest.mark.slow
def test_scripts_of_the_panel_run_without_torch(on_panel):
    out, codes, heavy = on_panel
    assert set(codes.values()) == {0} and len(codes) == len(ON_PANEL) and heavy == []
    for script in ON_PANEL:
        kind, name = script.stem.split("_", 1)
        for suffix in (("csv", "tex", "html", "md", "txt") if kind == "table" else ("svg", "png")):
            assert (out / f"{name}.{suffix}").stat().st_size > 0


def tolerance(table: pd.DataFrame, stored: pd.DataFrame, column: str) -> np.ndarray:
    """How far a number may be from the stored one, by row.

    Fits stop where their optimiser's rule is met, and sums depend on the machine's order of adding: 1e-3 of the number,
    or half a hundredth of its standard error, since some coefficients of the beta models are nearly flat directions. A
    ratio's set amplifies that where its denominator is unsure, and small p-values always do. Bootstrap quantiles are
    the same while numpy's multinomial stream is; with another stream their Monte-Carlo error is 0.06 standard errors
    (2,000 replicates, 2.5% tail), of which five are allowed.
    """
    size = stored[column].abs().to_numpy(float)
    if column.startswith("ratio_"):
        return 2e-2 * size
    if column in ("estimate", "conf_low", "conf_high") and "std_error" in stored:
        return np.asarray(1e-3 * size + 5e-3 * stored["std_error"].abs().fillna(0).to_numpy(float))
    if column.startswith(("bca_", "percentile_")):
        return np.asarray(0.3 * stored["std_error"].to_numpy(float))
    if column in ("percent_low", "percent_high"):
        return np.asarray(0.3 * (stored["percent_high"] - stored["percent_low"]).to_numpy(float) / 3.92)
    if column == "std_error":
        return 0.01 * size
    if column in ("p_value", "q_value", "lrt_p"):
        return 1e-2 * size + 1e-6
    return 1e-3 * size + 1e-7


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, entry in TABLES.items() if entry.needs == "panel"])
def test_tables_of_the_demo_panel_are_the_stored_ones(on_panel, name):
    """A change that is meant to move them: ``python analysis/store_tables.py``, and look at the difference."""
    table, stored = (pd.read_csv(folder / f"{name}.csv") for folder in (on_panel[0], STORED))
    assert list(table.columns) == list(stored.columns)
    for column in stored:
        if pd.api.types.is_numeric_dtype(stored[column]):
            assert (table[column].isna() == stored[column].isna()).all(), column
            away = (table[column] - stored[column]).abs().fillna(0).to_numpy(float)
            assert (away <= np.nan_to_num(tolerance(table, stored, column))).all(), column
        else:
            pd.testing.assert_series_equal(table[column], stored[column])


@pytest.mark.slow
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
                        [[i // 7, (first + i) % 7] for i in range(10)], out / "runs" / f"{task}-{family}-{variant}",
                        family=family, variant=variant, task=task, n_rollouts=6, drift_tokens=0, progress=False,
                        policy=SamplingPolicy(max_new_tokens=12, top_k=5))
            for seed, family in enumerate(("north", "south")) for variant in ("base", "tuned")
            for task, first in (("count", 0), ("walk", 3))]
    write_panel(cs.panel(runs, embedder="tfidf"), out / "panel.parquet")
    found = [cs.check(run, n_sample=2).to_frame().assign(run=run.path.name) for run in runs]
    pd.concat(found).to_csv(out / "checks.csv", index=False)
    (out / "panels").mkdir()
    return out


@pytest.mark.slow
def test_scripts_that_need_runs_have_them_from_a_study_and_no_torch(study, tmp_path):
    # chains have no chat template, so nothing is to be said of prompts by rendered text; and people judged nothing
    without = {"rendered_text", "judge_agreement"}
    chosen = [script for script in SCRIPTS if script.stem.removeprefix("table_") not in without
              and (script not in ON_PANEL or script.stem == "table_slopes")]
    codes, heavy = run_all(chosen, tmp_path, "--study", str(study))
    assert {Path(s).stem: code for s, code in codes.items() if code != 0} == {} and heavy == []
    needing = {name for name, entry in TABLES.items() if entry.needs != "panel"} - without
    assert {p.stem for p in tmp_path.glob("*.csv")} == needing | {"slopes"}
    assert {p.stem for p in tmp_path.glob("*.png")} == {n for n, entry in FIGURES.items() if entry.needs == "runs"}


@pytest.mark.slow
def test_length_diversity_is_each_rollouts_distance_to_the_others_pooled_like_rho(study):
    """One run's row, from the kept embeddings by loops and scipy."""
    from itertools import combinations

    from scipy import stats

    table = TABLES["length_diversity"].make(Source.of(Folder(study), cs.slope))
    run = cs.open_run(study / "runs" / "walk-north-tuned")
    rollouts, vectors = run.rollouts().to_pandas(), np.asarray(cs.embed(run, "tfidf"), float)
    rhos, taus, covs, thirds = [], [], [], []
    for _, own in rollouts.groupby("prompt_id"):
        cosine = vectors[own.index] @ vectors[own.index].T
        each = [1 - np.delete(cosine[i], i).mean() for i in range(6)]
        if np.ptp(own["length"]) > 0 and np.ptp(each) > 1e-12:
            rhos.append(stats.pearsonr(own["length"], each).statistic)
            taus.append(stats.kendalltau(own["length"], each).statistic)
        covs.append(np.cov(own["length"], each)[0, 1])
        order = np.argsort(own["length"].to_numpy(), kind="stable")
        thirds.append([np.mean([1 - cosine[i, j] for i, j in combinations(order[2 * g:2 * g + 2], 2)])
                       for g in range(3)])
    row = table.query("task == 'walk' and model_name == 'north' and model_variant == 'tuned'").iloc[0]
    clipped = np.clip(rhos, -0.999999, 0.999999)
    assert row["rho_ND_pearson"] == pytest.approx(np.tanh(np.mean(np.arctanh(clipped))))
    assert row["rho_ND_kendall"] == pytest.approx(np.mean(taus))
    assert row["cov_ND_paper"] == pytest.approx(np.mean(covs)) and row["left_out"] == 10 - len(rhos)
    assert row["cov_ND"] == pytest.approx(5 / 6 * np.mean(covs))
    assert row[["D_short", "D_middle", "D_long"]].to_list() == pytest.approx(np.mean(thirds, axis=0), abs=1e-6)


def test_a_script_that_needs_rollouts_says_how_to_get_them(capsys, tmp_path):
    code = command.script("figure_end_hazard.py", "", ["--out", str(tmp_path)])
    assert code == 2 and "--study FOLDER" in capsys.readouterr().err


def test_a_folder_that_is_no_study_is_refused(capsys, tmp_path):
    assert command.script("table_slopes.py", "", ["--study", str(tmp_path)]) == 2
    assert "panel.parquet" in capsys.readouterr().err


def of(panel):
    return Source(panel, cs.slope)


# --- the catalogue ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_the_material_lacks_is_named_and_left_out(tmp_path):
    source = of(cs.load_demo_panel())
    assert {name for name, entry in TABLES.items() if entry.lacks(source)} == {
        name for name, entry in TABLES.items() if entry.needs != "panel"}
    assert {name for name, entry in FIGURES.items() if entry.lacks(source)} == {
        name for name, entry in FIGURES.items() if entry.needs == "runs"}
    with pytest.raises(UserError, match="checks needs the check of the runs"):
        catalogue.write_one("tables", "checks", source, tmp_path)


@pytest.mark.slow
def test_a_whole_catalogue_goes_on_past_what_a_panel_does_not_suffice_for(tmp_path):
    """One family, no RSE and no check of runs: the rest is written, and what is not is told."""
    panel = cs.load_demo_panel().query("model_name == 'alder' and task != 'stories'")
    written = {p.stem for p in catalogue.write("tables", of(panel), tmp_path)}
    of_panel = {name for name, e in TABLES.items() if e.needs == "panel"} - {"cells"}  # of the robust slope's cells
    assert written == of_panel | {"index", "left_out"}
    captions = json.loads((tmp_path / "index.json").read_text())
    assert captions.keys() == written - {"index", "left_out"}
    assert captions["slopes"] == {"caption": TABLES["slopes"].caption}
    assert "left out: checks: checks needs the check of the runs" in (tmp_path / "left_out.txt").read_text()
    below = (tmp_path / "regressions_beta.txt").read_text()
    assert "No paper_rse: paper_rse needs the columns RSE" in below
    assert "model_name has one level (alder); its term is left out." in below


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:<Fit beta")  # ten prompts a task are too few for the beta model, and it says so
def test_a_study_is_opened_with_its_runs_checks_and_ablations(study):
    whole = read_panel(study / "panel.parquet")
    write_panel(whole[whole["task"] == "walk"], study / "panels" / "walks.parquet")
    source = Source.of(Folder(study), cs.slope)
    assert len(source.opened) == 8 and len(source.checks) == 8 and list(source.ablations) == ["walks"]
    table = TABLES["ablations"].make(source)
    assert list(dict.fromkeys(table["panel"])) == ["all", "without family north", "without family south",
                                                   "without task count", "without task walk", "walks"]
    alone = cs.slope_change(source.ablations["walks"], model="interaction").base.estimate
    linear = table[table["model"] == "interaction"].set_index("panel")["base_slope"]
    assert linear["walks"] == pytest.approx(alone) and linear["without task count"] == pytest.approx(alone)


@pytest.mark.slow
def test_steps_know_their_rollouts_length(study):
    source = Source.of(Folder(study), cs.slope)
    first = source.steps[source.steps["step"] == 0]
    assert list(first["length"]) == list(source.rollouts["length"])
    assert len(source.steps) == source.rollouts["length"].sum()


@pytest.mark.slow
def test_a_slope_change_is_fitted_once_and_may_come_from_elsewhere():
    panel = cs.load_demo_panel()
    change = cs.slope_change(panel, model="interaction")
    source = Source(panel, cs.slope, known={("interaction", "instruct"): change})
    assert source.change("interaction") is change
    assert source.change("main") is source.change("main", "instruct")


@pytest.mark.slow
def test_several_tuned_variants_get_a_column_each():
    panel = cs.load_demo_panel().query("model_name == 'alder' and task in ['coding', 'math']")
    tuned = panel[panel["model_variant"] == "instruct"]
    more = pd.concat([panel, tuned.assign(model_variant="rl", D=1.1 * tuned["D"])], ignore_index=True)
    source = of(more)
    assert source.tuned == ("instruct", "rl")
    columns = list(TABLES["regressions"].shown(TABLES["regressions"].make(source)).columns)
    assert columns[1:3] == ["main, instruct", "interaction, instruct"] and "quadratic, rl" in columns
    slopes = TABLES["slopes"].make(source)
    assert list(slopes["tuned"]) == 3 * ["instruct"] + 3 * ["rl"]
    assert list(TABLES["slopes"].shown(slopes).columns[:2]) == ["tuned", "model"]
    found = TABLES["ablations"].make(source)
    assert set(found["tuned"]) == {"instruct", "rl"}
    expected = cs.slope_change(more[more["model_variant"] != "instruct"], model="interaction")
    row = found.query("tuned == 'rl' and panel == 'all' and model == 'interaction'").iloc[0]
    assert row["ratio"] == pytest.approx(expected.ratio.estimate)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:<Fit beta")  # fifty prompts a task leave the Vendi model's dispersion flat
def test_a_judged_panel_has_the_third_beta_model_beside_the_others():
    panel = cs.load_demo_panel().query("prompt_id < '050'")
    judged = panel.assign(RSE=np.clip(panel["D"], 0.02, 0.98) * np.log(10), rse_m=10)
    entry = TABLES["regressions_beta"]
    shown = entry.shown(entry.make(of(judged))).set_index("term")
    assert list(shown.columns) == ["paper_beta", "paper_vendi", "paper_rse"]
    # RSE / log m is D itself here but for a few clipped values
    assert shown.loc["ratio", "paper_rse"] == shown.loc["ratio", "paper_beta"]


def test_a_panel_without_a_tuned_variant_is_refused():
    base = cs.load_demo_panel().query("model_variant == 'base'")
    with pytest.raises(UserError, match="fine-tuned variant"):
        TABLES["slopes"].make(of(base))


@pytest.mark.slow
def test_the_paper_beta_models_curve_moves_the_standardised_rate():
    panel = cs.load_demo_panel().query("model_name == 'alder'").reset_index(drop=True)
    change = cs.slope_change(panel, model="paper_beta")
    own = change.curve("task", panel).query("task == 'math' and model_variant == 'instruct'")
    rows = change.fit.design.data[(panel["task"] == "math") & (panel["model_variant"] == "instruct")]
    at = rows.assign(R_sc=(own["R_bar"].iloc[3] - panel["R_bar"].mean()) / panel["R_bar"].std())
    assert own["D"].iloc[3] == pytest.approx(np.mean(change.fit.predict(at)))


@pytest.fixture(scope="module")
def robust():
    panel = cs.load_demo_panel()
    return panel, cs.slope_change(panel, model="robust")


@pytest.mark.slow
def test_the_robust_models_curve_goes_through_its_own_fitted_means(robust):
    """Rows of one task and variant with rates near a point: their fitted means average to the curve's height there."""
    panel, change = robust
    own = change.curve("task", panel).query("task == 'math' and model_variant == 'instruct'")
    # A cell without common support is left out of the fit, and has no row among its cells.
    cells = pd.MultiIndex.from_frame(change.cells[["task", "model_name"]])
    panel = panel[pd.MultiIndex.from_frame(panel[["task", "model_name"]]).isin(cells)]
    chosen = (panel["task"] == "math") & (panel["model_variant"] == "instruct")
    fitted = np.asarray(change.fit.predict())[chosen]
    near = np.abs(panel["R_bar"][chosen] - own["R_bar"].iloc[15]) < 0.02
    assert near.sum() > 10
    assert own["D"].iloc[15] == pytest.approx(fitted[near].mean(), abs=0.03)
    assert np.ptp(own["D"]) > 0.2


@pytest.mark.slow
@pytest.mark.parametrize("model", ["interaction", "quadratic"])
def test_a_models_curve_is_the_mean_of_its_predictions(model):
    panel = cs.load_demo_panel().query("model_name == 'alder'").reset_index(drop=True)
    change = cs.slope_change(panel, model=model)
    curve = change.curve("task", panel)
    own = curve[(curve["task"] == "math") & (curve["model_variant"] == "instruct")]
    rows = panel[(panel["task"] == "math") & (panel["model_variant"] == "instruct")]
    rate = own["R_bar"].iloc[7]
    centred = rate - panel["R_bar"].mean()
    at = rows.assign(R_bar=rate, R_c=centred, R_c2=centred**2)
    assert own["D"].iloc[7] == pytest.approx(np.mean(change.fit.predict(at)))
    assert (own["R_bar"].min(), own["R_bar"].max()) == pytest.approx((rows["R_bar"].min(), rows["R_bar"].max()))


def test_the_readme_shows_the_stored_scrutiny():
    """The first table of the README holds the numbers that the scripts print."""
    readme = (ROOT / "README.md").read_text().replace("\u2212", "-")
    stored = pd.read_csv(ROOT / "analysis" / "results" / "tables" / "scrutiny.csv").set_index("model")
    for model in ("paper_beta", "robust"):
        row = stored.loc[[name for name in stored.index if name.startswith(model)][0]]
        shown = next(line for line in readme.splitlines() if line.startswith(f"| {model}"))
        for slope, error in (("base_slope", "base_std_error"), ("tuned_slope", "tuned_std_error")):
            assert f"{row[slope]:.3f} ({row[error]:.3f})" in shown
        assert f"{row['estimate']:.3f}" in shown
