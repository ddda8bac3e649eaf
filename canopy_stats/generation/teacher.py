"""Terms of given rollouts, many at a time: teacher forcing in batches, the prompt's share computed once.

Rows are padded at their end, which no earlier position of a causal model sees. Where the model's attention looks at
everything before, rollouts of one prompt go on from one pass over it; else each row is its whole text. Whether batches
give the logits of single passes is tried on short texts first; a model for which they do not is scored row by row.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from ..schema import SamplingPolicy
from .cache import PrefilledPrompt, PromptCache
from .decoding import SlotDecoder, text_config
from .plain import Ids, plain_logits, score, terms_of_logits
from .terms import Workspace, step_terms
from .trial import close

_TOKENS = {"cpu": 2048, "cuda": 32768}
"""Tokens of one forward pass, at most."""
_LOGIT_BYTES = {"cpu": 512 << 20, "cuda": 4 << 30}
"""Float32 logits of one forward pass, at most."""

Text = tuple[Ids, Ids]
"""Prompt ids and rollout ids."""


class Teacher:
    """Scores rollouts under one engine's model and a law, by the engine's own reductions."""

    def __init__(self, engine: Any, policy: SamplingPolicy, batch_size: int):
        self.engine, self.policy, self.batch_size = engine, policy, batch_size
        self.model, self.endings = engine.model, engine.endings(policy)
        self.shares = isinstance(engine.decoder, SlotDecoder) and set(engine.decoder.windows.values()) == {None}
        kind, vocabulary = self.model.device.type, text_config(self.model).vocab_size
        room = _LOGIT_BYTES.get(kind, _LOGIT_BYTES["cuda"]) // (4 * vocabulary)
        self.tokens = max(1, min(_TOKENS.get(kind, _TOKENS["cuda"]), room))
        self._space = Workspace(vocabulary, self.model.device)
        self._prompt: tuple[list[int], PrefilledPrompt] | None = None
        self.shares = self.shares and self._holds()
        self.together = engine.decoder.one_shot and (self.shares or self._holds())

    def terms(self, texts: Sequence[Text]) -> Iterator[tuple[int, np.ndarray]]:
        """(position in ``texts``, terms (N, len(STEP_TERMS)) float32) of each, in any order.

        The log-probability of a token that the law cannot draw is minus infinity.
        """
        if not self.together:
            for i, text in enumerate(texts):
                yield i, score(self.model, *text, self.endings, self.policy, one_shot=self.engine.decoder.one_shot)
            return
        for rows in batches(texts, self.batch_size, self.tokens, by_prompt=self.shares):
            chosen = [texts[i] for i in rows]
            yield from zip(rows, self._scored(chosen, self._logits(chosen)), strict=True)

    def _holds(self) -> bool:
        """Whether batches of two unequal texts give the logits of single passes."""
        vocabulary = text_config(self.model).vocab_size
        prompt = [i % vocabulary for i in (3, 8, 5, 13)]
        rows: list[Text] = [(prompt, [i % vocabulary for i in own]) for own in ((7, 2, 9, 4, 11), (6, 1))]
        try:
            ours = torch.cat(self._logits(rows), dim=1)
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            return False
        return all(close(mine[: len(row[1])], plain_logits(self.model, *row)) for mine, row in zip(ours, rows,
                                                                                                  strict=True))

    @torch.inference_mode()
    def _logits(self, texts: Sequence[Text]) -> list[torch.Tensor]:
        """Next-token logits before each token of rows padded to T, as blocks (B, t, V) that follow each other."""
        if self.shares:
            return _after(self.model, self._prefilled(texts[0][0]), texts)
        return [_whole(self.model, texts)]

    def _prefilled(self, prompt: Ids) -> PrefilledPrompt:
        """One pass over a prompt; the last one is kept, since a prompt's batches follow each other."""
        ids = [int(i) for i in prompt]
        if self._prompt is None or self._prompt[0] != ids:
            self._prompt = ids, self.engine.decoder.prefill(ids)
        return self._prompt[1]

    @torch.inference_mode()
    def _scored(self, texts: Sequence[Text], blocks: Sequence[torch.Tensor]) -> list[np.ndarray]:
        if self.policy.processes or self.endings.strings:
            return [terms_of_logits(torch.cat([b[i] for b in blocks])[: len(ids)], prompt, ids, self.endings,
                                    self.policy) for i, (prompt, ids) in enumerate(texts)]
        tokens = _padded([ids for _, ids in texts], blocks[0].device)
        parts = torch.split(tokens, [b.shape[1] for b in blocks], dim=1)
        found = np.concatenate([self._terms(b, part) for b, part in zip(blocks, parts, strict=True)], axis=1)
        return [found[i, : len(ids)] for i, (_, ids) in enumerate(texts)]

    def _terms(self, logits: torch.Tensor, tokens: torch.Tensor) -> np.ndarray:
        """Terms (B, t, len(STEP_TERMS)) of tokens (B, t) from the logits (B, t, V) before each."""
        ends = torch.tensor(self.endings.ids, dtype=torch.long, device=logits.device)
        flat = step_terms(logits.flatten(0, 1), self.policy, ends, tokens=tokens.flatten(), space=self._space)[1]
        return flat.view(*tokens.shape, -1).cpu().numpy()


