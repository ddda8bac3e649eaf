"""Which tokens end a rollout: by brute force on bytes, and against transformers' StopStringCriteria."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers_by_kind import KINDS, tokenizer
from transformers import StopStringCriteria

from canopy_stats.generation.ending import Endings, StopStrings, refuse_impossible
from canopy_stats.generation.token_bytes import token_bytes
from canopy_stats.schema import SamplingPolicy, UserError

STRINGS = ["stop", "\n\n", "é", "–", "日本", "t t", "<|im_end|>", "op", "😀", "top"]


@pytest.fixture(scope="module", params=list(KINDS))
def words(request):
    return tokenizer(request.param)


def test_bytes_are_those_of_the_decoded_text(words):
    """Any text that the tokenizer can write comes back from its tokens' bytes, characters cut in two as well."""
    pieces = token_bytes(words, len(words) + 5)
    assert pieces[len(words):] == [b""] * 5
    for text in ["the cat stopped", "a. b", "naïve café – “x”", "日本語 😀 é", "tabs\tand\n\nlines"]:
        ids = words(text, add_special_tokens=False)["input_ids"]
        ids = [i for i in ids if i != words.unk_token_id]
        ours = b"".join(pieces[i] for i in ids).decode()
        assert ours.strip() == words.decode(ids, clean_up_tokenization_spaces=False).strip()
    assert pieces[words.convert_tokens_to_ids("<|im_end|>")].strip() == b"<|im_end|>"


@pytest.mark.slow
def test_completing_ids_are_those_of_transformers(words):
    """Each token of the vocabulary after many texts, asked one by one."""
    vocabulary = len(words)
    pieces = token_bytes(words, vocabulary)
    strings = [s for s in STRINGS if not StopStrings([s], pieces).impossible()]
    assert len(strings) > 4
    theirs, ours = StopStringCriteria(words, strings), Endings([2], strings, pieces)
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, vocabulary, 12).tolist() for _ in range(25)]
    texts += [words(text + cut, add_special_tokens=False)["input_ids"] for text in ("the cat", "un")
              for s in strings for cut in (s[:1], s[:-1], s) if text + cut]
    found = 0
    for text in texts:
        ids = torch.tensor(text).expand(vocabulary, -1)
        want = theirs(torch.cat([ids, torch.arange(vocabulary)[:, None]], dim=1), None).numpy()
        got = np.isin(np.arange(vocabulary), ours.completing(ours.start(text)))
        want[2] = False  # an end token, counted apart
        np.testing.assert_array_equal(got, want, err_msg=repr(words.decode(text)))
        found += got.sum()
    assert found > len(texts)


ALPHABET = st.sampled_from([b"a", b"b", b"ab", b"ba", b"aab", b"abab", b"", b"\xc3", b"\xa9", "é".encode(), b"b\xc3"])


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(pieces=st.lists(ALPHABET, min_size=1, max_size=14), text=st.lists(st.integers(0, 13), max_size=12),
       strings=st.lists(st.sampled_from(["a", "ab", "aba", "abab", "bb", "é", "bé", "aaab"]), min_size=1, max_size=3))
def test_by_brute_force(pieces, text, strings):
    """A token ends the text if a string lies in the bytes with it, reaching into it, whatever lay there before."""
    text = [t % len(pieces) for t in text]
    stops = StopStrings(strings, pieces)
    tail = stops.start([])
    for token in text:
        tail = stops.after(tail, token)
    assert tail == stops.start(text)
    before = b"".join(pieces[t] for t in text)
    want = [i for i, piece in enumerate(pieces)
            if any(s.encode() in before[max(0, len(before) - len(s.encode()) + 1):] + piece for s in strings)]
    assert stops.completing(tail).tolist() == want
    assert [i for i in range(len(pieces)) if stops.completed(tail, i)] == want


def test_an_end_token_is_counted_once():
    endings = Endings([0, 1], ["ab"], [b"ab", b"b", b"cab"])
    assert endings.completing(b"a").tolist() == [2] and endings.ids == (0, 1)
    assert endings.ends(b"", 1) and endings.ends(b"", 2) and not Endings([0], ["ab"], [b"", b"b", b"c"]).ends(b"", 1)


def test_a_string_that_cannot_be_written_is_refused():
    with pytest.raises(UserError, match="No token .* can complete the stop string 'xyz'"):
        Endings([], ["a", "xyz"], [b"a", b"x", b"y"])


@pytest.mark.parametrize(("law", "message"), [
    ({"stop_token_ids": [4]}, "stop_token_ids holds the token id 4, but the model's ids run from 0 to 3"),
    ({"suppress_tokens": [1, 9]}, "suppress_tokens holds the token id 9"),
    ({"suppress_tokens": [0, 1, 2, 3]}, "leave no token to draw"),
    ({"suppress_tokens": [0, 1], "min_new_tokens": 1, "stop_token_ids": [2]}, "leave no token to draw"),
    ({"stop_strings": ["a"]}, "stop_strings need a tokenizer")])
def test_laws_that_a_model_cannot_follow(law, message):
    with pytest.raises(UserError, match=message):
        refuse_impossible(SamplingPolicy(**law), [3], 4, None)
