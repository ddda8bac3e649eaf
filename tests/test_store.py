"""The store: what is written is read back, whatever happened in between."""

import errno
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_engine import FakeEngine, make_config, make_prompts, write_run
from hypothesis import given
from hypothesis import strategies as st

from canopy_stats import files, open_run
from canopy_stats.schema import ROLLOUT_COLUMNS, STEP_COLUMNS, STEP_TERMS, SamplingPolicy, UserError, names
from canopy_stats.store import RunWriter, plan
from canopy_stats.store.identity import differences as config_differences

PROMPTS = make_prompts(7)


@pytest.fixture
def config():
    return make_config(PROMPTS)


@pytest.fixture
def run(tmp_path, config):
    return write_run(tmp_path / "run", PROMPTS, config)


def shard_files(run):
    return sorted([*run.path.glob("rollouts/*"), *run.path.glob("steps/*")])


# ---------------------------------------------------------------------------------------------------- what is stored


def test_tables_hold_the_declared_columns_in_order(run):
    assert run.rollouts().column_names == names(ROLLOUT_COLUMNS)
    assert run.steps().column_names == names(STEP_COLUMNS)
    assert {f.name: str(f.type) for f in run.steps().schema} == {c.name: c.dtype.replace("float32", "float")
                                                                 for c in STEP_COLUMNS}
    assert run.rollouts().schema.field("token_ids").type == pa.list_(pa.int32())


def test_rows_come_in_prompt_rollout_step_order_whatever_the_drawing_order(run):
    rollouts, steps = run.rollouts().to_pandas(), run.steps().to_pandas()
    expected = [(p.prompt_id, r) for p in PROMPTS for r in range(100)]
    assert list(zip(rollouts["prompt_id"], rollouts["rollout"], strict=True)) == expected
    assert rollouts["token_ids"].map(len).tolist() == rollouts["length"].tolist()
    assert np.concatenate(rollouts["token_ids"]).tolist() == steps["token_id"].tolist()
    assert steps["step"].tolist() == [s for n in rollouts["length"] for s in range(n)]
    assert steps["rollout"].tolist() == np.repeat(rollouts["rollout"], rollouts["length"]).tolist()


def test_sums_are_those_of_the_steps_in_double_precision(run):
    rollouts = run.rollouts().to_pandas()
    steps = run.steps().to_pandas().astype(dict.fromkeys(STEP_TERMS, float))
    sums = steps.groupby(["prompt_id", "rollout"], sort=False)[list(STEP_TERMS)].sum()
    np.testing.assert_allclose(rollouts["entropy_sum"], sums["entropy"], rtol=1e-14)
    np.testing.assert_allclose(rollouts["surprisal_sum"], -sums["logprob"], rtol=1e-14)
    np.testing.assert_allclose(rollouts["stop_hazard_sum"], sums["stop_probability"], rtol=1e-14)
    np.testing.assert_allclose(rollouts["entropy_rate"], rollouts["entropy_sum"] / rollouts["length"], rtol=1e-15)
    assert rollouts["prompt_uid"].iloc[0] == "chain/p0"
    assert set(rollouts["finish_reason"]) == {"stop", "length"}


def test_chosen_columns_only(run):
    assert run.steps(["entropy", "step"]).column_names == ["entropy", "step"]
    with pytest.raises(UserError, match="no column nonsense; there are prompt_id"):
        run.steps(["nonsense"])


def test_shards_of_an_older_version_lack_a_column(run):
    for shard in run.path.glob("steps/*"):
        pq.write_table(pq.read_table(shard).drop_columns(["kept_mass"]), shard)
    with pytest.raises(UserError, match="written by an older canopy_stats, without kept_mass"):
        run.steps()
    assert run.steps(["entropy"]).num_rows > 0


def test_prompts_and_configuration_come_back(run, config):
    again = open_run(run.path)
    assert again.prompts() == PROMPTS
    assert again.config == config
    assert again.complete and again.manifest["finished"] and not again.damaged


