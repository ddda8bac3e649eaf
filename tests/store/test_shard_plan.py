"""Which rollouts a shard holds and which are missing: by hand, and for any shards that may be stored."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canopy_stats.store import plan
from canopy_stats.store.plan import ShardPlan

NAMES = [f"{i:064x}" for i in range(20)]


def stored(number, prompts, start, stop):
    return {"number": number, "prompts": [NAMES[i] for i in prompts], "span": [start, stop]}


@given(n_prompts=st.integers(1, 60), n_rollouts=st.integers(2, 200))
def test_blocks_cover_every_rollout_once(n_prompts, n_rollouts):
    plans = list(plan.blocks(n_prompts, n_rollouts))
    held = [(shard.prompts[i], r) for shard in plans for i, r in shard.pairs]
    assert sorted(held) == [(p, r) for p in range(n_prompts) for r in range(n_rollouts)]
    assert all(len(shard.pairs) <= 256 for shard in plans)


def test_blocks_are_eight_prompts_by_thirty_two_rollouts():
    first, second = tuple(range(8)), (8, 9)
    assert list(plan.blocks(10, 40)) == [ShardPlan(first, range(32)), ShardPlan(first, range(32, 40)),
                                         ShardPlan(second, range(32)), ShardPlan(second, range(32, 40))]


@given(st.data())
def test_missing_and_stored_make_the_whole_rectangle(data):
    """Whatever was stored before, drawing what is missing leaves every rollout once."""
    prompts = NAMES[:data.draw(st.integers(1, 20))]
    n, old_prompts = data.draw(st.integers(2, 80)), data.draw(st.integers(0, 20))
    old_n, whole = data.draw(st.integers(1, n)), data.draw(st.booleans())
    before = plan.blocks(min(old_prompts, len(prompts)), old_n)
    entries = {i: entry(i, block) for i, block in enumerate(before)}
    kept = {i: e for i, e in entries.items() if data.draw(st.booleans())}
    for shard in plan.missing(prompts, n, kept.values(), whole=whole):
        for number in shard.replaces:
            del kept[number]
        kept[max(kept, default=-1) + 1000] = entry(max(kept, default=-1) + 1000, shard)
    assert plan.covers(kept.values(), prompts, n) and plan.strangers(kept.values(), prompts, n) == []


def entry(number, shard):
    return stored(number, shard.prompts, shard.rollouts.start, shard.rollouts.stop)


THREE = (0, 1, 2)
GAPS = [ShardPlan(THREE, range(10, 32)), ShardPlan(THREE, range(32, 40))]


@pytest.mark.parametrize(("shards", "whole", "expected"), [
    ([], False, [ShardPlan(THREE, range(32)), ShardPlan(THREE, range(32, 40))]),
    ([stored(7, THREE, 0, 10)], False, GAPS),
    ([stored(7, THREE, 0, 10)], True, [ShardPlan(THREE, range(32), (7,)), ShardPlan(THREE, range(32, 40))]),
    # The gaps of one prompt alone, and of those that lack the same together.
    ([stored(7, (1,), 0, 40), stored(8, (0, 2), 5, 20)], False,
     [ShardPlan((0, 2), range(5)), ShardPlan((0, 2), range(20, 32)), ShardPlan((0, 2), range(32, 40))]),
    # What reaches over the edge of a block stays: the other block needs it.
    ([stored(7, THREE, 31, 40)], True, [ShardPlan(THREE, range(31))]),
    ([stored(7, THREE, 30, 33)], True, [ShardPlan(THREE, range(30)), ShardPlan(THREE, range(33, 40))]),
    ([stored(7, (0, 1, 2, 3), 0, 10)], True, GAPS),
    ([stored(7, THREE, 0, 1)], True, [ShardPlan(THREE, range(32), (7,)), ShardPlan(THREE, range(32, 40))]),
    ([stored(7, THREE, 0, 32), stored(8, THREE, 32, 40)], True, []),
], ids=str)
def test_what_is_missing_of_three_prompts_by_forty(shards, whole, expected):
    assert plan.missing(NAMES[:3], 40, shards, whole=whole) == expected
    assert plan.covers(shards, NAMES[:3], 40) == (not expected)


def test_coverage_is_sorted_by_prompt():
    found = plan.coverage([stored(1, (0, 1), 32, 40), stored(2, (0,), 0, 32)])
    assert found == {NAMES[0]: [(0, 32), (32, 40)], NAMES[1]: [(32, 40)]}


def test_strangers_are_other_prompts_rollouts_beyond_and_doubles():
    good = [stored(0, (0, 1), 0, 32), stored(1, (0, 1), 32, 40)]
    assert plan.strangers(good, NAMES[:2], 40) == []
    foreign, beyond, double = stored(5, (1, 2), 40, 41), stored(3, (1,), 40, 42), stored(4, (1,), 31, 32)
    assert plan.strangers([*good, foreign], NAMES[:2], 41) == [5]
    assert plan.strangers([*good, beyond], NAMES[:2], 41) == [3]
    assert plan.strangers([double, *good], NAMES[:2], 40) == [4]
    assert plan.strangers([*good, double, foreign], NAMES[:2], 41) == [4, 5]


def test_parts_hold_whole_prompts_in_their_order():
    place = {name: i for i, name in enumerate(NAMES)}
    a, b, c = stored(0, (0, 1), 0, 32), stored(1, (0, 1), 32, 40), stored(2, (2, 3), 0, 40)
    assert plan.in_parts([c, b, a], place) == [[a, b], [c]]
    mixed = stored(3, (1, 4), 40, 50)  # reaches over prompts 2 and 3
    assert plan.in_parts([mixed, c, b, a], place) == [[a, b, mixed, c]]
    assert plan.in_parts([], place) == []


def test_each_file_of_a_shard_is_vouched_for_by_its_own_hash():
    shard = {"rollouts": {"path": "r", "sha256": "1"}, "steps": {"path": "s", "sha256": "2"}}
    assert [plan.vouched(shard, kind)["path"] for kind in ("rollouts", "steps")] == ["r", "s"]
