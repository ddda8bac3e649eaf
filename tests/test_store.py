"""The store: what is written is read back, whatever happened in between."""

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_engine import FakeEngine, make_config, make_prompts, write_run
from hypothesis import given
from hypothesis import strategies as st

from canopy_stats import check, files, measure, open_run
from canopy_stats.schema import ROLLOUT_COLUMNS, STEP_COLUMNS, STEP_TERMS, SamplingPolicy, UserError, names
from canopy_stats.store import RunWriter, ShardTables, plan
from canopy_stats.store.content import WrongRows
from canopy_stats.store.identity import differences as config_differences
from canopy_stats.store.kept import Kept
from canopy_stats.store.shard_files import content_now
from canopy_stats.store.table_hash import table_hash

sys.path.insert(0, str(Path(__file__).parents[1] / "analysis"))
PROMPTS = make_prompts(7)


@pytest.fixture
def config():
    return make_config(PROMPTS)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("written") / "run", PROMPTS, make_config(PROMPTS)).path


@pytest.fixture
def run(tmp_path, written):
    return open_run(shutil.copytree(written, tmp_path / "run"))


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


@pytest.mark.slow
def test_content_hash_ignores_time_and_sees_values(run, tmp_path, config):
    assert write_run(tmp_path / "again", PROMPTS, config).content_hash == run.content_hash
    assert write_run(tmp_path / "lie", PROMPTS, config, FakeEngine(drawn_at=2.0)).content_hash != run.content_hash
    other = make_config(PROMPTS, seed=2)
    assert write_run(tmp_path / "seed", PROMPTS, other).content_hash != run.content_hash


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=8), st.integers(0, 4))
def test_table_hash_sees_values_not_layout(texts, cut):
    whole = pa.table({"t": pa.array(texts, pa.string()), "l": pa.array([[len(t)] * len(t) for t in texts],
                                                                       pa.list_(pa.int32()))})
    pieces = pa.concat_tables([whole.slice(0, cut), whole.slice(cut)])
    assert table_hash(whole) == table_hash(pieces)
    changed = pa.table({"t": pa.array([*texts, "x"], pa.string()), "l": pa.array([*whole["l"].to_pylist(), []],
                                                                                whole["l"].type)})
    assert table_hash(whole) != table_hash(changed)


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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


# ----------------------------------------------------------------------------------------------- the first format

FIRST = Path(__file__).parent / "golden" / "first_format"


@pytest.fixture
def first(tmp_path):
    return Path(shutil.copytree(FIRST, tmp_path / "first"))


def test_a_run_of_the_first_format_reads_as_it_did(first):
    run, said = open_run(first), json.loads(FIRST.with_suffix(".json").read_text())
    assert run.content_hash == run.manifest["content_hash"] == said["content_hash"]
    assert run.rollouts().column_names == names(ROLLOUT_COLUMNS) and run.complete
    np.testing.assert_allclose(measure(run)["CE"], said["CE"], rtol=1e-12)
    z = {f.name: f.value for f in check(run).findings}
    np.testing.assert_allclose([z[name] for name in said["z"]], list(said["z"].values()), rtol=1e-9)


def test_a_run_of_the_first_format_grows(first, tmp_path):
    prompts = make_prompts(41)
    config = make_config(prompts, n_rollouts=21, policy=SamplingPolicy(max_new_tokens=6))
    grown = write_run(first, prompts, config)
    assert grown.content_hash == write_run(tmp_path / "whole", prompts, config).content_hash
    assert open_run(first).rollouts().num_rows == 41 * 21


# ------------------------------------------------------------------------------------------------ what was edited