def batches(texts: Sequence[Text], rows: int, tokens: int, *, by_prompt: bool) -> Iterator[list[int]]:
    """Positions of texts that are scored together: like lengths, at most so many rows, and tokens with their padding.

    ``by_prompt`` keeps texts of one prompt together, and counts their rollouts alone.
    """
    prompts = [tuple(map(int, prompt)) if by_prompt else () for prompt, _ in texts]
    sizes = [len(ids) + (0 if by_prompt else len(prompt)) for prompt, ids in texts]
    batch: list[int] = []
    for i in sorted(range(len(texts)), key=lambda i: (prompts[i], -sizes[i], i)):
        full = batch and (len(batch) >= rows or (len(batch) + 1) * sizes[batch[0]] > tokens)
        if batch and (full or prompts[i] != prompts[batch[0]]):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _padded(rows: Sequence[Ids], device: torch.device) -> torch.Tensor:
    table = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
    for row, ids in zip(table, rows, strict=True):
        row[: len(ids)] = np.asarray(ids, dtype=np.int64)
    return torch.from_numpy(table).to(device)


def _whole(model: Any, texts: Sequence[Text]) -> torch.Tensor:
    """One pass over whole texts; the logits of each row are moved to begin with its rollout."""
    ids = _padded([[*map(int, prompt), *map(int, own[:-1])] for prompt, own in texts], model.device)
    first, last = (f(len(prompt) - 1 for prompt, _ in texts) for f in (min, max))
    keep = {"logits_to_keep": ids.shape[1] - first} if "logits_to_keep" in inspect.signature(
        model.forward).parameters else {}
    logits: torch.Tensor = model(input_ids=ids, use_cache=False, **keep).logits[:, -(ids.shape[1] - first):]
    if first == last:
        return logits
    longest = max(len(own) for _, own in texts)
    moved: torch.Tensor = logits.new_zeros(len(texts), longest, logits.shape[2])
    for i, (prompt, own) in enumerate(texts):
        start = len(prompt) - 1 - first
        moved[i, : len(own)] = logits[i, start:start + len(own)]
    return moved


def _after(model: Any, prompt: PrefilledPrompt, texts: Sequence[Text]) -> list[torch.Tensor]:
    """Rollouts of one prompt after one pass over it, whose keys and values every row sees."""
    first = prompt.logits[None].expand(len(texts), -1, -1)
    fed = _padded([own[:-1] for _, own in texts], prompt.logits.device)
    if not fed.shape[1]:
        return [first]
    positions = torch.arange(prompt.length, prompt.length + fed.shape[1], device=fed.device)
    out = model(input_ids=fed, past_key_values=PromptCache(prompt, len(texts)), use_cache=True,
                position_ids=positions.expand(len(texts), -1))
    return [first, out.logits]
