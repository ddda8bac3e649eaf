"""One row per prompt: each column against its definition, computed here from the stored rollouts."""

import numpy as np
import pytest
from markov_runs import END, expectation, store_run, table

import canopy_stats as cs
from canopy_stats.metrics import diversity_metrics, measure, pool, three_level, tree_metrics
from canopy_stats.metrics.measures import STANDARD_ERRORS
from canopy_stats.schema import PANEL_COLUMNS, UserError, names


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return store_run(tmp_path_factory.mktemp("measure") / "run", prompts=6, m=30, cap=60, seed=2)


@pytest.fixture(scope="module")
def frame(run):
    return measure(run, embedder="tfidf")


def test_columns_and_provenance(run, frame):
    assert list(frame) == [*names(PANEL_COLUMNS), *STANDARD_ERRORS]
    assert frame["prompt_uid"].tolist() == [f"walk/p{i:02d}" for i in range(6)]
    assert frame["prompt_hash"].tolist() == [p.prompt_hash for p in run.prompts()]
    same = {"task": "walk", "model_name": "oak", "model_variant": "base", "law": "T=1 cap=60", "dtype": "float64",
            "engine": "numpy", "seed": 2, "run_id": run.run_id, "M": 30, "embedder": "tfidf@hashed-1"}
    for name, value in same.items():
        assert frame[name].eq(value).all(), name


def test_each_prompt_is_measured_from_its_own_rollouts(run, frame):
    rollouts = run.rollouts().to_pandas()
    vectors = cs.embed(run, "tfidf").vectors
    for row, (_, group) in zip(frame.itertuples(), rollouts.groupby("prompt_id"), strict=True):
        tree = tree_metrics(group["length"], group["entropy_sum"])
        own = diversity_metrics(vectors[group.index])
        assert (row.CE, row.N_bar, row.R_bar, row.cov_NR) == pytest.approx(
            (tree["CE"], tree["mean_length"], tree["mean_rate"], tree["cov_NR"]))
        assert (row.D, row.log_VS, row.VS) == pytest.approx((own["D"], own["log_VS"], own["VS"]))
        assert row.rho_kendall == pytest.approx(tree["rho_kendall"])
        assert row.truncation_rate == pytest.approx((group["finish_reason"] == "length").mean())
        assert row.se_N == pytest.approx(group["length"].std() / 30**0.5)
        assert row.se_CE == pytest.approx(group["entropy_sum"].std() / 30**0.5)
        assert row.empty_share == pytest.approx((group["text"].str.strip() == "").mean())


def test_control_variates_are_nearer_to_the_exact_answer(frame):
    law = table(0.02, 0.2)
    exact = np.array([expectation(law, p, 60) for p in range(6)])
    for k, (raw, controlled, error) in enumerate([("CE", "CE_cv", "se_CE_cv"), ("N_bar", "N_bar_cv", "se_N_cv")]):
        z = (frame[controlled] - exact[:, k]) / frame[error]
        assert z.abs().max() < 4.5
        assert np.mean((frame[controlled] - exact[:, k]) ** 2) < 0.5 * np.mean((frame[raw] - exact[:, k]) ** 2)
    assert (frame["se_CE_cv"] < frame["se_CE"]).all()
    np.testing.assert_allclose(frame["cov_cv"], frame["CE_cv"] - frame["N_bar_cv"] * frame["R_bar_cv"])


def test_without_an_embedder_diversity_is_nan_and_the_rest_stays(run, frame):
    plain = measure(run)
    diverse = ["D", "log_VS", "VS", "se_D", "cov_DR", "cov_DN", "embedder", "embed_truncated_share", "empty_share"]
    assert plain[diverse].isna().all(axis=None)
    rest = [c for c in plain if c not in diverse]
    assert plain[rest].equals(frame[rest])


def test_the_frame_pools_and_decomposes(frame):
    out = three_level(frame)
    assert out["CE"] == pytest.approx(out["product"] + out["cov_within"] + out["cov_between"], rel=1e-12)
    assert pool(frame, frame["M"])["CE"] == pytest.approx(frame["CE"].mean())


def test_a_single_prompt_has_no_controlled_estimates(tmp_path):
    one = measure(store_run(tmp_path / "one", prompts=1, m=12))
    assert one[["CE_cv", "N_bar_cv", "R_bar_cv", "cov_cv"]].isna().all(axis=None)
    assert one[["CE", "N_bar", "R_bar", "se_N"]].notna().all(axis=None)


def test_two_rollouts_have_no_error_of_d(tmp_path):
    two = measure(store_run(tmp_path / "two", prompts=3, m=2), embedder="tfidf")
    assert two["D"].notna().all() and two["se_D"].isna().all()


def test_one_rollout_per_prompt_is_refused(tmp_path):
    run = store_run(tmp_path / "single", prompts=2, m=1)
    with pytest.raises(UserError, match=r"2 prompt\(s\) have a single rollout \(p00, p01\).*n_rollouts=2 or more"):
        measure(run)


def test_embeddings_of_another_run_are_refused(run, tmp_path):
    other = cs.embed(store_run(tmp_path / "other", prompts=2, m=3), "tfidf")
    with pytest.raises(UserError, match="embeddings of 6 texts for a run of 180 rollouts"):
        measure(run, embedder=other)
    with pytest.raises(UserError, match="reembed needs an embedder"):
        measure(run, embedder=other, cap=3, reembed=True)


def test_empty_and_identical_texts(tmp_path):
    silent = store_run(tmp_path / "silent", prompts=2, m=5, text=lambda ids: "  ")
    out = measure(silent, embedder="tfidf")
    assert out["D"].eq(0).all() and out["VS"].to_numpy() == pytest.approx(1.0) and out["empty_share"].eq(1).all()
    assert out["se_D"].to_numpy() == pytest.approx(0.0, abs=1e-12)


def test_cutting_texts_without_a_known_tokenizer_says_what_to_pass(run):
    with pytest.raises(UserError, match="tokenizer, which could not be loaded .*Pass decode="):
        measure(run, embedder="tfidf", cap=2, reembed=True)


def test_a_step_table_that_does_not_fit_is_refused(run, monkeypatch):
    whole = type(run).steps
    monkeypatch.setattr(type(run), "steps", lambda self, columns=None: whole(self, columns).slice(1))
    with pytest.raises(UserError, match="damaged"):
        measure(run, cap=5)


def test_ends_are_not_words(run):
    assert all(len(text.split()) == sum(i != END for i in ids)
               for text, ids in zip(run.rollouts()["text"].to_pylist(), run.rollouts()["token_ids"].to_pylist(),
                                    strict=True))
