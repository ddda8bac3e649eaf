"""Import measured: batched teacher forcing against one rollout a forward pass, and the memory that a long log takes.

    python analysis/bench_import.py --model MODEL.gguf                 # 32 rollouts of 64 tokens, both ways in turn
    python analysis/bench_import.py --model MODEL.gguf --device cuda
    python analysis/bench_import.py --gigabytes 2                      # a JSONL of this size, read and staged

Prints tokens/s of both ways and their ratio, for prompts of several lengths, and the largest difference of any term; or
seconds and the peak of memory above the imports.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from canopy_stats.schema import ModelSource, SamplingPolicy

ROLLOUTS, LENGTH, ROUNDS = 32, 64, 3


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    found = work()
    return time.perf_counter() - began, found


def compare(model: str, device: str, prompt_length: int, rollouts: int) -> str:
    """One line: tokens/s of both ways, medians over rounds in turn."""
    from canopy_stats.generation.plain import score
    from canopy_stats.generation.teacher import Teacher
    from canopy_stats.generation.torch_engine import load_engine

    engine, law = load_engine(ModelSource(model, chat=False, device=device)), SamplingPolicy(max_new_tokens=LENGTH)
    rng, size = np.random.default_rng(0), int(engine.model.config.get_text_config().vocab_size)
    prompt = rng.integers(0, size, prompt_length).tolist()
    texts = [(prompt, rng.integers(0, size, LENGTH).tolist()) for _ in range(rollouts)]
    teacher, endings = Teacher(engine, law, rollouts), engine.endings(law)
    single, many, far = [], [], 0.0
    for _ in range(ROUNDS):
        seconds, ones = timed(lambda: [score(engine.model, *text, endings, law) for text in texts])
        single.append(seconds)
        seconds, together = timed(lambda: dict(teacher.terms(texts)))
        many.append(seconds)
        far = max(far, *(float(np.abs(a - together[i]).max()) for i, a in enumerate(ones)))
    tokens, ratio = rollouts * LENGTH, np.median(np.array(single) / np.array(many))
    return (f"prompt {prompt_length:>5}: one a forward {tokens / np.median(single):8.0f} tokens/s, together "
            f"{tokens / np.median(many):8.0f}, ratio {ratio:5.2f}, terms within {far:.1e}")


def stream(gigabytes: float) -> str:
    """One line: seconds and peak memory of reading and staging a log of this size."""
    from canopy_stats.doors.sources import records
    from canopy_stats.doors.staging import Staged
    from canopy_stats.doors.validate import Validator
    from canopy_stats.doors.words import Words

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.jsonl"
        row = json.dumps({"token_ids": list(range(1000, 2000)), "logprobs": [-1.25] * 1000, "text": "word " * 1000})
        count = int(gigabytes * 1e9 / (len(row) + 30))
        with path.open("w") as file:
            for i in range(count):
                file.write(f'{{"prompt": "prompt {i % 1000}", {row[1:]}\n')
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        staged, validator = Staged(Path(folder)), Validator(Words(None, (), 50_000), None, False)
        seconds, _ = timed(lambda: stage(staged, validator, records(path)))
        staged.close()
        peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        size = path.stat().st_size / 1e9
        return f"{size:.2f} GB, {count} completions: {seconds:.0f} s, {peak:.0f} MB above {before // 1024} MB"


def stage(staged: Any, validator: Any, logged: Any) -> None:
    for one in logged:
        staged.add(one, validator.completion(one))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--prompts", type=int, nargs="*", default=[32, 256, 1024], help="their lengths")
    parser.add_argument("--rollouts", type=int, default=ROLLOUTS)
    parser.add_argument("--gigabytes", type=float)
    options = parser.parse_args()
    for length in options.prompts if options.model else []:
        print(compare(options.model, options.device, length, options.rollouts), flush=True)
    if options.gigabytes:
        print(stream(options.gigabytes))


if __name__ == "__main__":
    main()