def edit_steps(run, renew):
    """Change an entropy, and renew what the log says of the file."""
    path = run.path / "steps" / "shard-00001.parquet"
    table = pq.read_table(path)
    wrong = table["entropy"].to_numpy().copy()
    wrong[0] += 0.5
    at = table.column_names.index("entropy")
    pq.write_table(table.set_column(at, table.schema.field(at), [wrong]), path)
    lines = [json.loads(line) for line in (run.path / "shards.jsonl").read_text().splitlines()]
    lines[1]["steps"]["sha256"] = files.file_sha256(path)
    if renew:
        by_hash = {p.prompt_hash: p for p in PROMPTS}
        lines[1]["content"] = content_now(run.path, lines[1], by_hash)
    (run.path / "shards.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_edited_values_are_seen_though_the_hash_of_the_file_was_renewed(run):
    edit_steps(run, renew=False)
    with pytest.raises(UserError, match=r"damaged: 1 of 4 shards \(1\)"):
        open_run(run.path)


def test_edited_values_are_seen_though_the_whole_log_was_renewed(run, config):
    edit_steps(run, renew=True)
    for again in (lambda: open_run(run.path), lambda: write_run(run.path, PROMPTS, config)):
        with pytest.raises(UserError, match="does not hold the content that it was finished with"):
            again()


def test_doubled_and_foreign_shards_do_not_count(run, tmp_path):
    lines = (run.path / "shards.jsonl").read_text().splitlines()
    (run.path / "shards.jsonl").write_text("\n".join([*lines[:3], lines[2]]) + "\n")
    with pytest.raises(UserError, match="not complete: 672 of 700 rollouts"):
        open_run(run.path)
    doubled = {**json.loads(lines[2]), "number": 9}
    (run.path / "shards.jsonl").write_text("\n".join([*lines[:3], json.dumps(doubled)]) + "\n")
    with pytest.raises(UserError, match="damaged: 1 of 4 shards"):
        open_run(run.path)


def test_a_torn_last_line_is_a_shard_never_written(run, config):
    log = run.path / "shards.jsonl"
    log.write_bytes(log.read_bytes()[:-40])
    assert len(open_run(run.path, allow_partial=True).shards) == 3
    engine = FakeEngine()
    assert write_run(run.path, PROMPTS, config, engine).content_hash == run.content_hash
    assert len(engine.sampled) == 1 and open_run(run.path).complete


def test_files_are_read_through_once_for_each_change(run, monkeypatch):
    past = time.time_ns() + 10**9
    monkeypatch.setattr("canopy_stats.store.verify.time.time_ns", lambda: past)  # as if written a second ago
    assert open_run(run.path).complete
    read = []
    monkeypatch.setattr(files, "file_sha256", lambda path, real=files.file_sha256: read.append(path.name) or real(path))
    assert open_run(run.path).complete and read == []
    target = run.path / "steps" / "shard-00002.parquet"
    about = target.stat()
    alter(target)
    os.utime(target, ns=(about.st_atime_ns, about.st_mtime_ns))  # its size and time are as before
    assert open_run(run.path, allow_partial=True).damaged == (2,)
    assert read and set(read) <= {"shard-00002.parquet"}


BROKEN = {
    "no key": lambda m: m.pop("config"), "no law": lambda m: m["config"].pop("policy"),
    "many prompts": lambda m: m.update(n_prompts=10**9), "wrong type": lambda m: m.update(n_prompts="seven"),
    "law of a text": lambda m: m["config"].update(policy="hot"), "no number": lambda m: m["config"].update(seed={}),
    "law of nonsense": lambda m: m["config"]["policy"].update(temperature=[1]),
    "unknown law": lambda m: m["config"]["policy"].update(warmth=3), "model": lambda m: m["config"].update(model=3),
    "many rollouts": lambda m: m["config"].update(n_rollouts=10**9), "drift": lambda m: m.update(drift=[1]),
    "format": lambda m: m.update(format=7), "version": lambda m: m.update(schema_version="2"),
}


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN.keys())
def test_a_damaged_manifest_is_told_in_one_line(run, change):
    path = run.path / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(UserError) as caught:
        open_run(run.path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["manifest.json", "prompts.jsonl", "shards.jsonl"])