def test_manifest_vouches_for_every_file(run):
    for shard in run.manifest["shards"]:
        for kind in ("rollouts", "steps"):
            assert files.file_sha256(run.path / shard[kind]["path"]) == shard[kind]["sha256"]
    assert sum(s["n_tokens"] for s in run.manifest["shards"]) == run.steps().num_rows
    assert run.manifest["content_hash"] == run.content_hash


def test_content_hash_ignores_time_and_sees_values(run, tmp_path, config):
    assert write_run(tmp_path / "again", PROMPTS, config).content_hash == run.content_hash
    assert write_run(tmp_path / "lie", PROMPTS, config, FakeEngine(drawn_at=2.0)).content_hash != run.content_hash
    other = make_config(PROMPTS, seed=2)
    assert write_run(tmp_path / "seed", PROMPTS, other).content_hash != run.content_hash


@given(n_prompts=st.integers(1, 60), n_rollouts=st.integers(2, 200))
def test_blocks_cover_every_rollout_once(n_prompts, n_rollouts):
    plans = list(plan.blocks(n_prompts, n_rollouts))
    held = [(shard.prompts[i], r) for shard in plans for i, r in shard.pairs]
    assert sorted(held) == [(p, r) for p in range(n_prompts) for r in range(n_rollouts)]
    assert all(len(shard.pairs) <= 256 for shard in plans)


@given(st.data())
def test_missing_and_stored_make_the_whole_rectangle(data):
    """Whatever was stored before, drawing what is missing leaves every rollout once."""
    prompts = [f"{i:064x}" for i in range(data.draw(st.integers(1, 20)))]
    n, old_prompts = data.draw(st.integers(2, 80)), data.draw(st.integers(0, 20))
    old_n, whole = data.draw(st.integers(1, n)), data.draw(st.booleans())
    before = plan.blocks(min(old_prompts, len(prompts)), old_n)
    entries = {i: entry(i, prompts, block) for i, block in enumerate(before)}
    kept = {i: e for i, e in entries.items() if data.draw(st.booleans())}
    for shard in plan.missing(prompts, n, kept.values(), whole=whole):
        for number in shard.replaces:
            del kept[number]
        kept[max(kept, default=-1) + 1000] = entry(max(kept, default=-1) + 1000, prompts, shard)
    assert plan.covers(kept.values(), prompts, n) and plan.strangers(kept.values(), prompts, n) == []


def entry(number, prompts, shard):
    return {"number": number, "prompts": [prompts[i] for i in shard.prompts],
            "span": [shard.rollouts.start, shard.rollouts.stop]}


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=8), st.integers(0, 4))
def test_table_hash_sees_values_not_layout(texts, cut):
    whole = pa.table({"t": pa.array(texts, pa.string()), "l": pa.array([[len(t)] * len(t) for t in texts],
                                                                       pa.list_(pa.int32()))})
    pieces = pa.concat_tables([whole.slice(0, cut), whole.slice(cut)])
    assert files.table_hash(whole) == files.table_hash(pieces)
    changed = pa.table({"t": pa.array([*texts, "x"], pa.string()), "l": pa.array([*whole["l"].to_pylist(), []],
                                                                                whole["l"].type)})
    assert files.table_hash(whole) != files.table_hash(changed)


# ------------------------------------------------------------------------------------------------------------ resume


def test_resume_draws_only_what_is_missing(tmp_path, config, run):
    partial = write_run(tmp_path / "partial", PROMPTS, config, shards=[1])
    assert not partial.complete
    engine = FakeEngine()
    resumed = write_run(partial.path, PROMPTS, config, engine)
    assert len(engine.sampled) == len(list(plan.blocks(7, 100))) - 1
    assert resumed.complete and resumed.content_hash == run.content_hash


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def alter(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [truncate, alter, Path.unlink], ids=["truncated", "altered", "missing"])
@pytest.mark.parametrize("kind", ["rollouts", "steps"])
def test_damaged_shard_is_seen_and_drawn_again(run, config, damage, kind):
    damage(run.path / kind / "shard-00001.parquet")
    with pytest.raises(UserError, match=r"is damaged: 1 of 4 shards \(1\).*generate` again"):
        open_run(run.path)
    partial = open_run(run.path, allow_partial=True)
    assert partial.damaged == (1,) and not partial.complete
    rows = partial.rollouts(["prompt_id", "rollout"]).to_pandas()
    assert rows.groupby("prompt_id")["rollout"].apply(list).to_dict() == {
        p.prompt_id: [*range(32), *range(64, 100)] for p in PROMPTS}
    engine = FakeEngine()
    again = write_run(run.path, PROMPTS, config, engine)
    assert len(engine.sampled) == 1 and again.content_hash == run.content_hash
    assert open_run(run.path).complete


