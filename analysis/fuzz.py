"""Strange study files, prompt files, stamps and panels to the functions that read them: nothing but UserError.

    python analysis/fuzz.py --inputs 20000

Inputs are mutants of valid ones: values replaced, keys added or dropped, texts cut. Prints how many each target got,
how many got past its parser, and every exception that is no UserError with the input that made it.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import yaml

import canopy_stats as cs
from canopy_stats.generation.prompt_file import read_prompts
from canopy_stats.panel_rows import check_rows
from canopy_stats.schema import UserError
from canopy_stats.study import read_study, stamps

STUDY: dict[str, Any] = {
    "title": "t", "families": [{"name": "f", "base": "org/a", "tuned": {"model": "org/b", "chat": True}}],
    "tasks": {"walk": "walk.jsonl"}, "law": {"temperature": 0.5, "top_k": 3, "max_new_tokens": 9}, "rollouts": 3,
    "embedders": ["tfidf", {"model": "org/e", "prompt": "p"}], "judge": {"kind": "embedding", "threshold": 0.5},
    "ablations": [{"name": "k", "law": {"top_k": 2}}]}
STRANGE: list[Any] = [None, True, -1, 0, 1e308, float("nan"), float("inf"), 10**30, "", "x" * 300, "\x1b[2J", "a\0b",
                      "../x", "/", ".", "$frac{a", "\ud800", [], {}, [[]], {"a": {}}, "org/x", "auto",
                      "torch", "nan", "=1+1"]


def mutated(value: Any, rng: random.Random) -> Any:
    """A copy with one to three places changed."""
    made = copy.deepcopy(value)
    for _ in range(rng.randint(1, 3)):
        made = _changed(made, rng)
    return made


def _changed(value: Any, rng: random.Random) -> Any:
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        action = rng.random()
        if action < 0.1:
            value.pop(key)
        elif action < 0.2:
            value[rng.choice(["extra", "", "a.b"])] = rng.choice(STRANGE)
        else:
            value[key] = _changed(value[key], rng)
        return value
    if isinstance(value, list) and value and rng.random() < 0.9:
        place = rng.randrange(len(value))
        value[place] = _changed(value[place], rng)
        return value
    return copy.deepcopy(rng.choice(STRANGE))


def study(folder: Path, rng: random.Random) -> bool:
    """A study file; past the parser when its YAML is read."""
    (folder / "s.yaml").write_bytes(yaml.safe_dump(mutated(STUDY, rng)).encode("utf-8", "replace"))
    read_study(folder / "s.yaml").study.described()
    return True


def prompts(folder: Path, rng: random.Random) -> bool:
    """A prompt file of a mutated line between good ones."""
    prompt = rng.choice(["x", [1, 2], [{"role": "user", "content": "x"}]])
    line = json.dumps(mutated({"id": "a", "prompt": prompt}, rng))
    line = line if rng.random() < 0.8 else line[: rng.randrange(len(line) + 1)]
    (folder / "p.jsonl").write_text(f'{{"prompt": "good"}}\n{line}\n')
    read_prompts(folder / "p.jsonl")
    return True


def stamp(folder: Path, rng: random.Random) -> bool:
    """A stage's stamp that somebody else wrote."""
    note = mutated({"key": "k", "made_from": {"a": 1}, "files": {"out.txt": "0" * 64, "b/c": "1"}}, rng)
    (folder / "stages").mkdir(exist_ok=True)
    (folder / "stages" / "s.json").write_text(json.dumps(note))
    (folder / "out.txt").write_text("x")
    stamps.state(folder, "s", {"a": 1})
    stamps.staged(folder, "s", {"a": 2}, lambda: [folder / "out.txt"])
    return True


@cache
def _some_rows() -> Any:
    return cs.load_demo_panel().head(20).astype("object")


def panel(folder: Path, rng: random.Random) -> bool:
    """A panel with some cells replaced."""
    frame = _some_rows().copy()
    for _ in range(rng.randint(1, 3)):
        frame.iat[rng.randrange(20), rng.randrange(frame.shape[1])] = rng.choice(STRANGE[:17])
    check_rows(frame)
    return True


TARGETS: dict[str, Callable[[Path, random.Random], bool]] = {
    "study": study, "prompts": prompts, "stamp": stamp, "panel": panel}


def fuzz(inputs: int, seed: int = 0, only: tuple[str, ...] = tuple(TARGETS)) -> dict[str, dict[str, Any]]:
    """Counts by target: inputs, accepted, refused, and what failed."""
    counts: dict[str, dict[str, Any]] = {
        name: {"inputs": 0, "accepted": 0, "refused": 0, "failed": []} for name in only}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "walk.jsonl").write_text('{"prompt": "a"}\n')
        for i in range(inputs):
            target = only[i % len(only)]
            _one(counts[target], TARGETS[target], folder, seed * 10**9 + i)
    return counts


def _one(count: dict[str, Any], target: Callable[[Path, random.Random], bool], folder: Path, seed: int) -> None:
    count["inputs"] += 1
    try:
        target(folder, random.Random(seed))
        count["accepted"] += 1
    except UserError:
        count["refused"] += 1
    except Exception as error:  # what this program looks for
        count["failed"].append(f"seed {seed}: {type(error).__name__}: {str(error)[:200]}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    counts = fuzz(options.inputs, options.seed)
    for name, count in counts.items():
        print(f"{name}: {count['inputs']:,} inputs, {count['accepted']:,} accepted, {count['refused']:,} refused, "
              f"{len(count['failed'])} failed")
        print("\n".join(f"  {line}" for line in count["failed"][:10]))
    return int(any(count["failed"] for count in counts.values()))


if __name__ == "__main__":
    sys.exit(main())
