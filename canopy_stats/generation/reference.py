"""What a stored run is checked against: the same model and prompts by transformers' own calls, and no code of ours.

The model is what ``from_pretrained`` gives (and peft's ``merge_and_unload``), the prompt is made in two steps, so that
a mistake of the loader or of the prompts shows instead of repeating itself.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from ..schema import RENDERED_TEXT, ModelSource
from .templates import DATE_KEY, pinned

_SPARE = 0.8
"""Share of the free memory that a second model may take."""
Ids = Sequence[int] | np.ndarray


def load_reference(source: ModelSource, *, dtype: str, device: str = "cpu") -> Any:
    """The model of ``source`` by plain ``from_pretrained``, in evaluation mode.

    ``dtype`` is "float32", "bfloat16" or "float16": that of the run, or float32 to learn what 16 bits cost. A model
    that was given as an object was not loaded by us: it is its own reference, copied where another type is asked for.
    Raises what transformers and peft raise.
    """
    kind = getattr(torch, dtype)
    if isinstance(source.model, torch.nn.Module):
        same = source.model.dtype == kind
        return source.model if same else copy.deepcopy(source.model).to(kind).eval()
    path = Path(str(source.model)).expanduser()
    where = {"gguf_file": path.name} if path.suffix == ".gguf" else {}
    folder = str(path.parent) if where else str(path) if path.exists() else str(source.model)
    net = AutoModelForCausalLM.from_pretrained(folder, revision=source.revision, dtype=kind, **where)
    if source.adapter is not None:
        from peft import PeftModel

        net = PeftModel.from_pretrained(net, str(Path(source.adapter).expanduser())).merge_and_unload()
    return net.to(device).eval()


def fits_in_memory(model: Any, dtype: str = "float32") -> bool:
    """Whether a second copy of a loaded model in this type fits into what is free on its device just now."""
    wanted: float = sum(t.numel() for t in model.parameters()) * getattr(torch, dtype).itemsize
    free: int
    if model.device.type == "cuda":
        free = torch.cuda.mem_get_info(model.device)[0]
    else:
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    return wanted < _SPARE * free


@dataclass(frozen=True, slots=True)
class DtypeDivergence:
    """One model in two types over the same steps: mean Kullback–Leibler divergence of the full next-token law of
    ``high`` from that of ``low`` (nats a step), and the largest differences of entropy and of the drawn tokens'
    log-probabilities (nats), at temperature 1 without filters."""

    steps: int
    divergence: float
    entropy: float
    logprob: float


@torch.inference_mode()
def dtype_drift(low: Any, high: Any, texts: Iterable[tuple[Ids, Ids]]) -> DtypeDivergence:
    """How far ``low`` (16 bits) is from ``high`` (float32) on (prompt ids, drawn ids) pairs, in double precision.

    Each text is one forward pass of each model over prompt and rollout.
    """
    rows = [_differences(_log_law(low, *text), _log_law(high, *text), text[1]) for text in texts if len(text[1])]
    divergence, entropy, logprob = (torch.cat(part) for part in zip(*rows, strict=True))
    return DtypeDivergence(len(divergence), *(float(x) for x in (divergence.mean(), entropy.max(), logprob.max())))


def _log_law(model: Any, prompt_ids: Ids, token_ids: Ids) -> torch.Tensor:
    """Log-probabilities (N, V) before each of the N drawn tokens, float64."""
    ids = torch.tensor([[*map(int, prompt_ids), *map(int, token_ids[:-1])]], device=model.device)
    logits = model(input_ids=ids, use_cache=False).logits[0, -len(token_ids):]
    return torch.log_softmax(logits.double().cpu(), dim=-1)


def _differences(low: torch.Tensor, high: torch.Tensor, token_ids: Ids) -> tuple[torch.Tensor, ...]:
    """(N,) each: divergence, absolute difference of entropy, absolute difference of the drawn token's log-probability.
    A token that neither law can draw adds nothing."""
    mass = high.exp()
    divergence = torch.where(mass > 0, mass * (high - low), 0.0).sum(dim=-1)
    entropies = [-torch.where(law > -torch.inf, law.exp() * law, 0.0).sum(dim=-1) for law in (low, high)]
    drawn = torch.as_tensor(np.asarray(token_ids, dtype=np.int64))[:, None]
    logprobs = [law.gather(1, drawn)[:, 0] for law in (low, high)]
    return divergence, (entropies[0] - entropies[1]).abs(), (logprobs[0] - logprobs[1]).abs()


# --- prompts ----------------------------------------------------------------------------------------------------------


def plain_prompt(tokenizer: Any, source: Any, *, chat: bool | str | None, system: str | None = None,
                 arguments: Mapping[str, Any] | None = None, day: str | None = None) -> tuple[int, ...]:
    """A prompt's token ids in two separate steps: the template as text, then that text without any special tokens
    (with the tokenizer's own where ``chat`` is "rendered-text"). ``day`` (YYYY-MM-DD) is what a template that asks for
    the date was told; None lets it look at the clock."""
    if isinstance(source, list) and isinstance(source[0], int):
        return tuple(source)
    if not chat:
        return _without_appended(tokenizer, source)
    messages = [{"role": "user", "content": source}] if isinstance(source, str) else source
    if system is not None:
        messages = [{"role": "system", "content": system}, *messages]
    given = {name: value for name, value in (arguments or {}).items() if name != DATE_KEY}
    template = tokenizer.get_chat_template(None, given.get("tools"))
    turn = "continue_final_message" if messages[-1]["role"] == "assistant" else "add_generation_prompt"
    text = tokenizer.apply_chat_template(messages, tokenize=False, **{turn: True}, **given,
                                         chat_template=pinned(template, day) if day else template)
    return tuple(tokenizer(text, add_special_tokens=chat == RENDERED_TEXT)["input_ids"])


def _without_appended(tokenizer: Any, text: str) -> tuple[int, ...]:
    """The tokenizer's ids without the special ones that it puts after the text."""
    made = tokenizer(text, return_special_tokens_mask=True)
    ids, added = list(made["input_ids"]), list(made["special_tokens_mask"])
    while ids and added[-1] and len(tokenizer(text, add_special_tokens=False)["input_ids"]) < len(ids):
        ids, added = ids[:-1], added[:-1]
    return tuple(ids)
