"""How often the tiny models end by themselves, and how long they talk, under the full law at temperature 1.

`python data/models/measure.py [--folder data/models] [--prompts 25] [--rollouts 8] [--show]`
"""

import argparse
import json
import operator
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

HERE = Path(__file__).resolve().parent
FAMILIES = ("alder", "birch", "cedar")
VARIANTS = ("base", "instruct")
TASKS = ("completion", "coding", "math", "stories")
CAP = 160
HEADER = (
    "| family | variant | task | ended | mean length | sd between prompts | sd within | equations right |\n"
    "|---|---|---|---|---|---|---|---|"
)


def load(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A checkpoint in float32 and its tokenizer."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), AutoTokenizer.from_pretrained(
        folder
    )


def read_prompts(task: str) -> list[str]:
    """The prompts of a task."""
    lines = (HERE.parent / "prompts" / f"{task}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["prompt"] for line in lines]


def encode(tok: PreTrainedTokenizerFast, prompt: str) -> list[int]:
    """Ids of the prompt, through the chat template where the tokenizer has one."""
    if tok.chat_template is None:
        return list(tok(prompt)["input_ids"])
    chat = [{"role": "user", "content": prompt}]
    return list(tok.apply_chat_template(chat, add_generation_prompt=True, return_dict=False))


def padded(rows: list[list[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids filled up on the left, and the mask of the real ones."""
    width = max(map(len, rows))
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


def rollouts(model: PreTrainedModel, tok: PreTrainedTokenizerFast, prompts: list[str], count: int) -> list[list[int]]:
    """Drawn tokens, `count` lists for each prompt in turn, each closed by its end token if one was drawn."""
    ids, mask = padded([encode(tok, prompt) for prompt in prompts], tok.pad_token_id)
    law = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": CAP}
    with torch.no_grad():
        drawn = model.generate(ids, attention_mask=mask, num_return_sequences=count, **law)
    return [cut(row, ends(model)) for row in drawn[:, ids.shape[1] :].tolist()]


def ends(model: PreTrainedModel) -> list[int]:
    """The end tokens, one or several."""
    tokens = model.generation_config.eos_token_id
    return tokens if isinstance(tokens, list) else [tokens]


def cut(row: list[int], stops: list[int]) -> list[int]:
    """The row up to its first end token, which is kept."""
    return row[: next((i + 1 for i, token in enumerate(row) if token in stops), len(row))]


def ended(model: PreTrainedModel, row: list[int]) -> bool:
    """Whether the last token is an end token."""
    return row[-1] in ends(model)


def sample(folder: Path, task: str, prompts: int, count: int) -> list[tuple[str, int, bool, str]]:
    """(prompt, length, ended, text) for rollouts of the first prompts of a task."""
    model, tok = load(folder)
    texts = read_prompts(task)[:prompts]
    rows = rollouts(model, tok, texts, count)
    return [
        (texts[i // count], len(row), ended(model, row), tok.decode(row, skip_special_tokens=True))
        for i, row in enumerate(rows)
    ]


def correct(prompt: str, text: str) -> bool:
    """Whether an answer's closing number follows from the last equation and every equation holds."""
    equations = re.findall(r"(\d+) ([-+*/]) (\d+) = (\d+)", text)
    signs: dict[str, Callable[[int, int], int]] = {
        "+": operator.add, "-": operator.sub, "*": operator.mul, "/": lambda a, b: a // b if b else -1}
    return bool(equations) and all(signs[s](int(a), int(b)) == int(c) for a, s, b, c in equations)


def row(folder: Path, task: str, prompts: int, count: int) -> str:
    """One line of the table: end share, mean length, spread between prompts and within them, right sums."""
    results = sample(folder, task, prompts, count)
    lengths = np.array([r[1] for r in results], dtype=float).reshape(-1, count)
    share = np.mean([r[2] for r in results])
    right = f"{np.mean([correct(r[0], r[3]) for r in results]):.2f}" if task == "math" else ""
    return (
        f"| {folder.parent.name} | {folder.name} | {task} | {share:.3f} | {lengths.mean():.1f} | "
        f"{lengths.mean(axis=1).std():.1f} | {lengths.std(axis=1).mean():.1f} | {right} |"
    )


def main() -> None:
    """Print the table, or samples to look at."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=HERE)
    parser.add_argument("--family", choices=FAMILIES, action="append")
    parser.add_argument("--prompts", type=int, default=25)
    parser.add_argument("--rollouts", type=int, default=8)
    parser.add_argument("--show", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(0)
    if not args.show:
        print(HEADER)
    for folder in (args.folder / f / v for f in args.family or FAMILIES for v in VARIANTS):
        for task in TASKS:
            if not args.show:
                print(row(folder, task, args.prompts, args.rollouts), flush=True)
                continue
            for prompt, length, end, text in sample(folder, task, args.prompts, args.rollouts):
                label = f"{folder.parent.name} {folder.name} {task} {length} {'ended' if end else 'cut'}"
                print(f"[{label}] {prompt} >>> {text}")


if __name__ == "__main__":
    main()
