"""The change of rho over families and tasks: paired by prompt, prompts as clusters, and the three tests."""

import numpy as np
import pandas as pd
import pytest
from markov_runs import store_run
from scipy import stats

import canopy_stats as cs
from canopy_stats.schema import UserError


def panel_of(rng, families=3, tasks=4, prompts=30, change=0.3, entropy=-0.2, family_sd=0.0, task_sd=0.0, cell_sd=0.0,
             shared_sd=0.0, noise=0.3):
    """Fisher's z of a prompt is normal around its own level; tuning moves it by the cell's change and, alike in all
    families, by the prompt's reaction."""
    cell = (change + family_sd * rng.standard_normal((families, 1)) + task_sd * rng.standard_normal((1, tasks))
            + cell_sd * rng.standard_normal((families, tasks)))
    family, task, prompt, tuned = (a.ravel() for a in np.indices((families, tasks, prompts, 2)))
    reaction = shared_sd * rng.standard_normal((tasks, prompts))[task, prompt]
    z = 0.2 + 0.2 * rng.standard_normal((tasks, prompts))[task, prompt] + tuned * (cell[family, task] + reaction)
    z = z + noise / np.sqrt(2) * rng.standard_normal(len(z))
    log_ce = 3 + 0.3 * rng.standard_normal(len(z)) + entropy * tuned
    names = np.array([f"task{t}" for t in task])
    return pd.DataFrame({"task": names, "prompt_uid": [f"{t}/{p}" for t, p in zip(names, prompt, strict=True)],
                         "model_name": [f"f{f}" for f in family], "model_variant": np.array(["base", "sft"])[tuned],
                         "CE": np.exp(log_ce), "rho_pearson": np.tanh(z), "rho_spearman": np.tanh(z + 0.01),
                         "rho_kendall": np.tanh(0.7 * z), "M": 20})


@pytest.fixture(scope="module")
def panel():
    return panel_of(np.random.default_rng(1))


@pytest.fixture(scope="module")
def found(panel):
    return cs.rho_change(panel)


def primary(result):
    return result.table[result.table["primary"]].iloc[0]


def test_a_cell_is_the_paired_mean_of_its_prompts(panel, found):
    rows = panel[(panel["task"] == "task2") & (panel["model_name"] == "f1")]
    wide = rows.assign(z=np.arctanh(rows["rho_pearson"])).pivot(index="prompt_uid", columns="model_variant", values="z")
    expected = stats.ttest_rel(wide["sft"], wide["base"])
    cell = found.cells.query("task == 'task2' and model_name == 'f1' and coefficient == 'rho_pearson'").iloc[0]
    assert cell["estimate"] == pytest.approx((wide["sft"] - wide["base"]).mean())
    assert (cell["p_value"], cell["df"], cell["prompts"]) == (pytest.approx(expected.pvalue), 29, 30)
    assert (cell["conf_low"], cell["conf_high"]) == pytest.approx(tuple(expected.confidence_interval()))
    ce = np.log(rows.pivot(index="prompt_uid", columns="model_variant", values="CE"))
    falls = stats.ttest_rel(ce["sft"], ce["base"], alternative="less").pvalue
    rises = stats.ttest_rel(wide["sft"], wide["base"], alternative="greater").pvalue
    assert cell["joint_p"] == pytest.approx(max(falls, rises))


def test_a_homogeneous_change_is_found_and_told(found):
    row = primary(found)
    assert row["conf_low"] < 0.3 < row["conf_high"] and row["p_value"] < 0.01 and row["equivalence_p"] > 0.9
    assert row["joint_p"] < 0.05 and row["heterogeneity_p"] > 0.01
    assert row["predict_low"] <= row["conf_low"] and row["conf_high"] <= row["predict_high"]
    assert found.table["primary"].sum() == 1 and list(found.table["coefficient"]) == [
        "rho_pearson", "rho_spearman", "rho_kendall", "log_CE"]
    assert "rises by fine-tuning: by" in found.verdict and "is shown overall" in found.verdict
    assert "12 cells" in found.verdict and "The other coefficients agree." in found.verdict


@pytest.mark.slow
def test_no_change_is_equivalent_to_none():
    none = cs.rho_change(panel_of(np.random.default_rng(2), change=0.0, prompts=100), margin=0.2)
    row = primary(none)
    assert row["equivalence_p"] < 0.05 and "changes by less than 0.2 (test of equivalence" in none.verdict
    half = (row["conf_high"] - row["conf_low"]) / 2 / stats.t.ppf(0.975, row["df"])
    ends = stats.t.sf((0.2 - abs(row["estimate"])) / half, row["df"])
    assert row["equivalence_p"] == pytest.approx(ends)


