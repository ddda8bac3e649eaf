"""Randomness keyed by (seed, family, variant, prompt, rollout, step): counters and a hash, no state.

A uniform is a pure function of its key and its counter, so a rollout's randomness is the same in any order, after a
resume, on any device and beside any other rollouts.
"""

from __future__ import annotations

import hashlib
import json

import torch

from ..schema import RunKey

_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB


def _signed(word: int) -> int:
    """An unsigned 64-bit word as the int64 of the same bits (torch has no unsigned arithmetic)."""
    return word - (1 << 64) if word >= 1 << 63 else word


def rollout_key(run: RunKey, prompt_hash: str, rollout: int) -> tuple[int, int]:
    """The rollout's two 64-bit key words (as int64): 128 bits of the SHA-256 of the fields' canonical JSON."""
    fields = json.dumps([run.seed, run.family, run.variant, prompt_hash, int(rollout)], separators=(",", ":"))
    digest = hashlib.sha256(fields.encode()).digest()
    return _signed(int.from_bytes(digest[:8], "little")), _signed(int.from_bytes(digest[8:16], "little"))


def _shift_right(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Logical shift: torch's shift of an int64 copies the sign."""
    return (x >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _mix(x: torch.Tensor) -> torch.Tensor:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014), element by element; int64 wraps around."""
    x = x ^ _shift_right(x, 30)
    x = x * _signed(_MIX_1)
    x = x ^ _shift_right(x, 27)
    x = x * _signed(_MIX_2)
    return x ^ _shift_right(x, 31)


def uniforms(keys: torch.Tensor, steps: torch.Tensor, counters: torch.Tensor) -> torch.Tensor:
    """Uniforms on (0, 1), float64, shape (B, C), from keys (B, 2), steps (B,) and counters (C,), all int64.

    The second key word enters between two rounds of mixing, so that two rollouts whose first-round streams overlap
    still differ. 52 bits, offset by half a step: neither 0 nor 1 is ever returned.
    """
    golden = _signed(_GOLDEN)
    stream = _mix(keys[:, 0] + (steps + 1) * golden)
    words = _mix(_mix(stream[:, None] + (counters + 1)[None, :] * golden) ^ keys[:, 1:2])
    return (_shift_right(words, 12).to(torch.float64) + 0.5) * 2.0**-52


def gumbels(keys: torch.Tensor, steps: torch.Tensor, counters: torch.Tensor) -> torch.Tensor:
    """Standard Gumbel variates, float64, shape (B, C); arguments as in :func:`uniforms`."""
    return uniforms(keys, steps, counters).log_().neg_().log_().neg_()
