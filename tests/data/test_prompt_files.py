"""The four prompt files: complete, varied, and reproduced by their script."""

import json
from itertools import combinations
from pathlib import Path

import pytest

from data.prompts.make import MAX_JACCARD, jaccard, main, words

FOLDER = Path(__file__).resolve().parents[2] / "data" / "prompts"
TASKS = ("completion", "coding", "math", "stories")


def read(task: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (FOLDER / f"{task}.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("task", TASKS)
def test_hundred_distinct_prompts_with_ids(task: str) -> None:
    rows = read(task)
    assert [row["id"] for row in rows] == [f"{i:03d}" for i in range(100)]
    assert len({row["prompt"] for row in rows}) == 100
    assert all(set(row) == {"id", "prompt"} and row["prompt"] == row["prompt"].strip() for row in rows)
    assert not any(mark in row["prompt"] for row in rows for mark in "{}[]<>|")


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_no_near_duplicates(task: str) -> None:
    sets = [words(row["prompt"]) for row in read(task)]
    assert max(jaccard(a, b) for a, b in combinations(sets, 2)) <= MAX_JACCARD


def test_jaccard_of_known_sets() -> None:
    assert words("The cat, the Dog!") == {"the", "cat", "dog"}
    assert jaccard({"a", "b", "c"}, {"b", "c", "d"}) == 0.5


@pytest.mark.slow
def test_script_writes_the_same_bytes(tmp_path: Path) -> None:
    main(tmp_path)
    for task in TASKS:
        assert (tmp_path / f"{task}.jsonl").read_bytes() == (FOLDER / f"{task}.jsonl").read_bytes()
