"""The public names, used together as a newcomer would: an oracle whose answers are known, from rollouts to metrics."""

import numpy as np
import pytest

import canopy_stats as cs
from canopy_stats.schema import PANEL_COLUMNS, names

M = 400
START = [[0], [1], [2]]


def chain(seed: int, states: int = 6, hazard: tuple[float, float] = (0.05, 0.3)) -> np.ndarray:
    """A random table whose last state ends the rollout; each state has its own chance of ending."""
    rng = np.random.default_rng(seed)
    table = rng.dirichlet(np.full(states, 0.7), size=states)
    stop = rng.uniform(*hazard, size=states)
    table[:, -1] = 0
    table *= ((1 - stop) / table.sum(1))[:, None]
    table[:, -1] = stop
    table[-1] = np.eye(states)[-1]
    return table


@pytest.fixture(scope="module")
def oracle():
    return cs.oracle.MarkovLM(chain(7), end_state=5)


@pytest.fixture(scope="module", params=[8, 400], ids=["capped", "open"])
def case(request, oracle, tmp_path_factory):
    policy = cs.SamplingPolicy(max_new_tokens=request.param)
    run = cs.generate(oracle, START, tmp_path_factory.mktemp("run") / "r", family="oracle", variant="base",
                      task="chain", n_rollouts=M, policy=policy, seed=3)
    return run, policy


@pytest.mark.slow
def test_estimates_agree_with_the_closed_form(case, oracle):
    run, policy = case
    measured = cs.measure(run).set_index("prompt_id")
    rollouts = run.rollouts().to_pandas()
    for prompt_id, group in rollouts.groupby("prompt_id"):
        start = START[int(prompt_id)][0]
        exact = oracle.exact(start, max_new_tokens=policy.max_new_tokens)
        standard_error = {name: group[column].std() / M**0.5 for name, column in
                          [("ce", "entropy_sum"), ("mean_length", "length"), ("mean_rate", "entropy_rate")]}
        row = measured.loc[prompt_id]
        for name, column in [("ce", "CE"), ("mean_length", "N_bar"), ("mean_rate", "R_bar")]:
            assert abs(row[column] - exact[name]) <= 4 * standard_error[name] + 1e-6
        products = (group["length"] - group["length"].mean()) * (group["entropy_rate"] - group["entropy_rate"].mean())
        assert abs(row["cov_NR"] - exact["cov"]) <= 4 * products.std() / M**0.5 + 1e-6


def test_decomposition_is_exact(case):
    measured = cs.measure(case[0])
    np.testing.assert_allclose(measured["CE"], measured["N_bar"] * measured["R_bar"] + measured["cov_NR"], rtol=1e-12)


def test_step_entropies_are_the_table_rows(case, oracle):
    run, _ = case
    steps = run.steps().to_pandas()
    table = chain(7)
    with np.errstate(divide="ignore", invalid="ignore"):
        row_entropy = -np.nansum(table * np.log(table), axis=1)
    for (prompt_id, _), group in steps.groupby(["prompt_id", "rollout"]):
        visited = [START[int(prompt_id)][0], *group["token_id"].iloc[:-1]]
        np.testing.assert_allclose(group["entropy"], row_entropy[visited], atol=1e-6)
        np.testing.assert_allclose(group["stop_probability"], table[visited, -1], atol=1e-6)


def test_rollout_columns_are_sums_of_the_steps(case):
    rollouts = case[0].rollouts().to_pandas().set_index(["prompt_id", "rollout"])
    terms = ["entropy", "logprob", "stop_probability"]
    sums = case[0].steps().to_pandas().groupby(["prompt_id", "rollout"])[terms].sum().loc[rollouts.index]
    np.testing.assert_allclose(rollouts["entropy_sum"], sums["entropy"], rtol=1e-5)
    np.testing.assert_allclose(rollouts["surprisal_sum"], -sums["logprob"], rtol=1e-5)
    np.testing.assert_allclose(rollouts["stop_hazard_sum"], sums["stop_probability"], rtol=1e-5)
    np.testing.assert_allclose(rollouts["entropy_rate"], rollouts["entropy_sum"] / rollouts["length"], rtol=1e-12)


def test_finish_reason_is_stop_exactly_when_the_end_state_was_drawn(case):
    rollouts = case[0].rollouts().to_pandas()
    ended = rollouts["token_ids"].map(lambda ids: ids[-1] == 5)
    assert (ended == (rollouts["finish_reason"] == "stop")).all()
    assert rollouts["length"].equals(rollouts["token_ids"].map(len).astype("int32"))


def test_martingales_hold(case, oracle):
    report = cs.check(case[0], model=oracle)
    assert report.ok, str(report)


@pytest.mark.slow
def test_panel_has_the_declared_columns(tmp_path, oracle):
    runs = []
    for family in ("a", "b"):
        for variant in ("base", "instruct"):
            runs.append(cs.generate(oracle, START, tmp_path / f"{family}-{variant}", family=family, variant=variant,
                                    task="chain", n_rollouts=20, policy=cs.SamplingPolicy(max_new_tokens=50), seed=1,
                                    chat=False))
    panel = cs.panel(runs, embedder="tfidf")
    assert list(panel.columns) == names(PANEL_COLUMNS)
    assert len(panel) == 4 * len(START)
    assert panel["M"].eq(20).all() and panel["D"].between(0, 1.5).all()
    assert panel["prompt_uid"].nunique() == len(START)


def test_metrics_on_plain_arrays():
    rng = np.random.default_rng(0)
    length, rate = rng.integers(2, 50, 30), rng.uniform(0.5, 2, 30)
    out = cs.metrics.tree_metrics(length, length * rate)
    assert out["CE"] == pytest.approx(out["mean_length"] * out["mean_rate"] + out["cov_NR"], rel=1e-12)
    vectors = np.eye(4)
    diversity = cs.metrics.diversity_metrics(vectors)
    assert diversity == pytest.approx({"D": 1.0, "log_VS": np.log(4), "VS": 4.0})
