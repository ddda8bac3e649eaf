"""MarkovLM: a transformers model whose next-token law is a given table, so that every answer is known exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import Cache, DynamicCache, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from ..schema import UserError

_MAX_STEPS = 10_000_000
_TAIL = 1e-13


class MarkovConfig(PreTrainedConfig):
    """The little that transformers wants to know of a :class:`MarkovLM`."""

    model_type = "markov_lm"

    def __init__(self, vocab_size: int = 2, eos_token_id: int = 1, **kwargs: Any):
        self.vocab_size = vocab_size
        self.hidden_size = self.num_attention_heads = self.num_key_value_heads = self.head_dim = 1
        self.num_hidden_layers = 1
        super().__init__(eos_token_id=eos_token_id, bos_token_id=None, pad_token_id=None, **kwargs)


class MarkovLM(PreTrainedModel, GenerationMixin):
    """A causal language model over V token ids whose next-token law is row ``transition[last token]``.

    Parameters
    ----------
    transition : array (V, V)
        Rows sum to 1 (to 1e-9); states are token ids. The end state's own row is never used.
    end_state : int
        The token id that ends a rollout; its chain must be left by it (see :meth:`exact`).
    """

    config: MarkovConfig
    base_model_prefix = "markov"
    _supports_sdpa = True

    def __init__(self, transition: Any, end_state: int):
        table = _checked(transition, end_state)
        super().__init__(MarkovConfig(vocab_size=len(table), eos_token_id=int(end_state)))
        self.transition = table
        self.end_state = int(end_state)
        with np.errstate(divide="ignore"):
            self.log_transition = torch.nn.Parameter(torch.tensor(np.log(table), dtype=torch.float32),
                                                     requires_grad=False)
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        """Nothing to initialise: the table is the model."""

    def forward(self, input_ids: torch.Tensor, attention_mask: Any = None, position_ids: Any = None,
                past_key_values: Cache | None = None, use_cache: bool | None = None, logits_to_keep: int = 0,
                **kwargs: Any) -> CausalLMOutputWithPast:
        """Logits (B, T, V): the logarithm of each token's row. The tokens go through the cache as keys and values,
        though no law depends on them."""
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache()
        if past_key_values is not None:
            states = input_ids[:, None, :, None].to(self.log_transition.dtype)
            past_key_values.update(states, states, 0)
        logits = self.log_transition[input_ids[:, -logits_to_keep:] if logits_to_keep else input_ids]
        return CausalLMOutputWithPast(logits=logits, past_key_values=past_key_values)

    def check_prompt(self, token_ids: tuple[int, ...]) -> None:
        """Refuse a prompt that starts from the end state."""
        if token_ids[-1] == self.end_state:
            raise UserError(f"A prompt ends in the end state {self.end_state}, where nothing is left to draw; start "
                            "from another state.")

    def exact(self, start: int, max_new_tokens: int | None = None) -> dict[str, float]:
        """What an infinite number of rollouts from ``start`` would give, in nats and tokens.

        ``ce`` = E[H], ``mean_length`` = E[N], ``mean_rate`` = E[H/N], ``cov`` = Cov(N, H/N), ``var_length`` and
        ``stop_rate`` (the chance of ending before or at the cap). ``max_new_tokens`` None means no cap: then the
        series is summed until what is left is below 1e-13 of the result. Float64 throughout.
        """
        if not 0 <= start < len(self.transition):
            raise UserError(f"The start state is {start}; it must be a state from 0 to {len(self.transition) - 1}.")
        self.check_prompt((start,))
        chain = _transient(self.transition, self.end_state, start)
        return _sum_over_lengths(*chain, max_new_tokens)


def _checked(transition: Any, end_state: int) -> np.ndarray:
    table = np.asarray(transition, dtype=np.float64)
    if table.ndim != 2 or table.shape[0] != table.shape[1] or len(table) < 2:
        raise UserError(f"transition has shape {table.shape}; it must be (V, V) with V at least 2.")
    if not np.isfinite(table).all() or (table < 0).any():
        raise UserError("transition holds negative or non-finite entries; they must be probabilities.")
    wrong = np.flatnonzero(np.abs(table.sum(axis=1) - 1) > 1e-9)
    if len(wrong):
        raise UserError(f"Row {wrong[0]} of transition sums to {table[wrong[0]].sum():.9g}; every row must sum to 1.")
    if not 0 <= int(end_state) < len(table):
        raise UserError(f"end_state is {end_state}; it must be a state from 0 to {len(table) - 1}.")
    return table


def _transient(table: np.ndarray, end: int, start: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Over the S states reachable from start: moves among them (S, S), chances of ending (S,), entropies (S,), and
    the start as a unit vector (S,)."""
    reach, frontier = {start}, [start]
    while frontier:
        onward = {int(j) for j in np.flatnonzero(table[frontier.pop()])} - reach - {end}
        reach |= onward
        frontier += onward
    states = sorted(reach)
    rows = table[states]
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.where(rows > 0, rows * np.log(rows), 0.0).sum(axis=1)
    return rows[:, states], rows[:, end], entropy, (np.array(states) == start).astype(float)


