"""A short run of the fuzzing program: nothing but UserError from what strangers can send."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

ANALYSIS = Path(__file__).parents[1] / "analysis"


@pytest.mark.slow
@pytest.mark.skipif(not (ANALYSIS / "fuzz.py").is_file(), reason="a checkout carries the program")
def test_strange_inputs_are_refused_in_words(monkeypatch):
    monkeypatch.syspath_prepend(str(ANALYSIS))
    monkeypatch.delitem(sys.modules, "fuzz", raising=False)
    from fuzz import TARGETS, fuzz

    counts = fuzz(20 * len(TARGETS), shares=dict.fromkeys(TARGETS, 1))
    assert {name: count["failed"] for name, count in counts.items() if count["failed"]} == {}
    past = {name: count["accepted"] + count["refused_later"] for name, count in counts.items()}
    assert all(count["refused"] + past[name] == 20 for name, count in counts.items())
    assert min(past.values()) >= 5  # of twenty; that three in ten get past each parser is what the long run shows


@pytest.mark.skipif(not (ANALYSIS / "fuzz.py").is_file(), reason="a checkout carries the program")
def test_the_long_run_had_no_other_error_and_got_past_the_parsers():
    kept = json.loads((ANALYSIS / "results" / "fuzz.json").read_text())["counts"]
    assert sum(count["inputs"] for count in kept.values()) >= 20_000
    assert not any(count["failed"] for count in kept.values())
    assert min((c["accepted"] + c["refused_later"]) / c["inputs"] for c in kept.values()) >= 0.3


def test_what_an_endpoint_and_a_verdict_file_may_hold(tmp_path):
    from canopy_stats.metrics.judging.rate_limit import retry_after
    from canopy_stats.metrics.judging.verdict_file import VerdictFile

    assert retry_after(f"Mon, 1 Jan {'9' * 20} 00:00:00 GMT") is None
    (tmp_path / "v.jsonl").write_text("[" * 100_000 + '\n{"key": "a", "same": true}\n')
    assert (VerdictFile(tmp_path / "v.jsonl").known, VerdictFile(tmp_path / "v.jsonl").torn) == ({"a": True}, 1)


def test_a_file_where_a_study_wants_a_folder(tmp_path):
    from canopy_stats import files
    from canopy_stats.schema import UserError

    sys.path.insert(0, str(Path(__file__).parent / "study"))
    try:
        from small_studies import write_study
    finally:
        sys.path.pop(0)
    from canopy_stats.study import read_study

    (tmp_path / "taken").write_text("x")
    with pytest.raises(UserError, match="taken is a file; a study needs a folder"):
        read_study(write_study(tmp_path)).folder(tmp_path / "taken")
    assert files.file_sha256(tmp_path / "taken" / "below") is None
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        files.file_sha256(tmp_path)


def test_a_shard_with_columns_that_no_run_has_is_damaged(tmp_path):
    import json

    import pyarrow as pa
    import pyarrow.parquet as pq
    from fake_engine import make_config, make_prompts, write_run

    import canopy_stats as cs
    from canopy_stats import files

    asked = make_prompts(2)
    write_run(tmp_path / "run", asked, make_config(asked, n_rollouts=3))
    log = tmp_path / "run" / "shards.jsonl"
    entry = json.loads(log.read_text())
    path = tmp_path / "run" / entry["steps"]["path"]
    table = pq.read_table(path)
    pq.write_table(table.set_column(table.column_names.index("logprob"), "logprob", pa.nulls(table.num_rows)), path)
    log.write_text(json.dumps(entry | {"steps": entry["steps"] | {"sha256": files.file_sha256(path)}}) + "\n")
    assert cs.open_run(tmp_path / "run", allow_partial=True).damaged == (0,)


@pytest.mark.parametrize(("name", "data", "words"), [
    ("p.csv", b"task,D\n\xf3,1\n", "is no CSV table in UTF-8"), ("p.csv", b"", "is no CSV table in UTF-8"),
    ("p.csv", b"a,b\n1,2,3,4\n1,2\n", "lacks"), ("p.csv", b"task,D\nx,1\n", "lacks"),
    ("p.parquet", b"PAR1", "is not a readable Parquet file")])
def test_what_is_no_panel_is_refused_in_words(tmp_path, name, data, words):
    from canopy_stats.panels import read_panel
    from canopy_stats.schema import UserError

    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=words):
        read_panel(tmp_path / name)


def test_a_panel_whose_note_is_damaged(tmp_path):
    import canopy_stats as cs
    from canopy_stats.panels import read_panel, write_panel
    from canopy_stats.schema import UserError

    write_panel(cs.load_demo_panel().head(4), tmp_path / "p.csv")
    (tmp_path / "p.csv.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match="p.csv.json is damaged"):
        read_panel(tmp_path / "p.csv")
