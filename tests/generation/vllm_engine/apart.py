"""Draws rollouts in a process of its own, where vLLM may be set up otherwise: one JSON argument, one JSON line back.

The terms lie in an .npz file. `python apart.py '{"out": ..., "options": {...}, "law": {...}}'`
"""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from canopy_stats.schema import LENGTH, STEP_TERMS, STOP, ModelSource, Prompt, Rollout, RunKey, SamplingPolicy

KEY = RunKey(3, "birch", "base")
LONG = [70, 85, 100]
"""Token ids in the prompts: several blocks of a cache, several parts of a prompt."""


def long_prompts(engine: Any) -> list[Prompt]:
    rng = np.random.default_rng(5)
    sources = [rng.integers(10, 1000, n).tolist() for n in LONG]
    return [Prompt(str(i), f"long {i}", ids, engine.encode(ids)) for i, ids in enumerate(sources)]


def pairs(rollouts: int) -> list[tuple[int, int]]:
    return [(p, r) for p in range(len(LONG)) for r in range(rollouts)]


def packed(drawn: Mapping[tuple[int, int], Rollout]) -> dict[str, np.ndarray]:
    return {f"{p}-{r}": np.column_stack([one.token_ids, *(one.steps[t] for t in STEP_TERMS),
                                         np.full(len(one.token_ids), one.finish_reason == STOP)]).astype(np.float64)
            for (p, r), one in drawn.items()}


def unpacked(path: Path) -> dict[tuple[int, int], Rollout]:
    found = {}
    with np.load(path) as stored:
        for name, table in stored.items():
            p, r = map(int, name.split("-"))
            steps = {t: table[:, 1 + i].astype(np.float32) for i, t in enumerate(STEP_TERMS)}
            found[p, r] = Rollout(p, r, table[:, 0].astype(np.int32), STOP if table[0, -1] else LENGTH, steps)
    return found


def _interpret() -> None:
    """Let vLLM believe in a Triton for CPUs: with TRITON_INTERPRET=1 its kernels run in Python."""
    from triton import backends

    driver = types.SimpleNamespace(is_active=lambda: True)
    backends.backends["cpu"] = types.SimpleNamespace(driver=driver, compiler=None)


def main() -> None:
    asked = json.loads(sys.argv[1])
    if asked.get("interpret"):
        _interpret()
    from canopy_stats.generation.vllm.engine import load_engine

    source = ModelSource(asked["model"], adapter=asked.get("adapter"), dtype=asked.get("dtype", "auto"))
    engine = load_engine(source, variant="base", options={"enforce_eager": True, **asked.get("options", {})})
    prompts, law = long_prompts(engine), SamplingPolicy(**asked["law"])
    for prompt in prompts:
        engine.check_length(prompt, law)
    wanted = pairs(asked["rollouts"])
    drawn = {(r.prompt_index, r.rollout): r for r in engine.sample(prompts, wanted, law, KEY, asked["batch"])}
    np.savez(asked["out"], **packed(drawn))
    hits = sum(m.value for m in engine.llm.get_metrics() if m.name == "vllm:prefix_cache_hits")
    told = {"vllm": engine.describe()["vllm"], "dtype": engine.describe()["dtype"], **engine.tally(), "hits": hits}
    engine.close()
    print("TOLD " + json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