def test_interrupted_in_the_middle_of_a_shard(tmp_path, config, run):
    with pytest.raises(KeyboardInterrupt):
        write_run(tmp_path / "k", PROMPTS, config, FakeEngine(fail_after=30))
    with pytest.raises(UserError, match="not complete: 0 of 700 rollouts"):
        open_run(tmp_path / "k")
    assert write_run(tmp_path / "k", PROMPTS, config).content_hash == run.content_hash


def test_temporary_files_of_a_killed_writer_go(run, config):
    left = run.path / "steps" / ".shard-00000.parquet.123.tmp"
    left.write_bytes(b"half")
    write_run(run.path, PROMPTS, config)
    assert not left.exists()


def test_altered_prompts_are_refused_for_reading_and_restored_by_resume(run, config):
    (run.path / "prompts.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match=r"prompts.jsonl is missing or was altered"):
        open_run(run.path)
    write_run(run.path, PROMPTS, config)
    assert open_run(run.path).prompts() == PROMPTS


# -------------------------------------------------------------------------------------------------------- refusals


def test_other_configuration_is_refused_with_every_field_named(run):
    before = {p: p.read_bytes() for p in shard_files(run)}
    asked = make_config(PROMPTS, seed=9, policy=SamplingPolicy(temperature=0.7, max_new_tokens=20),
                        model={"model": "fake", "weights": "w1", "dtype": "float64", "device": "cpu"})
    with pytest.raises(UserError) as caught:
        write_run(run.path, PROMPTS, asked)
    message = str(caught.value)
    for part in ("seed: stored 1, asked 9", "policy.temperature: stored 1.0, asked 0.7",
                 "model.weights: stored 'w0', asked 'w1'", "nothing was changed"):
        assert part in message
    assert "task" not in message
    assert {p: p.read_bytes() for p in shard_files(run)} == before


def test_differences_name_added_and_removed_fields():
    assert config_differences({"a": {"b": 1}}, {"a": {"c": 2}}) == ["a.b: stored 1, asked None",
                                                                    "a.c: stored None, asked 2"]


def test_foreign_folder_is_left_alone(tmp_path, config):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match=r"not empty and is not a run \(thesis.tex\)"):
        write_run(tmp_path, PROMPTS, config)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_file_in_the_way(tmp_path, config):
    (tmp_path / "f").write_text("x")
    with pytest.raises(UserError, match="is a file; a run needs a folder"):
        write_run(tmp_path / "f", PROMPTS, config)
    with pytest.raises(UserError, match="Cannot create the folder"):
        write_run(tmp_path / "f" / "run", PROMPTS, config)


def test_opening_what_is_no_run(tmp_path):
    with pytest.raises(UserError, match="There is no run folder"):
        open_run(tmp_path / "nothing")
    with pytest.raises(UserError, match="holds no run"):
        open_run(tmp_path)
    (tmp_path / "manifest.json").write_text('{"name": "an extension"}')
    with pytest.raises(UserError, match="is not the manifest of a run, or is damaged"):
        open_run(tmp_path)


def test_edited_manifest_is_seen(run):
    path = run.path / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["config"]["policy"]["temperature"] = 0.5
    path.write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="was edited after the run"):
        open_run(run.path)


def test_newer_format_is_refused(run):
    path = run.path / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 99}))
    with pytest.raises(UserError, match="written by a newer canopy_stats"):
        open_run(run.path)


def test_one_writer_at_a_time(tmp_path, config):
    with RunWriter(tmp_path / "run", config, PROMPTS):
        code = textwrap.dedent(f"""
            import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
            from fake_engine import make_config, make_prompts, write_run
            from canopy_stats import UserError
            prompts = make_prompts(7)
            try:
                write_run({str(tmp_path / 'run')!r}, prompts, make_config(prompts))
            except UserError as error:
                print(error)
        """)
        told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert f"Another process is writing {tmp_path / 'run'}" in told
    write_run(tmp_path / "run", PROMPTS, config)  # free again


