"""Which law given tokens were drawn from, where it is not the one that was claimed: the likeliest candidate, in words.

Temperature, filter and prompt are told by their likelihood. At the likeliest temperature surprisal equals entropy on
the whole, whatever the model; a model that did not draw the tokens shows in that they then differ among steps of low
and of high entropy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from canopy_stats.candidates import FILTERS, TEMPERATURES, Candidate, Steps, Values, stated, under_all
from canopy_stats.schema import SamplingPolicy

PENALTY = 6.0
"""Nats of likelihood that another temperature, filter or prompt must gain each, to be named."""
LARGEST = 256 << 20
"""Bytes of logits that are looked at, at most."""
_STEPS = 1536
_STRATA = 4
_MISFIT = 5.0
"""z-score of surprisal minus entropy within a quarter of the steps, beyond which the model is another one."""

Text = tuple[Sequence[int], Sequence[int]]
Logits = Callable[[Sequence[int], Sequence[int]], np.ndarray]
"""Prompt ids and rollout ids to the logits (N, V) before each token of the rollout."""


@dataclass(frozen=True, slots=True)
class Suspicion:
    """The likeliest law of the candidates and the prompt that it goes with, and by how many nats it beats the claim."""

    candidate: Candidate
    dress: str
    gain: float
    misfit: float
    changes: tuple[str, ...]

    @property
    def words(self) -> str:
        """What the tokens look like."""
        if self.misfit > _MISFIT:
            return ("No temperature, filter or prompt of this model explains the tokens (surprisal and entropy differ by "
                    f"{self.misfit:.1f} standard errors among steps alike in entropy): look for another checkpoint, "
                    "adapter or edited texts.")
        if not self.changes:
            return "No other temperature, filter or prompt explains the tokens better than what was claimed."
        return f"The tokens look as if drawn from {' and '.join(self.changes)} ({_nats(self.gain)})."


def _nats(gain: float) -> str:
    return f"{gain:.0f} nats likelier than the claim" if np.isfinite(gain) else "under the claim they are impossible"


def suspect(texts: Sequence[Text], dresses: Mapping[str, Sequence[Sequence[int]]], logits: Logits,
            policy: SamplingPolicy) -> Suspicion:
    """The likeliest explanation of some rollouts.

    ``texts`` are (prompt ids, rollout ids) as claimed, ``dresses`` other prompts for each of them by name.
    """
    claim = stated(policy)
    filters = [*FILTERS, *([{claim.name: claim.value}] if claim and claim.name else [])]
    heat = sorted({*TEMPERATURES, policy.temperature})
    given = {"": [prompt for prompt, _ in texts], **dresses}
    scored = [(dress, c, v) for dress, prompts in given.items()
              for c, v in under_all(_blocks(texts, prompts, logits), heat, filters).items()]
    base = next((float(v.logprob.sum()) for dress, c, v in scored if not dress and c == claim), -np.inf)
    dress, candidate, values = max(scored, key=lambda s: float(s[2].logprob.sum()) - PENALTY * len(
        _changes(s[0], s[1], claim)))
    total = float(values.logprob.sum())
    return Suspicion(candidate, dress, total - base, misfit(values), tuple(_changes(dress, candidate, claim)))


def _changes(dress: str, candidate: Candidate, claim: Candidate | None) -> list[str]:
    """In words, what of a candidate is not as claimed."""
    found = [] if claim and candidate.temperature == claim.temperature else [f"temperature {candidate.temperature:g}"]
    if claim is None or (candidate.name, candidate.value) != (claim.name, claim.value):
        found.append(Candidate(1.0, candidate.name, candidate.value).label if candidate.name else "no filter")
    return [*found, *([dress] if dress else [])]


def _blocks(texts: Sequence[Text], prompts: Sequence[Sequence[int]], logits: Logits) -> list[Steps]:
    """Sorted logits of as many of the texts as are looked at; at least of the first."""
    found: list[Steps] = []
    room, steps = LARGEST, 0
    for prompt, (_, own) in zip(prompts, texts, strict=True):
        made = logits(prompt, own)
        if found and (made.nbytes > room or steps + len(own) > _STEPS):
            break
        found.append(Steps.of(made, own))
        room, steps = room - made.nbytes, steps + len(own)
    return found


def misfit(values: Values) -> float:
    """The largest |z| of surprisal minus entropy within quarters of the steps by their entropy."""
    possible = np.isfinite(values.logprob)
    entropy, excess = values.entropy[possible], (-values.logprob - values.entropy)[possible]
    order = np.argsort(entropy, kind="stable")
    parts = [p for p in np.array_split(order, _STRATA) if len(p)]
    variance = values.variance[possible]
    return max((float(abs(excess[p].sum()) / np.sqrt(variance[p].sum() + 1e-6 * len(p))) for p in parts), default=0.0)


def dresses_of(tokenizer: Any, source: Any, ids: Sequence[int], arguments: Mapping[str, Any]) -> dict[str, list[int]]:
    """The other ways in which a prompt may have been put to the model, each as token ids, as far as they differ."""
    from canopy_stats.generation.reference import plain_prompt

    found: dict[str, list[int]] = {}
    begin = getattr(tokenizer, "bos_token_id", None)
    if begin is not None:
        found |= {"a doubled BOS": [begin, *ids], "no BOS": list(ids[1:])} if ids[:1] == (begin,) else {
            "a BOS before the prompt": [begin, *ids]}
    if tokenizer is not None and not (isinstance(source, list) and isinstance(source[0], int)):
        if getattr(tokenizer, "chat_template", None):
            found["the chat template"] = list(plain_prompt(tokenizer, source, chat=True, **arguments))
        if isinstance(source, str):
            found["the plain prompt without a chat template"] = list(plain_prompt(tokenizer, source, chat=False))
    return {name: other for name, other in found.items() if other and tuple(other) != tuple(ids)}
