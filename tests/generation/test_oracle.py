"""MarkovLM against brute force, itself against plain forward passes, and the engine against its closed form."""

import itertools

import numpy as np
import pytest
import tiny
import torch

from canopy_stats.generation.oracle import MarkovLM
from canopy_stats.generation.torch_engine import load_engine
from canopy_stats.schema import ModelSource, Prompt, RunKey, SamplingPolicy, UserError

M = 1500


def table(seed: int, states: int = 6, hazard: tuple[float, float] = (0.05, 0.3), zeros: bool = False) -> np.ndarray:
    """A random table whose last state ends; each other state has its own chance of ending."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(states - 1, 0.7), size=states)
    if zeros:
        p[rng.uniform(size=p.shape) < 0.4] = 0
        p[:, 0] += 0.1
    stop = rng.uniform(*hazard, size=states)
    return np.column_stack([p / p.sum(1, keepdims=True) * (1 - stop)[:, None], stop])


def enumerate_paths(p: np.ndarray, start: int, cap: int) -> dict[str, float]:
    """The same quantities from every path of at most cap steps."""
    end = len(p) - 1
    entropy = -np.sum(np.where(p > 0, p * np.log(np.maximum(p, 1e-300)), 0), axis=1)
    found = []
    for n in range(1, cap + 1):
        for path in itertools.product(range(len(p)), repeat=n):
            if end in path[:-1] or (path[-1] != end and n < cap):
                continue
            states = (start, *path[:-1])
            chance = np.prod([p[a, b] for a, b in zip(states, path, strict=True)])
            found.append((chance, n, entropy[list(states)].sum()))
    w, n, h = np.array(found).T
    return {"ce": w @ h, "mean_length": w @ n, "mean_rate": w @ (h / n), "cov": w @ h - (w @ n) * (w @ (h / n)),
            "var_length": w @ n**2 - (w @ n) ** 2}


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("cap", [1, 2, 5])
def test_capped_answers_are_those_of_all_paths(cap, zeros):
    p = table(cap, states=4, zeros=zeros)
    exact = MarkovLM(p, 3).exact(1, cap)
    want = enumerate_paths(p, 1, cap)
    assert {k: exact[k] for k in want} == pytest.approx(want, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_uncapped_answers(seed):
    """Means from the fundamental matrix; the rest is the limit of long caps."""
    p = table(seed)
    exact = MarkovLM(p, 5).exact(2)
    inner = p[:5, :5]
    entropy = -(p[:5] * np.log(p[:5])).sum(1)
    assert exact["ce"] == pytest.approx(np.linalg.solve(np.eye(5) - inner, entropy)[2], rel=1e-11)
    assert exact["mean_length"] == pytest.approx(np.linalg.solve(np.eye(5) - inner, np.ones(5))[2], rel=1e-11)
    assert exact == pytest.approx(MarkovLM(p, 5).exact(2, 3000), rel=1e-10)
    assert exact["stop_rate"] == pytest.approx(1)


def test_geometric_length():
    p = np.array([[0.9, 0.1], [0.0, 1.0]])
    h = -(0.9 * np.log(0.9) + 0.1 * np.log(0.1))
    exact = MarkovLM(p, 1).exact(0)
    assert exact == pytest.approx({"ce": 10 * h, "mean_length": 10, "mean_rate": h, "cov": 0, "var_length": 90,
                                   "stop_rate": 1}, abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("cap", [6, 2000], ids=["capped", "open"])
@pytest.mark.parametrize("seed", [1, 2])
def test_the_engine_agrees_within_four_standard_errors(seed, cap):
    p = table(seed, states=30, hazard=(0.02, 0.2), zeros=seed == 2)
    oracle = MarkovLM(p, 29)
    engine = load_engine(ModelSource(oracle))
    asked = [Prompt("0", f"{seed}", [4, 3], engine.encode([4, 3]))]
    drawn = tiny.draw(engine, asked, tiny.pairs(1, M), SamplingPolicy(max_new_tokens=cap), 200, RunKey(1, "o", "b"))
    n = np.array([len(r.token_ids) for r in drawn.values()])
    h = np.array([r.steps["entropy"].sum(dtype=float) for r in drawn.values()])
    r = h / n
    exact = oracle.exact(3, cap)
    product = (n - n.mean()) * (r - r.mean())
    for name, sample in [("ce", h), ("mean_length", n), ("mean_rate", r), ("cov", product)]:
        assert abs(sample.mean() - exact[name]) < 4 * sample.std() / M**0.5, name


def test_terms_are_the_table_rows():
    p = table(3, states=50, zeros=True)
    engine = load_engine(ModelSource(MarkovLM(p, 49)))
    asked = [Prompt("0", "x", [7], engine.encode([7]))]
    entropy = -np.sum(np.where(p > 0, p * np.log(np.maximum(p, 1e-300)), 0), axis=1)
    for rollout in tiny.draw(engine, asked, tiny.pairs(1, 40), SamplingPolicy(max_new_tokens=50), 7).values():
        visited = [7, *rollout.token_ids[:-1]]
        np.testing.assert_allclose(rollout.steps["entropy"], entropy[visited], atol=1e-6)
        np.testing.assert_allclose(rollout.steps["stop_probability"], p[visited, -1], atol=1e-6)
        np.testing.assert_allclose(rollout.steps["logprob"], np.log(p[visited, rollout.token_ids]), atol=2e-6)


def test_is_a_transformers_model():
    p = table(5)
    model = MarkovLM(p, 5)
    logits = model(torch.tensor([[1, 2]])).logits
    np.testing.assert_allclose(logits[0].exp(), p[[1, 2]], atol=1e-6)
    drawn = model.generate(torch.tensor([[1]]), do_sample=True, max_new_tokens=2000)
    assert drawn[0, -1] == 5 and drawn.shape[1] > 1


def test_text_is_the_ids_without_the_end():
    assert load_engine(ModelSource(MarkovLM(table(5), 5))).decode([3, 1, 5]) == "3 1"


@pytest.mark.parametrize(("transition", "end", "message"), [
    (np.ones((2, 3)) / 3, 0, "shape"),
    ([[1.5, -0.5], [0, 1]], 1, "negative or non-finite"),
    ([[0.5, np.nan], [0, 1]], 1, "negative or non-finite"),
    ([[0.5, 0.4], [0, 1]], 1, "Row 0 of transition sums to 0.9"),
    ([[0.5, 0.5], [0, 1]], 2, "end_state is 2"),
], ids=["shape", "negative", "nan", "sum", "end"])
def test_tables_that_are_none(transition, end, message):
    with pytest.raises(UserError, match=message):
        MarkovLM(transition, end)


def test_a_start_in_the_end_state_is_refused():
    oracle = MarkovLM(table(5), 5)
    with pytest.raises(UserError, match="end state 5"):
        oracle.exact(5)
    with pytest.raises(UserError, match="end state 5"):
        load_engine(ModelSource(oracle)).encode([1, 5])
    with pytest.raises(UserError, match="start state is 9"):
        oracle.exact(9)


def test_a_chain_that_never_ends_needs_a_cap():
    p = np.array([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    with pytest.raises(UserError, match="never reach the end state"):
        MarkovLM(p, 2).exact(0)
    assert MarkovLM(p, 2).exact(0, 10)["mean_length"] == 10
