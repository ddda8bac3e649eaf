"""The report of a GPU runs whole on a CPU with a tiny model, and says what it left out."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# What neither torch nor transformers brings along.
ELSEWHERE = ["pyarrow", "pandas", "scipy", "statsmodels", "sklearn", "peft", "gguf", "sentence_transformers",
             "matplotlib", "formulaic", "mixedlm", "vllm"]
RUN = f"""
import runpy, sys
for name in {ELSEWHERE}:
    sys.modules[name] = None
sys.argv = ["gpu_report.py", *sys.argv[1:]]
runpy.run_path("analysis/gpu_report.py", run_name="__main__")
"""


def run(out: Path, *options: str) -> tuple[dict, str]:
    """The report's data and page."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", RUN, "--out", str(out), "--models", "tiny", *options], cwd=ROOT,
                          env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads((out / "gpu_report.json").read_text()), (out / "gpu_report.html").read_text()


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> tuple[dict, str]:
    return run(tmp_path_factory.mktemp("report"), "--rows", "2", "3", "--steps", "8", "--rounds", "1")


@pytest.mark.slow
def test_every_method_is_timed_at_every_size(found):
    rows = found[0]["models"]["tiny"]["speed"]
    assert [(r["rollouts"], r["method"]) for r in rows] == [
        (n, method) for n in (2, 3) for method in ("bare loop", "engine, full law", "engine, top-k 100",
                                                   "engine, top-p 0.95", "generate, scores stacked")]
    assert all(r["tokens_per_second"] > 0 and r["rounds"] == 1 for r in rows)
    assert [r["times_bare"] for r in rows if r["method"] == "bare loop"] == [1, 1]


@pytest.mark.slow
def test_terms_agree_with_double_precision_and_drift_is_seen(found):
    model = found[0]["models"]["tiny"]
    assert all(law["largest"] < 1e-4 and law["compared"] > 16 for law in model["terms"].values())
    assert [(f["batch"], f["flips"]) for f in model["flips"]] == [(1, 0), (7, 0)]
    assert model["drift"]["steps"] == 32 and 1e-6 < model["drift"]["mean_divergence"] < 0.1
    assert all(math.isfinite(value) for value in model["drift"].values())


@pytest.mark.slow
def test_the_engines_own_choices_change_no_token(found):
    model = found[0]["models"]["tiny"]
    for part, rollouts in (("late", 2), ("mixed", 8), ("compiled", 2)):
        choice = model[part]
        assert choice["flips"] == 0 and choice["rollouts"] == rollouts and choice["tokens"] > rollouts
        assert choice["least"] <= choice["times_as_fast"] <= choice["most"]
        assert choice["largest_entropy_difference"] < 0.1  # bfloat16, in batches of other sizes
    assert model["compiled"]["with"] == "eager" and "waits" not in model["late"]
    grown = model["grown"]
    assert grown["longest"] - 1 <= grown["columns"] < grown["columns_of_the_whole"]
    assert grown["mb"] < grown["mb_of_the_whole"]


@pytest.mark.slow
def test_the_page_shows_what_the_data_hold_and_what_is_missing(found):
    data, page = found
    assert data["skipped"] == ["tiny, vllm: not installed"] and "tiny, vllm: not installed" in page
    assert "generate, scores stacked" in page and "src=" not in page and "href=" not in page


def test_without_time_everything_is_listed_and_nothing_measured(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "analysis"))
    gpu_report = pytest.importorskip("gpu_report")
    assert gpu_report.main(["--out", str(tmp_path), "--models", "1b", "8b", "--minutes", "0"]) == 0
    data = json.loads((tmp_path / "gpu_report.json").read_text())
    assert data["models"] == {} and data["skipped"] == ["1b: the model: 0 s were left", "8b: the model: 0 s were left"]
