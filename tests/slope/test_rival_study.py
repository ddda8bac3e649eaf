"""The studies of rival laws and of the change of rho: that they can be gone on with, and what their results promise."""

import json
from pathlib import Path

import numpy as np
import pytest

ANALYSIS = Path(__file__).parents[2] / "analysis"


@pytest.fixture(scope="module")
def rival(analysis_script):
    return analysis_script("rival_study")


@pytest.mark.slow
def test_going_on_is_the_same_as_not_stopping(rival, monkeypatch):
    law = rival.cs.Scenario(families=3, tasks=2, prompts=15)
    whole = rival.extended("x", law, [], 3, 1, 1)
    monkeypatch.setattr(rival, "BATCH", 2)
    some = rival.extended("x", law, [], 3, 1, 2)
    assert len(some) == 2 and rival.extended("x", law, some, 3, 1, 1) == whole
    found = rival.summary([[0.1, 0.05, 0.04, -0.02, 0.2], [0.3, 0.1, 0.01, 0.1, 0.5], [np.nan] * 5])
    assert (found["panels"], found["identified"], found["rejects"], found["covers"]) == (3, 0.6667, 1.0, 0.5)
    assert found["mean"] == pytest.approx(0.2) and found["half_width"] == pytest.approx(0.155)


def test_stored_levels_under_rival_laws(rival):
    """Rates of rejection and coverage of every scenario that was run, and no bias."""
    stored = json.loads((ANALYSIS / "results" / "rival_study.json").read_text())
    known = {name: rival.summary(rows) for name, rows in stored["rows"].items()}
    assert set(known) <= set(rival.scenarios()) and len(known) >= 4 and known == stored["summary"]
    laws = [found for name, found in known.items() if "length x" in name]
    assert all(abs(found["mean"]) <= 0.05 and found["identified"] == 1 for found in laws)
    assert max(found["rejects"] for found in laws) <= 0.07 and min(found["covers"] for found in laws) >= 0.93
    reacting = [found for name, found in known.items() if "reacting" in name]
    assert len(reacting) == 4 and all(found["panels"] == 400 for found in reacting)
    assert max(found["rejects"] for found in reacting) <= 0.07 and min(found["covers"] for found in reacting) >= 0.93


def test_stored_levels_of_the_change_of_rho():
    stored = json.loads((ANALYSIS / "results" / "rho_change_study.json").read_text())["scenarios"]
    null = [found for name, found in stored.items() if "change 0," in name]
    assert len(null) >= 3 and all(found["panels"] == 400 for found in stored.values())
    for found in null:
        assert found["population"]["rejects_high"] <= 0.07 and found["population"]["covers"] >= 0.93
        assert abs(found["population"]["mean"]) <= 0.05
    assert stored["3 x 4, change 0.3, sd 0"]["population"]["rejects"] >= 0.95


@pytest.mark.slow
def test_one_panel_of_the_change_of_rho(analysis_script):
    study = analysis_script("rho_change_study")
    one, two = (study.one_panel((3, 2, 0.3, 0.1), np.random.SeedSequence(1)) for _ in range(2))
    assert one == two and len(one) == 2 and one[0][2] < one[0][0] < one[0][3]
