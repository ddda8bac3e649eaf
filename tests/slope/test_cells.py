"""The joint model of all cells and the slopes it has in each: against predictions, closed forms and hand-made cells."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

import canopy_stats as cs
from canopy_stats.mixed.formulas.fixed import encode_fixed
from canopy_stats.slope.cells import (
    CellSlopes,
    _mean,
    _mean_derivatives,
    cell_slopes,
    curve_df,
    fit_cells,
    own_interactions,
    with_terms,
)
from canopy_stats.slope.clusters import Influence, influence
from canopy_stats.slope.columns import with_columns
from canopy_stats.slope.reliability import uncorrected


@pytest.fixture(scope="module")
def panel():
    return cs.simulate_panel(cs.Scenario(prompts=40, difference=0.6, gap=1.0), np.random.default_rng(1))


@pytest.fixture(scope="module")
def joint(panel):
    data = with_terms(uncorrected(with_columns(panel)).data, panel["R_bar"].mean(), panel["R_bar"].std())
    return data, fit_cells(data)


def test_cell_differences_are_coefficients_of_the_joint_model(panel, joint):
    data, fit = joint
    link, _ = cell_slopes(fit, data, panel["R_bar"].mean(), panel["R_bar"].std())
    values, covariance = link.part("difference")
    names = [f"cell[{task} / {family}]:x_tun" for task, family in
             zip(link.names["task"], link.names["model_name"], strict=True)]
    np.testing.assert_allclose(values, fit.params[names], atol=1e-6)
    model = fit.cov_params().loc[names, names].to_numpy()
    rows = np.hstack([-np.eye(12), np.eye(12)])
    raised = link.influence.inflation(rows, model)
    # What prompts show of the model's variances where the model holds: CR2 all, CR0 less, CR3 as much more.
    places = [list(fit.params.index).index(name) for name in names]
    plain, unbiased = ((influence(fit, kind)[:, places] ** 2).sum(axis=0) / np.diag(model) for kind in ("CR0", "CR2"))
    assert unbiased.mean() == pytest.approx(1, abs=0.15)
    assert raised / unbiased.mean() == pytest.approx(unbiased.mean() / plain.mean(), rel=0.05) and raised > 1.1
    model = model * raised
    np.testing.assert_allclose(np.diag(covariance), np.diag(model), rtol=1e-4)
    apart = np.not_equal.outer(link.names["task"].to_numpy(), link.names["task"].to_numpy())
    np.testing.assert_allclose(covariance[apart], model[apart], rtol=1e-4, atol=1e-9)
    assert (covariance - model).min() > -1e-6  # prompts as clusters raise what cells of a task share, never lower it


def test_response_scale_is_the_derivative_of_predicted_means(panel, joint):
    data, fit = joint
    centre, scale, step = panel["R_bar"].mean(), panel["R_bar"].std(), 1e-3
    _, response = cell_slopes(fit, data, centre, scale)
    rows = data[(data["task"] == "task1") & (data["model_name"] == "family2")]
    means = []
    for move in (step, -step):
        moved = rows.assign(R_cal=rows["R_cal"] + move * scale)
        moved = with_terms(moved.assign(log_R=np.log(moved["R_cal"]), tun=1.0), centre, scale)
        means.append(fit.predict(moved, mode="population").mean())
    place = response.names.query("task == 'task1' and model_name == 'family2'").index[0]
    assert response.part("tuned")[0][place] == pytest.approx((means[0] - means[1]) / (2 * step), rel=1e-4)


@pytest.mark.parametrize("cutpoints", [np.empty(0), np.array([-2.0, 3.0])], ids=["beta", "ordbeta"])
def test_derivatives_of_the_mean_by_hand(cutpoints):
    """Products of logistic functions: expit' = p(1 - p), expit'' = p(1 - p)(1 - 2p); P(0) falls in eta, P(1) rises."""
    eta = np.linspace(-3, 3, 13)

    def logistic(x):
        p = expit(x)
        return p, p * (1 - p), p * (1 - p) * (1 - 2 * p)

    mu, d1, d2 = logistic(eta)
    if len(cutpoints):
        inner, i1, i2 = logistic(eta - cutpoints[0])  # one minus P(0)
        one, o1, o2 = logistic(eta - cutpoints[1])
        between, b1, b2 = inner - one, i1 - o1, i2 - o2
        mu, d1, d2 = one + between * mu, o1 + b1 * mu + between * d1, o2 + b2 * mu + 2 * b1 * d1 + between * d2
    np.testing.assert_allclose(_mean(eta, cutpoints), mu, rtol=1e-12)
    first, second = _mean_derivatives(eta, cutpoints)
    np.testing.assert_allclose(first, d1, atol=1e-6)
    np.testing.assert_allclose(second, d2, atol=1e-6)


