"""Measurement error: regression calibration against closed forms, and against the truth that made the data."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit

import canopy_stats as cs
from canopy_stats.slope.reliability import calibrated, can_correct, uncorrected


def one_cell(n=4000, error=0.2, spread=0.3, with_d=0.0, seed=0):
    """One task, family and variant: lognormal rates with lognormal errors of mean one; one rollout."""
    rng = np.random.default_rng(seed)
    log_rate, noise = -0.5 + spread * rng.standard_normal(n), error * rng.standard_normal(n)
    observed = np.exp(log_rate + noise - error**2 / 2)
    d_error = with_d * noise / error
    d = expit(-0.4 + d_error / 0.24)
    frame = pd.DataFrame({
        "task": "t", "model_name": "f", "model_variant": "base", "prompt_uid": [f"t/{i}" for i in range(n)],
        "R_bar": observed, "N_bar": 100.0 * np.exp(0.2 * rng.standard_normal(n)), "M": 1, "D": d,
        "se_R": error * observed, "se_N": 0.0, "cov_DR": error * with_d * observed, "cov_DN": 0.0, "cov_RN": 0.0})
    return frame, log_rate


def test_one_cell_shrinks_by_its_reliability():
    frame, _ = one_cell()
    w = np.log(frame[["R_bar", "N_bar"]].to_numpy()) + np.array([0.2**2 / 2, 0.0])
    observed = np.cov(w.T)
    truth = observed - np.diag([0.2**2, 0.0])
    share = truth @ np.linalg.inv(observed)
    found = calibrated(frame)
    expected = w.mean(axis=0) + (w - w.mean(axis=0)) @ share.T
    np.testing.assert_allclose(found.data[["log_R", "log_N"]], expected, atol=1e-9)
    left = (truth - share @ truth)[0, 0]
    np.testing.assert_allclose(found.data["R_cal"], np.exp(found.data["log_R"] + left / 2), rtol=1e-9)
    assert found.table["reliability_R"].item() == pytest.approx(1 - 0.2**2 / observed[0, 0], abs=1e-9)


@pytest.mark.slow
def test_expectation_of_the_truth():
    """Regressing the truth on its expectation gives slope one, on the observation less."""
    frame, truth = one_cell(8000)
    slope = lambda x: np.polyfit(x, truth, 1)[0]  # noqa: E731
    assert slope(calibrated(frame).data["log_R"]) == pytest.approx(1.0, abs=0.03)
    assert slope(np.log(frame["R_bar"])) == pytest.approx(0.09 / 0.13, abs=0.03)


@pytest.mark.slow
def test_the_error_that_diversity_shares_with_the_rate_is_taken_off():
    """D does not depend on the rate at all; its error does. Only the corrected slope is zero, on the logit scale."""
    frame, _ = one_cell(8000, with_d=0.03)
    data = calibrated(frame).data
    slope = lambda x, d: np.polyfit(x, logit(d), 1)[0]  # noqa: E731
    assert slope(np.log(frame["R_bar"]), frame["D"]) == pytest.approx(0.03 / 0.24 * 0.2 / 0.13, abs=0.02)
    assert slope(data["log_R"], data["D_cal"]) == pytest.approx(0.0, abs=0.02)


@pytest.mark.slow
def test_prompts_shared_by_checkpoints_help_each_other():
    """With a part that a prompt keeps in all cells, the expectation uses all of its observations."""
    law = cs.Scenario(rollouts=6, rate_cv=0.6, tied=0.8, prompts=200, gap=0.5)
    truth = cs.simulate_panel(law.but(rollouts=None), np.random.default_rng(3))["R_bar"]
    panel = cs.simulate_panel(law, np.random.default_rng(3))
    error = lambda rate: float(np.mean((rate - truth) ** 2))  # noqa: E731
    together = error(calibrated(panel).data["R_cal"])
    alone = error(calibrated(panel.assign(prompt_uid=np.arange(len(panel)).astype(str))).data["R_cal"])
    assert together < 0.75 * alone < 0.75 * error(panel["R_bar"])


def test_no_error_changes_nothing():
    frame, _ = one_cell(200)
    frame = frame.assign(se_R=0.0, cov_DR=0.0)
    data = calibrated(frame).data
    np.testing.assert_allclose(data["R_cal"], frame["R_bar"], rtol=1e-8)
    np.testing.assert_allclose(data["D_cal"], frame["D"], atol=1e-12)


def test_columns_decide_whether_it_can_be_done():
    frame, _ = one_cell(50)
    assert can_correct(frame)
    assert not can_correct(frame.drop(columns="se_R")) and not can_correct(frame.assign(cov_DR=np.nan))
    assert uncorrected(frame).data["R_cal"].equals(frame["R_bar"])


def test_missing_cells_of_a_prompt():
    """A prompt that one checkpoint lacks is calibrated from the others."""
    panel = cs.simulate_panel(cs.Scenario(prompts=30, rollouts=10), np.random.default_rng(1)).drop(index=[0, 5, 700])
    data = calibrated(panel).data
    assert len(data) == len(panel) and np.isfinite(data[["log_R", "R_cal", "log_N", "D_cal"]].to_numpy()).all()


@pytest.mark.slow
def test_error_of_a_reliability_is_the_spread_over_samples():
    """The delta method against 200 cells drawn anew."""
    found = [calibrated(one_cell(n=150, seed=seed)[0]).table.iloc[0] for seed in range(200)]
    spread = np.std([row["reliability_R"] for row in found])
    assert np.mean([row["reliability_R_std_error"] for row in found]) == pytest.approx(spread, rel=0.2)
    assert all(row["reliability_N_std_error"] == pytest.approx(0.0, abs=1e-12) for row in found)  # no errors of lengths
    assert not any(row["clamped"] for row in found)


def test_a_rate_that_is_mostly_error_is_clamped():
    frame, _ = one_cell(n=300, error=0.6, spread=0.05)
    row = calibrated(frame).table.iloc[0]
    assert row["clamped"] and row["reliability_R"] == pytest.approx(0.2) and not row["clamped_N"]
    turned = frame.rename(columns={"R_bar": "N_bar", "N_bar": "R_bar", "se_R": "se_N", "se_N": "se_R"})
    row = calibrated(turned.assign(cov_DR=0.0)).table.iloc[0]
    assert row["clamped_N"] and row["reliability_N"] == pytest.approx(0.2) and not row["clamped"]


def test_zeros_and_ones_stay_what_they_are():
    frame, _ = one_cell(200, with_d=0.03)
    d = frame["D"].where(frame.index > 2, 0.0).where(frame.index != 5, 1.0)
    data = calibrated(frame.assign(D=d)).data
    assert (data["D_cal"].iloc[:3] == 0).all() and data["D_cal"].iloc[5] == 1
    assert data["D_cal"].drop([0, 1, 2, 5]).between(1e-6, 1 - 1e-6).all()
