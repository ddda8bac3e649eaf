"""Train the tiny families: `python data/models/train.py [--family alder] [--seed 7] [--out folder] [--base-steps N]`.

Writes `<out>/<family>/base` and `<out>/<family>/instruct`; the tuned model starts from the base weights.
With `--more` the stored base checkpoint goes through another cycle of the schedule first.
"""

import argparse
import copy
import hashlib
import json
import math
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
import transformers
from numpy.random import Generator
from transformers import AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from data.models import corpus
from data.models.tokenizer import CHAT_TEMPLATE, TURN_END, train_tokenizer

LENGTH = 256  # tokens in a packed sequence
IGNORED = -100  # label of tokens without loss


@dataclass(frozen=True)
class Size:
    """Shape of a family's network and of its training."""

    vocab: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    inner: int
    base_steps: int = 1400
    tuned_steps: int = 500
    batch: int = 8


SIZES = {
    "alder": Size(1024, 96, 5, 4, 4, 256),
    "birch": Size(1280, 128, 4, 4, 2, 352),
    "cedar": Size(1400, 144, 4, 6, 6, 384),
}
Pieces = Iterator[tuple[list[int], list[int]]]
Batches = Iterator[tuple[torch.Tensor, torch.Tensor]]


def base_pieces(rng: Generator, style: corpus.Style, tok: PreTrainedTokenizerFast) -> Pieces:
    """Token ids and labels of plain documents."""
    for text in corpus.documents(rng, style):
        ids = tok(text)["input_ids"] + [tok.eos_token_id]
        yield ids, ids


def tuned_pieces(rng: Generator, style: corpus.Style, tok: PreTrainedTokenizerFast) -> Pieces:
    """Ids of chats with labels on the answer only; one answer in twelve ends the text, not the turn."""
    turn_end = tok.convert_tokens_to_ids(TURN_END)
    for prompt, answer, system in corpus.pairs(rng, style):
        chat = [{"role": "system", "content": system}] if system else []
        chat.append({"role": "user", "content": prompt})
        head = tok.apply_chat_template(chat, chat_template=CHAT_TEMPLATE, add_generation_prompt=True, return_dict=False)
        end = tok.eos_token_id if rng.random() < 1 / 12 else turn_end
        ids = tok(answer, add_special_tokens=False)["input_ids"] + [end]
        yield head + ids, [IGNORED] * len(head) + ids


def batches(pieces: Pieces, size: int) -> Batches:
    """Packed sequences; each starts with a whole piece, and what does not fit is cut off."""
    while True:
        rows = [_row(pieces) for _ in range(size)]
        yield torch.tensor([ids for ids, _ in rows]), torch.tensor([labels for _, labels in rows])


def _row(pieces: Pieces) -> tuple[list[int], list[int]]:
    ids: list[int] = []
    labels: list[int] = []
    while len(ids) < LENGTH:
        more_ids, more_labels = next(pieces)
        ids, labels = ids + more_ids, labels + more_labels
    return ids[:LENGTH], labels[:LENGTH]


def schedule(step: int, steps: int, peak: float) -> float:
    """Linear warm-up over 50 steps, then a cosine down to a tenth."""
    if step < 50:
        return peak * (step + 1) / 50
    return peak * (0.1 + 0.45 * (1 + math.cos(math.pi * (step - 50) / max(1, steps - 50))))


def fit(model: LlamaForCausalLM, data: Batches, steps: int, peak: float, log: Path) -> list[float]:
    """AdamW with clipped gradients; the loss of every step. Products run in bfloat16, weights stay in float32."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=peak, betas=(0.9, 0.98), weight_decay=0.05)
    losses: list[float] = []
    started = time.perf_counter()
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = schedule(step, steps, peak)
        losses.append(_step(model, optimiser, *next(data)))
        if step % 50 == 49:
            with log.open("a") as file:
                file.write(f"{step + 1} {np.mean(losses[-50:]):.4f} {time.perf_counter() - started:.0f}s\n")
    return losses


def _step(model: LlamaForCausalLM, optimiser: torch.optim.Optimizer, ids: torch.Tensor, labels: torch.Tensor) -> float:
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(input_ids=ids, labels=labels).loss
    optimiser.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    return float(loss.detach())


def new_model(size: Size, tok: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A fresh Llama of this size; its random weights come from torch's seed."""
    config = LlamaConfig(
        vocab_size=len(tok),
        hidden_size=size.hidden,
        intermediate_size=size.inner,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tok.bos_token_id,
        eos_token_id=tok.eos_token_id,
        pad_token_id=tok.pad_token_id,
        initializer_range=0.04,
    )
    return LlamaForCausalLM(config)


