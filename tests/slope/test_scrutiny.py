"""Paper and robust slope side by side: when they agree, and in which words."""

import numpy as np
import pytest

import canopy_stats as cs
from canopy_stats.mixed.inference.ratios import fieller
from canopy_stats.schema import UserError
from canopy_stats.slope.resample import inverted_ratio, resampled

LAW = cs.Scenario(prompts=60, gap=1.0)


def scrutiny(law, seed=2):
    return cs.slope_scrutiny(cs.simulate_panel(law, np.random.default_rng(seed)))


@pytest.mark.slow
def test_a_real_change_is_agreed_on():
    found = scrutiny(LAW.but(difference=0.6, rollouts=20), seed=1)
    assert found.agree and "They agree: the change of slope is not an artefact" in found.verdict
    assert "a ratio of" in found.verdict and "measurement error." in found.verdict
    assert list(found.table["model"]) == ["paper_beta", "robust"] and str(found) == found.verdict


@pytest.mark.slow
def test_a_shared_curve_is_not():
    found = scrutiny(LAW.but(curve="log", gap=2.0))
    assert found.agree is False and "They do not agree" in found.verdict
    assert found.verdict.count("a ratio of") == 1  # the robust ratio is not shown behind no difference


def test_no_common_rates_is_no_answer():
    found = scrutiny(LAW.but(gap=3.6))
    assert found.agree is None and "do not report its ratio alone" in found.verdict


@pytest.mark.slow
def test_demo_panel():
    """The bundled panel: the headline ratio does not survive, the answer's size rests on the correction, and without
    shared lengths its interval is wide."""
    found = cs.slope_scrutiny(cs.load_demo_panel())
    assert found.paper.ratio.estimate == pytest.approx(3.357, abs=0.01)
    assert found.agree is False and found.robust.difference.estimate < 0 < found.robust.difference.interval[1]
    assert found.uncorrected.difference.interval[0] < 0 < found.uncorrected.difference.interval[1]
    assert "prompts that both answer at like lengths would decide" in found.verdict
    claims = found.claims
    assert list(claims["claim"]) == ["the paper's", *(["population", "population, with prior",
                                                       "these families and tasks"] * 2)]
    assert list(claims["corrected"]) == [False, True, True, True, False, False, False]
    assert "the size rests on the correction" in found.verdict and "In 10 of 11 cells" in found.verdict
    ranges = found.left_out.groupby(["corrected", "left_out"]).size()
    assert ranges.to_dict() == {(True, "family"): 3, (True, "task"): 4, (False, "family"): 3, (False, "task"): 4}
    assert len(found.heavy) == 0


def test_one_family_keeps_the_papers_row():
    panel = cs.simulate_panel(LAW.but(families=1, difference=0.6), np.random.default_rng(1))
    found = cs.slope_scrutiny(panel)
    assert found.agree is None and found.paper.identified and "Not available: one family" in found.verdict
    assert list(found.claims["claim"]) == ["the paper's", "not available"] and found.left_out.empty
    assert np.isfinite(found.table["estimate"][0]) and np.isnan(found.table["estimate"][1])


@pytest.mark.slow
def test_the_verdict_says_when_the_sign_rests_on_the_correction():
    from dataclasses import replace

    from canopy_stats.slope import scrutiny_words
    from canopy_stats.slope.estimates import estimate

    found = cs.slope_scrutiny(cs.simulate_panel(LAW.but(difference=0.6, rollouts=10), np.random.default_rng(2)))
    assert "rests on the correction" not in found.verdict and "Without correction" in found.verdict
    turned = replace(found.uncorrected, difference=estimate(-0.1, 0.1))
    text = scrutiny_words.verdict(found.paper, found.robust, turned, found.agree)
    assert "the sign rests on the correction" in text
    lower = replace(found.robust, difference=estimate(-0.6, 0.1))
    assert "of opposite signs" in scrutiny_words.verdict(found.paper, lower, None, False)
    none = replace(found.robust, difference=estimate(0.1, 0.2))
    assert "lies outside the robust interval" in scrutiny_words.verdict(found.paper, none, None, False)
    assert "hides" in scrutiny_words.verdict(none, found.robust, None, False)


# --- bootstrap over prompts -------------------------------------------------------------------------------------


def test_resampled_panels_keep_tasks_families_and_variants():
    panel = cs.simulate_panel(LAW, np.random.default_rng(0))
    other = resampled(panel, np.random.default_rng(1))
    keys = ["task", "model_name", "model_variant"]
    assert other.groupby(keys).size().equals(panel.groupby(keys).size())
    assert other["prompt_uid"].nunique() == panel["prompt_uid"].nunique()
    assert other.groupby("prompt_uid").size().eq(6).all()
    source = panel.set_index(["prompt_uid", "model_name", "model_variant"])["D"]
    looked_up = source.loc[[(uid.split("#")[0], f, v) for uid, f, v in
                            other[["prompt_uid", "model_name", "model_variant"]].itertuples(index=False)]]
    np.testing.assert_array_equal(looked_up.to_numpy(), other["D"].to_numpy())


@pytest.mark.parametrize(("base", "kind"), [(0.3, "bounded"), (0.05, "exclusive")])
def test_inverted_ratio_is_fiellers_for_normal_replicates(base, kind):
    rng = np.random.default_rng(5)
    covariance = np.array([[0.01, 0.002], [0.002, 0.004]])
    tuned, denominator = rng.multivariate_normal([0.9, base], covariance, 400_000).T
    found, exact = inverted_ratio(tuned, denominator), fieller(0.9, base, covariance, 1.959964)
    assert found.kind == exact.kind == kind
    assert tuple(found) == pytest.approx((exact.low, exact.high), rel=0.03)


def test_inverted_ratio_may_be_anything():
    tuned, base = np.random.default_rng(1).standard_normal((2, 5000))
    assert inverted_ratio(tuned, base).kind == "whole"


@pytest.mark.slow
def test_bootstrap_does_not_depend_on_workers():
    panel = cs.simulate_panel(LAW.but(prompts=15, difference=0.6), np.random.default_rng(0))
    one, two = (cs.slope_change(panel, model="interaction", bootstrap=20, seed=3, workers=w) for w in (1, 2))
    assert one.replicates.equals(two.replicates) and len(one.replicates) == 20
    low, high = one.intervals["difference"]
    assert low < one.difference.estimate < high and "20 resamples of whole prompts" in one.notes[-1]


@pytest.mark.parametrize("options", [{"bootstrap": 99}, {"bootstrap": 5, "seed": 1}])
def test_bootstrap_refusals(options):
    panel = cs.simulate_panel(LAW.but(prompts=15), np.random.default_rng(0))
    with pytest.raises(UserError, match="at least 20 replicates"):
        cs.slope_change(panel, model="interaction", **options)
