"""The page on mixed models: every block runs, and what it prints stands below it."""

import contextlib
import io
import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "mixed-models.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```\n(?:\n```text\n(.*?)\n```)?", PAGE, flags=re.DOTALL)
NUMBER = re.compile(r"[-+]?(\d+\.?\d*(e[-+]?\d+)?|inf|nan)", re.IGNORECASE)
SEARCH = ("evaluations", "distance to the optimum")  # how long the search took is the machine's affair


def tokens(text):
    return [word for line in text.splitlines() if not any(s in line for s in SEARCH) for word in line.split()]


def same(ours, printed):
    if NUMBER.fullmatch(ours) and NUMBER.fullmatch(printed):
        return float(ours) == pytest.approx(float(printed), rel=0.02, abs=0.0021, nan_ok=True)
    return ours == printed


@pytest.mark.slow
def test_every_block_runs_and_prints_what_the_page_says():
    pytest.importorskip("marginaleffects")
    names: dict[str, object] = {}
    for code, printed in BLOCKS:
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(code, "docs/mixed-models.md", "exec"), names)
        ours, theirs = tokens(out.getvalue()), tokens(printed)
        assert len(ours) == len(theirs), code
        wrong = [(a, b) for a, b in zip(ours, theirs, strict=True) if not same(a, b)]
        assert not wrong, code


def test_the_page_opens_with_a_binary_example_and_names_files_that_are_there():
    assert 'family="binomial"' in BLOCKS[0][0] and len(BLOCKS) >= 8
    root = Path(__file__).parents[2]
    for name in re.findall(r"`(tests/[\w/.]+)`", PAGE):
        assert (root / name).is_file(), name
