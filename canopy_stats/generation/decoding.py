"""Next-token logits of rows of different lengths: through the slot cache, or by recomputing every row.

Both decoders have one interface: ``prefill`` a prompt, make a ``batch`` of slots, ``load`` prompts into slots, and
``step``. Which one suits a model is found by trying: two rows of different lengths are decoded through the slot
cache, dropped and refilled, and compared with plain forward passes.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from transformers import DynamicCache, PreTrainedModel

from ..schema import UserError
from .cache import PrefilledPrompt, SlotCache, row_masks


class Slots(Protocol):
    """Rows in decoding: the first ``active`` take part in the next step."""

    active: int

    def load(self, slot: int, prompt: Any) -> None: ...

    def move(self, source: int, target: int) -> None: ...


class Decoder(Protocol):
    """What the sampler needs of a model. ``cache`` names how it remembers, for the manifest."""

    cache: str
    dtype: torch.dtype

    def prefill(self, token_ids: Sequence[int]) -> Any: ...

    def batch(self, slots: int, columns: int) -> Any: ...

    def step(self, slots: Any, tokens: torch.Tensor) -> torch.Tensor: ...


def text_config(model: PreTrainedModel) -> Any:
    """The language model's configuration, also inside a composite one."""
    return model.config.get_text_config()


def last_logits(model: PreTrainedModel, **inputs: Any) -> torch.Tensor:
    """Logits (B, V) of the last position, without those of the others where the model allows it."""
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        inputs["logits_to_keep"] = 1
    return model(**inputs).logits[:, -1]


class SlotDecoder:
    """Decodes through a :class:`SlotCache` with explicit positions and masks."""

    cache = "slots"

    def __init__(self, model: PreTrainedModel):
        self.model, self.dtype = model, model.dtype
        self._windows = _layer_windows(text_config(model))
        self._additive = _mask_dtype(model)

    def prefill(self, token_ids: Sequence[int]) -> PrefilledPrompt:
        """One forward pass over the prompt alone, with every layer's keys and values kept in full."""
        cache = DynamicCache()
        ids = torch.tensor([token_ids], device=self.model.device)
        logits = last_logits(self.model, input_ids=ids, past_key_values=cache, use_cache=True)
        return PrefilledPrompt(cache, logits, len(token_ids))

    def batch(self, slots: int, columns: int) -> SlotCache:
        """Empty slots for rows of at most ``columns`` tokens."""
        return SlotCache(slots, columns, self.model.device)

    def step(self, slots: SlotCache, tokens: torch.Tensor) -> torch.Tensor:
        """Logits (active, V) after feeding one token (active,) to every active row."""
        slots.prepare()
        masks: Any = row_masks(slots, self._windows, self._additive)
        positions = slots.lengths[: slots.active, None].clone()
        out = self.model(input_ids=tokens[:, None], attention_mask=masks.get("", masks), position_ids=positions,
                         past_key_values=slots, use_cache=True)
        slots.advance()
        return out.logits[:, -1]


def _layer_windows(config: Any) -> dict[str, int | None]:
    """Sliding window per kind of layer; the one key ``""`` where the model takes a single mask.

    Mirrors ``transformers.masking_utils.create_masks_for_generate``.
    """
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        return {"": window}
    return {kind: window if kind == "sliding_attention" else None for kind in sorted(set(kinds))}


def _mask_dtype(model: PreTrainedModel) -> torch.dtype | None:
    """None for boolean masks (sdpa), the model's dtype for additive ones (eager)."""
    implementation = text_config(model)._attn_implementation
    if implementation == "sdpa":
        return None
    if implementation in ("eager", None):
        return model.dtype
    raise UserError(f"The model uses the attention implementation {implementation!r}, which takes no mask per row; "
                    "load it with attn_implementation='sdpa' (or 'eager').")


