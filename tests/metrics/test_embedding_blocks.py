"""Embeddings in blocks: the numbers of before, an interruption, damage, growth of a run, and what is in memory."""

import json
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from markov_runs import store_run

import canopy_stats as cs
from canopy_stats.metrics import embed_texts, hashed
from canopy_stats.metrics.embed import kept_as, the_kept_embedding
from canopy_stats.metrics.embedding import blocks
from canopy_stats.metrics.judge import judge_run
from canopy_stats.schema import UserError
from canopy_stats.store import kept_blocks

PROMPTS, M = 40, 6  # five parts of 8 prompts: 48 rollouts each


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return store_run(tmp_path_factory.mktemp("blocks") / "run", prompts=PROMPTS, m=M, cap=12)


@pytest.fixture
def run(drawn, tmp_path):
    shutil.copytree(drawn.path, tmp_path / "run")
    return cs.open_run(tmp_path / "run")


@pytest.fixture(scope="module")
def at_once(drawn):
    """All texts embedded together, in memory."""
    return embed_texts(drawn.rollouts(["text"])["text"].to_pylist(), "tfidf")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(kept_blocks, "BLOCK", 2 * 8 * M)


@pytest.fixture
def encoded(monkeypatch):
    """How many texts were embedded at each call."""
    sizes, real = [], hashed.encode

    def encode(texts):
        sizes.append(len(texts))
        return real(texts)

    monkeypatch.setattr(hashed, "encode", encode)
    return sizes


def test_the_same_numbers_to_the_last_bit(run, at_once):
    made = cs.embed(run, "tfidf")
    assert [b.n_stored for b in kept_blocks.in_blocks(run)] == [96, 96, 48]
    np.testing.assert_array_equal(made.vectors, at_once.vectors)
    np.testing.assert_array_equal(made.empty, at_once.empty)
    chosen = np.arange(PROMPTS * M) % 3 > 0
    for options in ({}, {"extra": ["vendi_2", "length_diversity"]}, {"rollouts": chosen}):
        pd.testing.assert_frame_equal(cs.measure(run, embedder=made, **options),
                                      cs.measure(run, embedder=at_once, **options), check_exact=True)


def test_rows_are_taken_from_any_block_in_any_order(run, at_once):
    made, rows = cs.embed(run, "tfidf"), np.random.default_rng(0).permutation(PROMPTS * M)[:50]
    np.testing.assert_array_equal(made.of(rows), at_once.vectors[rows])
    kept = np.arange(PROMPTS * M) % 7 == 0
    np.testing.assert_array_equal(made.take(kept).vectors, at_once.vectors[kept])
    assert len(made.take(kept)) == kept.sum() and made.take(kept).dimensions == made.dimensions == 1025


def test_a_judge_reads_them_too(run, at_once):
    spec = {"kind": "embedding", "threshold": 0.5, "m": 4, "progress": False}
    whole = judge_run(run, {**spec, "embedder": at_once})
    cs.embed(run, "tfidf")
    pd.testing.assert_frame_equal(judge_run(run, spec), whole)


# --- interrupted ------------------------------------------------------------------------------------------------


def test_a_killed_call_goes_on_behind_its_last_block(run, at_once, monkeypatch):
    real, calls = hashed.encode, []

    def dies(texts):
        calls.append(len(texts))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(texts)

    monkeypatch.setattr(hashed, "encode", dies)
    with pytest.raises(KeyboardInterrupt):
        cs.embed(run, "tfidf")
    assert the_kept_embedding(run) is None  # a part is nothing that a panel is made of
    folder = next((run.path / "tables").glob("embeddings-*"))
    with (folder / "blocks.jsonl").open("ab") as file:  # killed while it wrote a line, and a file
        file.write(b'{"block":2,"cont')
    (folder / ".block-00002.parquet.abc.tmp").write_bytes(b"half")
    (folder / "block-00002.parquet").write_bytes(b"no line says that this is there")
    np.testing.assert_array_equal(cs.embed(run, "tfidf").vectors, at_once.vectors)
    assert len(calls) == 4  # two blocks, the one that died, and that one again
    assert sorted(p.name for p in folder.iterdir()) == [
        *(f"block-{i:05d}.parquet" for i in range(3)), "blocks.jsonl", "key.json"]