@pytest.mark.parametrize("content", [b"", b"[" * 100_000, b"\xff\xfe", b"null", b'{"a": ' + b"9" * 5000 + b"}"],
                         ids=["empty", "nested", "no text", "null", "long number"])
def test_garbage_in_the_place_of_a_file(run, name, content):
    (run.path / name).write_bytes(content)
    with pytest.raises(UserError):
        open_run(run.path)


@pytest.mark.parametrize("name", ["manifest.json", "prompts.jsonl", "shards.jsonl", "steps/shard-00000.parquet"])
@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["folder", "pipe"])
def test_what_is_no_file(run, name, make):
    (run.path / name).unlink()
    make(run.path / name)
    with pytest.raises(UserError):
        open_run(run.path)


# --------------------------------------------------------------------------------------------------- parts, tables


def test_parts_are_exact_splits(run):
    parts = list(run.parts())
    assert pa.concat_tables([p.steps() for p in parts]).equals(run.steps())
    assert pa.concat_tables([p.rollouts() for p in parts]).equals(run.rollouts())


def test_a_few_rollouts_are_read_alone(run):
    pairs = [(6, 99), (0, 3), (2, 40)]
    found = run.stored_steps(pairs, ["token_id", "entropy"])
    steps = run.steps().to_pandas()
    for p, r in pairs:
        rows = steps[(steps["prompt_id"] == f"p{p}") & (steps["rollout"] == r)]
        assert found[p, r]["token_id"].tolist() == rows["token_id"].tolist()
        assert found[p, r]["entropy"].tolist() == rows["entropy"].tolist()


def test_tables_made_elsewhere_are_stored_if_they_are_the_shards(tmp_path, config, run):
    with RunWriter(tmp_path / "other", config, PROMPTS) as writer:
        shard = writer.missing[0]
        with pytest.raises(WrongRows):
            writer.write_tables(shard, ShardTables(run.rollouts(), run.steps()), batch_size=1)
        entry = run.only([0])
        writer.write_tables(shard, ShardTables(entry.rollouts(), entry.steps()), batch_size=1)
        assert len(writer.missing) == 3


@pytest.mark.slow
def test_a_large_run_is_written_and_read_by_parts(tmp_path, monkeypatch):
    """The benchmark of large runs, on a small one and in three of its steps: opening again reads next to nothing."""
    import bench_scale

    steps = {name: bench_scale.STEPS[name] for name in ("open, first time", "open, again", "cap curve")}
    monkeypatch.setattr(bench_scale, "STEPS", steps)
    said = []
    found = bench_scale.bench(bench_scale.Size(24, 40, 8), tmp_path / "run", said.append)
    assert found.keys() == steps.keys() and len(said) == 4 and "960 rollouts" in said[0]
    assert found["open, again"][2] < found["open, first time"][2]


# --- tables by what they were made by ---------------------------------------------------------------------------


def test_tables_of_a_kind_lie_side_by_side(run):
    first, second = (Kept(run, "lengths", {"cap": cap}, "made_by") for cap in (1, 2))
    first.write(TABLE, "lengths")
    assert first.read().equals(TABLE) and second.read() is None
    assert Kept(run, "lengths", {"cap": 1}, "asked").read() is None  # another note, another maker
    assert run.read_table(first.name)[1]["made_by"] == {"cap": 1}
    expected = hashlib.sha256(b'{"cap": 1}').hexdigest()[:12]
    assert first.name == f"lengths-{expected}"


def test_a_full_disk_costs_a_warning_and_no_result(run, monkeypatch):
    def full(*given):
        raise OSError("No space left on device")

    monkeypatch.setattr(type(run), "write_table", full)
    with pytest.warns(UserWarning, match="The lengths could not be kept in the run's folder .No space left") as told:
        (lambda: Kept(run, "lengths", {}, "made_by").write(TABLE, "lengths"))()
    assert told[0].filename == __file__