class TokenSlots:
    """Rows as plain lists of token ids, for models whose memory can't be cut into slots."""

    def __init__(self, slots: int):
        self.active = 0
        self.rows: list[list[int]] = [[] for _ in range(slots)]

    def load(self, slot: int, prompt: PrefilledTokens) -> None:
        self.rows[slot] = list(prompt.token_ids)

    def move(self, source: int, target: int) -> None:
        self.rows[target] = self.rows[source]


class PrefilledTokens:
    """A prompt's token ids and its next-token logits (1, V)."""

    def __init__(self, token_ids: Sequence[int], logits: torch.Tensor):
        self.token_ids = token_ids
        self.logits = logits


class RecomputeDecoder:
    """Runs every row's whole text through the model at every step, one row at a time: slow, and right for any
    decoder-only model (state-space and linear-attention layers, position biases, chunked attention)."""

    cache = "none (every step recomputed)"

    def __init__(self, model: PreTrainedModel):
        self.model, self.dtype = model, model.dtype

    def prefill(self, token_ids: Sequence[int]) -> PrefilledTokens:
        return PrefilledTokens(token_ids, self._logits(token_ids))

    def batch(self, slots: int, columns: int) -> TokenSlots:
        return TokenSlots(slots)

    def step(self, slots: TokenSlots, tokens: torch.Tensor) -> torch.Tensor:
        """Logits (active, V) after appending one token to every active row."""
        for row, token in zip(slots.rows[: slots.active], tokens.tolist(), strict=True):
            row.append(token)
        return torch.cat([self._logits(row) for row in slots.rows[: slots.active]])

    def _logits(self, token_ids: Sequence[int]) -> torch.Tensor:
        ids = torch.tensor([token_ids], device=self.model.device)
        return last_logits(self.model, input_ids=ids, use_cache=False)


def choose_decoder(model: PreTrainedModel) -> Decoder:
    """The slot decoder where a trial agrees with plain forward passes, else the recomputing one."""
    if getattr(model.config, "is_encoder_decoder", False):
        raise UserError(f"{type(model).__name__} is an encoder-decoder model; canopy_stats draws from decoder-only "
                        "(causal) language models.")
    kinds = set(getattr(text_config(model), "layer_types", None) or ["full_attention"])
    if getattr(model, "_is_stateful", False) or kinds - {"full_attention", "sliding_attention"}:
        return RecomputeDecoder(model)
    decoder = SlotDecoder(model)
    return decoder if _slots_agree(decoder) else RecomputeDecoder(model)


@torch.inference_mode()
def _slots_agree(decoder: SlotDecoder) -> bool:
    """Whether slots of different lengths, one of them refilled, give the logits of plain forward passes."""
    plain = RecomputeDecoder(decoder.model)
    vocabulary = text_config(decoder.model).vocab_size
    texts = [[(7 * i + 3 * n) % vocabulary for i in range(n)] for n in (9, 4, 2)]
    try:
        slots = decoder.batch(2, 10)
        slots.active = 2
        for slot, text in enumerate(texts[:2]):
            slots.load(slot, decoder.prefill(text))
        feed = torch.tensor([5 % vocabulary, 1 % vocabulary], device=decoder.model.device)
        decoder.step(slots, feed)
        slots.load(0, decoder.prefill(texts[2]))
        ours = decoder.step(slots, feed)
    except (TypeError, ValueError, AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        return False
    first, second = feed.tolist()
    expected = torch.cat([plain._logits([*texts[2], first]), plain._logits([*texts[1], second, second])])
    return _close(ours.float(), expected.float(), decoder.model.dtype)


def _close(ours: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> bool:
    """Equal up to a generous share of the logits' spread; NaN and equal infinities count as equal."""
    spread = expected[expected.isfinite()].std() if expected.isfinite().any() else torch.tensor(0.0)
    share = 1e-3 if dtype in (torch.float32, torch.float64) else 0.2
    return torch.allclose(ours, expected, rtol=0, atol=float(spread) * share + 1e-6, equal_nan=True)
