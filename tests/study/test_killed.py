"""A study killed in the middle of a write of every stage ends with the results of an uninterrupted one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from canopy_stats.study.stages import KINDS

pytestmark = pytest.mark.slow  # each test runs stages of a study

PROGRAM = Path(__file__).with_name("killed.py")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the program forks")
def test_killed_in_every_stage(tmp_path):
    told = subprocess.run([sys.executable, "-W", "ignore", str(PROGRAM), str(tmp_path)], capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    found = json.loads(told.stdout.splitlines()[-1])
    assert found["hit"] == list(KINDS) and not found["torch"]
    assert found["resumed"] == found["whole"]