def test_errors_on_the_response_scale_are_those_of_the_delta_method(panel, joint):
    """The gradient of a cell's average derivative in every coefficient, by differences of predictions."""
    data, fit = joint
    centre, scale = panel["R_bar"].mean(), panel["R_bar"].std()
    rows = data[(data["task"] == "task1") & (data["model_name"] == "family2")]
    _, response = cell_slopes(fit, rows, centre, scale)
    designs = []
    for move in (1e-3, -1e-3):
        moved = rows.assign(R_cal=rows["R_cal"] + move * scale, tun=1.0)
        designs.append(encode_fixed(fit.design.fixed, with_terms(moved.assign(log_R=np.log(moved["R_cal"])), centre,
                                                                 scale)))

    def slope(beta):
        ahead, behind = (expit(design @ beta).mean() for design in designs)
        return (ahead - behind) / 2e-3

    steps = 1e-4 * np.eye(len(fit.beta))
    gradient = np.array([slope(fit.beta + h) - slope(fit.beta - h) for h in steps]) / 2e-4
    p = len(fit.beta)
    assert response.covariance[1, 1] == pytest.approx(gradient @ fit.covariance[:p, :p] @ gradient, rel=1e-3)
    assert response.names.to_dict("list") == {"task": ["task1"], "model_name": ["family2"], "rows": [len(rows)]}


def test_the_joint_model_is_what_it_says(panel, joint):
    data, fit = joint
    formula = str(fit.formula)
    assert fit.family == "beta" and "ns(log_R, 8)" in formula and "ns(log_R, 2):ns(log_N, 2)" in formula
    assert {f"cell[{t} / {f}]:{x}" for t in panel["task"].unique() for f in panel["model_name"].unique()
            for x in ("x", "x_tun", "tun")} <= set(fit.params.index)
    assert "x_own" not in formula  # every cell's variants share lengths
    terms = set(fit.params_dispersion.index)
    assert {"tun", "task[T.task1]", "tun:task[T.task1]", "model_name[T.family1]", "x", "x_tun"} <= terms
    one = fit_cells(data[(data["task"] == "task0")])
    assert set(one.params_dispersion.index) == {"Intercept", "tun", "model_name[T.family1]", "model_name[T.family2]",
                                                "x", "x_tun"}
    assert [curve_df(tasks) for tasks in (1, 2, 3, 4, 9)] == [4, 4, 6, 8, 8]


@pytest.mark.slow
def test_diversities_at_the_edges_have_a_share_of_their_own(joint):
    data, _ = joint
    for value in (0.0, 1.0):
        edge = fit_cells(data.assign(D_cal=data["D_cal"].where(data.index % 40 != 3, value)))
        assert edge.family == "ordbeta" and set(edge.design.y) >= {value}
    near = fit_cells(data.assign(D_cal=data["D_cal"].where(data.index != data.index[3], 1e-9)))
    assert near.family == "beta" and near.design.y.min() == pytest.approx(1e-6)


def test_a_cell_without_shared_lengths_has_an_interaction_of_its_own(panel):
    """The columns by hand: centred log length, and its product with the rate centred within the cell, in that cell."""
    given = uncorrected(with_columns(panel)).data
    apart = ((given["task"] == "task1") & (given["model_name"] == "family2")).to_numpy()
    data = with_terms(given, 2.0, 0.5, apart)
    x, length = (given["R_cal"] - 2.0) / 0.5, given["log_N"] - given["log_N"].mean()
    np.testing.assert_allclose(data["x"], x)
    np.testing.assert_allclose(data["x_tun"], x * given["tun"])
    np.testing.assert_allclose(data["N_apart"], np.where(apart, length, 0))
    np.testing.assert_allclose(data["x_own"], np.where(apart, (x - x[apart].mean()) * length, 0))
    assert set(data["cell"]) == {f"task{t} / family{k}" for t in range(4) for k in range(3)}
    fit = fit_cells(data[data["task"].isin(["task0", "task1"])])
    assert "cell:x_own" in str(fit.formula)
    own = own_interactions(fit, pd.Series(["task0 / family0", "task1 / family2", "task9 / family9"]))
    assert own.tolist() == [0, fit.params["cell[task1 / family2]:x_own"], 0] and own[1] != 0


def test_levels_that_no_row_has_make_no_cells(panel, joint):
    data, fit = joint
    rows = data[data["task"] != "task3"]
    typed = rows.assign(task=pd.Categorical(rows["task"], ["task0", "task1", "task2", "task3"]),
                        model_name=pd.Categorical(rows["model_name"]))
    centre, scale = panel["R_bar"].mean(), panel["R_bar"].std()
    (one, _), (two, _) = (cell_slopes(fit, r, centre, scale) for r in (rows, typed))
    assert len(two.names) == 9 and one.names.equals(two.names)
    np.testing.assert_allclose(two.values, one.values)


def test_parts_of_hand_made_cells():
    """Two cells of two tasks, prompts without influence: base, tuned and difference have the model's covariance."""
    root = np.random.default_rng(0).normal(size=(4, 6))
    cells = CellSlopes(pd.DataFrame({"task": ["a", "b"]}), np.array([1.0, 2.0, 5.0, 9.0]), root @ root.T,
                       Influence(np.zeros((3, 4)), np.array(["a", "b"])))
    cells = cells.plus(np.array([0.1, 0.2, 0.3, 0.4]))
    c = root @ root.T + np.diag([0.01, 0.04, 0.09, 0.16])
    for which, values, expected in (("base", [1, 2], c[:2, :2]), ("tuned", [5, 9], c[2:, 2:]), (
            "difference", [4, 7], c[:2, :2] + c[2:, 2:] - c[:2, 2:] - c[2:, :2])):
        found, covariance = cells.part(which)
        np.testing.assert_allclose(found, values)
        np.testing.assert_allclose(covariance, expected)
