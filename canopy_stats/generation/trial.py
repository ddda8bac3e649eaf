"""Which decoder suits a model: found by trying, in float32, beyond every length at which its attention may change.

Slots must give the logits of one plain forward pass for rows of unequal lengths, some before and some behind each
switch, one of them refilled. A model that fails is decoded through its own cache, as transformers' generate does, in
batches of rows of one length; where its cache cannot hold several rows, one row at a time; without a cache, by
recomputing every step.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel

from ..schema import UserError
from .cache import PrefilledPrompt
from .decoding import Decoder, RecomputeDecoder, SlotDecoder, text_config
from .own_cache import OwnCacheDecoder
from .plain import plain_logits
from .switches import switch_lengths

_FAILURES = (TypeError, ValueError, AttributeError, LookupError, RuntimeError, AssertionError)
"""What a model raises that cannot be decoded in the way that is tried."""
_AROUND = 3
"""Tokens before and behind a switch that are looked at."""

_SHARES = {torch.float16: 0.02, torch.bfloat16: 0.1}
"""Where memory does not let the trial run in float32."""


def choose_decoder(model: PreTrainedModel) -> Decoder:
    """The fastest decoder that is exact for this model; see the module."""
    if getattr(model.config, "is_encoder_decoder", False):
        raise UserError(f"{type(model).__name__} is an encoder-decoder model; canopy_stats draws from decoder-only "
                        "(causal) language models.")
    with _in_float32(model), torch.inference_mode():
        choice = _choice(model)
    return choice()


def _choice(model: PreTrainedModel) -> Callable[[], Decoder]:
    """How to make the decoder once the model has its own type again."""
    kinds = set(getattr(text_config(model), "layer_types", None) or ["full_attention"])
    stateful = getattr(model, "_is_stateful", False) or bool(kinds - {"full_attention", "sliding_attention"})
    if not stateful and slots_agree(SlotDecoder(model)):
        return lambda: SlotDecoder(model)
    lengths = [8, *(n + _AROUND for n in switch_lengths(text_config(model)))]
    if not _holds(lambda: _is_that_of_generate(OwnCacheDecoder(model))):
        steady = _holds(lambda: all(_recomputed_agrees(model, n) for n in lengths))
        _say(model, "by running every text anew at every step, since no cache of it gave the same logits: slow")
        return lambda: RecomputeDecoder(model, one_shot=steady)
    most = None if _holds(lambda: _rows_agree(OwnCacheDecoder(model), 3)) else 1
    if most:
        _say(model, "one rollout at a time: the cache that it makes for itself cannot hold several rows")
    one_shot = _holds(lambda: all(_own_agrees(OwnCacheDecoder(model), n) for n in lengths))
    return lambda: OwnCacheDecoder(model, most_rows=most, one_shot=one_shot)


def _say(model: PreTrainedModel, how: str) -> None:
    warnings.warn(f"{type(model).__name__} is decoded {how}.", stacklevel=2)


def _holds(trial: Callable[[], bool]) -> bool:
    try:
        return trial()
    except _FAILURES as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        return False


# ---------------------------------------------------------------------------------------------------------- the trials


@torch.inference_mode()
def slots_agree(decoder: SlotDecoder) -> bool:
    """Whether slots of different lengths, one of them refilled, give the logits of plain forward passes."""
    lengths = switch_lengths(text_config(decoder.model))
    return _holds(lambda: _short_rows_agree(decoder) and all(_switch_agrees(decoder, n) for n in lengths))


def _short_rows_agree(decoder: SlotDecoder) -> bool:
    plain = RecomputeDecoder(decoder.model)
    texts = [_text(decoder.model, n, start=3 * n) for n in (9, 4, 2)]
    slots = decoder.batch(2, 10)
    slots.active = 2
    for slot, text in enumerate(texts[:2]):
        slots.load(slot, decoder.prefill(text))
    feed = _ids(decoder.model, _text(decoder.model, 2, start=5))[0]
    decoder.step(slots, feed)
    slots.load(0, decoder.prefill(texts[2]))
    ours = decoder.step(slots, feed)
    first, second = feed.tolist()
    expected = torch.cat([plain.logits([*texts[2], first]), plain.logits([*texts[1], second, second])])
    return close(ours, expected)


def _switch_agrees(decoder: SlotDecoder, length: int) -> bool:
    """Three rows of one text, before, at and behind a switch, against one forward pass over it."""
    before, early, behind = max(length - _AROUND, 1), min(2, length - 1), length + 1
    text = _text(decoder.model, behind + 2 * _AROUND)
    whole = decoder.prefill(text[:behind])
    slots = decoder.batch(3, len(text))
    slots.active = 3
    for slot, start in enumerate((before, early, behind)):
        slots.load(slot, _cut(whole, start))
    # The early row is shorter than any switch: one forward pass over all of the text may change its law.
    late = _last_logits(decoder.model, text, len(text) - before)
    first = _last_logits(decoder.model, text[: early + 2 * _AROUND], 2 * _AROUND)
    for step in range(2 * _AROUND):
        fed = [text[start + step] for start in (before, early, behind)]
        ours = decoder.step(slots, _ids(decoder.model, fed)[0])
        if not close(ours, torch.stack([late[step], first[step], late[behind - before + step]])):
            return False
    return True


def _cut(prompt: PrefilledPrompt, length: int) -> PrefilledPrompt:
    """The prefilled first part of a prompt: in attention that looks back, the first part of its keys and values."""
    layers = [(keys[:, :, :length], values[:, :, :length]) for keys, values in prompt.layers]
    return PrefilledPrompt(layers, prompt.logits, length)


def _rows_agree(decoder: OwnCacheDecoder, rows: int) -> bool:
    """Whether rows that draw different tokens go on as each does alone, also after one was dropped."""
    prompt, steps = _text(decoder.model, 6), 4
    feeds = [_text(decoder.model, steps, start=11 + 5 * row) for row in range(rows)]
    together = _own_steps(decoder, prompt, feeds)
    return all(close(ours, _own_steps(decoder, prompt, [feed])[0][: len(ours)])
               for ours, feed in zip(together, feeds, strict=True))


def _own_steps(decoder: OwnCacheDecoder, prompt: list[int], feeds: list[list[int]]) -> list[torch.Tensor]:
    """Each row's logits (steps, V); the last of several rows takes the first one's slot half way, which is dropped."""
    slots, prefilled = decoder.batch(len(feeds), 0), decoder.prefill(prompt)
    for slot in range(len(feeds)):
        slots.load(slot, prefilled)
    slots.active = len(feeds)
    order, found = list(range(len(feeds))), [[prefilled.logits[0]] for _ in feeds]
    for step in range(len(feeds[0])):
        if step == 2 and len(order) > 2:
            slots.move(len(order) - 1, 1)
            order = [order[0], order[-1]]
            slots.active = len(order)
        fed = torch.tensor([feeds[row][step] for row in order], device=decoder.model.device)
        for row, logits in zip(order, decoder.step(slots, fed), strict=True):
            found[row].append(logits)
    return [torch.stack(rows) for rows in found]


def _is_that_of_generate(decoder: OwnCacheDecoder) -> bool:
    """Whether steps through the model's own cache give the logits that transformers' generate sees."""
    prompt, feed = _text(decoder.model, 6), _text(decoder.model, 5, start=11)
    ours = _own_steps(decoder, prompt, [feed])[0]
    return close(ours[:-1], plain_logits(decoder.model, prompt, feed, one_shot=False))


def _own_agrees(decoder: OwnCacheDecoder, length: int) -> bool:
    """Whether steps through the model's own cache up to a length give the logits of one forward pass."""
    text, steps = _text(decoder.model, length), min(2 * _AROUND, length - 1)
    ours = _own_steps(decoder, text[:-steps], [text[-steps:]])[0]
    return close(ours, _last_logits(decoder.model, text, len(ours)))


