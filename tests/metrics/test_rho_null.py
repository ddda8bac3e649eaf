"""The study of rho's null: position alone leaves no excess, effects of length stay; small here, whole in analysis/."""

import json
from pathlib import Path

import numpy as np
import pytest

from canopy_stats.metrics.association import RHOS
from canopy_stats.metrics.rho import prompt_coefficients
from canopy_stats.slope import rollout_law as laws

ANALYSIS = Path(__file__).parents[2] / "analysis"
SIZES, SMALL = ("20 x 50", "100 x 24"), {"20 x 50": (20, 50)}


@pytest.fixture(scope="module")
def study(analysis_script):
    return analysis_script("rho_null")


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["front-loaded, negative binomial", "boilerplate, geometric"])
def test_position_alone_leaves_no_excess(study, scenario):
    entry = next(iter(study.study({scenario: study.NULL[scenario]}, 6, 1, SMALL).values()))
    for k in RHOS:
        error = entry["excess"][k]["se"]
        assert abs(entry["raw"][k]["mean"]) > 0.4
        assert abs(entry["excess"][k]["mean"]) < 0.03 + 4 * error < 0.15
        assert abs(entry["plug-in"][k]["mean"]) > 0.04  # the null without a model is wrong here


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["flat", "front-loaded", "boilerplate"])
def test_an_effect_of_length_stays(study, shape):
    name = f"{shape}, effect +0.6"
    entry = study.study({name: study.EFFECT[name]}, 6, 1, SMALL)[f"{name} | 20 x 50"]
    kept = study.retention(entry, shape == "flat")
    assert all(0.88 < kept["adjusted / oracle"][k] < 1.1 for k in RHOS)
    assert all(entry["adjusted"][k]["mean"] > 0.2 for k in RHOS)
    if shape == "flat":
        assert min(kept["excess / raw"].values()) > 0.9


def test_stored_results_of_the_study_keep_the_promise():
    results = json.loads((ANALYSIS / "results" / "rho_null.json").read_text())
    assert results["seeds"] >= 50
    for size in SIZES:
        assert max(filter(None, results["worst_null"][size]["excess"].values())) <= 0.03
    for name, kept in results["retention"].items():
        if name.endswith(SIZES):
            assert min(kept["adjusted / oracle"].values()) >= 0.9, name
            assert name.startswith("flat") is ("excess / raw" in kept)
            assert min(kept.get("excess / raw", {"": 1}).values()) >= 0.9, name


def test_prompt_coefficients_of_one_prompt_take_plain_arrays(study):
    drawn = laws.simulate_rollouts(study.NULL["boilerplate, geometric"], 1, 30, np.random.default_rng(0))
    steps, _ = study.prompts_of(drawn)[0]
    found = prompt_coefficients(steps)
    assert found.raw.shape == found.excess.shape == found.adjusted.shape == (1, 3)
