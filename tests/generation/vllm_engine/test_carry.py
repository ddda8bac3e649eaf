"""What is written into a row of logits comes back whole, whatever was drawn: without vLLM."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from canopy_stats.generation.vllm.carry import DRAWN, PLACES, TERMS, refuse_a_small_vocabulary, unpack, write_back
from canopy_stats.schema import UserError

TERM = st.floats(-250, 250, width=32) | st.just(float("nan"))


def returned(logits: torch.Tensor) -> tuple[list[float], np.ndarray]:
    """What vLLM gives back of rows: the sampled token's logit and those of the named ids, by greedy sampling."""
    ids = logits.argmax(dim=-1)
    columns = torch.cat([ids[:, None], torch.arange(PLACES).expand(len(ids), -1)], dim=1)
    return logits.gather(1, columns).flatten().tolist(), ids.numpy().astype(np.int32)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(data=st.data(), rows=st.integers(1, 6), vocabulary=st.integers(PLACES + 1, 40))
def test_terms_and_tokens_come_back_to_the_bit(data, rows, vocabulary):
    terms = data.draw(arrays.arrays(np.float32, (rows, TERMS), elements=TERM))
    tokens = data.draw(arrays.arrays(np.int64, rows, elements=st.integers(0, vocabulary - 1)))
    logits = torch.from_numpy(data.draw(arrays.arrays(np.float32, (rows, vocabulary), elements=st.floats(
        width=32, allow_nan=True))))
    write_back(logits, torch.from_numpy(tokens), torch.from_numpy(terms))
    assert logits.isfinite().all()
    values, ids = returned(logits)
    np.testing.assert_array_equal(ids, tokens)
    np.testing.assert_array_equal(unpack(values, ids), terms)


@pytest.mark.parametrize("token", range(PLACES + 1))
def test_a_drawn_id_that_is_reserved_itself(token):
    terms = torch.arange(TERMS, dtype=torch.float32)[None] + 0.5
    logits = torch.zeros(1, 20)
    write_back(logits, torch.tensor([token]), terms)
    values, ids = returned(logits)
    assert ids.tolist() == [token]
    assert unpack(values, ids).tolist() == terms.tolist()


@pytest.mark.parametrize("spoil", [lambda v: [x - 1 for x in v], lambda v: [*v, *v]], ids=["values", "size"])
def test_what_was_not_written_is_refused(spoil):
    logits = torch.zeros(1, 20)
    write_back(logits, torch.tensor([11]), torch.zeros(1, TERMS))
    values, ids = returned(logits)
    assert values[0] == DRAWN
    with pytest.raises(RuntimeError, match="did not give back the terms"):
        unpack(spoil(values), ids)


def test_a_vocabulary_without_room():
    refuse_a_small_vocabulary(10)
    with pytest.raises(UserError, match="has 9 token ids.*more than 9; use engine='torch'"):
        refuse_a_small_vocabulary(9)
