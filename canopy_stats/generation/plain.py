"""Plain transformers: one forward pass over given tokens, prompts and end tokens read a second time.

What a stored run is checked against shares no code with the engine: no cache, no batch (and the law in numpy, see
:mod:`.plain_law`). It is slow and simple on purpose. Only :func:`score`, which gives terms of texts under another
model, takes the engine's reductions.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import LogitsProcessor, LogitsProcessorList

from canopy_stats.schema import SamplingPolicy

from .ending import Endings
from .processors import Past, padded
from .terms import step_terms

Ids = Sequence[int] | np.ndarray
_ROWS = 64


@torch.inference_mode()
def plain_logits(model: Any, prompt_ids: Ids, token_ids: Ids, *, one_shot: bool = True) -> torch.Tensor:
    """Next-token logits (N, V) before each of the N tokens.

    By one forward pass over prompt and tokens; with ``one_shot`` False by transformers' generate, which is made to draw
    the tokens: the law of a model whose logits depend on how far the text has come (LongRoPE, sparse indexers).
    """
    if not one_shot:
        return _stepwise_logits(model, [*map(int, prompt_ids)], [*map(int, token_ids)])
    ids = torch.tensor([[*map(int, prompt_ids), *map(int, token_ids[:-1])]], device=model.device)
    keep = {"logits_to_keep": len(token_ids)} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    logits: torch.Tensor = model(input_ids=ids, use_cache=False, **keep).logits[0, -len(token_ids):]
    return logits


def _stepwise_logits(model: Any, prompt_ids: list[int], token_ids: list[int]) -> torch.Tensor:
    """Next-token logits (N, V) as generate sees them, float32, before anything acts on them."""
    ids = torch.tensor([prompt_ids], device=model.device)
    out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=len(token_ids),
                         logits_processor=LogitsProcessorList([_Given(len(prompt_ids), token_ids)]), use_cache=True,
                         eos_token_id=None, pad_token_id=0, output_logits=True, return_dict_in_generate=True)
    return torch.cat(out.logits)


class _Given(LogitsProcessor):
    """Leaves one token at every step."""

    def __init__(self, prompt: int, token_ids: list[int]):
        self.prompt, self.token_ids = prompt, token_ids

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        only = torch.full_like(scores, -torch.inf)
        only[:, self.token_ids[input_ids.shape[1] - self.prompt]] = 0.0
        return only


def plain_end_ids(model: Any, tokenizer: Any) -> set[int]:
    """Every token that ends a text, by the generation config, the model's and its text part's config, the tokenizer."""
    said = [getattr(holder, "eos_token_id", None)
            for holder in (model.generation_config, model.config, model.config.get_text_config(), tokenizer)]
    listed = [ids if isinstance(ids, list | tuple) else [ids] for ids in said if ids is not None]
    return {int(i) for ids in listed for i in ids if 0 <= int(i) < model.config.get_text_config().vocab_size}


def score(model: Any, prompt_ids: Ids, token_ids: Ids, endings: Endings, policy: SamplingPolicy, *,
          one_shot: bool = True) -> np.ndarray:
    """Terms (N, len(STEP_TERMS)) float32 of given tokens, by the engine's own reductions on plain logits.

    The log-probability of a token that the law cannot draw is minus infinity. ``one_shot`` as in :func:`plain_logits`.
    """
    logits = plain_logits(model, prompt_ids, token_ids, one_shot=one_shot)
    return terms_of_logits(logits, prompt_ids, token_ids, endings, policy)


def terms_of_logits(logits: torch.Tensor, prompt_ids: Ids, token_ids: Ids, endings: Endings,
                    policy: SamplingPolicy) -> np.ndarray:
    """Terms (N, len(STEP_TERMS)) float32 of given tokens from the logits (N, V) before each of them."""
    tokens = torch.tensor([int(t) for t in token_ids], device=logits.device)
    ends = torch.tensor(endings.ids, dtype=torch.long, device=logits.device)
    prompt, completing = [int(i) for i in prompt_ids], _completing(prompt_ids, token_ids, endings)
    parts = []
    for start in range(0, len(tokens), _ROWS):
        rows = slice(start, min(start + _ROWS, len(tokens)))
        past = Past(torch.arange(rows.start, rows.stop, device=tokens.device), _texts(prompt, tokens, rows),
                    padded(completing[rows], tokens.device))
        parts.append(step_terms(logits[rows], policy, ends, tokens=tokens[rows], past=past)[1].cpu().numpy())
    return np.concatenate(parts)


def _texts(prompt_ids: list[int], tokens: torch.Tensor, rows: slice) -> torch.Tensor:
    """The text before each of some steps (rows, T), filled with the prompt's first token."""
    prompt = torch.tensor(prompt_ids, device=tokens.device)
    text = torch.cat([prompt, tokens[: rows.stop]])
    lengths = len(prompt) + torch.arange(rows.start, rows.stop, device=tokens.device)
    return torch.where(torch.arange(len(text), device=tokens.device) < lengths[:, None], text, text[0])


def _completing(prompt_ids: Ids, token_ids: Ids, endings: Endings) -> list[np.ndarray]:
    """The ids that would complete a stop string before each token."""
    tail, found = endings.start([int(i) for i in prompt_ids]), []
    for token in token_ids:
        found.append(endings.completing(tail))
        tail = endings.after(tail, int(token))
    return found
