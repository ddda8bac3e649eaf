"""The sampled mutants that are stored: of modules and tests that exist, nine of ten killed, each survivor explained."""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "analysis"))

from mutants import MIRRORS, RESULTS  # noqa: E402

STORED = json.loads(RESULTS.read_text())


def test_mirrors_name_modules_and_tests_that_exist():
    assert all((ROOT / "canopy_stats" / f"{module}.py").is_file() for module in MIRRORS)
    assert all((ROOT / "tests" / test).is_file() for tests in MIRRORS.values() for test in tests)
    assert set(STORED) <= set(MIRRORS)


def test_nine_of_ten_sampled_mutants_are_killed():
    killed, lives = sum(one["killed"] for one in STORED.values()), sum(len(one["survivors"]) for one in STORED.values())
    assert killed >= 0.9 * (killed + lives)


def test_every_survivor_has_its_reason():
    unexplained = [key for one in STORED.values() for key, found in one["survivors"].items() if not found["reason"]]
    assert unexplained == []
