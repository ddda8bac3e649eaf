"""How terms travel: a row of logits that can only become the drawn token, with the terms in reserved places.

vLLM returns the processed logits of ids that a request names, as raw float32, with each token that it keeps. So the
terms of a token are written where the logits of the ids 0, 1, ... stood, the drawn id gets the largest logit, and
greedy sampling does the rest. No registry and no shared memory: a token that vLLM throws away takes its terms along.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ...schema import STEP_TERMS, UserError

TERMS = len(STEP_TERMS)
PLACES = TERMS + 1
"""Reserved ids, from 0: one for each term, and a spare one for the term whose place is the drawn id itself."""
FLOOR = -1e9
"""Logit of all other ids: finite, because a row with infinities breaks samplers."""
DRAWN = 1e6
NOT_A_NUMBER = -1e8
"""Stands for NaN, which would win the argmax. No term comes near it."""


def write_back(logits: torch.Tensor, tokens: torch.Tensor, terms: torch.Tensor) -> None:
    """Turn logits (B, V) float32 into what carries tokens (B,) int64 and terms (B, TERMS) float32, in place."""
    places = torch.arange(PLACES, device=logits.device)
    logits.fill_(FLOOR)
    at = places[:TERMS].expand(len(tokens), TERMS)
    at = torch.where(at == tokens[:, None], places[TERMS], at)
    logits.scatter_(1, at, terms.nan_to_num(nan=NOT_A_NUMBER))
    logits.scatter_(1, tokens[:, None], DRAWN)


def unpack(values: Sequence[float], token_ids: np.ndarray) -> np.ndarray:
    """Terms (N, TERMS) float32 from what came back for N tokens (N,): of each, the logit of the drawn id and those of
    the reserved ids, one after the other. RuntimeError where they are not what :func:`write_back` wrote."""
    table = np.array(values, dtype=np.float32).reshape(-1, 1 + PLACES)
    if len(table) != len(token_ids) or not (table[:, 0] == DRAWN).all():
        raise RuntimeError("vLLM did not give back the terms that were written into its logits: another logits "
                           "processor, or a version that treats them otherwise")
    terms = table[:, 1:1 + TERMS].copy()
    hit = token_ids < TERMS
    terms[hit, token_ids[hit]] = table[hit, PLACES]
    terms[terms == np.float32(NOT_A_NUMBER)] = np.nan
    return terms


def refuse_a_small_vocabulary(vocabulary: int) -> None:
    """Refuse a model with no room for the reserved places."""
    if vocabulary <= PLACES:
        raise UserError(f"The model has {vocabulary} token ids, and engine='vllm' needs more than {PLACES}; use "
                        "engine='torch'.")
