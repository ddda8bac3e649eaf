"""The tables of stop strings say what StopStrings says of the same text."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canopy_stats.generation.ending import StopStrings
from canopy_stats.generation.stop_tables import StopTables, start_state

LETTER = st.sampled_from("ab\u00e9")
TEXT = st.text(LETTER, min_size=1, max_size=4)
PIECE = st.binary(max_size=3).map(lambda b: bytes(b"ab\xc3\xa9"[x % 4] for x in b))


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(strings=st.lists(TEXT, min_size=1, max_size=3), pieces=st.lists(PIECE, min_size=3, max_size=12),
       aside=st.sets(st.integers(0, 2)), data=st.data())
def test_tables_against_strings(strings, pieces, aside, data):
    ids = st.lists(st.integers(0, len(pieces) - 1), max_size=8)
    prompt, drawn = data.draw(ids), data.draw(ids)
    asked, tables = StopStrings(strings, pieces, aside), StopTables.of(strings, pieces, aside)
    tail = asked.start(prompt)
    state = start_state(strings, tail)
    for token in drawn:
        completing = tables.completing[state]
        assert completing[completing >= 0].tolist() == asked.completing(tail).tolist()
        after = int(tables.after[state, token])
        assert (after == tables.ended) == asked.completed(tail, token)
        if after == tables.ended:
            break
        state, tail = after, asked.after(tail, token)
        assert state == start_state(strings, tail)
    assert (tables.after[tables.ended] == tables.ended).all()


def test_tables_survive_the_disk(tmp_path):
    tables = StopTables.of(["ab", "b\u00e9"], [b"a", b"b", b"ab", b"\xc3", b"\xa9"], [1])
    tables.save(tmp_path / "stops.npz")
    again = StopTables.load(str(tmp_path / "stops.npz"))
    np.testing.assert_array_equal(again.after, tables.after)
    np.testing.assert_array_equal(again.completing, tables.completing)
    assert tables.read(0, [0]) != 0 and tables.read(0, [0, 1]) == tables.ended
