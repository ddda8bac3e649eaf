"""Import measured: batched teacher forcing against one rollout a forward pass, and the memory that a long log takes.

    python analysis/bench_import.py --model MODEL.gguf                 # 32 rollouts of 64 tokens, both ways in turn
    python analysis/bench_import.py --model MODEL.gguf --device cuda
    python analysis/bench_import.py --gigabytes 2                      # a JSONL of this size to a stored run

Prints tokens/s of both ways and their ratio, for prompts of several lengths, and the largest difference of any term; or
seconds and the peak of memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from canopy_stats.schema import ModelSource, SamplingPolicy

ROLLOUTS, LENGTH = 32, 64
LOGGED = 200
"""Tokens of a completion of the long log."""


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    found = work()
    return time.perf_counter() - began, found


def processor(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Seconds by the clock and of the processor, and what the work gives."""
    began = time.process_time()
    seconds, found = timed(work)
    return seconds, time.process_time() - began, found


def compare(model: str, device: str, prompt_length: int, rollouts: int, rounds: int) -> str:
    """One line: tokens/s of both ways, medians over rounds in turn, and their ratio by the clock and the processor."""
    from canopy_stats.generation.plain import score
    from canopy_stats.generation.teacher import Teacher
    from canopy_stats.generation.torch_engine import load_engine

    engine, law = load_engine(ModelSource(model, chat=False, device=device)), SamplingPolicy(max_new_tokens=LENGTH)
    rng, size = np.random.default_rng(0), int(engine.model.config.get_text_config().vocab_size)
    prompt = rng.integers(0, size, prompt_length).tolist()
    texts = [(prompt, rng.integers(0, size, LENGTH).tolist()) for _ in range(rollouts)]
    endings, single, many, far = engine.endings(law), [], [], 0.0
    for _ in range(rounds):
        *spent, ones = processor(lambda: [score(engine.model, *text, endings, law) for text in texts])
        single.append(spent)
        teacher = Teacher(engine, law, rollouts)  # which has read no prompt yet
        *spent, together = processor(lambda teacher=teacher: dict(teacher.terms(texts)))  # type: ignore[misc]
        many.append(spent)
        far = max(far, *(float(np.abs(a - together[i]).max()) for i, a in enumerate(ones)))
    tokens, ratio = rollouts * LENGTH, np.median(np.array(single) / np.array(many), axis=0)
    return (f"prompt {prompt_length:>5}: one a forward {tokens / np.median(single, axis=0)[0]:8.0f} tokens/s, together "
            f"{tokens / np.median(many, axis=0)[0]:8.0f}, ratio {ratio[0]:5.2f} by the clock, {ratio[1]:5.2f} by the "
            f"processor, terms within {far:.1e}")


def stream(gigabytes: float) -> str:
    """One line: seconds and peak memory of importing a log of this size without its model, to a stored run."""
    from canopy_stats.doors.importing import import_rollouts

    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.jsonl"
        count = write_log(path, gigabytes)
        before = peak()
        seconds, run = timed(lambda: import_rollouts(path, Path(folder) / "run", family="f", variant="v", task="t",
                                                     vocabulary=50_000, progress=False))
        size, rows = path.stat().st_size / 1e9, len(run.rollouts(["rollout"]))
        assert rows == count
        return (f"{size:.2f} GB, {rows} completions of {LOGGED} tokens: {seconds:.0f} s, peak {peak():.0f} MB in all, "
                f"{before:.0f} MB before")


def peak() -> float:
    """The process's peak of memory so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def write_log(path: Path, gigabytes: float) -> int:
    """A log as a server with 20 likeliest tokens writes it, 1,000 prompts in turn; how many completions it holds."""
    likeliest = [round(-1.25 - 0.35 * k, 6) for k in range(20)]
    row = json.dumps({"token_ids": list(range(1000, 1000 + LOGGED)), "text": "word " * LOGGED, "finish_reason": "stop",
                      "logprobs": likeliest[:1] * LOGGED, "top_logprobs": [likeliest] * LOGGED})
    count = int(gigabytes * 1e9 / (len(row) + 30)) + 1
    with path.open("w") as file:
        for i in range(count):
            file.write(f'{{"prompt": "prompt {i % 1000}", {row[1:]}\n')
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--prompts", type=int, nargs="*", default=[32, 256, 1024], help="their lengths")
    parser.add_argument("--rollouts", type=int, default=ROLLOUTS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--gigabytes", type=float)
    options = parser.parse_args()
    for length in options.prompts if options.model else []:
        print(compare(options.model, options.device, length, options.rollouts, options.rounds), flush=True)
    if options.gigabytes:
        print(stream(options.gigabytes))


if __name__ == "__main__":
    main()
