"""What is packed for the page is read back as the format says."""

import base64
import gzip
import json
import struct
from dataclasses import replace

import numpy as np
import pytest
from hostile import HOSTILE, PIECES, cell
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from canopy_stats.report.page.explorer import Explorer, index, packed, shade_limit, squeezed


def unpacked(text):
    """The arrays of a packed cell, read by the format's description alone."""
    data = gzip.decompress(base64.b64decode(text))
    (size,) = struct.unpack("<I", data[:4])
    header, at = json.loads(data[4:4 + size]), 4 + size
    assert at % 4 == 0
    total, arrays = sum(header["length"]), {}
    for name, kind in (("token", "<u4" if header["wide"] else "<u2"), ("surprisal", "<u2"), ("entropy", "u1"),
                       ("stop", "u1")):
        raw = np.frombuffer(data, np.dtype(kind), total, at)
        at += raw.nbytes
        top = header["tops"].get(name)
        arrays[name] = raw if top is None else top * (raw / np.iinfo(raw.dtype).max) ** 2
    assert at == len(data)
    return header, arrays


def test_a_cell_comes_back():
    given_cell = cell("count", "oak", "base", 3)
    header, arrays = unpacked(packed(given_cell))
    np.testing.assert_array_equal(arrays["token"], given_cell.token)
    np.testing.assert_array_equal(header["length"], given_cell.length)
    np.testing.assert_array_equal(header["stopped"], given_cell.stopped)
    np.testing.assert_allclose(arrays["entropy"], given_cell.entropy, rtol=0.02, atol=0.002)
    np.testing.assert_allclose(arrays["surprisal"], -given_cell.logprob, rtol=2e-4, atol=1e-6)
    np.testing.assert_allclose(arrays["stop"], given_cell.stop_probability, rtol=0.05, atol=0.002)
    assert tuple(header["pieces"]) == PIECES and header["special"] == [len(PIECES) - 1] and header["texts"] is None
    assert header["prompts"][1] == {"id": f"p1 {HOSTILE}", "text": f"prompt 1 of count {HOSTILE}", "rollouts": 8,
                                    "measured": f"D 0.1 {HOSTILE}"}


def test_more_pieces_than_two_bytes_count_are_kept():
    pieces = tuple(map(str, range(70_000)))
    tokens = np.array([69_999, 65_536, 0])
    large = replace(cell("t", "f", "v", 0), prompts=(), pieces=pieces, token=tokens, length=np.array([3]),
                    stopped=np.array([True]), entropy=np.ones(3), logprob=-np.ones(3), stop_probability=np.zeros(3))
    header, arrays = unpacked(packed(large))
    assert header["wide"]
    np.testing.assert_array_equal(arrays["token"], tokens)


def test_packing_is_the_same_each_time():
    assert packed(cell("t", "f", "v", 5)) == packed(cell("t", "f", "v", 5)) != packed(cell("t", "f", "v", 6))


@pytest.mark.slow
@given(hnp.arrays(np.float64, st.integers(1, 20), elements=st.floats(0, 100)), st.sampled_from([np.uint8, np.uint16]))
def test_squeezing_errs_by_half_a_step_at_most(values, kind):
    top, largest = float(values.max()), np.iinfo(kind).max
    q = squeezed(values, top, np.dtype(kind)).astype(float)
    np.testing.assert_array_less(np.abs(q - largest * np.sqrt(values / top)) if top else q, 0.5 + 1e-6)


def test_index_names_the_cells_and_the_darkest_shade():
    cells = (cell("count", "oak", "base", 1), cell("walk", "elm", "tuned", 2))
    made = index(Explorer(cells))
    assert made["cells"] == [{"task": "count", "family": "oak", "variant": "base"},
                             {"task": "walk", "family": "elm", "variant": "tuned"}]
    both = np.concatenate([c.entropy for c in cells])
    assert np.mean(both <= made["shade"]) >= 0.99 and np.mean(both <= made["shade"] - 0.5) < 0.99


@pytest.mark.parametrize(("entropies", "limit"), [([], 0.5), ([np.zeros(3)], 0.5), ([np.full(9, 2.1)], 2.5)])
def test_the_shade_is_never_nothing(entropies, limit):
    assert shade_limit(entropies) == limit
