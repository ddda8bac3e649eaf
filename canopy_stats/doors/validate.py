"""What a logged completion must be before it is a rollout; every mistake by its place, nothing mended in silence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from canopy_stats.doors.bounds import step_bounds
from canopy_stats.doors.records import Logged
from canopy_stats.doors.words import Words
from canopy_stats.schema import LENGTH, STOP, SamplingPolicy, UserError

_STOPPED = {"stop", "eos", "eos_token", "end_turn", "stop_sequence", "stop_token", "tool_calls", "stopped"}
_CUT = {"length", "max_tokens", "max_new_tokens", "model_length", "max_output_tokens"}
_NOT_TOLD = -1
_ABOVE = 1e-3
"""Rounding may leave a log-probability so much above zero."""


@dataclass(frozen=True, slots=True)
class Completion:
    """A completion that may become a rollout. ``low``, ``high``, ``logprob`` (N,) float32 are None where too little was
    logged. A token id of -1 was not told."""

    token_ids: np.ndarray
    text: str
    finish_reason: str
    low: np.ndarray | None
    high: np.ndarray | None
    logprob: np.ndarray | None


@dataclass(slots=True)
class Validator:
    """Takes logged completions to rollouts. ``noted`` counts what has to be said of them all.

    ``exact`` says that a model will give the terms; ``after_end`` "cut" cuts completions after their first end token.
    """

    words: Words
    policy: SamplingPolicy | None
    exact: bool
    after_end: str = "refuse"
    noted: Counter[str] = field(default_factory=Counter)

    def completion(self, one: Logged) -> Completion:
        """The completion, checked; UserError with its place and what to do."""
        self._refuse_prompt(one)
        ids, given = self._ids(one)
        ids, reason = self._ended(one, ids, given)
        if not ids:
            raise UserError(f"{one.where} is empty: a rollout draws at least one token. Leave it out, or give its "
                            "token ids with the end token.")
        self._refuse_long(one, ids, given)
        drawn = self._logged(one, ids)
        low = high = None
        if drawn is not None:
            low, high = self._bounds(one, ids, drawn)
        text = one.text if one.text is not None else self.words.decode(ids)
        self.noted["no text"] += one.text is None and self.words.tokenizer is None
        self._compare(one, ids, given)
        return Completion(np.array(ids, dtype=np.int32), text, reason, low, high, drawn)

    # --- tokens -------------------------------------------------------------------------------------------------

    def _ids(self, one: Logged) -> tuple[list[int], bool]:
        """The token ids, and whether they are those that were drawn."""
        if one.token_ids is not None:
            return self.checked(one), True
        if not self.exact and isinstance(one.logprobs, list) and one.logprobs:
            self.noted["untold"] += 1
            return [_NOT_TOLD] * len(one.logprobs), True
        self.noted["tokenised"] += 1
        return self.words.tokenise(one.text or "", one.where), False

    def checked(self, one: Logged) -> list[int]:
        ids = list(one.token_ids or [])
        wrong = [i for i in ids if isinstance(i, bool) or not hasattr(i, "__index__")]
        if wrong:
            raise UserError(f"{one.where}: the token id {wrong[0]!r} is no whole number; give ids as the model drew "
                            "them.")
        whole = [int(i) for i in ids]
        self._refuse_beyond(whole, f"{one.where} holds")
        return whole

    def _refuse_beyond(self, ids: Sequence[int], what: str) -> None:
        size = self.words.vocabulary or 2**31
        if beyond := [i for i in ids if not 0 <= i < size]:
            raise UserError(f"{what} the token id {beyond[0]}, but the vocabulary's ids run from 0 to {size - 1}: "
                            "these ids are another tokenizer's, or padding. Correct them, or give the model that drew "
                            "them.")

    def _refuse_prompt(self, one: Logged) -> None:
        """Prompts of token ids; texts become ids by the tokenizer."""
        for ids in (one.prompt, one.prompt_token_ids):
            if isinstance(ids, list) and all(isinstance(i, int) for i in ids):
                self._refuse_beyond(ids, f"{one.where}: the prompt holds")

    def _ended(self, one: Logged, ids: list[int], given: bool) -> tuple[list[int], str]:
        """The ids with their end, and how the completion ended."""
        said = self._reason(one)
        ends = [i for i, token in enumerate(ids) if token in self.words.ends]
        if ends and ends[0] < len(ids) - 1:
            ids = self._cut(one, ids, ends[0])
        if ends:
            if said == LENGTH:
                self.noted["end at the cap"] += 1
            return ids, STOP
        if said is None:
            self.noted["unsaid"] += 1
            capped = self.policy is not None and len(ids) >= self.policy.max_new_tokens
            said = LENGTH if capped or (given and bool(self.words.ends)) else STOP
        strings = bool(self.policy and self.policy.stop_strings)
        if said == STOP and not strings:
            return self._closed(one, ids, given), said
        return ids, said

    def _closed(self, one: Logged, ids: list[int], given: bool) -> list[int]:
        """The ids of a completion that stopped, with the end token where it can be put there."""
        if self.words.ends and (self.exact or one.logprobs is None) and _NOT_TOLD not in ids:
            self.noted["end added"] += given
            return [*ids, self.words.ends[0]]
        self.noted["end unlogged"] += 1
        return ids

    def _reason(self, one: Logged) -> str | None:
        said = (one.finish_reason or "").strip().lower().removeprefix("finishreason.")
        if said in ("", "none", "null", "unknown"):
            return None
        if said in _STOPPED | _CUT:
            return STOP if said in _STOPPED else LENGTH
        raise UserError(f"{one.where} ended with {said[:40]!r}, so it is no whole draw from the law; leave it out "
                        "(known are stop, length and their names elsewhere).")

    def _cut(self, one: Logged, ids: list[int], end: int) -> list[int]:
        if self.after_end != "cut":
            raise UserError(f"{one.where} goes on after the end token {ids[end]} at position {end} (of {len(ids)} "
                            "tokens): padding, or several turns. Cut it there (after_end='cut', --cut-after-end), or "
                            "name the end tokens.")
        self.noted["cut"] += 1
        return ids[:end + 1]

    def _refuse_long(self, one: Logged, ids: Sequence[int], given: bool) -> None:
        cap = self.policy.max_new_tokens if self.policy else None
        if cap is not None and given and len(ids) > cap:
            raise UserError(f"{one.where} has {len(ids)} tokens, but the stated law ends at {cap}; state the law that "
                            "drew it (max_new_tokens).")

    def _compare(self, one: Logged, ids: Sequence[int], given: bool) -> None:
        """Note ids that read otherwise than the logged text."""
        if given and one.text is not None and self.words.tokenizer is not None and _NOT_TOLD not in ids:
            self.noted["other text"] += self.words.decode(ids).strip() != one.text.strip()

    # --- log-probabilities --------------------------------------------------------------------------------------

    def _logged(self, one: Logged, ids: Sequence[int]) -> np.ndarray | None:
        """The drawn tokens' log-probabilities (N,), where they were logged for each token and are needed."""
        if not isinstance(one.logprobs, list):
            self.noted["likeliest alone"] += one.top_logprobs is not None and not self.exact
            return None
        values = list(one.logprobs)
        if one.token_ids is not None and len(values) != len(one.token_ids):
            raise UserError(f"{one.where} has {len(one.token_ids)} token ids and {len(values)} log-probabilities; give "
                            "one for each token.")
        if one.top_logprobs is not None and len(one.top_logprobs) != len(values):
            raise UserError(f"{one.where} has {len(values)} log-probabilities and top_logprobs for "
                            f"{len(one.top_logprobs)} tokens; give one list for each token.")
        tops = [v for top in one.top_logprobs or () for v in top]
        if (largest := max([*values, *tops], default=0.0)) > _ABOVE:
            raise UserError(f"{one.where}: a log-probability is {largest:g}, above zero: probabilities or surprisals "
                            "were logged. Give natural logarithms, or leave logprobs out.")
        return None if self.exact else np.minimum(np.array(values[:len(ids)], dtype=np.float32), 0.0)

    def _bounds(self, one: Logged, ids: Sequence[int], drawn: np.ndarray) -> tuple[Any, Any]:
        if not np.isfinite(drawn).all():
            raise UserError(f"{one.where}: a drawn token has a log-probability of minus infinity; leave logprobs out, "
                            "or correct it.")
        if self.words.vocabulary is None:
            raise UserError("Bounds of the entropy need the vocabulary's size; give it (vocabulary=, --vocabulary), or "
                            "the tokenizer.")
        tops = None if one.top_logprobs is None else one.top_logprobs[:len(ids)]
        return step_bounds(drawn.tolist(), tops, self.words.vocabulary, one.where)
