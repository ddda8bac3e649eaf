"""People's verdicts: kappa by scikit-learn, clusters by enumeration, and known errors undone."""

import numpy as np
import pandas as pd
import pytest
from markov_runs import store_run
from scipy.special import gammaln
from scipy.stats import entropy
from sklearn.metrics import cohen_kappa_score

import canopy_stats as cs
from canopy_stats.metrics.misclassified import Errors, corrected_entropy
from canopy_stats.metrics.people import correct_judge, read_people
from canopy_stats.metrics.rse import clusters, semantic_entropy
from canopy_stats.schema import UserError

MANY = Errors(hit=800_000, miss=200_000, right=900_000, false=100_000)
"""Sensitivity .8 and specificity .9, known to three digits."""


def partitions(k):
    """Every partition of k things as cluster codes, each once."""
    found = [[0]]
    for _ in range(k - 1):
        found = [[*codes, c] for codes in found for c in range(max(codes) + 2)]
    return found


@pytest.mark.slow
def test_the_corrected_entropy_is_the_posterior_mean_over_all_partitions():
    same = np.array([[1, 1, 0, 0, 1], [1, 1, 1, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 1], [1, 0, 0, 1, 1]], bool)
    weight = np.array([3, 1, 1, 2, 1])
    logs, values = [], []
    for codes in partitions(5):
        sizes, alike = np.bincount(codes), np.equal.outer(codes, codes)
        # Chinese restaurant of concentration one: prod (n_c - 1)! / k!
        log = gammaln(sizes).sum()
        for i in range(5):
            for j in range(i):
                s, c = MANY.sensitivity, MANY.specificity
                log += np.log((s if same[i, j] else 1 - s) if alike[i, j] else (1 - c if same[i, j] else c))
        logs.append(log)
        values.append(entropy(np.bincount(codes, weights=weight)))
    chance = np.exp(np.array(logs) - max(logs))
    chance /= chance.sum()
    mean = chance @ values
    value, error = corrected_entropy(same, weight, MANY, clusters(same), draws=6000, rng=np.random.default_rng(0))
    assert value == pytest.approx(mean, abs=0.02)
    assert error == pytest.approx(np.sqrt(chance @ (np.array(values) - mean) ** 2), abs=0.02)


@pytest.mark.slow
def test_correction_undoes_errors_that_chain_clusters_together():
    """24 texts in six clusters, a judge with one false "same" in fourteen: its clusters merge, the corrected do not."""
    rng, true = np.random.default_rng(1), np.repeat(np.arange(6), 4)
    alike = np.equal.outer(true, true)
    raw, found, errors = [], [], []
    for _ in range(6):
        called = np.where(alike, rng.random((24, 24)) < 0.9, rng.random((24, 24)) < 0.07)
        called = np.triu(called, 1) | np.triu(called, 1).T
        raw.append(semantic_entropy(called)["RSE"])
        value, error = corrected_entropy(called, np.ones(24), Errors(90, 10, 930, 70), clusters(called), draws=60,
                                         rng=rng)
        found.append(value)
        errors.append(error)
    truth = np.log(6)
    assert np.mean(raw) < truth - 0.8 and np.mean(found) == pytest.approx(truth, abs=0.1)
    assert np.mean(np.abs(np.array(found) - truth) < 3 * np.array(errors) + 0.05) > 0.8


def test_shares_of_errors():
    assert (MANY.sensitivity, MANY.specificity) == (0.8, 0.9)
    assert np.isnan(Errors(0, 0, 1, 1).sensitivity)


# --- runs and files ---------------------------------------------------------------------------------------------

M = 8


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return store_run(tmp_path_factory.mktemp("people") / "run", prompts=4, m=M, cap=6, seed=5)


def last_word(first, second, prompt):
    return [a.split()[-1] == b.split()[-1] for a, b in zip(first, second, strict=True)]


@pytest.fixture(scope="module")
def people(run):
    """Two people, the first by the first word and the second by the second, on every pair."""
    rows = run.rollouts(["prompt_uid", "rollout", "text"]).to_pandas()
    found = []
    for uid, own in rows.groupby("prompt_uid"):
        words = own["text"].str.split().tolist()
        for i in range(M):
            for j in range(i):
                for rater, at in (("one", 0), ("two", -1)):
                    alike = bool(words[i] and words[j] and words[i][at] == words[j][at])
                    found.append({"model_name": "oak", "model_variant": "base", "prompt_uid": uid, "rollout_a": i,
                                  "rollout_b": j, "same": "same" if alike else "different", "rater": rater})
    return pd.DataFrame(found)


def test_agreement_is_cohens_kappa_on_the_pairs_that_were_asked(run, people, tmp_path):
    path = tmp_path / "people.csv"
    one = people[people["rater"] == "one"]
    one.to_csv(path, index=False)
    found = correct_judge(run, last_word, path, draws=20)
    texts = run.rollouts(["prompt_uid", "rollout", "text"]).to_pandas().set_index(["prompt_uid", "rollout"])["text"]
    said, called = [], []
    for row in one.itertuples():
        a, b = (texts[row.prompt_uid, i].strip() for i in (row.rollout_a, row.rollout_b))
        if a and b and a != b:
            said.append(row.same == "same")
            called.append(a.split()[-1] == b.split()[-1])
    agreement = found.agreement
    assert agreement.pairs == len(said) and agreement.kappa == pytest.approx(cohen_kappa_score(said, called))
    assert agreement.errors.hit == sum(s and c for s, c in zip(said, called, strict=True))
    assert agreement.errors.false == sum(c and not s for s, c in zip(said, called, strict=True))
    judged = cs.judge(run, last_word, m=M, progress=False)
    assert found.table["RSE"].to_numpy() == pytest.approx(judged["RSE"].to_numpy())
    assert found.table["RSE_corrected"].between(0, np.log(M)).all() and (found.table["se_judge"] > 0).all()
    assert "kappa of" in str(agreement)
    again = correct_judge(run, last_word, one, draws=20)
    pd.testing.assert_frame_equal(again.table, found.table)


def test_where_two_people_disagree_a_pair_is_undecided(run, people):
    wide = people.pivot(index=["prompt_uid", "rollout_a", "rollout_b"], columns="rater", values="same")
    found = correct_judge([run], last_word, people, draws=2).agreement
    assert found.undecided == (wide["one"] != wide["two"]).sum() > 0
    assert -1 <= found.kappa_people < 1


@pytest.mark.parametrize(("change", "message"), [
    ({"same": "perhaps"}, "line 2: same is 'perhaps'; write same or different"),
    ({"rollout_a": 0, "rollout_b": 0}, "a rollout with itself"),
    ({"rollout_a": "x"}, "rollouts' numbers"),
    ({"prompt_uid": "walk/none"}, "no pair in common")])
def test_what_people_write_wrongly_is_named(run, people, change, message, tmp_path):
    broken = people.head(1).assign(**change)
    broken.to_csv(tmp_path / "p.csv", index=False)
    with pytest.raises(UserError, match=message):
        correct_judge(run, last_word, tmp_path / "p.csv", draws=2)


def test_a_file_without_a_column_is_named(tmp_path):
    (tmp_path / "p.csv").write_text("prompt_uid,same\na,same\n")
    with pytest.raises(UserError, match="lacks the column.s. model_name, model_variant, rollout_a, rollout_b"):
        read_people(tmp_path / "p.csv")
