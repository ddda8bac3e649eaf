"""What the torch engine does on this machine, in at most ten minutes: `python analysis/gpu_report.py --out FOLDER`.

Needs torch and transformers alone, and no network: the models are Llama configurations of 1B and 8B parameters with
random weights. Writes FOLDER/gpu_report.json and FOLDER/gpu_report.html.

For each model and each number of rollouts:

- tokens/s in turn, round by round, medians of the ratios within a round: a bare decode loop (forward, argmax), the
  engine under three laws, and `generate(output_scores=True)` with its scores stacked;
- the most memory that each holds above the model (on a GPU);
- flips: tokens that differ when the same rollouts are drawn at another batch size;
- the engine's own choices, each in turn with and without, its flips counted: results read a step late (and how often a
  step still made the host wait), slots that one shard leaves filled by the next one's rollouts, the step compiled in
  slots of fixed sizes; and the memory of slots that grow with the longest row against slots of the whole length;
- terms: stored entropies and log-probabilities against the same law in double precision, on the model's own logits by
  one plain forward pass; and what 16 bits cost: that law against the one of the weights in float32.

Where vllm is installed it is measured too, in a process of its own: with terms against plain in turn, and its rollouts
against the torch engine's. What time or memory did not allow is listed. `--models tiny` tries the whole on a CPU.
"""

from __future__ import annotations

import argparse
import gc
import html
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import transformers
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from canopy_stats.generation.cache import SlotCache
from canopy_stats.generation.decoding import SlotDecoder
from canopy_stats.generation.loading import Loaded
from canopy_stats.generation.plain import plain_logits
from canopy_stats.generation.plain_law import law_terms
from canopy_stats.generation.reference import dtype_drift, fits_in_memory, load_reference
from canopy_stats.generation.templates import ChatFormat
from canopy_stats.generation.torch_engine import TorchEngine, out_of_memory, with_compiled_step
from canopy_stats.generation.torch_options import TorchOptions
from canopy_stats.schema import ModelSource, Prompt, Rollout, RunKey, SamplingPolicy

