"""A study file over two tiny random checkpoints, and one of Markov chains, small enough for many runs of the chain."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

WORDS = ("the cat sat on the mat", "a bird flew over the hill", "it was a small red tree", "the dog ran under the tree",
         "then a cat sat and sat", "the blue bird was small", "a red dog", "it flew over the tree and the hill",
         "the small cat was on a tree", "then it ran", "under the mat", "a blue hill")


def write_prompts(path: Path, first: int = 0, count: int = 10) -> Path:
    lines = [json.dumps({"id": f"p{i}", "prompt": WORDS[(first + i) % len(WORDS)]}) for i in range(count)]
    path.write_text("\n".join(lines) + "\n")
    return path


def settings(**more):
    """A study file's keys, for checkpoints in models/ and prompts beside the file."""
    keys = {"title": "Two tiny checkpoints",
            "families": [{"name": "ash", "base": "./models/base", "tuned": {"model": "./models/instruct"}}],
            "tasks": {"walk": "walk.jsonl"}, "law": {"max_new_tokens": 6}, "rollouts": 3, "drift_tokens": 0,
            "check_sample": 1, "embedders": ["tfidf"], "out": "out"}
    return keys | more


def write_study(folder: Path, **more) -> Path:
    """study.yaml in a folder, with its prompts; models are stood for by empty folders unless they are there."""
    for variant in ("base", "instruct"):
        (folder / "models" / variant).mkdir(parents=True, exist_ok=True)
    if not (folder / "walk.jsonl").exists():
        write_prompts(folder / "walk.jsonl")
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(settings(**more), sort_keys=False))
    return path