def _sum_over_lengths(inner: np.ndarray, hazard: np.ndarray, entropy: np.ndarray, alive: np.ndarray,
                      cap: int | None) -> dict[str, float]:
    """Sum E[.; N = n] over n with two row vectors over states: ``alive`` (probability of being there after t steps)
    and ``carried`` (E[H so far; there]). E[H/N] needs only E[H; N = n], not the distribution of H."""
    left = _expected_left(inner, entropy) if cap is None else None
    carried = np.zeros_like(alive)
    ce = length = square = rate = stopped = 0.0
    for n in range(1, (cap or _MAX_STEPS) + 1):
        gained = carried + alive * entropy
        ending = hazard if n != cap else np.ones_like(hazard)
        ce_n, p_n = gained @ ending, alive @ ending
        ce, rate = ce + ce_n, rate + ce_n / n
        length, square, stopped = length + n * p_n, square + n * n * p_n, stopped + alive @ hazard
        alive, carried = alive @ inner, gained @ inner
        if left is not None and _negligible(alive, carried, left, n, ce, length, square):
            break
    else:
        if cap is None:
            raise UserError(f"This chain still runs after {_MAX_STEPS:,} steps; give max_new_tokens.")
    return {"ce": float(ce), "mean_length": float(length), "mean_rate": float(rate), "cov": float(ce - length * rate),
            "var_length": float(square - length**2), "stop_rate": float(stopped)}


def _expected_left(inner: np.ndarray, entropy: np.ndarray) -> np.ndarray:
    """(S, 3): entropy, steps, and squared steps still to come from every state, by the fundamental matrix."""
    identity = np.eye(len(inner))
    if np.abs(np.linalg.eigvals(inner)).max() >= 1 - 1e-12:
        raise UserError("The chain has states that never reach the end state, so its rollouts have no finite length; "
                        "give max_new_tokens, or another table.")
    steps = np.linalg.solve(identity - inner, np.ones(len(inner)))
    squares = np.linalg.solve(identity - inner, 2 * steps - 1)
    return np.column_stack([np.linalg.solve(identity - inner, entropy), steps, squares])


def _negligible(alive: np.ndarray, carried: np.ndarray, left: np.ndarray, n: int, ce: float, length: float,
                square: float) -> bool:
    """Whether every sum's exact remainder after n steps is below the tolerance."""
    entropy_left, steps_left, squares_left = alive @ left
    rest = alive.sum()
    remainders = (carried.sum() + entropy_left, n * rest + steps_left,
                  n * n * rest + 2 * n * steps_left + squares_left)
    return all(r <= _TAIL * (total + 1e-300) or r < 1e-290 for r, total in zip(remainders, (ce, length, square),
                                                                             strict=True))