COMMON = {"rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0}, "bos_token_id": 0, "eos_token_id": 1}
MODELS = {
    "tiny": {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
             "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 512},
    "1b": {"vocab_size": 128_256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
           "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 8192},
    "8b": {"vocab_size": 128_256, "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32,
           "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 8192},
}
KEY = RunKey(0, "random", "base")
PROMPT_TOKENS = 32
TOP = 100
CHECKED = 4
"""Rollouts whose terms are compared and that are drawn again at other batch sizes."""


@dataclass
class Report:
    """What was measured, what was not and why, and how much time is left."""

    seconds: float
    began: float = field(default_factory=time.monotonic)
    skipped: list[str] = field(default_factory=list)
    models: dict[str, dict[str, Any]] = field(default_factory=dict)

    def left(self) -> float:
        return self.seconds - (time.monotonic() - self.began)

    @contextmanager
    def part(self, name: str, needs: float) -> Iterator[bool]:
        """Whether there is time for a part; it is listed as skipped where there is none, or memory runs out."""
        if self.left() < needs:
            self.skipped.append(f"{name}: {max(self.left(), 0):.0f} s were left")
            yield False
            return
        try:
            yield True
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            self.skipped.append(f"{name}: memory ran out")

    def to_dict(self) -> dict[str, Any]:
        return {"machine": machine(), "models": self.models, "skipped": self.skipped,
                "seconds": round(time.monotonic() - self.began, 1)}


def machine() -> dict[str, Any]:
    """Where this ran, and with which versions."""
    gpu = torch.cuda.get_device_properties(0) if torch.cuda.is_available() else None
    found = {name: _version(name) for name in ("torch", "transformers", "vllm", "canopy-stats")}
    return {"device": gpu.name if gpu else platform.processor() or platform.machine(), "gpu": gpu is not None,
            "memory_gb": round(gpu.total_memory / 2**30, 1) if gpu else None, "cuda": torch.version.cuda,
            "threads": torch.get_num_threads(), "python": platform.python_version(), "versions": found}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


# --- the model --------------------------------------------------------------------------------------------------------


def build(name: str, device: torch.device, dtype: torch.dtype) -> TorchEngine:
    """An engine over random weights whose logits are spread like a language model's; no token ends a rollout."""
    settings = MODELS[name]
    spread = 2.5 / settings["hidden_size"] ** 0.5
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            net = LlamaForCausalLM(LlamaConfig(**settings, **COMMON, initializer_range=spread)).eval()
    finally:
        torch.set_default_dtype(before)
    engine = TorchEngine(Loaded(net, None), ChatFormat(False))
    engine.end_ids = ()
    return engine


def prompt(engine: TorchEngine) -> Prompt:
    ids = np.random.default_rng(0).integers(2, engine.model.config.vocab_size, PROMPT_TOKENS).tolist()
    return Prompt("0", "gpu report", ids, tuple(ids))


def draw(engine: TorchEngine, policy: SamplingPolicy, rows: Sequence[int], batch: int) -> list[Rollout]:
    drawn = engine.sample([prompt(engine)], [(0, row) for row in rows], policy, KEY, batch)
    return sorted(drawn, key=lambda rollout: rollout.rollout)


# --- speed and memory -------------------------------------------------------------------------------------------------


@torch.inference_mode()
def bare(engine: TorchEngine, rows: int, steps: int) -> int:
    """The least that a decode loop can do: the prompt once, then forward and argmax."""
    cache, ids = DynamicCache(), torch.tensor([prompt(engine).token_ids], device=engine.model.device)
    logits = engine.model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1:]
    cache.batch_repeat_interleave(rows)
    tokens = logits.argmax(dim=-1).expand(rows, 1)
    for _ in range(steps - 1):
        tokens = engine.model(tokens, past_key_values=cache, use_cache=True).logits[:, -1:].argmax(dim=-1)
    return rows * steps


@torch.inference_mode()
def stacked(engine: TorchEngine, rows: int, steps: int) -> int:
    """Sample with generate, keep every step's scores, stack them, and take the entropy of the most likely."""
    ids = torch.tensor([prompt(engine).token_ids] * rows, device=engine.model.device)
    out = engine.model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=0, top_p=1.0,
                                max_new_tokens=steps, eos_token_id=None, pad_token_id=0, output_scores=True,
                                return_dict_in_generate=True)
    law = torch.stack(out.scores).topk(min(TOP, out.scores[0].shape[-1]), dim=-1).values.log_softmax(dim=-1)
    return rows * steps if bool((-(law.exp() * law).sum(dim=-1)).isfinite().all()) else 0


def ours(engine: TorchEngine, rows: int, steps: int, **law: Any) -> int:
    policy = SamplingPolicy(max_new_tokens=steps, **law)
    return sum(len(r.token_ids) for r in draw(engine, policy, range(rows), rows))


METHODS: dict[str, Callable[[TorchEngine, int, int], int]] = {
    "bare loop": bare, "engine, full law": ours, "engine, top-k 100": partial(ours, top_k=TOP),
    "engine, top-p 0.95": partial(ours, top_p=0.95), "generate, scores stacked": stacked}


def speeds(engine: TorchEngine, rows: int, steps: int, rounds: int, report: Report, name: str) -> list[dict[str, Any]]:
    """One row a method: tokens/s, its ratios to the bare loop and to the stacking one, peak memory."""
    clock: dict[str, list[float]] = {}
    peaks: dict[str, float | None] = {}
    for method, run in METHODS.items():
        with report.part(f"{name}, {rows} rollouts, {method}", 0) as allowed:
            if allowed:
                peaks[method] = _peak(partial(run, engine, rows, min(steps, 8)), engine)  # the first call warms up
                clock[method] = []
    for _ in range(rounds):
        for method in list(clock):
            with report.part(f"{name}, {rows} rollouts, {method}, a round", 0) as allowed:
                if allowed:
                    clock[method].append(_seconds(partial(METHODS[method], engine, rows, steps), engine))
    return [_row(method, clock, rows * steps, rows, peaks[method]) for method in clock if clock[method]]


def _row(method: str, clock: dict[str, list[float]], tokens: int, rows: int, peak: float | None) -> dict[str, Any]:
    against = {f"times_{label}": _ratio(clock.get(other, []), clock[method])
               for label, other in (("bare", "bare loop"), ("stacked", "generate, scores stacked"))}
    return {"rollouts": rows, "method": method, "tokens_per_second": tokens / statistics.median(clock[method]),
            **against, "peak_mb_of_8_steps": peak, "rounds": len(clock[method])}


def _ratio(others: list[float], own: list[float]) -> float | None:
    """How many times as fast as another method: the median over rounds that both have."""
    both = [b / a for a, b in zip(own, others, strict=False)]
    return statistics.median(both) if both else None


def _seconds(call: Callable[[], Any], engine: TorchEngine) -> float:
    _wait(engine)
    began = time.perf_counter()
    call()
    _wait(engine)
    return time.perf_counter() - began


def _peak(call: Callable[[], int], engine: TorchEngine) -> float | None:
    """The most MB that a call holds above what was there; None without a GPU."""
    gc.collect()
    if engine.model.device.type != "cuda":
        call()
        return None
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def _wait(engine: TorchEngine) -> None:
    if engine.model.device.type == "cuda":
        torch.cuda.synchronize()


# --- flips, terms, drift ----------------------------------------------------------------------------------------------


def flips(engine: TorchEngine, rows: int, steps: int) -> list[dict[str, Any]]:
    """Rollouts drawn at the largest batch against the same ones drawn alone and in sevens."""
    policy = SamplingPolicy(max_new_tokens=steps)
    rows = max(rows, CHECKED)
    stored = draw(engine, policy, range(rows), rows)[:CHECKED]
    return [_compared(stored, draw(engine, policy, range(CHECKED), size), size) for size in (1, 7)]


def _compared(stored: Sequence[Rollout], again: Sequence[Rollout], batch: int) -> dict[str, Any]:
    left, tokens, entropy = 0, 0, 0.0
    for a, b in zip(stored, again, strict=True):
        same = a.token_ids == b.token_ids
        common = len(same) if same.all() else int(same.argmin()) + 1  # the law of a flip is that of the common past
        left, tokens = left + (not same.all()), tokens + common
        entropy = max(entropy, float(np.abs(a.steps["entropy"][:common] - b.steps["entropy"][:common]).max()))
    return {"batch": batch, "tokens": tokens, "flips": left, "largest_entropy_difference": entropy}


def terms(engine: TorchEngine, steps: int) -> dict[str, Any]:
    """Stored terms against double precision on logits of one plain pass, by law: median and largest difference."""
    return {label: _term_differences(engine, SamplingPolicy(max_new_tokens=steps, **law))
            for label, law in (("full law", {}), ("top-k 100", {"top_k": TOP}), ("top-p 0.95", {"top_p": 0.95}))}


def _term_differences(engine: TorchEngine, policy: SamplingPolicy) -> dict[str, float]:
    asked, found = prompt(engine), []
    for rollout in draw(engine, policy, range(CHECKED), CHECKED):
        logits = plain_logits(engine.model, asked.token_ids, rollout.token_ids).float().cpu().numpy()
        want = law_terms(logits, rollout.token_ids, engine.end_ids, policy)
        found += [np.abs(rollout.steps[name] - want.steps[name])[~want.near] for name in ("entropy", "logprob")]
    finite = np.concatenate(found)
    finite = finite[np.isfinite(finite)]
    return {"median": float(np.median(finite)), "largest": float(finite.max()), "compared": len(finite)}


def drift(engine: TorchEngine, steps: int) -> dict[str, Any] | None:
    """The 16-bit law against that of the same weights in float32; None where a second model does not fit."""
    if engine.model.dtype == torch.float32 or not fits_in_memory(engine.model):
        return None
    drawn = draw(engine, SamplingPolicy(max_new_tokens=steps), range(CHECKED), CHECKED)
    high = load_reference(ModelSource(engine.model), dtype="float32")
    found = dtype_drift(engine.model, high, [(prompt(engine).token_ids, r.token_ids) for r in drawn])
    return {"steps": found.steps, "mean_divergence": found.divergence, "largest_entropy_difference": found.entropy,
            "largest_logprob_difference": found.logprob}


# --- the engine's own choices -----------------------------------------------------------------------------------------


def in_turn(ways: dict[str, Callable[[], list[Rollout]]], engine: TorchEngine, rounds: int) -> dict[str, Any]:
    """The second of two ways against the first, round by round, after one of each that is not counted: how many times
    as fast, and what its rollouts differ in."""
    drawn = {way: draw() for way, draw in ways.items()}
    clock: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, draw in ways.items():
            clock[way].append(_seconds(draw, engine))
    one, other = ways
    ratios = sorted(a / b for a, b in zip(clock[one], clock[other], strict=True))
    return {"against": one, "with": other, "times_as_fast": statistics.median(ratios), "least": ratios[0],
            "most": ratios[-1], "rollouts": len(drawn[one]), **_flips(drawn[one], drawn[other])}


def _flips(stored: Sequence[Rollout], again: Sequence[Rollout]) -> dict[str, Any]:
    first, second = (sorted(drawn, key=lambda r: r.rollout) for drawn in (stored, again))
    found = _compared(first, second, batch=0)
    return {name: value for name, value in found.items() if name != "batch"}


@contextmanager
def some_ends(engine: TorchEngine) -> Iterator[None]:
    """Every 24th id ends a rollout: lengths are very unequal, like those of texts."""
    engine.end_ids = tuple(range(0, engine.model.config.vocab_size, 24))
    try:
        yield
    finally:
        engine.end_ids = ()


def late(engine: TorchEngine, rows: int, steps: int, rounds: int) -> dict[str, Any]:
    """Results read with the step that made them, and one step late."""
    policy, before = SamplingPolicy(max_new_tokens=steps), engine.lag

    def drawn(lag: int) -> list[Rollout]:
        engine.lag = lag
        return draw(engine, policy, range(rows), rows)

    try:
        found = in_turn({"at once": partial(drawn, 0), "a step late": partial(drawn, 1)}, engine, rounds)
        return {**found, **_waits(partial(drawn, 1))}
    finally:
        engine.lag = before


def _waits(call: Callable[[], Any]) -> dict[str, Any]:
    """How often torch says that an operation made the host wait, and the first that did; nothing without a GPU."""
    if not torch.cuda.is_available():
        return {}
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            call()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits = [f"{Path(w.filename).name}:{w.lineno}" for w in said if "synchroniz" in str(w.message)]
    return {"waits": len(waits), "where": ", ".join(sorted(set(waits))[:5])}


def mixed(engine: TorchEngine, rows: int, steps: int, rounds: int) -> dict[str, Any]:
    """Four shards of unequal rollouts one after the other, and with slots filled across them."""
    policy = SamplingPolicy(max_new_tokens=4 * steps)
    shards = [([prompt(engine)], [(0, row) for row in range(i * rows, (i + 1) * rows)]) for i in range(4)]

    def apart() -> list[Rollout]:
        return [r for shard in shards for r in engine.sample(*shard, policy, KEY, rows)]

    def together() -> list[Rollout]:
        return [r for _, whole in engine.sample_shards(shards, policy, KEY, rows) for r in whole]

    with some_ends(engine):
        return in_turn({"shard by shard": apart, "shards mixed": together}, engine, rounds)


def compiled(engine: TorchEngine, rows: int, steps: int, rounds: int, how: str) -> dict[str, Any]:
    """The decode step as it is, and compiled in slots of fixed sizes."""
    policy, plain = SamplingPolicy(max_new_tokens=steps), engine.decoder
    fixed = with_compiled_step(plain, TorchOptions(compile=how))

    def drawn(decoder: Any) -> list[Rollout]:
        engine.__dict__["decoder"] = decoder
        return draw(engine, policy, range(rows), rows)

    try:
        began = time.perf_counter()
        drawn(fixed)
        seconds = time.perf_counter() - began
        found = in_turn({"as it is": partial(drawn, plain), how: partial(drawn, fixed)}, engine, rounds)
        return {**found, "compile_seconds": seconds}
    finally:
        engine.__dict__["decoder"] = plain


def grown(engine: TorchEngine, rows: int, steps: int) -> dict[str, Any]:
    """What the slots of unequal rollouts take under a cap of the whole context, against slots of that length."""
    cap = engine.model.config.max_position_embeddings - PROMPT_TOKENS
    made: list[Any] = []

    def noted(decoder: SlotDecoder, slots: int, columns: int) -> Any:
        made.append(SlotCache(slots, columns, decoder.model.device))
        return made[-1]

    with some_ends(engine), mock.patch.object(SlotDecoder, "batch", noted):
        drawn = draw(engine, SamplingPolicy(max_new_tokens=cap), range(rows), rows)
    token = engine.decoder.cache_bytes()[1] * rows / 2**20
    return {"rollouts": rows, "longest": PROMPT_TOKENS + max(len(r.token_ids) for r in drawn),
            "columns": made[0].room, "mb": made[0].room * token, "columns_of_the_whole": cap + PROMPT_TOKENS - 1,
            "mb_of_the_whole": (cap + PROMPT_TOKENS - 1) * token}


# --- vllm -------------------------------------------------------------------------------------------------------------

def with_vllm(engine: TorchEngine, sizes: Sequence[int], options: argparse.Namespace, report: Report,
              name: str) -> dict[str, Any] | None:
    """vLLM's tokens/s with and without terms in turn, and its rollouts against the torch engine's, in a process of its
    own (analysis/bench_vllm.py); its failure is listed and ends nothing."""
    ours = draw(engine, SamplingPolicy(max_new_tokens=options.steps), range(CHECKED), CHECKED)
    with tempfile.TemporaryDirectory() as folder:
        engine.model.save_pretrained(folder)
        asked = {"folder": folder, "ids": list(prompt(engine).token_ids), "sizes": list(sizes), "steps": options.steps,
                 "rounds": options.rounds, "dtype": str(engine.model.dtype).removeprefix("torch."), "compared": CHECKED,
                 "options": {"enforce_eager": True} if name == "tiny" else {}}
        engine.model.to("cpu")
        _release()
        try:
            done = subprocess.run([sys.executable, str(Path(__file__).with_name("bench_vllm.py")), "--asked",
                                   json.dumps(asked)], capture_output=True, text=True,
                                  timeout=max(report.left() - 5, 1))
        except subprocess.TimeoutExpired:
            report.skipped.append(f"{name}, vllm: it did not end in time")
            return None
    lines = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    if not lines:
        report.skipped.append(f"{name}, vllm: {(done.stderr.strip().splitlines() or ['no output'])[-1][:200]}")
        return None
    found = json.loads(lines[-1].removeprefix("FOUND "))
    return {"told": found["told"], "speed": found["speed"], "against_torch": _against(ours, found["rollouts"])}


def _against(ours: Sequence[Rollout], theirs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Rollouts that flipped, and the largest difference of an entropy before any flip."""
    flipped, worst, compared = 0, 0.0, 0
    for a, b in zip(ours, theirs, strict=True):
        same = a.token_ids == np.array(b["token_ids"])
        n = len(same) if same.all() else int(same.argmin()) + 1
        flipped, compared = flipped + (not same.all()), compared + n
        worst = max(worst, float(np.abs(a.steps["entropy"][:n] - np.array(b["entropy"], np.float32)[:n]).max()))
    return {"rollouts": len(ours), "tokens": compared, "flips": flipped, "largest_entropy_difference": worst}


def _release() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


# --- all of it --------------------------------------------------------------------------------------------------------


def measure(name: str, options: argparse.Namespace, report: Report) -> None:
    """Everything about one model, the cheapest first, as far as time allows."""
    with report.part(f"{name}: the model", 20 if name == "8b" else 5) as allowed:
        if not allowed:
            return
        engine = build(name, options.device, options.dtype)
        found = report.models[name] = {"parameters": engine.model.num_parameters(), "dtype": str(engine.model.dtype),
                                       "cache": engine.decoder.cache, "speed": [], "flips": []}
    if name not in report.models:
        return
    for rows in options.rows:
        with report.part(f"{name}, {rows} rollouts, speed", 10 if name != "tiny" else 0) as allowed:
            if allowed:
                found["speed"] += speeds(engine, rows, options.steps, options.rounds, report, name)
    rows = min(options.rows)
    quick: dict[str, Callable[[], Any]] = {
        "late": partial(late, engine, rows, options.steps, options.rounds),
        "mixed": partial(mixed, engine, rows, options.steps, options.rounds),
        "grown": partial(grown, engine, max(options.rows), options.steps),
        "flips": partial(flips, engine, max(options.rows), options.steps),
        "terms": partial(terms, engine, options.steps), "drift": partial(drift, engine, options.steps)}
    for part, take in quick.items():
        with report.part(f"{name}, {part}", 10 if name != "tiny" else 0) as allowed:
            if allowed:
                found[part] = take()
        _release()
    with report.part(f"{name}, compiled", 120 if name != "tiny" else 0) as allowed:
        if allowed:
            found["compiled"] = compiled(engine, rows, options.steps, options.rounds, options.compile)
    _with_vllm(name, engine, options, report)


def _with_vllm(name: str, engine: TorchEngine, options: argparse.Namespace, report: Report) -> None:
    if find_spec("vllm") is None:
        report.skipped.append(f"{name}, vllm: not installed")
        return
    with report.part(f"{name}, vllm", 120) as allowed:
        if allowed:
            report.models[name]["vllm"] = with_vllm(engine, options.rows, options, report, name)


def page(found: dict[str, Any]) -> str:
    """The report as one HTML file that loads nothing."""
    parts = [f"<h1>Torch engine on {html.escape(str(found['machine']['device']))}</h1>",
             _table([found["machine"] | {"seconds": found["seconds"]}])]
    for name, model in found["models"].items():
        parts.append(f"<h2>{html.escape(name)}: {model['parameters']:,} parameters, {html.escape(model['dtype'])}</h2>")
        parts += ["<h3>Speed and memory</h3>", _table(model["speed"]), "<h3>Flips</h3>", _table(model["flips"])]
        choices = [model[part] for part in ("late", "mixed", "compiled") if part in model]
        parts += ["<h3>With and without</h3>", *(_table([choice]) for choice in choices)]
        parts += ["<h3>Slots that grow</h3>", _table([model["grown"]] if "grown" in model else [])]
        by_law = [{"law": law, **values} for law, values in model.get("terms", {}).items()]
        parts += ["<h3>Terms against double precision</h3>", _table(by_law)]
        parts += ["<h3>16 bits against float32</h3>", _table([model["drift"]] if model.get("drift") else [])]
        vllm = model.get("vllm") or {}
        parts += ["<h3>vLLM</h3>", _table(vllm.get("speed", [])), _table([vllm.get("against_torch") or {}]),
                  _table([vllm.get("told") or {}])]
    listed = "".join(f"<li>{html.escape(line)}</li>" for line in found["skipped"]) or "<li>nothing</li>"
    style = "body{font:15px system-ui;margin:2em}td,th{padding:.2em .8em;text-align:right;border-bottom:1px solid #ddd}"
    return (f"<!doctype html><html lang='en'><meta charset='utf-8'><title>GPU report</title><style>{style}</style>"
            f"{''.join(parts)}<h2>Not measured</h2><ul>{listed}</ul></html>\n")


def _table(rows: Sequence[dict[str, Any]]) -> str:
    rows = [row for row in rows if row]
    if not rows:
        return "<p>not measured</p>"
    head = "".join(f"<th>{html.escape(str(name)).replace('_', ' ')}</th>" for name in rows[0])
    cells = ["".join(f"<td>{html.escape(_cell(value))}</td>" for value in row.values()) for row in rows]
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {part}" for name, part in value.items() if part is not None)
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for gpu_report.json and gpu_report.html")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["1b", "8b"])
    parser.add_argument("--rows", nargs="+", type=int, default=[32, 128, 256], help="rollouts at once")
    parser.add_argument("--steps", type=int, default=64, help="tokens of each rollout")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compile", default="reduce-overhead" if torch.cuda.is_available() else "eager",
                        help="a mode of torch.compile; on a CPU the step is only traced")
    parser.add_argument("--minutes", type=float, default=9.5, help="what does not fit is left out and listed")
    options = parser.parse_args(argv)
    options.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    options.dtype = torch.bfloat16
    transformers.logging.set_verbosity_error()
    report = Report(60 * options.minutes)
    for name in options.models:
        measure(name, options, report)
        _release()
    found = report.to_dict()
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "gpu_report.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (options.out / "gpu_report.html").write_text(page(found), encoding="utf-8")
    print(f"written: {options.out / 'gpu_report.json'}, {options.out / 'gpu_report.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
