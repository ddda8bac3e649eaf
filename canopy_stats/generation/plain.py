"""Plain transformers: one forward pass over given tokens, and the law written a second time.

What a stored run is checked against shares no code with the engine: no cache, no batch, the law in numpy and double
precision on whole logits. It is slow and simple on purpose. Only
:func:`score`, which gives terms of texts under another model, takes the engine's reductions.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from canopy_stats.schema import STEP_TERMS, SamplingPolicy

from .terms import step_terms

NEAR = 1e-5
"""A step whose filter boundary is closer than this may keep another set of tokens after rounding."""
Ids = Sequence[int] | np.ndarray
_ROWS = 64


@torch.inference_mode()
def plain_logits(model: Any, prompt_ids: Ids, token_ids: Ids) -> torch.Tensor:
    """Next-token logits (N, V) before each of the N tokens, by one forward pass over prompt and tokens."""
    ids = torch.tensor([[*map(int, prompt_ids), *map(int, token_ids[:-1])]], device=model.device)
    keep = {"logits_to_keep": len(token_ids)} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    return model(input_ids=ids, use_cache=False, **keep).logits[0, -len(token_ids):]


def plain_end_ids(model: Any, tokenizer: Any) -> set[int]:
    """Every token that ends a text, by the generation config, the model's and its text part's config, the tokenizer."""
    said = [getattr(holder, "eos_token_id", None)
            for holder in (model.generation_config, model.config, model.config.get_text_config(), tokenizer)]
    listed = [ids if isinstance(ids, list | tuple) else [ids] for ids in said if ids is not None]
    return {int(i) for ids in listed for i in ids if 0 <= int(i) < model.config.get_text_config().vocab_size}


def score(model: Any, prompt_ids: Ids, token_ids: Ids, end_ids: Iterable[int],
          policy: SamplingPolicy) -> np.ndarray:
    """Terms (N, len(STEP_TERMS)) float32 of given tokens, by the engine's own reductions on plain logits.

    The log-probability of a token that the law cannot draw is minus infinity.
    """
    logits = plain_logits(model, prompt_ids, token_ids)
    tokens = torch.tensor([int(t) for t in token_ids], device=logits.device)
    ends = torch.tensor(sorted(end_ids), dtype=torch.long, device=logits.device)
    return step_terms(logits, policy, ends, tokens=tokens)[1].cpu().numpy()


@dataclass(frozen=True, slots=True)
class Terms:
    """``steps`` maps each of schema.STEP_TERMS to a float64 array of shape (N,); ``near`` (N,) marks steps whose filter
    boundary lies within NEAR, where rounding may decide what is kept."""

    steps: dict[str, np.ndarray]
    near: np.ndarray


def law_terms(logits: np.ndarray, token_ids: Ids, end_ids: Iterable[int], policy: SamplingPolicy) -> Terms:
    """The terms of drawn tokens (N,) under the law of the logits (N, V)."""
    ends, drawn = sorted(end_ids), np.asarray(token_ids)
    blocks = [_block(logits[i:i + _ROWS], drawn[i:i + _ROWS], ends, policy) for i in range(0, len(drawn), _ROWS)]
    steps = {name: np.concatenate([block.steps[name] for block in blocks]) for name in STEP_TERMS}
    return Terms(steps, np.concatenate([block.near for block in blocks]))


def _block(logits: np.ndarray, drawn: np.ndarray, ends: list[int], policy: SamplingPolicy) -> Terms:
    full = _log_softmax(logits.astype(np.float64) / policy.temperature)
    law, near = _filtered(full, policy)
    kept = np.exp(np.where(np.isneginf(law), -np.inf, full)).sum(axis=1)
    entropy, logprob, stop = _summary(law, drawn, ends)
    entropy_full, logprob_full, stop_full = _summary(full, drawn, ends)
    surprise = np.where(np.isneginf(law), 0.0, -law)
    variance = np.sum(np.exp(law) * (surprise - entropy[:, None]) ** 2, axis=1)
    values = (entropy, variance, logprob, stop, kept, entropy_full, logprob_full, stop_full)
    return Terms(dict(zip(STEP_TERMS, values, strict=True)), near)


def _summary(law: np.ndarray, drawn: np.ndarray, ends: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Entropy, log-probability of the drawn token, end-token probability; each (N,)."""
    mass = np.exp(law)
    entropy = -np.sum(mass * np.where(mass > 0, law, 0.0), axis=1)
    return entropy, law[np.arange(len(drawn)), drawn], mass[:, ends].sum(axis=1)


def _log_softmax(x: np.ndarray) -> np.ndarray:
    x = x - x.max(axis=1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


def _filtered(law: np.ndarray, policy: SamplingPolicy) -> tuple[np.ndarray, np.ndarray]:
    """The law after top-k, top-p and min-p, in this order, and which rows have a boundary within NEAR."""
    near = np.zeros(len(law), dtype=bool)
    filters: list[tuple[Any, Any, bool]] = [
        (_top_k, policy.top_k, policy.top_k is not None and policy.top_k < law.shape[1]),
        (_top_p, policy.top_p, policy.top_p is not None and policy.top_p < 1),
        (_min_p, policy.min_p, bool(policy.min_p)),
    ]
    for threshold, value, applies in filters:
        if applies:
            cut, close = threshold(law, value)
            near |= close
            law = _log_softmax(np.where(law >= cut[:, None], law, -np.inf))
    return law, near


def _top_k(law: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    ordered = -np.sort(-law, axis=1)
    return ordered[:, k - 1], _gap(ordered, np.full(len(law), k - 1)) < NEAR


def _top_p(law: np.ndarray, p: float) -> tuple[np.ndarray, np.ndarray]:
    ordered = -np.sort(-law, axis=1)
    reached = np.cumsum(np.exp(ordered), axis=1)
    # Rounding may leave the whole mass a little below 1: then every token is kept.
    last = np.minimum((reached < p).sum(axis=1), law.shape[1] - 1)
    close = np.abs(reached - p).min(axis=1) < NEAR
    return ordered[np.arange(len(law)), last], close | (_gap(ordered, last) < NEAR)


def _min_p(law: np.ndarray, p: float) -> tuple[np.ndarray, np.ndarray]:
    cut = law.max(axis=1) + np.log(p)
    return cut, np.abs(law - cut[:, None]).min(axis=1) < NEAR


def _gap(ordered: np.ndarray, last: np.ndarray) -> np.ndarray:
    """(N,) distance in log-probability between the last token kept and the first one dropped; inf when none is."""
    padded = np.concatenate([ordered, np.full((len(ordered), 1), -np.inf)], axis=1)
    rows = np.arange(len(ordered))
    kept, dropped = padded[rows, last], padded[rows, last + 1]
    return np.where(np.isneginf(dropped), np.inf, kept - np.where(np.isneginf(dropped), 0.0, dropped))
