"""Contrasts of any number of variants: one joint fit against statsmodels, pairs against slope_change, adjusted p."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy import stats
from statsmodels.stats.multitest import multipletests

import canopy_stats as cs
from canopy_stats.schema import UserError
from canopy_stats.slope.contrasts import adjusted, slope_contrasts

SLOPES = {"base": 0.10, "sft": 0.16, "dpo": 0.16, "rl": 0.22}


def simulate(rng, slopes=SLOPES, prompts=30, families=2):
    prompt = rng.normal(0, 0.03, (2, prompts))
    parts = []
    for variant, slope in slopes.items():
        for family in range(families):
            for task in range(2):
                rate, length = rng.normal(1.2, 0.3, prompts).clip(0.3), rng.uniform(50, 150, prompts)
                d = 0.4 + slope * (rate - 1.2) + 0.01 * task + 0.02 * family + prompt[task]
                parts.append(pd.DataFrame({
                    "task": f"t{task}", "prompt_uid": [f"t{task}/{i}" for i in range(prompts)],
                    "model_name": f"f{family}", "model_variant": variant, "R_bar": rate, "N_bar": length,
                    "D": (d + rng.normal(0, 0.02, prompts)).clip(0.01, 0.99)}))
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def panel():
    return simulate(np.random.default_rng(0))


@pytest.mark.slow
def test_joint_contrasts_are_those_of_one_statsmodels_fit(panel):
    table = slope_contrasts(panel, model="interaction", contrasts="all").set_index("contrast")
    fit = smf.mixedlm("D ~ R_bar*C(model_variant, Treatment('base')) + N_bar + task + model_name", panel,
                      groups="prompt_uid").fit(reml=True)
    names = list(fit.fe_params.index)
    assert list(table.index) == ["dpo - base", "rl - base", "sft - base", "rl - dpo", "sft - dpo", "sft - rl"]
    for name, row in table.iterrows():
        weights = np.zeros(len(names))
        for variant, sign in zip(str(name).split(" - "), (1, -1), strict=True):
            if variant != "base":
                weights[next(i for i, n in enumerate(names) if n.startswith("R_bar:") and f"T.{variant}]" in n)] = sign
        covariance = fit.cov_params().loc[names, names].to_numpy()
        assert row["estimate"] == pytest.approx(weights @ fit.fe_params, rel=1e-4)
        assert row["std_error"] == pytest.approx(np.sqrt(weights @ covariance @ weights), rel=1e-3)


@pytest.mark.slow
def test_two_variants_are_slope_change(panel):
    two = panel[panel["model_variant"].isin(["base", "sft"])]
    for model in ("interaction", "quadratic", "paper_beta", "robust"):
        row = slope_contrasts(two, model=model).iloc[0]
        change = cs.slope_change(two, model=model).difference
        assert row["estimate"] == pytest.approx(change.estimate) and row["std_error"] == pytest.approx(change.se)
        assert row["p_value"] == row["p_adjusted"] == pytest.approx(change.pvalue)
        assert (row["conf_low"], row["conf_high"]) == pytest.approx(change.interval)
        assert (row["simultaneous_low"], row["simultaneous_high"]) == pytest.approx(change.interval)


@pytest.mark.slow
def test_pairs_of_the_robust_model_are_fitted_alone(panel):
    table = slope_contrasts(panel, contrasts={"SFT to RL": ("sft", "rl")})
    pair = panel[panel["model_variant"].isin(["sft", "rl"])]
    change = cs.slope_change(pair.replace({"model_variant": {"sft": "base"}}), model="robust")
    scale = panel["R_bar"].std() / pair["R_bar"].std()  # every row per standard deviation over the whole panel
    assert table.loc[0, "estimate"] == pytest.approx(scale * change.difference.estimate)
    assert table.loc[0, "p_value"] == pytest.approx(change.difference.pvalue)
    assert table.loc[0, "contrast"] == "SFT to RL" and "share" in table.loc[0, "notes"]
    assert f"({panel['R_bar'].std():.4g} nats/token)" in table.loc[0, "unit"]


@pytest.mark.slow
def test_a_pair_without_shared_rates_does_not_stop_the_others(panel):
    far = panel.assign(R_bar=panel["R_bar"].where(panel["model_variant"] != "rl", panel["R_bar"] + 5))
    table = slope_contrasts(far, contrasts={"a": ("base", "sft"), "b": ("base", "rl")})
    assert np.isfinite(table.loc[0, "p_value"]) and table.loc[0, "p_adjusted"] == table.loc[0, "p_value"]
    assert np.isnan(table.loc[1, "estimate"]) and "common support" in table.loc[1, "notes"]
    with pytest.raises(UserError, match="common support"):
        slope_contrasts(far, contrasts={"b": ("base", "rl")})


@pytest.mark.slow
def test_adjustments_are_statsmodels_and_the_simultaneous_intervals_bonferronis(panel):
    plain = slope_contrasts(panel, model="interaction", contrasts="all", adjust="none")
    assert (plain["p_value"] == plain["p_adjusted"]).all() and plain["simultaneous_low"].isna().all()
    for adjust, method in (("holm", "holm"), ("bonferroni", "bonferroni"), ("fdr_bh", "fdr_bh")):
        table = slope_contrasts(panel, model="interaction", contrasts="all", adjust=adjust)
        np.testing.assert_allclose(table["p_adjusted"], multipletests(plain["p_value"], method=method)[1])
    holm = slope_contrasts(panel, model="interaction", contrasts="all")
    half = stats.t.ppf(1 - 0.025 / 6, holm["df"]) * holm["std_error"]
    np.testing.assert_allclose(holm["simultaneous_high"] - holm["estimate"], half)
    bonferroni = slope_contrasts(panel, model="interaction", contrasts="all", adjust="bonferroni")
    excluded = (bonferroni["simultaneous_low"] > 0) | (bonferroni["simultaneous_high"] < 0)
    assert ((bonferroni["p_adjusted"] < 0.05) == excluded).all()


def test_unidentified_rows_do_not_count_as_tests():
    table = pd.DataFrame({"contrast": list("abc"), "estimate": [1.0, np.nan, 1.0], "std_error": [0.5, np.nan, 0.4],
                          "df": [np.inf, np.nan, np.inf], "statistic": 0.0, "conf_low": 0.0, "conf_high": 0.0,
                          "p_value": [0.03, np.nan, 0.01],
                          "unit": "", "notes": ""})
    out = adjusted(table, "holm")
    np.testing.assert_allclose(out["p_adjusted"], [0.03, np.nan, 0.02])
    assert np.isnan(out.loc[1, "simultaneous_low"]) and np.isfinite(out.loc[0, "simultaneous_low"])


def test_weights_of_several_variants(panel):
    table = slope_contrasts(panel, model="interaction", adjust="none",
                            contrasts={"mean of tuned - base": {"base": -1, "sft": 0.5, "dpo": 0.5},
                                       "sft - base": ("base", "sft"), "dpo - base": ("base", "dpo")})
    assert table.loc[0, "estimate"] == pytest.approx(table.loc[1:, "estimate"].mean())
    assert table.loc[0, "std_error"] < table.loc[1:, "std_error"].mean()


def test_consecutive_contrasts_follow_the_order(panel):
    order = ["base", "sft", "dpo", "rl"]
    listed = slope_contrasts(panel, model="interaction", contrasts="consecutive", order=order)
    assert listed["contrast"].tolist() == ["sft - base", "dpo - sft", "rl - dpo"]
    categorical = panel.assign(model_variant=pd.Categorical(panel["model_variant"], order, ordered=True))
    again = slope_contrasts(categorical, model="interaction", contrasts="consecutive")
    pd.testing.assert_frame_equal(again, listed)


def test_panels_without_a_base_have_contrasts_too(panel):
    tuned = panel[panel["model_variant"] != "base"]
    table = slope_contrasts(tuned, model="interaction", reference="sft")
    assert table["contrast"].tolist() == ["dpo - sft", "rl - sft"]
    named = tuned.replace({"model_variant": {"sft": "base"}})
    np.testing.assert_allclose(slope_contrasts(named, model="interaction")["estimate"], table["estimate"])


@pytest.mark.slow
def test_holm_keeps_the_chance_of_any_false_difference():
    """No variant differs: without adjustment a third of the panels show something, with Holm about 5%."""
    equal = dict.fromkeys(SLOPES, 0.15)
    any_raw, any_holm = [], []
    for seed in range(25):
        table = slope_contrasts(simulate(np.random.default_rng(seed), equal, prompts=10), model="interaction",
                                contrasts="all")
        any_raw.append((table["p_value"] < 0.05).any())
        any_holm.append((table["p_adjusted"] < 0.05).any())
    assert np.mean(any_holm) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 25) < 0.2 and np.mean(any_raw) > np.mean(any_holm)


@pytest.mark.parametrize(("options", "message"), [
    ({"contrasts": "consecutive"}, "order of training"),
    ({"contrasts": "best"}, "choose one of base, all, consecutive"),
    ({"contrasts": {"x": ("base", "ppo")}}, "names ppo"),
    ({"contrasts": {}}, "empty mapping"), ({"model": "interaction", "correct": True}, "belongs to model='robust'"),
    ({"contrasts": {"x": ("base", "base")}}, "give \\(reference, variant\\)"),
    ({"contrasts": {"x": {"base": -1, "sft": 0.5}}}, "sum to -0.5"),
    ({"contrasts": {"x": {"base": -1, "sft": 0.5, "dpo": 0.5}}}, "robust model compares two"),
    ({"order": ["base", "sft"]}, "name each of its variants once"),
    ({"reference": "raw"}, "no variant raw"),
    ({"model": "main"}, "model is 'main'"), ({"adjust": "tukey"}, "adjust is 'tukey'"),
])
def test_refusals(panel, options, message):
    with pytest.raises(UserError, match=message):
        slope_contrasts(panel, **options)


def test_one_variant_is_refused(panel):
    with pytest.raises(UserError, match="one variant \\(base\\)"):
        slope_contrasts(panel[panel["model_variant"] == "base"])
    with pytest.raises(UserError, match="lacks model_variant"):
        slope_contrasts(panel.drop(columns="model_variant"))
