"""The one writer of a run folder, on runs of a few rollouts: what it notes, what it keeps, what it refuses."""

import json

import numpy as np
import pytest
from fake_engine import FakeEngine, make_config, make_prompts, write_run

from canopy_stats import files, open_run
from canopy_stats.schema import RunKey, SamplingPolicy, UserError
from canopy_stats.store import RunWriter, shard_tables
from canopy_stats.store.identity import surroundings, surroundings_id

PROMPTS = make_prompts(2)
SHORT = SamplingPolicy(max_new_tokens=6)


def config_of(prompts=PROMPTS, **changes):
    return make_config(prompts, **{"n_rollouts": 3, "policy": SHORT, **changes})


def contents(path):
    return {str(p.relative_to(path)): (p.read_bytes(), p.stat().st_mtime_ns) for p in sorted(path.rglob("*"))
            if p.is_file() and not p.name.startswith(".")}


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run", PROMPTS, config_of())


def draw(writer, shard, config, batch_size=8):
    drawn = FakeEngine().sample(writer.shard_prompts(shard), shard.pairs, config.policy,
                                RunKey(config.seed, config.family, config.variant), batch_size)
    writer.write_shard(shard, drawn, FakeEngine().decode, batch_size=batch_size)


def test_the_log_says_what_each_shard_holds_and_where_it_was_drawn(run):
    (entry,) = (json.loads(line) for line in (run.path / "shards.jsonl").read_text().splitlines())
    length = run.rollouts(["length"])["length"].to_numpy()
    here = surroundings(json.loads(files.canonical_json(run.config.to_dict())))
    assert entry | {"content": "", "rollouts": "", "steps": ""} == {
        "number": 0, "prompts": [p.prompt_hash for p in PROMPTS], "span": [0, 3], "n_rollouts": 6,
        "n_tokens": length.sum(), "batch_size": 8, "content": "", "rollouts": "", "steps": "", "replaces": [],
        "surroundings": surroundings_id(here)}
    for kind in ("rollouts", "steps"):
        path = entry[kind]["path"]
        assert path == f"{kind}/shard-00000.parquet" and files.file_sha256(run.path / path) == entry[kind]["sha256"]
    assert run.manifest["surroundings"] == {surroundings_id(here): here}


def test_the_manifest_of_a_finished_run_says_what_was_found(tmp_path):
    config = config_of()
    with RunWriter(tmp_path / "run", config, PROMPTS, versions={"torch": "9"}, origin={"path": "here"}) as writer:
        (shard,) = writer.missing
        draw(writer, shard, config)
        assert not writer.finished and writer.missing == []
        writer.finish({"flips": 2})
        assert writer.finished
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert (manifest["drift"], manifest["versions"], manifest["origin"]) == ({"flips": 2}, {"torch": "9"},
                                                                           {"path": "here"})
    run = open_run(tmp_path / "run")
    assert manifest["content_hash"] == run.content_hash and manifest["n_prompts"] == 2 and manifest["finished"]
    assert manifest["drawn"] == [{"surroundings": writer.here, "shards": 1, "rollouts": 6,
                                  "tokens": run.steps().num_rows}]


def test_a_run_is_finished_only_when_every_shard_is_there(tmp_path):
    with (RunWriter(tmp_path / "run", config_of(), PROMPTS) as writer,
          pytest.raises(ValueError, match="^1 shards are missing$")):
        writer.finish(None)
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["finished"] is None


def test_a_finished_run_that_is_asked_for_again_is_left_as_it_is(run):
    before = contents(run.path)
    with RunWriter(run.path, config_of(), PROMPTS) as writer:
        assert writer.finished and writer.run().content_hash == run.content_hash
    assert contents(run.path) == before


def test_a_model_that_moved_is_noted_and_nothing_else(run):
    before = json.loads((run.path / "manifest.json").read_text())
    with RunWriter(run.path, config_of(), PROMPTS, origin={"path": "there"}) as writer:
        assert writer.finished
    assert json.loads((run.path / "manifest.json").read_text()) == {**before, "origin": {"path": "there"}}


def test_a_run_grows_in_prompts_and_rollouts(run, tmp_path):
    prompts, created, manifest = make_prompts(3), "2026-01-02T03:04:05+00:00", run.path / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "created": created}))
    config = config_of(prompts, n_rollouts=5)
    grown = write_run(run.path, prompts, config)
    assert grown.content_hash == write_run(tmp_path / "whole", prompts, config).content_hash
    assert open_run(run.path).prompts() == prompts and grown.manifest["created"] == created
    # What is drawn stays: the first shard's file, and the others take numbers of their own.
    assert [s["number"] for s in grown.shards] == [0, 1, 2]
    assert [s["span"] for s in grown.shards] == [[0, 3], [3, 5], [0, 5]]


