"""A run at a glance: what opening it says, read anew after every change of a file that opening reads."""

import shutil

import pytest
from fake_engine import make_config, make_prompts, write_run

from canopy_stats.schema import SamplingPolicy, UserError
from canopy_stats.store import Glance, glance, glances, open_run


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    prompts = make_prompts(2)
    config = make_config(prompts, n_rollouts=3, policy=SamplingPolicy(max_new_tokens=6))
    return write_run(tmp_path_factory.mktemp("glances") / "run", prompts, config).path


@pytest.fixture
def path(stored, tmp_path, monkeypatch):
    monkeypatch.setattr(glances, "TOO_FRESH", 0)  # the copy is as fresh as can be
    shutil.copytree(stored, tmp_path / "run")
    return tmp_path / "run"


def opened(path):
    run = open_run(path, allow_partial=True)
    return Glance(run.n_stored, run.n_tokens, len(run.damaged), run.complete, run.manifest["finished"] is not None,
                  run.content_hash)


def test_the_second_look_opens_nothing(path, monkeypatch):
    first = glance(path)
    assert first == opened(path) and first.complete and first.finished and first.rollouts == 6
    monkeypatch.setattr(glances, "open_run", lambda *a, **k: pytest.fail("opened"))
    assert glance(path) == first
    (path / "tables").mkdir()
    (path / "tables" / "more.parquet").write_bytes(b"what is made from a run is not the run")
    assert glance(path) == first


def _flipped(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))


def _only_copied(file):
    """Another file of the same content: nothing tells but time and inode, and the shard is intact."""
    shutil.copy(file, file.with_suffix(".tmp"))
    file.with_suffix(".tmp").replace(file)


@pytest.mark.parametrize(("name", "change", "damaged"), [
    ("steps/shard-00000.parquet", _flipped, 1), ("rollouts/shard-00000.parquet", _flipped, 1),
    ("steps/shard-00000.parquet", lambda file: file.unlink(), 1),
    ("shards.jsonl", lambda file: file.write_bytes(b""), 0), ("shards.jsonl", lambda file: file.unlink(), 0),
    ("steps/shard-00000.parquet", _only_copied, 0)])
def test_every_change_is_seen(path, name, change, damaged):
    before = glance(path)
    change(path / name)
    after = glance(path)
    assert after == opened(path) and after.damaged == damaged and glance(path) == after
    assert (after == before) is (change is _only_copied)


@pytest.mark.parametrize("name", ["manifest.json", "prompts.jsonl"])
def test_a_run_that_cannot_be_opened_is_refused_each_time(path, name):
    glance(path)
    (path / name).write_text("{}")
    for _ in range(2):
        with pytest.raises(UserError):
            glance(path)


def test_nothing_is_kept_of_files_that_change_now(path, monkeypatch):
    monkeypatch.setattr(glances, "TOO_FRESH", 10**15)
    assert glance(path) == opened(path) and not (path / glances.KEPT).exists()


@pytest.mark.parametrize("kept", ["", "[]", '{"format": 1}', '{"format": 2, "looks": "", "found": {}}'])
def test_what_is_kept_may_be_anything(path, kept):
    right = glance(path)
    (path / glances.KEPT).write_text(kept)
    assert glance(path) == right


def test_a_copy_and_what_another_version_kept_are_looked_at_again(path, monkeypatch):
    before, looked, copy = glance(path), [], path.with_name("copy")
    monkeypatch.setattr(glances, "open_run", lambda p, **k: looked.append(p) or open_run(p, **k))
    shutil.copytree(path, copy)
    assert glance(copy) == before and looked == [copy]
    monkeypatch.setattr(glances, "_FORMAT", 2)
    assert glance(path) == before and looked == [copy, path]


def test_a_folder_that_cannot_be_written_costs_the_keeping_alone(path, monkeypatch):
    def full(*_):
        raise UserError("the disk is full")

    monkeypatch.setattr(glances.files, "write_atomic", full)
    assert glance(path) == opened(path) and not (path / glances.KEPT).exists()
