"""Simulated panels: what was asked for is in them."""

import numpy as np
import pytest

import canopy_stats as cs
from canopy_stats.schema import UserError

LAW = cs.Scenario(prompts=200)


def panel_of(law, seed=0):
    return cs.simulate_panel(law, np.random.default_rng(seed))


def test_shape_gap_and_truth():
    panel = panel_of(LAW.but(gap=2.0, difference=0.6))
    assert len(panel) == 3 * 2 * 4 * 200 and panel["D"].between(0, 1, inclusive="neither").all()
    log_rate = np.log(panel["R_bar"]).groupby([panel["task"], panel["model_variant"]]).agg(["mean", "std"]).unstack()
    gap = (log_rate["mean"]["base"] - log_rate["mean"]["tuned"]) / 0.3
    np.testing.assert_allclose(gap, 2.0, atol=0.2)
    np.testing.assert_allclose(log_rate["std"], 0.3, atol=0.03)
    assert panel.attrs["truth"] == {"base": 0.3, "tuned": pytest.approx(0.9), "difference": 0.6}


def test_same_seed_same_panel():
    assert panel_of(LAW).equals(panel_of(LAW)) and not panel_of(LAW).equals(panel_of(LAW, 1))


def test_errors_have_the_size_that_their_columns_say():
    law = LAW.but(rollouts=10, error_correlation=0.5)
    exact, seen = panel_of(law.but(rollouts=None)), panel_of(law)
    rate_error = seen["R_bar"] - exact["R_bar"]
    assert np.mean((rate_error / seen["se_R"]) ** 2) == pytest.approx(9 / 7, rel=0.1)  # of t with 9 df
    d_error = seen["D"] - exact["D"]
    assert np.mean(d_error * rate_error / exact["R_bar"]) == pytest.approx(
        np.mean(seen["cov_DR"] / exact["R_bar"]), rel=0.15)
    assert np.corrcoef(d_error, rate_error / exact["R_bar"])[0, 1] == pytest.approx(0.5, abs=0.05)


def test_rollouts_and_noise_by_variant():
    panel = panel_of(LAW.but(rollouts={"base": 100, "tuned": 10}, rate_cv={"base": 0.2, "tuned": 0.6}))
    relative = (panel["se_R"] / panel["R_bar"]).groupby(panel["model_variant"]).median()
    assert relative["base"] == pytest.approx(0.02, rel=0.1) and relative["tuned"] == pytest.approx(0.19, rel=0.1)
    assert set(panel["M"]) == {10, 100}


def test_tied_rates_follow_the_prompt():
    panel = panel_of(LAW.but(tied=0.6))
    wide = np.log(panel.pivot_table(index="prompt_uid", columns=["model_name", "model_variant"], values="R_bar"))
    within = wide.groupby(wide.index.str.split("/").str[0]).transform(lambda s: s - s.mean())
    correlation = within.corr().to_numpy()[np.triu_indices(6, 1)]
    assert correlation.mean() == pytest.approx(0.6, abs=0.05)


@pytest.mark.parametrize(("change", "message"), [
    ({"curve": "cubic"}, "curve is 'cubic'; choose one of none, log"), ({"rollouts": 2}, "at least 3"),
    ({"tied": 1.5}, "share of variance"), ({"families": 0}, "at least one family")])
def test_refusals(change, message):
    with pytest.raises(UserError, match=message):
        LAW.but(**change)
