"""The two logits processors: one for each of vLLM's model runners, over the same :class:`.slots.Slots`."""

from __future__ import annotations

from typing import Any

import torch
from vllm.v1.sample.logits_processor import LogitsProcessor as FirstInterface
from vllm.v1.sample.logits_processor import MoveDirectionality
from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as SecondInterface

from .slots import Carried, Slots


def _slots(vllm_config: Any, device: torch.device) -> Slots:
    return Slots(vllm_config.scheduler_config.max_num_seqs, vllm_config.model_config.max_model_len,
                 vllm_config.model_config.get_vocab_size(), device)


class SecondRunner(SecondInterface):
    """For Model Runner V2, where requests have slots of their own and tokens stay on the device."""

    def __init__(self, vllm_config: Any, req_states: Any) -> None:
        self._states, self._device = req_states, req_states.device
        self._slots = _slots(vllm_config, req_states.device)
        self._added: dict[int, Carried] = {}

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """A slot's new request; its text is there once vLLM has written it."""
        carried = Carried.from_args(sampling_params.extra_args)
        self._slots.clear(req_idx)
        self._added.pop(req_idx, None)
        if carried is not None:
            self._added[req_idx] = carried
        return carried is not None

    def apply_staged_writes(self) -> None:
        for slot, carried in self._added.items():
            prompt, whole = int(self._states.prompt_len.np[slot]), int(self._states.prefill_len.np[slot])
            self._slots.load(slot, carried, self._states.all_token_ids.gpu[slot, :whole], prompt)
        self._added.clear()

    def apply(self, logits: torch.Tensor, ctx: Any) -> torch.Tensor:
        where = ctx.expanded_idx_mapping.long()
        steps = ctx.pos.long() + 1 - self._states.prompt_len.gpu[where].long()
        self._slots.draw(logits, ctx.idx_mapping_np.tolist(), where, steps)
        return logits


class FirstRunner(FirstInterface):
    """For Model Runner V1, where requests move within the batch: each keeps a slot while it is there."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self._device = device
        self._slots = _slots(vllm_config, device)
        self._free = list(range(vllm_config.scheduler_config.max_num_seqs))
        self._rows: dict[int, tuple[int, list[int]]] = {}
        """By place in the batch: the slot, and vLLM's own list of the tokens drawn so far."""

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: Any) -> None:
        """Follow vLLM's batch; the order is the one that its interface prescribes."""
        if batch_update is None:
            return
        for place in batch_update.removed:
            self._release(place)
        for place, params, prompt, drawn in batch_update.added:
            self._release(place)
            carried = Carried.from_args(params.extra_args)
            if carried is not None:
                slot = self._free.pop()
                self._slots.load(slot, carried, [*prompt, *drawn], len(prompt))
                self._rows[place] = slot, drawn
        for source, target, direction in batch_update.moved:
            moving, there = self._rows.pop(source, None), self._rows.pop(target, None)
            if moving is not None:
                self._rows[target] = moving
            if there is not None and direction == MoveDirectionality.SWAP:
                self._rows[source] = there
            elif there is not None:
                self._free.append(there[0])

    def _release(self, place: int) -> None:
        if place in self._rows:
            self._free.append(self._rows.pop(place)[0])

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        if not self._rows:
            return logits
        places = sorted(self._rows)
        slots = [self._rows[place][0] for place in places]
        numbers = torch.tensor([slots, [len(self._rows[place][1]) for place in places]]).to(self._device)
        whole = len(places) == len(logits)
        rows = logits if whole else logits[torch.tensor(places, device=self._device)]
        self._slots.draw(rows, slots, numbers[0], numbers[1])
        if not whole:
            logits[torch.tensor(places, device=self._device)] = rows
        return logits