def _recomputed_agrees(model: PreTrainedModel, length: int) -> bool:
    plain, text = RecomputeDecoder(model), _text(model, length)
    cuts = range(max(1, length - 2 * _AROUND), length + 1)
    return close(torch.cat([plain.logits(text[:n]) for n in cuts]), _last_logits(model, text, len(cuts)))


# -------------------------------------------------------------------------------------------------------------- pieces


def _text(model: PreTrainedModel, length: int, start: int = 0) -> list[int]:
    """Made-up tokens, no two neighbours alike."""
    vocabulary = text_config(model).vocab_size
    return [(7 * i + start + i * i // 11) % vocabulary for i in range(length)]


def _ids(model: PreTrainedModel, token_ids: Sequence[int]) -> torch.Tensor:
    return torch.tensor([list(token_ids)], device=model.device)


def _last_logits(model: PreTrainedModel, text: list[int], positions: int) -> torch.Tensor:
    """Logits (positions, V) at the end of a text, by one forward pass over all of it."""
    keep = {"logits_to_keep": positions} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
    logits: torch.Tensor = model(input_ids=_ids(model, text), use_cache=False, **keep).logits[0, -positions:]
    return logits


def close(ours: torch.Tensor, expected: torch.Tensor) -> bool:
    """Equal up to a share of the logits' spread; NaN and equal infinities count as equal."""
    finite = expected[expected.isfinite()]
    spread = float(finite.float().std()) if len(finite) > 1 else 0.0
    share = _SHARES.get(expected.dtype, 1e-3)
    return torch.allclose(ours.float(), expected.float(), rtol=0, atol=spread * share + 1e-6, equal_nan=True)


@contextmanager
def _in_float32(model: PreTrainedModel) -> Iterator[None]:
    """The model with its 16-bit parameters in float32, where rounding hides nothing; afterwards the same bits again."""
    narrow = {torch.float16, torch.bfloat16}
    kept = [(p, p.dtype) for p in model.parameters() if p.dtype in narrow] if _has_room(model) else []
    try:
        for parameter, _ in kept:
            parameter.data = parameter.data.float()
        yield
    finally:
        for parameter, dtype in kept:
            parameter.data = parameter.data.to(dtype)


def _has_room(model: PreTrainedModel) -> bool:
    if model.device.type != "cuda":
        return True
    free: int = torch.cuda.mem_get_info(model.device)[0]
    size: int = sum(p.numel() for p in model.parameters())
    return free > 5 * size
