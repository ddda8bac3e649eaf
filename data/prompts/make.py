"""Write the four prompt files: `python data/prompts/make.py [folder]`. The same bytes every time."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from data.models.grammar import functions, scenes, sums, tales  # noqa: E402
from data.models.grammar.writer import Writer  # noqa: E402

COUNT = 100
MAX_JACCARD = 0.5
SEEDS = {"completion": 11, "coding": 12, "math": 13, "stories": 14}
DRAW: dict[str, Callable[[Writer], str]] = {
    "completion": lambda writer: scenes.begin(writer).prompt,
    "coding": lambda writer: functions.begin(writer).prompt,
    "math": lambda writer: sums.begin(writer).prompt,
    "stories": lambda writer: tales.begin(writer).prompt,
}


def words(text: str) -> set[str]:
    """Lower-cased words and numbers."""
    return set(re.findall(r"[a-z0-9_]+", text.lower()))


def jaccard(a: set[str], b: set[str]) -> float:
    """Shared words over all words."""
    return len(a & b) / len(a | b)


def prompts(task: str, count: int = COUNT) -> list[str]:
    """Draw prompts, rejecting those too similar to one already kept."""
    rng = np.random.default_rng(SEEDS[task])
    kept: list[str] = []
    for _ in range(200_000):
        prompt = DRAW[task](Writer(rng, past=bool(rng.random() < 0.5)))
        if all(jaccard(words(prompt), words(other)) <= MAX_JACCARD for other in kept):
            kept.append(prompt)
        if len(kept) == count:
            return kept
    raise RuntimeError(f"{task}: only {len(kept)} prompts differ enough; add templates or words")


def main(folder: Path) -> None:
    """Write one JSON object a line."""
    for task in SEEDS:
        lines = [json.dumps({"id": f"{i:03d}", "prompt": p}) for i, p in enumerate(prompts(task))]
        (folder / f"{task}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
