"""Draws rollouts: a batch of slots that finished ones leave and waiting ones enter.

Rollouts start in the order of their line, a freed slot is taken by the last active row, and waiting rollouts are
appended (by a decoder that cannot refill slots, when all have ended). So the schedule is a function of the line and the
batch size alone, and what a rollout draws does not depend on it, up to the rounding differences between batches.

A step is launched and its results come back to the host by themselves. The host reads them ``lag`` steps later. With 0,
on a CPU, a rollout leaves with the step that ends it. With 1 the host never waits for the step that it has just
launched: it learns of an end one step late, and what the rollout drew in that step is nobody's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from ..schema import Rollout, SamplingPolicy
from .decoding import Decoder
from .ending import Endings
from .line import Line, Pending, Row
from .processors import Past, TokenTable, padded
from .slot_table import SlotTable, StopStates
from .terms import Draws, Workspace, bad_logits, step_terms
from .transfer import Returning


class Sampler:
    """Draws the rollouts of a line. ``run`` yields them as they end."""

    def __init__(self, decoder: Decoder, line: Line, policy: SamplingPolicy, endings: Endings, device: torch.device, *,
                 size: int, columns: int, lag: int = 0):
        """``size`` rollouts at a time, at most; none is longer than ``columns`` and one token, its prompt included."""
        self.decoder, self.line, self.policy, self.endings, self.device = decoder, line, policy, endings, device
        self.size = min(size, len(line.look(size)), decoder.most_rows or size)
        self.lag = lag
        self.end_ids = torch.tensor(endings.ids, dtype=torch.long, device=device)
        self.rows: list[Row] = []
        self.slots = decoder.batch(self.size, columns)
        self.table = SlotTable(self.size, device)
        self.texts = TokenTable(self.size, device) if policy.penalises else None
        # Stop strings are looked for in texts, on the host, or by tables where the host knows the texts too late.
        self.stops = StopStates(endings.tables, self.size, device) if endings.strings and lag else None
        self._out: deque[tuple[list[Row], Returning]] = deque()
        self._prefilled: tuple[tuple[int, int], Any] | None = None
        self._work: Workspace | None = None

    @torch.inference_mode()
    def run(self) -> Iterator[tuple[Pending, Rollout]]:
        """Alternate forward passes and draws until nothing is active or waiting."""
        while self._launch():
            done = self._record() if len(self._out) > self.lag else []
            self._retire()
            yield from done
        while self._out:
            yield from self._record()

    def _launch(self) -> bool:
        """Start one step of the active rows and of those that enter; whether there was any."""
        logits = [self.decoder.step(self.slots, self.table.tokens())] if self.rows else []
        logits += self._admit()
        if not logits:
            return False
        draws = self.table.draws()
        tokens, terms = step_terms(logits[0] if len(logits) == 1 else torch.cat(logits), self.policy, self.end_ids,
                                   draws=draws, past=self._past(draws), space=self._space(logits[0].shape[1]))
        self._send(tokens, terms)
        return True

    def _admit(self) -> list[torch.Tensor]:
        """Give free slots to waiting rollouts; their prompts' next-token logits, (1, V) each."""
        logits: list[torch.Tensor] = []
        if self.rows and not self.decoder.refills:
            return logits
        while len(self.rows) < self.size and self._joins(self.line.look(1)):
            row = Row(self.line.begin())
            prompt = self._prefill(row.asked)
            self.slots.load(len(self.rows), prompt)
            self.table.load(row.asked.key)
            row.tail = self.endings.start(row.asked.prompt.token_ids)
            if self.texts:
                self.texts.load(len(self.rows), row.asked.prompt.token_ids)
            if self.stops:
                self.stops.load(len(self.rows), self.endings.state(row.tail))
            self.rows.append(row)
            logits.append(prompt.logits)
        self.slots.active = len(self.rows)
        return logits

    def _joins(self, waiting: list[Pending]) -> bool:
        """Whether there is a waiting rollout that may be decoded beside the active ones."""
        return bool(waiting) and (self.decoder.refills or not self.rows or
                                  waiting[0].place[:2] == self.rows[0].asked.place[:2])

    def _prefill(self, asked: Pending) -> Any:
        """The prompt's forward pass, kept while its rollouts are being started one after the other."""
        if self._prefilled is None or self._prefilled[0] != asked.place[:2]:
            self._prefilled = None  # free the old one before the new one is made
            self._prefilled = asked.place[:2], self.decoder.prefill(asked.prompt.token_ids)
        return self._prefilled[1]

    def _space(self, vocabulary: int) -> Workspace:
        """Work arrays for the terms, made once the vocabulary's size is seen."""
        if self._work is None:
            self._work = Workspace(vocabulary, self.device)
        return self._work

    def _past(self, draws: Draws) -> Past | None:
        """What the law looks at of each row's text so far; None where it looks at nothing."""
        if not (self.policy.processes or self.endings.strings):
            return None
        completing = (self.stops.completing(len(self.rows)) if self.stops else
                      padded([self.endings.completing(row.tail) for row in self.rows], self.device))
        texts = self.texts.first(len(self.rows)) if self.texts else None
        return Past(draws.steps, texts, completing)

    def _send(self, tokens: torch.Tensor, terms: torch.Tensor) -> None:
        """Count a step, and let its tokens and terms go to the host in one transfer (ids as the bits of a float)."""
        self.table.advance(tokens)
        if self.texts:
            self.texts.append(tokens)
        if self.stops:
            self.stops.advance(tokens)
        for row in self.rows:
            row.launched += 1
        packed = torch.cat([tokens.to(torch.int32)[:, None].view(torch.float32), terms], dim=1)
        self._out.append((list(self.rows), Returning(packed)))

    def _record(self) -> list[tuple[Pending, Rollout]]:
        """Read the oldest step that is out; the rollouts that are whole with it."""
        rows, returning = self._out.popleft()
        packed = returning.read()
        ids, terms = packed[:, 0].view(np.int32).tolist(), packed[:, 1:]
        bad = np.isnan(terms[:, 0]).tolist()
        live = [i for i, row in enumerate(rows) if not row.ended]
        self._refuse_bad([rows[i] for i in live if bad[i]])
        for i in live:
            rows[i].add(ids[i], terms[i], self.endings)
        whole = [rows[i] for i in reversed(live)
                 if rows[i].ended or len(rows[i].token_ids) >= self.policy.max_new_tokens]
        for row in whole:
            self.line.finish(row.asked)
        return [(row.asked, row.rollout()) for row in whole]

    def _refuse_bad(self, bad: list[Row]) -> None:
        """Rows whose terms came back NaN."""
        if bad:
            raise bad_logits(bad[0].asked.prompt.prompt_id, len(bad[0].token_ids), self.decoder.dtype, self.policy)

    def _retire(self) -> None:
        """Let rows go that have ended or started their last step; the last row moves into each freed slot."""
        cap = self.policy.max_new_tokens
        leaving = [slot for slot, row in enumerate(self.rows) if row.ended or row.launched >= cap]
        if not leaving:
            return
        order = list(range(len(self.rows)))
        for slot in reversed(leaving):
            last = len(order) - 1
            if slot != last:
                self.slots.move(last, slot)
                if self.texts:
                    self.texts.move(last, slot)
                order[slot] = order[last]
            order.pop()
        self.rows = [self.rows[i] for i in order]
        self.table.keep(order)
        if self.stops:
            self.stops.keep(order)
        self.slots.active = len(order)
