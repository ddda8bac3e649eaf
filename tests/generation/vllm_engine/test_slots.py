"""A request's state belongs to its step: parts of prompts, tokens thrown away and resumed requests change nothing."""

import numpy as np
import pytest
import torch

from canopy_stats.generation.ending import Endings
from canopy_stats.generation.processors import Past
from canopy_stats.generation.stop_tables import StopTables, start_state
from canopy_stats.generation.terms import Draws, step_terms
from canopy_stats.generation.vllm.carry import PLACES, unpack
from canopy_stats.generation.vllm.slots import Carried, Slots
from canopy_stats.schema import SamplingPolicy

V, STEPS, ENDS = 40, 12, (5, 17)
PIECES = [bytes([97 + i % 3]) * (1 + i % 2) for i in range(V)]
CPU = torch.device("cpu")
LAWS = [SamplingPolicy(max_new_tokens=STEPS), SamplingPolicy(temperature=0.7, top_k=9, top_p=0.9, max_new_tokens=STEPS),
        SamplingPolicy(repetition_penalty=1.7, min_new_tokens=4, suppress_tokens=(3,), max_new_tokens=STEPS),
        SamplingPolicy(stop_strings=("abc", "cca"), repetition_penalty=1.3, max_new_tokens=STEPS)]


def logits_of(text: list[int]) -> torch.Tensor:
    """A model: logits (1, V) as a function of a text."""
    return torch.from_numpy(np.random.default_rng([7, *text]).normal(0, 2, (1, V)).astype(np.float32))


def expected(law: SamplingPolicy, key: tuple[int, int], prompt: list[int]) -> tuple[list[int], np.ndarray]:
    """The rollout by a plain loop over steps."""
    endings = Endings({*ENDS, *law.stop_token_ids}, law.stop_strings, PIECES if law.stop_strings else ())
    text, terms, ends = list(prompt), [], torch.tensor(endings.ids)
    tail = endings.start(prompt)
    for step in range(STEPS):
        steps = torch.tensor([step])
        past = Past(steps, torch.tensor([text]), torch.from_numpy(endings.completing(tail))[None])
        token, found = step_terms(logits_of(text), law, ends, draws=Draws(torch.tensor([key]), steps), past=past)
        terms.append(found)
        text.append(int(token))
        if endings.ends(tail, int(token)):
            break
        tail = endings.after(tail, int(token))
    return text[len(prompt):], torch.cat(terms).numpy()


def carried(law: SamplingPolicy, key: tuple[int, int], prompt: list[int], folder) -> Carried:
    endings = Endings({*ENDS, *law.stop_token_ids}, law.stop_strings, PIECES if law.stop_strings else ())
    if endings.strings is None:
        return Carried(key, law.to_dict(), endings.ids)
    StopTables.of(law.stop_strings, PIECES, endings.ids).save(folder / "stops.npz")
    start = start_state(law.stop_strings, endings.start(prompt))
    return Carried(key, law.to_dict(), endings.ids, str(folder / "stops.npz"), start)


class Machine:
    """Requests in slots, each drawn step by step, with whatever disturbs them."""

    def __init__(self, laws: list[SamplingPolicy], folder, seed: int):
        self.slots, self.rng = Slots(8, 40, V, CPU), np.random.default_rng(seed)
        self.requests = [(law, (i, 3 * i + 1), self.rng.integers(0, V, 1 + i % 4).tolist())
                         for i, law in enumerate(laws)]
        self.args = [Carried.from_args(carried(*request, folder).to_args()) for request in self.requests]
        self.texts = [list(prompt) for _, _, prompt in self.requests]
        self.terms: list[list[float]] = [[] for _ in laws]
        self.slot = list(range(len(laws)))
        for i in range(len(laws)):
            self.load(i)

    def load(self, i: int) -> None:
        args = self.args[i]
        assert args is not None
        self.slots.load(self.slot[i], args, self.texts[i], len(self.requests[i][2]))

    def step(self, rows: list[int], keep: bool = True, behind: int = 0) -> None:
        """Draw for some requests; ``behind`` steps earlier where it is a part of a text that is read again."""
        where = torch.tensor([self.slot[i] for i in rows])
        steps = torch.tensor([len(self.texts[i]) - len(self.requests[i][2]) - behind for i in rows])
        logits = torch.cat([logits_of(self.texts[i][: len(self.texts[i]) - behind]) for i in rows])
        self.slots.draw(logits, where.tolist(), where, steps)
        if not keep:
            return
        for row, i in zip(logits, rows, strict=True):
            token = int(row.argmax())
            self.texts[i].append(token)
            self.terms[i] += [float(row[token]), *row[:PLACES].tolist()]

    def resume(self, i: int) -> None:
        """Stopped, and back in another slot."""
        self.slots.clear(self.slot[i])
        self.slot[i] = next(s for s in self.rng.permutation(8) if s not in self.slot)
        self.load(i)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("laws", [[law] * 3 for law in LAWS] + [LAWS], ids=[*(w.label() for w in LAWS), "mixed"])
def test_disturbed_rollouts_are_those_of_a_plain_loop(laws, seed, tmp_path):
    machine = Machine(laws, tmp_path, seed)
    rng, disturbed = machine.rng, 0
    while rows := [i for i, t in enumerate(machine.texts) if len(t) - len(machine.requests[i][2]) < STEPS]:
        some = [int(i) for i in rng.permutation(rows)[: rng.integers(1, len(rows) + 1)]]
        kind = rng.integers(4)
        disturbed += kind < 3
        if kind == 0:
            machine.step(some, keep=False)
        elif kind == 1:
            machine.step(some, keep=False, behind=1 + int(rng.integers(2)))
        elif kind == 2:
            machine.resume(some[0])
        machine.step(some)
    assert disturbed > 5
    for i, (law, key, prompt) in enumerate(machine.requests):
        ids, terms = expected(law, key, prompt)
        drawn = machine.texts[i][len(prompt):]
        assert drawn[: len(ids)] == ids
        if len(ids) < STEPS and law.stop_strings:
            assert drawn[len(ids)] in ENDS or ids[-1] in ENDS
        found = unpack(machine.terms[i], np.array(drawn))[: len(ids)]
        np.testing.assert_allclose(found, terms, rtol=0, atol=1e-6)


def test_requests_of_others_stay_as_they_are(tmp_path):
    machine = Machine(LAWS[:2], tmp_path, 0)
    logits = torch.randn(3, V)
    before = logits[1].clone()
    where = torch.tensor([0, 7, 1])
    machine.slots.draw(logits, [0, 7, 1], where, torch.tensor([0, 0, 0]))
    assert torch.equal(logits[1], before) and (logits[[0, 2]].max(dim=1).values == 1e6).all()
    assert Carried.from_args({"theirs": 1}) is None and Carried.from_args(None) is None
