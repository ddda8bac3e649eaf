"""Where the end token stands, against a model's own logits."""

from __future__ import annotations

import numpy as np
import pytest

import canopy_stats as cs
from canopy_stats import end_tokens
from canopy_stats.schema import SamplingPolicy, UserError

STATES = 6


def chain(seed=0):
    """(8, 8) with the end in the last column; its chance differs from state to state, so its rank does."""
    table = np.random.default_rng(seed).dirichlet(np.full(STATES + 1, 0.7), size=STATES + 1)
    return table


def drawn(path, policy):
    model = cs.oracle.MarkovLM(chain(), end_state=STATES)
    run = cs.generate(model, [[0], [1], [2]], path, family="oak", variant="base", task="walk", n_rollouts=5, seed=1,
                      policy=policy, drift_tokens=0, progress=False)
    return model, run


def expected(run, k):
    """Row by row from the transition table: the end's rank among the next states, and its chance."""
    table = chain()
    rows = run.rollouts(["prompt_id", "token_ids"]).to_pylist()
    starts = {p.prompt_id: p.token_ids[-1] for p in run.prompts()}
    inside, chances = [], []
    for row in rows:
        before = [starts[row["prompt_id"]], *row["token_ids"][:-1]]
        inside.append([int((table[s] > table[s, STATES]).sum()) < k for s in before])
        chances.append([float(np.log(table[s, STATES])) for s in before])
    return inside, chances


@pytest.mark.slow
@pytest.mark.parametrize(("policy", "k"), [(SamplingPolicy(max_new_tokens=9, top_k=3), 3),
                                           (SamplingPolicy(max_new_tokens=9), 2),
                                           (SamplingPolicy(max_new_tokens=9, top_k=4, top_p=0.9), 4)])
def test_membership_is_the_rank_in_the_models_law(tmp_path, policy, k):
    """Read from the stored steps under the first law, scored again under the others."""
    model, run = drawn(tmp_path / "run", policy)
    table = end_tokens.end_in_top_k(run, k, model=model)
    inside, _ = expected(run, k)
    assert table["inside"].to_pylist() == inside and {v for row in inside for v in row} == {True, False}
    assert end_tokens.kept_top_k(run) == k
    assert run.read_table(f"end-top-{k}")[1]["by"] == ("stored steps" if policy.top_k == 3 else "scored again")
    assert end_tokens.end_in_top_k(run, k)["inside"].to_pylist() == inside  # kept: no model is needed


def test_a_run_of_a_model_object_needs_it_again(tmp_path):
    _, run = drawn(tmp_path / "run", SamplingPolicy(max_new_tokens=5))
    assert end_tokens.kept_top_k(run) is None
    with pytest.raises(UserError, match="pass it as model="):
        cs.end_in_top_k(run, 2)
    with pytest.raises(UserError, match="k is 0"):
        cs.end_in_top_k(run, 0)


def test_matrices_are_rows_by_length(tmp_path):
    _, run = drawn(tmp_path / "run", SamplingPolicy(max_new_tokens=9, top_k=3))
    pairs, lengths = end_tokens.by_length(run, 100)
    inside, chances = expected(run, 3)
    stored = run.rollouts(["length"])["length"].to_pylist()
    assert len(pairs) == 15 and sorted(stored) == [stored[5 * p + r] for p, r in pairs] == sorted(lengths)
    logs, member = end_tokens.logprob_matrix(run, pairs), end_tokens.top_k_matrix(run, pairs, 3)
    for row, other, (p, r) in zip(logs, member, pairs, strict=True):
        n = stored[5 * p + r]
        assert row[:n] == pytest.approx(chances[5 * p + r], abs=1e-5) and np.isnan(row[n:]).all()
        assert list(other[:n]) == inside[5 * p + r] and np.isnan(other[n:]).all()
    some, _ = end_tokens.by_length(run, 4)
    assert len(some) == 4 and some[0] == pairs[0] and some[-1] == pairs[-1]
