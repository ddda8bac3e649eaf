"""Courses over training steps against scipy's tests of each prompt's own contrast, and bands that keep their level."""

import numpy as np
import pandas as pd
import pytest
from markov_runs import store_run
from scipy import integrate, stats

import canopy_stats as cs
from canopy_stats.metrics.course import max_t
from canopy_stats.metrics.trajectory import of_frame
from canopy_stats.schema import UserError

STEPS = [0.0, 100.0, 400.0, 1000.0]


def panel(prompts=12, steps=STEPS, course=lambda s: 0.002 * s, spread=0.5, seed=0, slopes=1e-3):
    """Values of prompts that each take a course of their own around the common one."""
    rng = np.random.default_rng(seed)
    levels, own = rng.normal(0, spread, prompts), rng.normal(0, slopes, prompts)
    rows = [(s, "t", f"p{p}", f"t/p{p}", 10, course(s) + levels[p] + own[p] * s + rng.normal(0, 0.2))
            for s in steps for p in range(prompts)]
    return pd.DataFrame(rows, columns=["step", "task", "prompt_id", "prompt_uid", "M", "CE"])


@pytest.fixture(scope="module")
def frame():
    return panel()


def row(found, quantity):
    return found.table.set_index("quantity").loc[quantity]


def t_test(values):
    test = stats.ttest_1samp(values, 0)
    interval = test.confidence_interval(0.95)
    return [np.mean(values), test.statistic, test.df, test.pvalue, interval.low, interval.high]


TESTED = ["estimate", "statistic", "df", "p_value", "conf_low", "conf_high"]


def test_a_line_is_the_t_test_of_the_prompts_slopes(frame):
    wide = frame.pivot(index="prompt_uid", columns="step", values="CE")
    own = np.polyfit(STEPS, wide.to_numpy().T, 1)[0] * 1000
    got = row(of_frame(frame, ["CE"], shape="linear"), "slope")
    assert got[TESTED].tolist() == pytest.approx(t_test(own), rel=1e-6)


def test_a_spline_through_all_steps_has_the_prompts_contrasts(frame):
    """Four steps and three degrees of freedom: the curve is the means, and its slopes are differences of them."""
    found = of_frame(frame, ["CE"], at=400)
    wide = frame.pivot(index="prompt_uid", columns="step", values="CE")
    before, after = (wide[400] - wide[0]) / 0.4, (wide[1000] - wide[400]) / 0.6
    wanted = {"last - first": wide[1000] - wide[0], "slope to 400": before, "slope from 400": after,
              "change of slope": after - before}
    for quantity, own in wanted.items():
        assert row(found, quantity)[TESTED].tolist() == pytest.approx(t_test(own), rel=1e-5)
    at_steps = found.bands.set_index("step").loc[STEPS]
    assert at_steps["estimate"].tolist() == pytest.approx(wide.mean().tolist())
    assert found.shape == "spline" and found.means["CE"].tolist() == pytest.approx(wide.mean().tolist())


def test_a_broken_line_finds_its_own_bend():
    exact = panel(course=lambda s: 1 + 0.002 * s - 0.0015 * max(s - 400, 0), spread=0.0, slopes=0.0, prompts=40)
    found = of_frame(exact, ["CE"], shape="broken", at=400)
    got = [row(found, q) for q in ("slope to 400", "slope from 400", "change of slope")]
    for one, truth in zip(got, (2.0, 0.5, -1.5), strict=True):
        assert abs(one["estimate"] - truth) < 4 * one["std_error"] and one["std_error"] < 0.2


@pytest.mark.slow
def test_the_largest_of_independent_t_is_known_in_closed_form():
    """k independent normals: Sidak; over a common chi: the studentised maximum modulus, here by quadrature."""
    k, df, rng = 5, 8, np.random.default_rng(0)
    normal = max_t(np.eye(k), np.eye(k) * 3, 0.95, np.inf, rng, 400_000)
    assert normal == pytest.approx(stats.norm.ppf((1 + 0.95 ** (1 / k)) / 2), abs=0.01)

    def reach(c):
        inner = lambda s: (2 * stats.norm.cdf(c * s) - 1) ** k * stats.chi.pdf(s * df**0.5, df) * df**0.5  # noqa: E731
        return integrate.quad(inner, 0, 6)[0]

    assert reach(max_t(np.eye(k), np.eye(k), 0.95, df, rng, 400_000)) == pytest.approx(0.95, abs=0.002)


@pytest.mark.slow
def test_one_direction_needs_no_more_than_t():
    rows = np.array([[1.0, 0], [2, 0], [-5, 0]])
    found = max_t(np.eye(2), rows, 0.9, 7, np.random.default_rng(0), 200_000)
    assert found == pytest.approx(stats.t.ppf(0.95, 7), rel=0.01)