@pytest.mark.parametrize("harm", ["shortened", "gone", "unlogged"])
def test_only_a_damaged_block_is_made_again(run, at_once, encoded, harm):
    cs.embed(run, "tfidf")
    folder, made = next((run.path / "tables").glob("embeddings-*")), len(encoded)
    file, log = folder / "block-00001.parquet", folder / "blocks.jsonl"
    if harm == "shortened":
        file.write_bytes(file.read_bytes()[:-1])
    elif harm == "gone":
        file.unlink()
    else:
        log.write_bytes(b"".join(line for line in log.read_bytes().splitlines(True) if b'"block":1,' not in line))
    assert the_kept_embedding(run) is None
    np.testing.assert_array_equal(cs.embed(run, "tfidf").vectors, at_once.vectors)
    assert len(encoded) == made + 1


def test_a_block_that_changes_under_the_reader_is_refused(run):
    made = cs.embed(run, "tfidf")
    file = next((run.path / "tables").glob("embeddings-*/block-00001.parquet"))
    file.write_bytes(file.read_bytes()[:-1])
    assert made.of(np.arange(3)).shape == (3, 1025)
    with pytest.raises(UserError, match=r"block-00001.parquet does not hold what was stored"):
        made.of(np.array([100]))


def test_another_process_s_block_stays(run):
    cs.embed(run, "tfidf")
    place = next(iter(kept_blocks.kept_places(run, "embeddings").values()))
    before = (place.path / "block-00000.parquet").read_bytes()
    place.add(0, pa.table({"other": [1]}))
    assert (place.path / "block-00000.parquet").read_bytes() == before and len(place.intact()) == 3


def test_other_rollouts_under_the_same_name_are_embedded_anew(run, tmp_path):
    cs.embed(run, "tfidf")
    fewer = store_run(tmp_path / "fewer", prompts=10, m=M, cap=12, seed=5)
    shutil.copytree(run.path / "tables", fewer.path / "tables")
    assert the_kept_embedding(fewer) is None
    expected = embed_texts(fewer.rollouts(["text"])["text"].to_pylist(), "tfidf").vectors
    np.testing.assert_array_equal(cs.embed(fewer, "tfidf").vectors, expected)
    assert len(list((fewer.path / "tables").glob("*/block-*"))) == 1  # those of the other run are gone


# --- earlier versions -------------------------------------------------------------------------------------------


def test_one_table_of_all_rollouts_is_still_read(run, encoded):
    key = {**hashed.identity(), "think": "keep"}
    vectors = np.eye(PROMPTS * M, 5, dtype=np.float32) + np.eye(1, 5, dtype=np.float32)  # none that tfidf would make
    flags = pa.array(np.arange(PROMPTS * M) % 2 == 0)
    table = run.rollouts(["prompt_id", "rollout"]).append_column(
        "embedding", pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 5)).append_column(
        "truncated", flags).append_column("empty", flags)
    name = blocks.place_of(run, key).path.name
    run.write_table(name, table, {"embedding": key})
    made = cs.embed(run, "tfidf")
    np.testing.assert_array_equal(made.vectors, vectors)
    np.testing.assert_array_equal(kept_as(run, "tfidf@hashed-1").truncated, flags)
    assert not encoded and the_kept_embedding(run).provenance == key
    note = json.loads((run.path / "tables" / f"{name}.json").read_text())
    (run.path / "tables" / f"{name}.json").write_text(json.dumps(note | {"run_content_hash": "another"}))
    assert cs.embed(run, "tfidf").dimensions == 1025 and len(encoded) == 3


# --- memory -----------------------------------------------------------------------------------------------------


def held(run, monkeypatch):
    """The most texts embedded and the most vectors read at once, while a run is embedded and measured."""
    made, read = [], []
    real_encode, real_read = hashed.encode, blocks.vectors_of
    with monkeypatch.context() as patched:
        patched.setattr(hashed, "encode", lambda texts: (made.append(len(texts)), real_encode(texts))[1])
        patched.setattr(blocks, "vectors_of", lambda table: (read.append(table.num_rows), real_read(table))[1])
        cs.measure(run, embedder="tfidf", extra=["length_thirds"])
    return max(made, default=0), max(read), len(read)


def test_what_is_held_does_not_grow_with_the_run(run, tmp_path, monkeypatch):
    small = store_run(tmp_path / "small", prompts=16, m=M, cap=12)
    texts, vectors, _ = held(run, monkeypatch)
    assert texts <= 96 and vectors == 96 == held(small, monkeypatch)[1]
    assert held(run, monkeypatch) == (0, 96, 2 * 3)  # each block once for D, and once for what was asked for
