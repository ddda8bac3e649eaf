"""The law of given logits written a second time: numpy, double precision, whole vocabularies, one rule after the other.

Shares nothing with the engine but the bytes of the tokens (:mod:`.token_bytes`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from canopy_stats.schema import STEP_TERMS, SamplingPolicy

NEAR = 1e-5
"""A step whose filter boundary is closer than this may keep another set of tokens after rounding."""
Ids = Sequence[int] | np.ndarray
_ROWS = 64


@dataclass(frozen=True, slots=True)
class Terms:
    """``steps`` maps each of schema.STEP_TERMS to a float64 array of shape (N,); ``near`` (N,) marks steps whose filter
    boundary lies within NEAR, where rounding may decide what is kept; ``ended`` (N,) those whose token ends the text.
    """

    steps: dict[str, np.ndarray]
    near: np.ndarray
    ended: np.ndarray


def law_terms(logits: np.ndarray, token_ids: Ids, end_ids: Iterable[int], policy: SamplingPolicy, *,
              prompt_ids: Ids = (), pieces: Sequence[bytes] = ()) -> Terms:
    """The terms of drawn tokens (N,) under the law of the logits (N, V).

    ``end_ids`` are the model's own end tokens. A repetition penalty needs the prompt's ids, stop strings need them and
    the tokens' bytes (:func:`.token_bytes.token_bytes`).
    """
    ends, drawn = sorted({*end_ids, *policy.stop_token_ids}), np.asarray(token_ids)
    text = [*map(int, prompt_ids), *map(int, drawn)]
    stops = _stops(text, len(text) - len(drawn), ends, [s.encode() for s in policy.stop_strings], pieces)
    blocks = [_block(_processed(logits[i:i + _ROWS], text, len(text) - len(drawn), i, ends, policy),
                     drawn[i:i + _ROWS], stops[i:i + _ROWS], policy) for i in range(0, len(drawn), _ROWS)]
    steps = {name: np.concatenate([block.steps[name] for block in blocks]) for name in STEP_TERMS}
    return Terms(steps, np.concatenate([block.near for block in blocks]), np.concatenate([b.ended for b in blocks]))


def _processed(logits: np.ndarray, text: list[int], prompt: int, first: int, ends: list[int],
               policy: SamplingPolicy) -> np.ndarray:
    """Logits of the steps from ``first`` on, as penalty, minimum length and suppression leave them."""
    x = logits.astype(np.float64)
    for row in range(len(x)):
        held = sorted(set(text[:prompt + first + row]))
        if policy.repetition_penalty is not None:
            x[row, held] *= np.where(x[row, held] < 0, policy.repetition_penalty, 1 / policy.repetition_penalty)
        if first + row < policy.min_new_tokens:
            x[row, ends] = -np.inf
    x[:, list(policy.suppress_tokens)] = -np.inf
    return x


def _stops(text: list[int], prompt: int, ends: list[int], strings: list[bytes],
           pieces: Sequence[bytes]) -> list[list[int]]:
    """For each step, every id that would end the text: those that might complete a string are tried one by one."""
    # No token completes a string without holding its last byte.
    might = [(s, [i for i, piece in enumerate(pieces) if s[-1:] in piece]) for s in strings]
    stops = []
    for step in range(prompt, len(text)):
        before = b"".join(pieces[i] for i in text[:step][-max(map(len, strings), default=1):]) if strings else b""
        completing = {i for s, ids in might for i in ids if s in before[max(0, len(before) - len(s) + 1):] + pieces[i]}
        stops.append(sorted({*ends, *completing}))
    return stops


def _block(logits: np.ndarray, drawn: np.ndarray, stops: list[list[int]], policy: SamplingPolicy) -> Terms:
    full = _log_softmax(logits / policy.temperature)
    law, near = _filtered(full, policy)
    kept = np.exp(np.where(np.isneginf(law), -np.inf, full)).sum(axis=1)
    entropy, logprob, stop = _summary(law, drawn, stops)
    entropy_full, logprob_full, stop_full = _summary(full, drawn, stops)
    surprise = np.where(np.isneginf(law), 0.0, -law)
    variance = np.sum(np.exp(law) * (surprise - entropy[:, None]) ** 2, axis=1)
    values = (entropy, variance, logprob, stop, kept, entropy_full, logprob_full, stop_full)
    ended = np.array([token in ids for token, ids in zip(drawn.tolist(), stops, strict=True)], dtype=bool)
    return Terms(dict(zip(STEP_TERMS, values, strict=True)), near, ended)


def _summary(law: np.ndarray, drawn: np.ndarray, stops: list[list[int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Entropy, log-probability of the drawn token, probability of ending; each (N,)."""
    mass = np.exp(law)
    entropy = -np.sum(mass * np.where(mass > 0, law, 0.0), axis=1)
    ending = np.array([row[ids].sum() for row, ids in zip(mass, stops, strict=True)])
    return entropy, law[np.arange(len(drawn)), drawn], ending


def _log_softmax(x: np.ndarray) -> np.ndarray:
    x = x - x.max(axis=1, keepdims=True)
    logs: np.ndarray = x - np.log(np.exp(x).sum(axis=1, keepdims=True))
    return logs


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
