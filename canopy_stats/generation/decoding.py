"""Next-token logits of rows of different lengths: through the slot cache, or by recomputing every row.

All decoders have one interface: ``prefill`` a prompt, make a ``batch`` of slots, ``load`` prompts into slots, and
``step``. A third one is in :mod:`.own_cache`; which one suits a model is found by trying (:mod:`.trial`).
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from transformers import DynamicCache, PreTrainedModel

from ..schema import UserError
from .cache import PrefilledPrompt, SlotCache, row_masks
from .transfer import to_device


class DecodingRows(Protocol):
    """Rows in decoding: the first ``active`` take part in the next step."""

    active: int

    def load(self, slot: int, prompt: Any) -> None: ...

    def move(self, source: int, target: int) -> None: ...


class Decoder(Protocol):
    """What the sampler needs of a model. ``cache`` names how it remembers, for the manifest.

    ``refills``: whether freed slots may be loaded again, with any prompt; if not, rows of one prompt start together.
    ``most_rows``: how many rows may be decoded at once; None where any number may. ``one_shot``: whether one forward
    pass over a whole text gives this decoder's logits; if not, the law is that of one step after the other.
    """

    cache: str
    dtype: torch.dtype
    refills: bool
    most_rows: int | None
    one_shot: bool

    def cache_bytes(self) -> tuple[float, float]:
        """Bytes of one row's cache: at length zero, and for each further token."""
        ...

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
    logits: torch.Tensor = model(**inputs).logits[:, -1]
    return logits


class SlotDecoder:
    """Decodes through a :class:`SlotCache` with explicit positions and masks."""

    cache = "slots"
    refills = True
    most_rows: int | None = None
    one_shot = True

    def __init__(self, model: PreTrainedModel):
        self.model, self.dtype = model, model.dtype
        self.windows = _layer_windows(text_config(model))
        self._additive = _mask_dtype(model)

    def prefill(self, token_ids: Sequence[int]) -> PrefilledPrompt:
        """One forward pass over the prompt alone, with every layer's keys and values kept in full."""
        cache = DynamicCache()
        ids = to_device(token_ids, self.model.device)[None]
        logits = last_logits(self.model, input_ids=ids, past_key_values=cache, use_cache=True)
        return PrefilledPrompt([(layer.keys, layer.values) for layer in cache.layers], logits, len(token_ids))

    def cache_bytes(self) -> tuple[float, float]:
        """See :class:`Decoder`: measured, since heads and their sizes may differ from layer to layer."""
        layers = self.prefill([0]).layers
        return 0.0, float(sum(keys.nbytes + values.nbytes for keys, values in layers))

    def batch(self, slots: int, columns: int) -> SlotCache:
        """Empty slots for rows of at most ``columns`` tokens."""
        return SlotCache(slots, columns, self.model.device)

    def step(self, slots: SlotCache, tokens: torch.Tensor) -> torch.Tensor:
        """Logits (active, V) after feeding one token (active,) to every active row."""
        slots.prepare()
        logits = self.forward(slots, tokens)
        slots.advance()
        return logits

    def forward(self, slots: SlotCache, tokens: torch.Tensor) -> torch.Tensor:
        """Logits (rows, V) after one token for every row that takes part; writes its keys and values."""
        masks: Any = row_masks(slots, self.windows, self._additive)
        positions = slots.lengths[: slots.taking_part, None].clone()
        out = self.model(input_ids=tokens[:, None], attention_mask=masks.get("", masks), position_ids=positions,
                         past_key_values=slots, use_cache=True)
        logits: torch.Tensor = out.logits[:, -1]
        return logits


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
        kind: torch.dtype = model.dtype
        return kind
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
    decoder-only model."""

    cache = "none (every step recomputed)"
    refills = True
    most_rows: int | None = None

    def __init__(self, model: PreTrainedModel, *, one_shot: bool = True):
        self.model, self.dtype, self.one_shot = model, model.dtype, one_shot

    def prefill(self, token_ids: Sequence[int]) -> PrefilledTokens:
        return PrefilledTokens(token_ids, self.logits(token_ids))

    def cache_bytes(self) -> tuple[float, float]:
        return 0.0, 0.0

    def batch(self, slots: int, columns: int) -> TokenSlots:
        return TokenSlots(slots)

    def step(self, slots: TokenSlots, tokens: torch.Tensor) -> torch.Tensor:
        """Logits (active, V) after appending one token to every active row."""
        for row, token in zip(slots.rows[: slots.active], tokens.tolist(), strict=True):
            row.append(token)
        return torch.cat([self.logits(row) for row in slots.rows[: slots.active]])

    def logits(self, token_ids: Sequence[int]) -> torch.Tensor:
        """Next-token logits (1, V) of one text, by one forward pass."""
        ids = torch.tensor([token_ids], device=self.model.device)
        return last_logits(self.model, input_ids=ids, use_cache=False)