def test_broken_terms_are_not_stored(tmp_path, config):
    class Broken(FakeEngine):
        def sample(self, *args):
            for rollout in super().sample(*args):
                rollout.steps[STEP_TERMS[0]][0] = np.nan
                yield rollout

    with pytest.raises(UserError, match="entropy is not a number at step 0 of rollout 0, prompt 'p0'"):
        write_run(tmp_path / "run", PROMPTS, config, Broken())


# ------------------------------------------------------------------------------------------------------- full disk


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("call", ["_write_through", "_sync_folder"])
def test_full_disk_is_told_and_leaves_nothing_half_written(tmp_path, config, run, monkeypatch, number, call):
    real, calls = getattr(files, call), []

    def fails_in_the_second_shard(*args):
        calls.append(args)
        if len(calls) >= 6:  # two manifests, the prompts, and three files of the first shard came before
            raise OSError(number, os.strerror(number))
        return real(*args)

    monkeypatch.setattr(files, call, fails_in_the_second_shard)
    with pytest.raises(UserError, match=r"Could not write .*\([\d.]+ (bytes|kB|MB)\): .*nothing half-written"):
        write_run(tmp_path / "full", PROMPTS, config)
    monkeypatch.undo()
    assert not [p for p in (tmp_path / "full").rglob("*") if files.is_temporary(p)]
    assert len(open_run(tmp_path / "full", allow_partial=True).shards) <= 1
    assert write_run(tmp_path / "full", PROMPTS, config).content_hash == run.content_hash


def test_file_size_limit_of_the_system(tmp_path, config, run):
    resource = pytest.importorskip("resource")
    code = textwrap.dedent(f"""
        import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
        from fake_engine import make_config, make_prompts, write_run
        from canopy_stats import UserError
        prompts = make_prompts(7)
        try:
            write_run({str(tmp_path / 'big')!r}, prompts, make_config(prompts))
        except UserError as error:
            print(error)
    """)
    limit = (run.path / "steps" / "shard-00000.parquet").stat().st_size // 2
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))).stdout
    assert "files of this size are not allowed here" in told
    assert not [p for p in (tmp_path / "big").rglob("*") if files.is_temporary(p)]
    assert write_run(tmp_path / "big", PROMPTS, config).content_hash == run.content_hash


def test_really_full_file_system(tmp_path, config, run):
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system is not allowed here")
    try:
        with pytest.raises(UserError, match="the disk or quota is full"):
            write_run(small / "run", PROMPTS, config)
        assert not [p for p in small.rglob("*") if files.is_temporary(p)]
        subprocess.run(["mount", "-o", "remount,size=16m", str(small)], check=True)
        assert write_run(small / "run", PROMPTS, config).content_hash == run.content_hash
    finally:
        subprocess.run(["umount", str(small)], check=True)


# ----------------------------------------------------------------------------------------------------- kept tables


TABLE = pa.table({"x": [1.0, 2.0]})


def test_kept_table_comes_back_with_its_provenance(run):
    run.write_table("embeddings-abc", TABLE, {"embedder": "abc"})
    table, provenance = open_run(run.path).read_table("embeddings-abc")
    assert table.equals(TABLE)
    assert provenance["embedder"] == "abc" and provenance["run_content_hash"] == run.content_hash


def test_no_table_where_it_is_absent_damaged_or_stale(run, tmp_path, config):
    assert run.read_table("t") is None
    run.write_table("t", TABLE, {})
    alter(run.path / "tables" / "t.parquet")
    assert run.read_table("t") is None
    other = write_run(tmp_path / "other", PROMPTS, make_config(PROMPTS, seed=2))
    other.write_table("t", TABLE, {})
    for suffix in ("parquet", "json"):
        os.replace(other.path / "tables" / f"t.{suffix}", run.path / "tables" / f"t.{suffix}")
    assert run.read_table("t") is None
