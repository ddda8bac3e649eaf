"""Weights × template: effects are contrasts of one joint fit, and what was put in comes out."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf

import canopy_stats as cs
from canopy_stats.schema import UserError
from canopy_stats.slope.factorial import SHARE, template_factorial

CELLS = (("base", "raw"), ("base", "chat"), ("tuned", "raw"), ("tuned", "chat"))
SLOPES, MEANS = (0.10, 0.14, 0.16, 0.22), (0.0, 0.02, 0.05, 0.08)


def simulate(rng, prompts=40, slopes=SLOPES, means=MEANS, families=2):
    """D = mean + slope · (R − 1.2) + task + family + prompt + noise in each cell, two tasks."""
    prompt = rng.normal(0, 0.03, (2, prompts))
    parts = []
    for (weights, template), slope, mean in zip(CELLS, slopes, means, strict=True):
        for family in range(families):
            for task in range(2):
                rate, length = rng.normal(1.2, 0.3, prompts).clip(0.2), rng.uniform(50, 150, prompts)
                d = 0.4 + mean + slope * (rate - 1.2) + 0.01 * task + 0.02 * family + prompt[task]
                parts.append(pd.DataFrame({
                    "task": f"t{task}", "prompt_uid": [f"t{task}/{i}" for i in range(prompts)],
                    "model_name": f"f{family}", "model_variant": f"{weights}-{template}", "weights": weights,
                    "template": template, "D": d + rng.normal(0, 0.02, prompts), "R_bar": rate, "N_bar": length}))
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def panel():
    return simulate(np.random.default_rng(0))


@pytest.fixture(scope="module")
def found(panel):
    return template_factorial(panel, weights="weights", template="template")


def effect(found, quantity, name):
    rows = found.table[(found.table["quantity"] == quantity) & (found.table["effect"] == name)]
    return rows.iloc[0]


@pytest.mark.slow
def test_effects_are_those_of_an_effect_coded_fit(panel, found):
    """With the factors coded ±1/2 the coefficients are the main effects and the interaction (statsmodels MixedLM)."""
    coded = panel.assign(W=np.where(panel["weights"] == "tuned", 0.5, -0.5),
                         T=np.where(panel["template"] == "chat", 0.5, -0.5))
    slopes = smf.mixedlm("D ~ R_bar*W*T + N_bar + task + model_name", coded, groups="prompt_uid").fit(reml=True)
    means = smf.mixedlm("D ~ W*T + task + model_name", coded, groups="prompt_uid").fit(reml=True)
    for name, term in (("weights", "W"), ("template", "T"), ("interaction", "W:T")):
        row, column = effect(found, "slope", name), f"R_bar:{term}"
        assert row["estimate"] == pytest.approx(slopes.params[column], rel=1e-4)
        assert row["std_error"] == pytest.approx(slopes.bse[column], rel=1e-3)
        row = effect(found, "mean D", name)
        assert row["estimate"] == pytest.approx(means.params[term], rel=1e-4)
        assert row["std_error"] == pytest.approx(means.bse[term], rel=1e-3)


@pytest.mark.parametrize("quantity", ["slope", "mean D"])
def test_the_main_effects_add_up_to_the_total_and_the_share_is_their_ratio(found, quantity):
    weights, template, total, share = (effect(found, quantity, n)["estimate"] for n in (
        "weights", "template", "total", SHARE))
    assert weights + template == pytest.approx(total)
    assert share == pytest.approx(template / total)
    row = effect(found, quantity, SHARE)
    assert row["conf_low"] < share < row["conf_high"] and row["kind"] == "bounded"


def test_cells_are_plain_means_and_slopes_in_a_balanced_panel(panel, found):
    plain = panel.groupby(["weights", "template"])["D"].mean()
    for row in found.cells.itertuples():
        assert row.mean_D == pytest.approx(plain[row.weights, row.template], abs=1e-9)
    np.testing.assert_allclose(found.cells["slope"], SLOPES, atol=4 * found.cells["slope_std_error"].max())
    assert list(zip(found.cells["weights"], found.cells["template"], strict=True)) == list(CELLS)


@pytest.mark.slow
def test_what_was_put_in_comes_out():
    """Over 30 panels the intervals hold the true effects, and Fieller's set the true share, about 95 times in 100."""
    truth = {"weights": 0.07, "template": 0.05, "interaction": 0.02, "total": 0.12, SHARE: 0.05 / 0.12}
    held = []
    for seed in range(30):
        found = template_factorial(simulate(np.random.default_rng(seed), prompts=25), weights="weights",
                                   template="template")
        rows = found.table[found.table["quantity"] == "slope"].set_index("effect")
        held.append([rows.loc[n, "conf_low"] <= value <= rows.loc[n, "conf_high"] for n, value in truth.items()])
    assert np.mean(held, axis=0).min() >= 0.8 and np.mean(held) > 0.91


def test_mappings_say_the_same_as_columns(panel, found):
    variants = panel["model_variant"].unique()
    mapped = cs.template_factorial(panel, weights={v: v.split("-")[0] for v in variants},
                                   template={v: v.split("-")[1] for v in variants})
    pd.testing.assert_frame_equal(mapped.table, found.table)


def test_the_other_reference_turns_the_signs(panel, found):
    turned = template_factorial(panel, weights="weights", template="template", reference=("tuned", "chat"))
    for name, sign in (("weights", -1), ("template", -1), ("total", -1), ("interaction", 1)):
        expected = sign * effect(found, "slope", name)["estimate"]
        assert effect(turned, "slope", name)["estimate"] == pytest.approx(expected)
    assert effect(turned, "slope", SHARE)["estimate"] == pytest.approx(effect(found, "slope", SHARE)["estimate"])


def test_no_total_change_has_no_share():
    none = simulate(np.random.default_rng(3), slopes=(0.1,) * 4, means=(0.0,) * 4)
    found = template_factorial(none, weights="weights", template="template")
    assert effect(found, "slope", SHARE)["kind"] != "bounded" and "too uncertain" in found.verdict


def test_prompts_that_lack_a_cell_are_counted(panel, found):
    assert not any("all four" in note for note in found.notes)
    gone = panel["prompt_uid"].isin(["t0/1", "t1/2"]) & panel["model_variant"].eq("base-chat")
    notes = template_factorial(panel[~gone], weights="weights", template="template").notes
    assert any(note.startswith("4 of 160 prompts of a family") for note in notes)


@pytest.mark.slow
def test_beta_model(panel):
    found = template_factorial(panel, weights="weights", template="template", model="paper_beta")
    assert effect(found, "slope", "weights")["unit"].startswith("log-odds")
    assert effect(found, "slope", SHARE)["estimate"] == pytest.approx(0.05 / 0.12, abs=0.1)


@pytest.mark.parametrize(("change", "options", "message"), [
    (lambda p: p[p["model_variant"] != "base-chat"], {}, "lacks the cell base, chat"),
    (lambda p: p[p["weights"] == "base"], {}, "weights has the level base"),
    (lambda p: p, {"weights": "size"}, "no column"),
    (lambda p: p, {"weights": {"base-raw": "base"}}, "does not say what base-chat, tuned-chat, tuned-raw has"),
    (lambda p: p, {"reference": ("base", "plain")}, "reference 'plain'"),
    (lambda p: p, {"model": "robust"}, "choose one of interaction"),
])
def test_refusals(panel, change, options, message):
    with pytest.raises(UserError, match=message):
        template_factorial(change(panel), **{"weights": "weights", "template": "template", **options})