def test_a_cell_that_goes_the_other_way_is_named(panel):
    turned = panel.copy()
    place = (turned["task"] == "task0") & (turned["model_name"] == "f2") & (turned["model_variant"] == "sft")
    turned.loc[place, "rho_pearson"] = -0.6
    result = cs.rho_change(turned)
    assert "clearly falls in 1 (f2, task0)" in result.verdict and primary(result)["heterogeneity_p"] < 1e-6


def test_prompts_that_react_alike_in_all_families_are_clusters():
    plain, alike = (cs.rho_change(panel_of(np.random.default_rng(3), tasks=1, families=6, shared_sd=sd, noise=noise))
                    for sd, noise in ((0.0, 0.5), (0.45, 0.22)))
    cells = [r.cells[r.cells["primary"]]["std_error"].mean() for r in (plain, alike)]
    assert cells[0] == pytest.approx(cells[1], rel=0.3)  # a cell alone cannot tell
    assert primary(alike)["std_error"] > 1.6 * primary(plain)["std_error"]
    assert "one task: nothing is said of others" in alike.notes[-1]


def test_excess_and_adjusted_stand_beside_the_raw_one(panel):
    more = panel.assign(rho_pearson_excess=panel["rho_pearson"] - 0.1, rho_pearson_adjusted=-panel["rho_pearson"])
    result = cs.rho_change(more)
    rows = result.table.set_index(["coefficient", "quantity"])
    assert rows.loc[("rho_pearson", "adjusted"), "estimate"] == pytest.approx(
        -rows.loc[("rho_pearson", "raw"), "estimate"])
    one = result.cells.query("quantity == 'excess' and task == 'task0' and model_name == 'f0'")["estimate"].item()
    part = panel[(panel["task"] == "task0") & (panel["model_name"] == "f0")].groupby("model_variant")["rho_pearson"]
    assert one == pytest.approx(part.mean()["sft"] - part.mean()["base"])
    assert "Others differ in sign or in being clear: Pearson adjusted" in result.verdict


def test_order_and_names_change_nothing(panel, found):
    other = cs.rho_change(panel.sample(frac=1, random_state=3).replace({"task0": "zz"}).assign(
        model_variant=lambda p: p["model_variant"].replace("sft", "dpo")))
    for name in ("estimate", "std_error", "df", "predict_low"):
        assert primary(other)[name] == pytest.approx(primary(found)[name], rel=1e-5)


def test_prompts_without_a_correlation_are_left_out_and_counted(panel):
    gone = panel.assign(rho_pearson=panel["rho_pearson"].where(panel.index > 3))
    result = cs.rho_change(gone)
    assert primary(result)["left_out"] == 2 and result.notes[0].startswith("2 of 360 pairs of prompts")
    few = panel["prompt_uid"].str.startswith("task1/") & ~panel["prompt_uid"].isin([f"task1/{i}" for i in range(4)])
    assert primary(cs.rho_change(panel[~few]))["cells"] == 9


@pytest.mark.parametrize(("change", "options", "message"), [
    (lambda p: p.drop(columns="CE"), {}, "lacks CE"),
    (lambda p: p[p["model_variant"] == "base"], {}, "needs 'base' and one fine-tuned variant"),
    (lambda p: p, {"margin": 0.0}, "margin is 0.0"),
    (lambda p: p[p["prompt_uid"].isin(["task0/0", "task0/1"])], {}, "No family and task has 5 prompts"),
    (lambda p: p.assign(prompt_uid=p["prompt_uid"] + p["model_variant"]), {}, "no prompt in common"),
])
def test_refusals(panel, change, options, message):
    with pytest.raises(UserError, match=message):
        cs.rho_change(change(panel), **options)


@pytest.mark.slow
def test_runs_have_all_three_quantities(tmp_path):
    """Four runs of a Markov chain: their panel's raw coefficients give the same answer, and the others are made."""
    runs = [store_run(tmp_path / f"{family}-{variant}", prompts=6, family=family, variant=variant, seed=seed)
            for seed, (family, variant) in enumerate([(f, v) for f in ("a", "b") for v in ("base", "tuned")])]
    result = cs.rho_change(runs)
    assert set(result.table["quantity"]) == {"raw", "excess", "adjusted"}
    raw = cs.rho_change(pd.concat([cs.measure(run) for run in runs], ignore_index=True))
    assert primary(raw)["estimate"] == pytest.approx(primary(result)["estimate"])