@pytest.mark.parametrize(("options", "spans"), [({}, [[0, 3], [3, 5]]), ({"whole": True}, [[0, 5]])])
def test_a_block_is_drawn_anew_only_where_batches_decide_the_bits(run, options, spans):
    config = config_of(n_rollouts=5)
    with RunWriter(run.path, config, PROMPTS, **options) as writer:
        for shard in writer.missing:
            draw(writer, shard, config)
        writer.finish(None)
        assert [s["span"] for s in writer.run().shards] == spans
    again = open_run(run.path)
    assert again.complete and len(list((run.path / "steps").iterdir())) == len(spans)
    assert again.rollouts()["rollout"].to_pylist() == 2 * [0, 1, 2, 3, 4]


def test_a_run_goes_on_elsewhere_unless_it_is_strict(tmp_path):
    first = make_prompts(9)  # two blocks
    here, there = config_of(first), config_of(first, batch_size=4, model={**FakeEngine().describe(), "threads": 3})
    write_run(tmp_path / "run", first, here, shards=[1])
    with pytest.raises(UserError, match=r"holds a run with rollouts that were drawn elsewhere \(strict\); nothing was "
                                        r"changed\. Differing: batch_size: stored 8, asked 4; threads: stored None, "
                                        r"asked 3\. Draw it as it was begun, allow the change by leaving strict out"):
        RunWriter(tmp_path / "run", there, first, strict=True).__enter__()
    run = write_run(tmp_path / "run", first, there)
    assert [(d["shards"], d["rollouts"]) for d in run.manifest["drawn"]] == [(1, 3), (1, 24)]
    assert len(run.manifest["surroundings"]) == 2
    assert run.content_hash == write_run(tmp_path / "whole", first, here).content_hash


def test_tables_that_another_machine_made_bring_its_surroundings(tmp_path):
    prompts = make_prompts(17)  # three blocks
    here, there = config_of(prompts), config_of(prompts, model={**FakeEngine().describe(), "threads": 3})
    with RunWriter(tmp_path / "run", here, prompts) as writer:
        for shard, drawn_by in zip(writer.missing, (there, None, there), strict=True):
            listed = writer.shard_prompts(shard)
            drawn = FakeEngine().sample(listed, shard.pairs, here.policy, RunKey(1, "fake", "base"), 8)
            tables = shard_tables(listed, drawn, here.task, FakeEngine().decode)
            with pytest.raises(UserError, match=r"was drawn by another model than the rest: seed: stored 1, asked 9\. "
                                                r"Give every machine the same weights and settings\.$"):
                writer.write_tables(shard, tables, batch_size=8, drawn_by=config_of(prompts, seed=9))
            writer.write_tables(shard, tables, batch_size=8, drawn_by=drawn_by)
        writer.finish(None)
    run, found = open_run(tmp_path / "run"), surroundings(json.loads(files.canonical_json(there.to_dict())))
    assert [s["surroundings"] for s in run.shards] == [surroundings_id(found), writer.here, surroundings_id(found)]
    assert run.manifest["surroundings"][surroundings_id(found)] == found and len(run.manifest["surroundings"]) == 2
    assert run.content_hash == write_run(tmp_path / "whole", prompts, here).content_hash


def test_another_law_is_refused_by_its_fields(run):
    before = contents(run.path)
    asked = config_of(seed=9, policy=SamplingPolicy(temperature=0.7, max_new_tokens=6))
    with pytest.raises(UserError, match=r"another configuration; nothing was changed\. Differing: policy\.temperature: "
                                        r"stored 1\.0, asked 0\.7; seed: stored 1, asked 9\. Ask for the stored "
                                        r"values, or choose another folder\.$"):
        write_run(run.path, PROMPTS, asked)
    assert contents(run.path) == before


def test_fewer_rollouts_than_are_stored_are_refused(run):
    with pytest.raises(UserError, match=r"another configuration; .* n_rollouts: stored 3, asked 2\. Ask for at least "
                                        r"as many rollouts as are stored, or choose another folder\.$"):
        write_run(run.path, PROMPTS, config_of(n_rollouts=2))


