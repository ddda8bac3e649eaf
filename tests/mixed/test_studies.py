"""Small versions of the studies in analysis/: coverage, and that workers do not change an answer."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

ANALYSIS = Path(__file__).parents[2] / "analysis"


@pytest.fixture(scope="module")
def calibration(analysis_script):
    return analysis_script("calibration")


TERMS = {"lmm": 5, "beta": 7, "binomial": 5, "nbinom2": 6, "cumulative": 7}


@pytest.mark.slow
@pytest.mark.parametrize(("model", "terms"), TERMS.items())
def test_wald_intervals_cover(calibration, model, terms):
    found = calibration.run(partial(calibration.wald_panel, model), 24, 5, 1)
    table = calibration.coverage(found, calibration.truth(model))
    assert table["failed"] == 0 and len(table["coverage"]) == terms
    assert min(table["coverage"].values()) > 0.95 - 4 * table["standard_error"]
    assert np.mean(list(table["coverage"].values())) > 0.9


@pytest.mark.slow
def test_workers_do_not_change_a_study(calibration):
    task = partial(calibration.bootstrap_panel, "beta", 4)
    assert calibration.run(task, 3, 1, 1) == calibration.run(task, 3, 1, 2)


def test_results_of_the_study_are_within_the_promised_range():
    results = json.loads((ANALYSIS / "results" / "calibration.json").read_text())
    for name in ["wald lmm", "wald beta", "wald binomial", "wald nbinom2", *({"wald cumulative"} & set(results))]:
        assert results[name]["panels"] == 1000
        assert all(0.925 <= share <= 0.975 for share in results[name]["coverage"].values())
    for name in {"bootstrap lmm", "bootstrap beta"} & set(results):
        assert results[name]["panels"] == 300 and min(results[name]["coverage"].values()) > 0.9


def test_benchmark_panel(analysis_script):
    bench = analysis_script("bench_mixed")
    data = bench.simulate_panel(2, 5)
    assert data.shape == (80, 9) and data.equals(bench.simulate_panel(2, 5))
    assert bench.in_turn({"one": lambda: 1, "two": lambda: 2}, 2).keys() == {"one", "two"}
    assert len(bench.reference_panel()) == 2400
