"""The content of a run, worked out again from its definition with the standard library, and what it refuses."""

import hashlib
import json
import struct

import numpy as np
import pyarrow as pa
import pytest

from canopy_stats.schema import STEP_TERMS, Prompt, Rollout
from canopy_stats.store.content import WrongRows, first_run_content, first_shard_content, run_content, shard_content
from canopy_stats.store.tables import ShardTables, shard_tables

PROMPTS = [Prompt("a", "f" * 64, "Ünder", (1,)), Prompt("b", "e" * 64, "over", (2,))]
LENGTHS = {(0, 4): 2, (0, 5): 1, (1, 4): 3, (1, 5): 2}
NUMBERS = ("length", "entropy_sum", "entropy_rate", "surprisal_sum", "stop_hazard_sum", "surprisal_variance_sum",
           "stop_variance_sum", "entropy_sum_full_offpolicy", "surprisal_sum_full_offpolicy",
           "stop_hazard_sum_full_offpolicy")


def drawn():
    rng = np.random.default_rng(0)
    return [Rollout(p, r, np.arange(n, dtype=np.int32) + 7, "stop",
                    {name: rng.random(n, dtype=np.float32) for name in STEP_TERMS}) for (p, r), n in LENGTHS.items()]


@pytest.fixture
def tables():
    return shard_tables(PROMPTS, drawn(), "task", lambda ids: "ö" * len(ids))


def compact(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def of_rollout(row, steps, prompt_hash):
    """SHA-256 of a rollout's words, a zero byte, its numbers as float64, and each step's id and terms in 32 bits."""
    words = compact([prompt_hash, row["rollout"], row["prompt_uid"], row["finish_reason"], row["text"]])
    numbers = struct.pack("<10d", *(row[name] for name in NUMBERS))
    tokens = b"".join(struct.pack(f"<i{len(STEP_TERMS)}f", s["token_id"], *(s[t] for t in STEP_TERMS)) for s in steps)
    return int(hashlib.sha256(words + b"\0" + numbers + tokens).hexdigest(), 16)


def test_a_shards_content_is_the_sum_of_its_rollouts_hashes(tables):
    rows, steps, total = tables.rollouts.to_pylist(), tables.steps.to_pylist(), 0
    for (prompt, rollout), row in zip(LENGTHS, rows, strict=True):
        own = [s for s in steps if (s["prompt_id"], s["rollout"]) == (PROMPTS[prompt].prompt_id, rollout)]
        total += of_rollout(row, own, PROMPTS[prompt].prompt_hash)
    assert shard_content(tables, PROMPTS, range(4, 6)) == f"{total % 2**256:064x}"


def test_shards_of_any_shape_add_up_to_the_same(tables):
    whole = shard_content(tables, PROMPTS, range(4, 6))
    singles = []
    for i, prompt in enumerate(PROMPTS):
        for r in (4, 5):
            (one,) = (d for d in drawn() if (d.prompt_index, d.rollout) == (i, r))
            alone = Rollout(0, r, one.token_ids, one.finish_reason, one.steps)
            part = shard_tables([prompt], [alone], "task", lambda ids: "ö" * len(ids))
            singles.append(shard_content(part, [prompt], range(r, r + 1)))
    assert run_content({"x": 1}, singles) == run_content({"x": 1}, [whole])


def test_a_runs_content_is_of_what_was_asked_and_of_the_sum():
    big = f"{2**256 - 1:064x}"
    text = compact({"asked": {"seed": 3, "name": "é"}, "rollouts": f"{1:064x}"})
    assert run_content({"seed": 3, "name": "é"}, [big, f"{2:064x}"]) == hashlib.sha256(text).hexdigest()


def test_the_first_formats_hash_is_of_the_configuration_and_its_shards(tables):
    text = compact({"config": {"seed": 3}, "shards": [[0, "ab"], [1, "cd"]]})
    assert first_run_content({"seed": 3}, [(0, "ab"), (1, "cd")]) == hashlib.sha256(text).hexdigest()
    other = ShardTables(tables.rollouts, tables.steps.set_column(3, "token_id", [np.arange(8, dtype=np.int32)]))
    assert len({first_shard_content(t) for t in (tables, other, ShardTables(tables.steps, tables.rollouts))}) == 3


def changed(table, name, at, value):
    """A table with one value of a column replaced."""
    values = table[name].to_pylist()
    values[at] = value
    place = table.column_names.index(name)
    return table.set_column(place, table.schema.field(place), pa.array(values, table.schema.field(place).type))


@pytest.mark.parametrize("kind", ["rollouts", "steps"])
@pytest.mark.parametrize("name", ["prompt_id", "rollout"])
def test_rows_of_another_shard_are_refused_by_column(tables, kind, name):
    value = {"prompt_id": "b", "rollout": 5}[name]
    wrong = {"rollouts": tables.rollouts, "steps": tables.steps, kind: changed(getattr(tables, kind), name, 0, value)}
    with pytest.raises(WrongRows, match=f"^{name} is not what this shard should hold$"):
        shard_content(ShardTables(**wrong), PROMPTS, range(4, 6))


@pytest.mark.parametrize(("name", "value"), [("step", 1), ("token_id", 99)])
def test_steps_that_contradict_the_rollouts_are_refused(tables, name, value):
    wrong = ShardTables(tables.rollouts, changed(tables.steps, name, 5, value))
    with pytest.raises(WrongRows, match=f"^{name} is not what this shard should hold$"):
        shard_content(wrong, PROMPTS, range(4, 6))


def test_steps_are_as_many_as_the_rollouts_are_long(tables):
    for table in (changed(tables.rollouts, "length", 1, 2), changed(tables.rollouts, "length", 1, 0)):
        with pytest.raises(WrongRows, match="^the steps are not as many as the rollouts are long$"):
            shard_content(ShardTables(table, tables.steps), PROMPTS, range(4, 6))


def test_every_stored_value_counts(tables):
    """All but the columns that follow from the others: prompt_id, rollout, step, and the rollouts' own token ids."""
    known = {shard_content(tables, PROMPTS, range(4, 6))}
    for kind, names in (("rollouts", [n for n in NUMBERS if n != "length"] + ["prompt_uid", "finish_reason", "text"]),
                        ("steps", STEP_TERMS)):
        table = getattr(tables, kind)
        for name in names:
            value = "another" if pa.types.is_string(table[name].type) else 0.125
            both = {"rollouts": tables.rollouts, "steps": tables.steps, kind: changed(table, name, 2, value)}
            known.add(shard_content(ShardTables(**both), PROMPTS, range(4, 6)))
    assert len(known) == 1 + 9 + 3 + len(STEP_TERMS)
