"""How many tokens flip when only the batch changes: `python analysis/flip_rates.py [--tokens 300000] [--model folder]`.

Rollouts of a shipped model are drawn once. Their tokens are then fed again in batches of 1, 7 and 32, and every token
is drawn again from its key by three schemes: ours (Gumbel-max over blocks, then inside one), plain Gumbel-max over the
whole vocabulary, and the inverse CDF in vocabulary order. A flip is a token that differs from that of batch 32. Each
step starts from the same past, so flips are counted token by token and none hides behind an earlier one.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from canopy_stats.generation.draw import block_masses, draw
from canopy_stats.generation.policy import scaled
from canopy_stats.generation.randomness import gumbels, rollout_key, uniforms
from canopy_stats.generation.torch_engine import TorchEngine, load_engine
from canopy_stats.schema import ModelSource, Prompt, Rollout, RunKey, SamplingPolicy

MODEL = Path(__file__).parents[1] / "data" / "models" / "alder" / "base"
KEY = RunKey(0, "flips", "base")
TEXT = "Once upon a time"
BATCHES = (32, 7, 1)


def schemes(logits: torch.Tensor, keys: torch.Tensor, steps: torch.Tensor) -> dict[str, torch.Tensor]:
    """Tokens (B,) of each scheme, from the same logits (B, V) and the same keys."""
    z = torch.empty(logits.shape)
    scaled(logits, 1.0, out=z)
    weights = z.exp()
    noise = gumbels(keys, steps, torch.arange(z.shape[1]))
    uniform = uniforms(keys, steps, torch.arange(1)).float()
    cumulated = (weights / weights.sum(dim=-1, keepdim=True)).cumsum(dim=-1)
    return {"ours": draw(z, weights, block_masses(weights), keys, steps),
            "plain Gumbel-max": (z + noise).argmax(dim=-1),
            "inverse CDF": torch.searchsorted(cumulated, uniform)[:, 0].clamp(max=z.shape[1] - 1)}


@torch.inference_mode()
def redraw(engine: TorchEngine, prompt: Prompt, rollouts: list[Rollout], batch: int) -> dict[str, np.ndarray]:
    """Every token of the rollouts drawn again, in batches that shrink as their rollouts end; each scheme (tokens,)."""
    found: dict[tuple[int, int], dict[str, int]] = {}
    prefilled = engine.decoder.prefill(prompt.token_ids)
    prompt_length, longest = len(prompt.token_ids), max(len(r.token_ids) for r in rollouts)
    for start in range(0, len(rollouts), batch):
        rows = rollouts[start : start + batch]
        slots = engine.decoder.batch(len(rows), prompt_length + longest)
        for slot in range(len(rows)):
            slots.load(slot, prefilled)
        logits, step = prefilled.logits.expand(len(rows), -1), 0
        while rows:
            keys = torch.tensor([rollout_key(KEY, prompt.prompt_hash, r.rollout) for r in rows])
            drawn = schemes(logits, keys, torch.full((len(rows),), step))
            for i, row in enumerate(rows):
                found[row.rollout, step] = {name: int(tokens[i]) for name, tokens in drawn.items()}
            step += 1
            rows = _drop_ended(slots, rows, step)
            if rows:
                logits = engine.decoder.step(slots, torch.tensor([int(r.token_ids[step - 1]) for r in rows]))
    order = sorted(found)
    return {name: np.array([found[at][name] for at in order]) for name in found[order[0]]}


def _drop_ended(slots: Any, rows: list[Rollout], step: int) -> list[Rollout]:
    rows = list(rows)
    for slot in reversed(range(len(rows))):
        if len(rows[slot].token_ids) <= step:
            slots.move(len(rows) - 1, slot)
            rows[slot] = rows[-1]
            rows.pop()
    slots.active = len(rows)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=300_000)
    parser.add_argument("--model", type=Path, default=MODEL)
    args = parser.parse_args()
    torch.set_num_threads(1)
    engine = load_engine(ModelSource(args.model), variant="base")
    prompt = Prompt("0", "flips", TEXT, engine.encode(TEXT))
    rollouts: list[Rollout] = []
    while sum(len(r.token_ids) for r in rollouts) < args.tokens:
        pairs = [(0, len(rollouts) + i) for i in range(256)]
        rollouts += engine.sample([prompt], pairs, SamplingPolicy(max_new_tokens=120), KEY, 32)
    rollouts.sort(key=lambda r: r.rollout)
    reference = redraw(engine, prompt, rollouts, BATCHES[0])
    stored = np.concatenate([r.token_ids for r in rollouts])
    print(f"{args.model}: {len(stored):,} tokens, {len(rollouts):,} rollouts; ours against the drawn tokens: "
          f"{(reference['ours'] != stored).sum()} flips", flush=True)
    for batch in BATCHES[1:]:
        again = redraw(engine, prompt, rollouts, batch)
        for name, tokens in again.items():
            flips = int((tokens != reference[name]).sum())
            print(f"  batch {batch} against {BATCHES[0]}, {name:16s}: {flips} flips, {flips / len(stored):.1e} a token",
                  flush=True)


if __name__ == "__main__":
    main()
