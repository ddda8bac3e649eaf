"""A short run of the fuzzing program: nothing but UserError from what strangers can send."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ANALYSIS = Path(__file__).parents[1] / "analysis"


@pytest.mark.skipif(not (ANALYSIS / "fuzz.py").is_file(), reason="a checkout carries the program")
def test_strange_inputs_are_refused_in_words(monkeypatch):
    monkeypatch.syspath_prepend(str(ANALYSIS))
    monkeypatch.delitem(sys.modules, "fuzz", raising=False)
    from fuzz import fuzz

    counts = fuzz(400)
    assert {name: count["failed"] for name, count in counts.items() if count["failed"]} == {}
    assert all(count["refused"] + count["accepted"] == 100 for count in counts.values())