@pytest.mark.slow
def test_the_band_holds_the_whole_curve():
    """60 training runs of prompts with courses of their own: 95% bands miss somewhere about as often as they should."""
    missed = pointwise = 0
    for seed in range(60):
        band = of_frame(panel(seed=seed, prompts=10), ["CE"], shape="linear", draws=2000).bands
        truth = 0.002 * band["step"]
        missed += bool(((truth < band["band_low"]) | (truth > band["band_high"])).any())
        pointwise += bool(((truth < band["conf_low"]) | (truth > band["conf_high"])).any())
    assert missed <= 8 and pointwise > missed


def test_seeds_and_order_of_rows(frame):
    found = of_frame(frame, ["CE"], seed=3)
    again = of_frame(frame.sample(frac=1, random_state=1), ["CE"], seed=3)
    other = of_frame(frame, ["CE"], seed=4)
    pd.testing.assert_frame_equal(found.bands, again.bands, rtol=1e-6)
    pd.testing.assert_frame_equal(found.table, other.table)
    assert not np.allclose(found.bands["band_low"], other.bands["band_low"], rtol=1e-9)


def test_missing_values_are_counted(frame):
    gappy = frame.copy()
    gappy.loc[:2, "CE"] = np.nan
    notes = " ".join(of_frame(gappy, ["CE"]).notes)
    assert "CE: 3 of 48 values do not exist" in notes


# --- from runs --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return [store_run(folder / f"{s}", variant=f"step-{s}", seed=s, m=8, prompts=5) for s in (0, 10, 20, 40)]


@pytest.mark.slow
def test_runs_become_one_frame_a_table_and_a_figure(runs):
    found = cs.trajectory(runs[::-1], embedder="tfidf")
    assert found.measures == ["CE", "N_bar", "R_bar", "rho_pearson", "D"]
    assert found.frame["step"].tolist() == sorted([0.0, 10, 20, 40] * 5)
    measured = cs.measure(runs[2])
    own = found.frame[found.frame["step"] == 20].set_index("prompt_id")
    assert own.loc[measured["prompt_id"], "CE"].tolist() == measured["CE"].tolist()
    assert found.means.loc[2, "N_bar"] == pytest.approx(measured["N_bar"].mean())
    assert set(found.table["unit"]) >= {"nats", "nats / 1,000 steps", "tokens"}
    assert np.all(found.table["p_adjusted"] >= found.table["p_value"])
    figure = found.plot()
    titles = [axes.get_title() for axes in figure.axes if axes.get_visible()]
    assert titles == found.measures
    text = str(found)
    assert text.startswith("Trajectory over 4 steps, 0 to 40") and "<table" in found._repr_html_()


@pytest.mark.slow
def test_steps_may_be_given(runs):
    given = {run.config.variant: 7.0 * i for i, run in enumerate(runs)}
    found = cs.trajectory(runs, given, measures=["CE"])
    assert found.means["step"].tolist() == [0, 7, 14, 21]


@pytest.mark.slow
def test_what_is_no_trajectory_is_refused(runs, tmp_path):
    named = store_run(tmp_path / "a", variant="instruct", m=8, prompts=5)
    other = store_run(tmp_path / "b", variant="step-80", m=8, prompts=5, family="ash")
    fewer = store_run(tmp_path / "c", variant="step-80", m=8, prompts=4)
    edited = store_run(tmp_path / "d", variant="step-80", m=8, prompts=5, salt="x")
    law = store_run(tmp_path / "e", variant="step-80", m=8, prompts=5, cap=30)
    for wrong, message in [([named], "names no step"), ([other], "several families"), ([fewer], "Step 80 lacks 1"),
                           ([edited], "different texts"), ([law], "several laws"), ([runs[0]], "twice")]:
        with pytest.raises(UserError, match=message):
            cs.trajectory([*runs, *wrong], measures=["CE"])
    with pytest.raises(UserError, match="two training steps"):
        cs.trajectory(runs[:1])
    with pytest.raises(UserError, match="steps has no entry"):
        cs.trajectory(runs, {"step-0": 0})
    with pytest.raises(UserError, match="There is no measure warmth"):
        cs.trajectory(runs, measures=["warmth"])


@pytest.mark.parametrize(("changes", "message"), [
    ({"shape": "cubic"}, "choose 'spline'"), ({"at": 0.0}, "between the first and the last step"),
    ({"level": 95}, "between 0 and 1"), ({"shape": "broken", "steps": [0.0, 10.0]}, "needs 3 steps")])
def test_options_that_make_no_sense(changes, message):
    steps = changes.pop("steps", STEPS)
    with pytest.raises(UserError, match=message):
        of_frame(panel(steps=steps), ["CE"], **changes)
