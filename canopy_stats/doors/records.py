"""One completion as somebody's log holds it: what every reader yields and everything behind them takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

FIELDS = {
    "prompt_id": ("prompt_id", "id", "custom_id"),
    "prompt": ("prompt", "messages", "input"),
    "prompt_token_ids": ("prompt_token_ids",),
    "completions": ("completions", "responses", "outputs", "generations"),
    "completion": ("completion", "response", "output", "generation", "text"),
    "token_ids": ("token_ids", "completion_token_ids", "output_token_ids"),
    "logprobs": ("logprobs", "token_logprobs"),
    "top_logprobs": ("top_logprobs",),
    "finish_reason": ("finish_reason", "stop_reason"),
    "entropy": ("entropy", "entropies"),
}
"""What a row may hold, and the names under which it is looked for, in this order; ``fields`` gives other names."""
PER_COMPLETION = ("token_ids", "logprobs", "top_logprobs", "finish_reason", "entropy")
"""Fields that stand in the row or in each of its completions; in the row, a list with one entry for each of these."""


@dataclass(frozen=True, slots=True)
class Logged:
    """One completion of one prompt, as it was logged. What was not logged is None.

    ``where`` says where it stands, for messages. ``logprobs`` (N,) are the drawn tokens' log-probabilities in nats,
    ``top_logprobs`` those of the most likely tokens at each step, ``entropy`` what the log calls so: a number for each
    token, or one for the completion.
    """

    where: str
    prompt: Any
    prompt_id: str | None = None
    prompt_token_ids: Sequence[int] | None = None
    text: str | None = None
    token_ids: Sequence[int] | None = None
    logprobs: Sequence[float] | float | None = None
    top_logprobs: Sequence[Sequence[float]] | None = None
    finish_reason: str | None = None
    entropy: Sequence[float] | float | None = None
