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

from canopy_stats.candidates import FILTERS, TEMPERATURES, Candidate, Steps, Values, merged, stated, under_all
from canopy_stats.schema import SamplingPolicy

PENALTY = 6.0
"""Nats of likelihood that another temperature, filter or prompt must gain each, to be named."""
LARGEST = 256 << 20
"""Bytes of logits that are looked at, at most."""
_STEPS = 1536
_STRATA = 10
_MISFIT = 1e-6
"""Probability of a misfit, below which the model is another one."""
_FINE = (0.92, 0.96, 1.0, 1.04, 1.08)
"""Temperatures around the likeliest usual one, in shares of it."""

TokenisedText = tuple[Sequence[int], Sequence[int]]
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
        if self.misfit < _MISFIT:
            return ("No temperature, filter or prompt of this model explains the tokens (surprisal and entropy differ "
                    f"among steps alike in entropy, p = {self.misfit:.0e}): look for another checkpoint, adapter or "
                    "edited texts.")
        if not self.changes:
            return "No other temperature, filter or prompt explains the tokens better than what was claimed."
        return f"The tokens look as if drawn from {' and '.join(self.changes)} ({_nats(self.gain)})."


def _nats(gain: float) -> str:
    return f"{gain:.0f} nats likelier than the claim" if np.isfinite(gain) else "under the claim they are impossible"


def suspect(texts: Sequence[TokenisedText], dresses: Mapping[str, Sequence[Sequence[int]]], logits: Logits,
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
    dress, candidate, _ = max(scored, key=lambda s: _score(s[0], s[1], s[2], claim))
    fine = [candidate.temperature * share for share in _FINE]
    nearby = under_all(_blocks(texts, given[dress], logits), [*fine, policy.temperature],
                       [{candidate.name: candidate.value} if candidate.name else {}])
    candidate, values = max(nearby.items(), key=lambda found: _score(dress, found[0], found[1], claim))
    total = float(values.logprob.sum())
    return Suspicion(candidate, dress, total - base, misfit(values), tuple(_changes(dress, candidate, claim)))


def _score(dress: str, candidate: Candidate, values: Values, claim: Candidate | None) -> float:
    """The likelihood less the penalties: a filter that nobody claimed fits a little better by being chosen."""
    changes = len(_changes(dress, candidate, claim))
    chosen = bool(candidate.name) and (claim is None or candidate.name != claim.name)
    return float(values.logprob.sum()) - PENALTY * (changes + chosen)


def _changes(dress: str, candidate: Candidate, claim: Candidate | None) -> list[str]:
    """In words, what of a candidate is not as claimed."""
    found = [] if claim and candidate.temperature == claim.temperature else [f"temperature {candidate.temperature:g}"]
    if claim is None or (candidate.name, candidate.value) != (claim.name, claim.value):
        found.append(Candidate(1.0, candidate.name, candidate.value).label if candidate.name else "no filter")
    return [*found, *([dress] if dress else [])]


def _blocks(texts: Sequence[TokenisedText], prompts: Sequence[Sequence[int]], logits: Logits) -> list[Steps]:
    """Sorted logits of as many of the texts as are looked at; at least of the first."""
    found: list[Steps] = []
    room, steps = LARGEST, 0
    for prompt, (_, own) in zip(prompts, texts, strict=True):
        made = logits(prompt, own)
        if found and (made.nbytes > room or steps + len(own) > _STEPS):
            break
        found.append(Steps.of(made, own))
        room, steps = room - made.nbytes, steps + len(own)
    return merged(found)


def misfit(values: Values) -> float:
    """p-value of surprisal minus entropy being zero within tenths of the steps by their entropy (a chi-square)."""
    from scipy.stats import chi2

    possible = np.isfinite(values.logprob)
    entropy, excess = values.entropy[possible], (-values.logprob - values.entropy)[possible]
    parts = [p for p in np.array_split(np.argsort(entropy, kind="stable"), _STRATA) if len(p)]
    variance = values.variance[possible]
    squares = [float(excess[p].sum() ** 2 / (variance[p].sum() + 1e-3 * len(p))) for p in parts]
    return float(chi2.sf(sum(squares), len(squares)))


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