def test_prompts_may_be_added_and_not_changed(run):
    other = make_prompts(3)[1:]
    with pytest.raises(UserError, match=r"holds a run with other prompts; .*Differing: prompt 'p0' is no longer "
                                        r"there\. Prompts may be added and not changed: ask for the stored ones too, "
                                        r"or choose another folder\.$"):
        write_run(run.path, other, config_of(other))
    many = make_prompts(30)
    write_run(run.path.parent / "many", many, config_of(many, n_rollouts=1))
    with pytest.raises(UserError, match=r"'p11' is no longer there; \.\.\.\. Prompts may"):
        write_run(run.path.parent / "many", many[20:], config_of(many[20:], n_rollouts=1))


def test_lost_prompts_are_restored_from_the_same_and_from_no_others(run):
    (run.path / "prompts.jsonl").unlink()
    more = make_prompts(3)
    with pytest.raises(UserError, match=r"prompts\.jsonl is missing or was altered, and other prompts are asked for\. "
                                        r"Ask for the prompts that the run was drawn with: that restores it\.$"):
        write_run(run.path, more, config_of(more))
    write_run(run.path, PROMPTS, config_of(), FakeEngine(fail_after=0))
    assert open_run(run.path).prompts() == PROMPTS


def test_damaged_shards_are_drawn_again_under_new_numbers_and_their_files_go(run):
    (run.path / "steps" / "shard-00000.parquet").write_bytes(b"torn")
    again = write_run(run.path, PROMPTS, config_of())
    assert again.content_hash == run.content_hash and [s["number"] for s in again.shards] == [1]
    assert sorted(p.name for p in run.path.glob("*/shard*")) == 2 * ["shard-00001.parquet"]
    assert len((run.path / "shards.jsonl").read_text().splitlines()) == 1


def test_a_run_whose_files_and_hashes_were_edited_together_is_refused(run):
    manifest = json.loads((run.path / "manifest.json").read_text())
    (run.path / "manifest.json").write_text(json.dumps({**manifest, "content_hash": "0" * 64}))
    with pytest.raises(UserError, match=r"does not hold the content that it was finished with: its files and "
                                        r"their hashes were edited together\. Restore it, or generate into another"):
        write_run(run.path, PROMPTS, config_of())


def test_the_folder_is_free_again_after_a_refusal_and_held_within(tmp_path):
    config = config_of()
    with pytest.raises(UserError, match="stands twice"):
        RunWriter(tmp_path / "run", config, [*PROMPTS, PROMPTS[0]])
    write_run(tmp_path / "run", PROMPTS, config)
    with pytest.raises(UserError, match="another configuration"):
        write_run(tmp_path / "run", PROMPTS, config_of(seed=5))
    with (RunWriter(tmp_path / "run", config, PROMPTS),
          pytest.raises(UserError, match="Another process is writing")):
        RunWriter(tmp_path / "run", config, PROMPTS).__enter__()
    write_run(tmp_path / "run", PROMPTS, config)


def test_a_newer_runs_folder_and_a_foreign_one_are_left_alone(run, tmp_path):
    path = run.path / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 99}))
    before = contents(run.path)
    with pytest.raises(UserError, match=r"written by a newer canopy_stats \(format 99, this one reads up to \d\)"):
        write_run(run.path, PROMPTS, config_of())
    assert contents(run.path) == before
    (tmp_path / "mine").mkdir()
    for name in ("b", "a", "d", "c"):
        (tmp_path / "mine" / name).write_text("x")
    with pytest.raises(UserError, match=r"is not empty and is not a run \(a, b, c\)\. Choose another folder, or empty"):
        write_run(tmp_path / "mine", PROMPTS, config_of())
    with pytest.raises(UserError, match="a is a file; a run needs a folder"):
        write_run(tmp_path / "mine" / "a", PROMPTS, config_of())


def test_values_come_back_from_the_files(run):
    """Entropies and tokens of one rollout as the engine drew them."""
    config = config_of()
    (one,) = FakeEngine().sample(PROMPTS, [(1, 2)], config.policy, RunKey(1, "fake", "base"), 8)
    table = open_run(run.path).steps().to_pandas().query("prompt_id == 'p1' and rollout == 2")
    np.testing.assert_array_equal(table["token_id"], one.token_ids)
    np.testing.assert_array_equal(table["entropy"].to_numpy(np.float32), one.steps["entropy"])
    row = open_run(run.path).rollouts().to_pandas().query("prompt_id == 'p1' and rollout == 2").iloc[0]
    assert (row["prompt_uid"], row["text"]) == ("chain/p1", FakeEngine().decode(one.token_ids))
