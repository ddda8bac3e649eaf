"""Write the pool of worked examples for few-shot prompts: `python analysis/studies/make_pool.py`. The same bytes every
time; no example's prompt is one of data/prompts."""

import json
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

from data.models.corpus import STYLES, TASKS, pair  # noqa: E402

EACH = 12


def examples(task: str, rng: np.random.Generator, taken: set[str]) -> list[dict[str, str]]:
    """Prompt and answer of a task, none of them among the ``taken`` prompts."""
    found: dict[str, str] = {}
    while len(found) < EACH:
        prompt, answer = pair(rng, STYLES["alder"], task)
        if prompt not in taken:
            found[prompt] = answer.strip()
    return [{"task": task, "prompt": prompt, "answer": answer} for prompt, answer in found.items()]


def main() -> None:
    """One JSON object a line."""
    lines = []
    for task, seed in zip(TASKS, np.random.SeedSequence(7).spawn(len(TASKS)), strict=True):
        stored = (ROOT / "data" / "prompts" / f"{task}.jsonl").read_text(encoding="utf-8").splitlines()
        taken = {json.loads(line)["prompt"] for line in stored}
        lines += [json.dumps(example) for example in examples(task, np.random.default_rng(seed), taken)]
    (HERE / "few_shot_pool.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
