"""Draws one shard: a batch of slots that finished rollouts leave and waiting ones enter.

The schedule is a function of the shard and the batch size alone: rollouts start in the order given, a freed slot is
taken by the last active row, and waiting rollouts are appended (by a decoder that cannot refill slots, when all have
ended). What a rollout draws does not depend on it, up to
the rounding differences between batches of different sizes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..schema import LENGTH, STEP_TERMS, STOP, Prompt, Rollout, RunKey, SamplingPolicy
from .decoding import Decoder
from .ending import Endings
from .processors import Past, TokenTable, padded
from .randomness import rollout_key
from .terms import Draws, Workspace, bad_logits, step_terms


@dataclass(slots=True)
class _Row:
    """One rollout being drawn: where it belongs, its randomness key, and what it has drawn so far.

    ``tail`` is what its text so far means to stop strings; ``ended`` whether its last token ended it."""

    prompt_index: int
    rollout: int
    key: tuple[int, int]
    tail: bytes = b""
    ended: bool = False
    token_ids: list[int] = field(default_factory=list)
    terms: list[np.ndarray] = field(default_factory=list)

    def add(self, token: int, terms: np.ndarray, endings: Endings) -> None:
        self.token_ids.append(token)
        self.terms.append(terms)
        self.ended = endings.ends(self.tail, token)
        self.tail = endings.after(self.tail, token)

    def finish(self) -> Rollout:
        terms = np.stack(self.terms)
        steps = {name: np.ascontiguousarray(terms[:, i]) for i, name in enumerate(STEP_TERMS)}
        return Rollout(self.prompt_index, self.rollout, np.array(self.token_ids, dtype=np.int32),
                       STOP if self.ended else LENGTH, steps)


class ShardSampler:
    """The state of one shard's sampling. ``run`` yields rollouts as they end."""

    def __init__(self, decoder: Decoder, prompts: Sequence[Prompt], rollouts: Sequence[tuple[int, int]],
                 policy: SamplingPolicy, key: RunKey, batch_size: int, endings: Endings, device: torch.device):
        self.decoder, self.prompts, self.policy = decoder, prompts, policy
        self.waiting = deque(_Row(p, r, rollout_key(key, prompts[p].prompt_hash, r)) for p, r in rollouts)
        self.batch_size, self.device = min(batch_size, len(rollouts), decoder.most_rows or batch_size), device
        self.endings = endings
        self.end_ids = torch.tensor(endings.ids, dtype=torch.long, device=device)
        self.rows: list[_Row] = []
        longest = max(len(prompts[p].token_ids) for p, _ in rollouts)
        # The last token of a rollout is drawn and never fed.
        self.slots = decoder.batch(self.batch_size, longest + policy.max_new_tokens - 1)
        self.texts = TokenTable(self.batch_size, longest + policy.max_new_tokens, device) if policy.penalises else None
        self._prefilled: tuple[int, Any] | None = None
        self._work: Workspace | None = None

    @torch.inference_mode()
    def run(self) -> Iterator[Rollout]:
        """Alternate forward passes and draws until nothing is active or waiting."""
        tokens = torch.zeros(0, dtype=torch.long, device=self.device)
        while self.rows or self.waiting:
            logits = [self.decoder.step(self.slots, tokens)] if self.rows else []
            logits += self._admit()
            draws = self._draws()
            tokens, terms = step_terms(logits[0] if len(logits) == 1 else torch.cat(logits), self.policy, self.end_ids,
                                       draws=draws, past=self._past(draws), space=self._space(logits[0].shape[1]))
            del logits
            self._record(tokens, terms)
            finished = self._finished()
            if finished:
                tokens = tokens[torch.tensor(self._keep(finished), device=self.device, dtype=torch.long)]
                yield from self._retire(finished)

    def _admit(self) -> list[torch.Tensor]:
        """Give free slots to waiting rollouts; their prompts' next-token logits, (1, V) each."""
        logits: list[torch.Tensor] = []
        if self.rows and not self.decoder.refills:
            return logits
        while self.waiting and len(self.rows) < self.batch_size and self._joins(self.waiting[0]):
            row = self.waiting.popleft()
            prompt = self._prefill(row.prompt_index)
            self.slots.load(len(self.rows), prompt)
            token_ids = self.prompts[row.prompt_index].token_ids
            row.tail = self.endings.start(token_ids)
            if self.texts:
                self.texts.load(len(self.rows), token_ids)
            self.rows.append(row)
            logits.append(prompt.logits)
        self.slots.active = len(self.rows)
        return logits

    def _joins(self, row: _Row) -> bool:
        """Whether a waiting row may be decoded beside the active ones."""
        return self.decoder.refills or not self.rows or row.prompt_index == self.rows[0].prompt_index

    def _prefill(self, prompt_index: int) -> Any:
        """The prompt's forward pass, kept while its rollouts are being started one after the other."""
        if self._prefilled is None or self._prefilled[0] != prompt_index:
            self._prefilled = None  # free the old one before the new one is made
            self._prefilled = prompt_index, self.decoder.prefill(self.prompts[prompt_index].token_ids)
        return self._prefilled[1]

    def _space(self, vocabulary: int) -> Workspace:
        """Work arrays for the terms, made once the vocabulary's size is seen."""
        if self._work is None:
            self._work = Workspace(vocabulary, self.device)
        return self._work

    def _draws(self) -> Draws:
        numbers = torch.tensor([[*row.key, len(row.token_ids)] for row in self.rows], device=self.device)
        return Draws(numbers[:, :2], numbers[:, 2])

    def _past(self, draws: Draws) -> Past | None:
        """What the law looks at of each row's text so far; None where it looks at nothing."""
        if not (self.policy.processes or self.endings.strings):
            return None
        completing = padded([self.endings.completing(row.tail) for row in self.rows], self.device)
        texts = self.texts.first(len(self.rows)) if self.texts else None
        return Past(draws.steps, texts, completing)

    def _record(self, tokens: torch.Tensor, terms: torch.Tensor) -> None:
        """Bring tokens and terms to the host in one transfer (the ids ride along as the bits of a float)."""
        packed = torch.cat([tokens.to(torch.int32)[:, None].view(torch.float32), terms], dim=1).cpu().numpy()
        ids, values = packed[:, 0].view(np.int32).tolist(), packed[:, 1:]
        if np.isnan(values[:, 0]).any():
            row = self.rows[int(np.flatnonzero(np.isnan(values[:, 0]))[0])]
            raise bad_logits(self.prompts[row.prompt_index].prompt_id, len(row.token_ids), self.decoder.dtype,
                             self.policy)
        for row, token, term in zip(self.rows, ids, values, strict=True):
            row.add(token, term, self.endings)
        if self.texts:
            self.texts.append(tokens)

    def _finished(self) -> list[int]:
        """Slots whose rollout has ended, largest first."""
        cap = self.policy.max_new_tokens
        return [slot for slot in reversed(range(len(self.rows)))
                if self.rows[slot].ended or len(self.rows[slot].token_ids) >= cap]

    def _keep(self, finished: list[int]) -> list[int]:
        """For each slot after retiring, the slot whose row it then holds."""
        order = list(range(len(self.rows)))
        for slot in finished:
            order[slot] = order[-1]
            order.pop()
        return order

    def _retire(self, finished: list[int]) -> list[Rollout]:
        """Take ended rollouts out; the last row moves into each freed slot."""
        done = []
        for slot in finished:
            row, last = self.rows[slot], len(self.rows) - 1
            done.append(row.finish())
            if slot != last:
                self.slots.move(last, slot)
                if self.texts:
                    self.texts.move(last, slot)
                self.rows[slot] = self.rows[last]
            self.rows.pop()
        self.slots.active = len(self.rows)
        return done