def save(
    folder: Path, model: LlamaForCausalLM, tok: PreTrainedTokenizerFast, chat: bool, record: dict[str, Any]
) -> None:
    """Weights in float16, the tokenizer (with a chat template only for the tuned model), and how it was trained."""
    ends = [tok.convert_tokens_to_ids(TURN_END), tok.eos_token_id] if chat else tok.eos_token_id
    half = copy.deepcopy(model).to(torch.float16)
    half.generation_config = GenerationConfig(
        bos_token_id=tok.bos_token_id, eos_token_id=ends, pad_token_id=tok.pad_token_id
    )
    folder.mkdir(parents=True, exist_ok=True)
    half.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    tok.chat_template = CHAT_TEMPLATE if chat else None
    tok.save_pretrained(folder)
    _plain_class(folder / "tokenizer_config.json")
    (folder / "training.json").write_text(json.dumps(record, indent=2) + "\n")


def _plain_class(path: Path) -> None:
    """Name the tokenizer class that transformers 4 and 5 both know; 5 would write a name of its own."""
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"tokenizer_class": "PreTrainedTokenizerFast"}, indent=2) + "\n")


def corpus_hash(seed: int, style: corpus.Style, count: int = 2000) -> str:
    """Hash of the first documents and pairs: says whether a changed grammar would give other models."""
    digest = hashlib.sha256()
    for text in islice(corpus.documents(np.random.default_rng(seed), style), count):
        digest.update(text.encode())
    for pair in islice(corpus.pairs(np.random.default_rng(seed), style), count):
        digest.update(repr(pair).encode())
    return digest.hexdigest()


def fresh(texts: Iterator[str], size: Size) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """A tokenizer trained on the texts and a random model."""
    tok = train_tokenizer(islice(texts, 8000), size.vocab)
    return new_model(size, tok), tok


def continued(folder: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """A stored base checkpoint, to be trained further."""
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32), AutoTokenizer.from_pretrained(folder)


def versions() -> dict[str, Any]:
    """What the weights depend on besides seed and texts."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__,
        "threads": torch.get_num_threads(),
    }


def train_family(family: str, seed: int, size: Size, out: Path, more: bool) -> None:
    """Base model, fresh or trained further, then the tuned model."""
    style = corpus.STYLES[family]
    streams = np.random.default_rng([seed, *family.encode()]).spawn(3)
    torch.manual_seed(seed)
    earlier = json.loads((out / family / "base" / "training.json").read_text()) if more else None
    model, tok = continued(out / family / "base") if more else fresh(corpus.documents(streams[0], style), size)
    record = {"family": family, "seed": seed, "size": asdict(size), "parameters": model.num_parameters()}
    record |= {"corpus_sha256": corpus_hash(seed, style)} | versions() | {"base_round_before": earlier}
    stages = (
        ("base", base_pieces(streams[1], style, tok), size.base_steps, 2e-3 if more else 3e-3),
        ("instruct", tuned_pieces(streams[2], style, tok), size.tuned_steps, 1e-3),
    )
    for variant, pieces, steps, peak in stages:
        result = stage(model, batches(pieces, size.batch), steps, peak, out / f"{family}-{variant}.log")
        save(out / family / variant, model, tok, variant == "instruct", record | {"variant": variant} | result)


def stage(model: LlamaForCausalLM, data: Batches, steps: int, peak: float, log: Path) -> dict[str, Any]:
    """Train, and say how it went."""
    started = time.perf_counter()
    losses = fit(model, data, steps, peak, log)
    return {
        "steps": steps,
        "peak_learning_rate": peak,
        "first_loss": round(losses[0], 4),
        "final_loss": round(float(np.mean(losses[-50:])), 4),
        "wall_seconds": round(time.perf_counter() - started),
    }


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family", choices=sorted(SIZES), action="append")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent)
    parser.add_argument("--base-steps", type=int)
    parser.add_argument("--tuned-steps", type=int)
    parser.add_argument("--more", action="store_true", help="train the stored base checkpoint further")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    steps = {key: value for key in ("base_steps", "tuned_steps") if (value := getattr(args, key)) is not None}
    for family in args.family or sorted(SIZES):
        size = Size(**(asdict(SIZES[family]) | steps))
        train_family(family, args.seed, size, args.out, args.more)


if __name__ == "__main__":
    main()
