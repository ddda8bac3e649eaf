"""Tokens' texts, joined, are the text; characters of several tokens stay whole."""

import numpy as np
import pytest
from byte_tokens import END, VOCABULARY, draw, tokenizer, tokenizer_folder
from hypothesis import given
from hypothesis import strategies as st

from canopy_stats.report.page import tokens

TOKENIZER = tokenizer()


@pytest.mark.slow
@given(st.lists(st.integers(0, len(VOCABULARY) - 1), max_size=30))
def test_the_pieces_of_a_rollout_are_its_text(ids):
    made = tokens.split(TOKENIZER, ids, {END})
    assert [piece for i, piece in zip(ids, made, strict=True) if i == END] == ["<|end|>"] * ids.count(END)
    text = "".join(piece for i, piece in zip(ids, made, strict=True) if i != END)
    assert text == TOKENIZER.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize(("ids", "texts"), [
    ([2, 0, 1, 5], [" cat", "", "é", " sat"]),
    ([6, 7, 4, END], ["", "🎉", "\n", "<|end|>"]),
    ([2, 0], [" cat", "\ufffd"]),
    ([2, 0, END], [" cat", "\ufffd", "<|end|>"]),
    ([3], ["<script>window.hacked=1</script>"])])
def test_a_character_belongs_to_the_token_that_completes_it(ids, texts):
    assert tokens.split(TOKENIZER, ids, {END}) == texts


def test_a_run_is_read_by_the_tokenizer_beside_its_model(tmp_path):
    run = draw(tmp_path / "run", tokenizer_folder(tmp_path / "model"), family="f", task="t", variant="base", seed=1)
    found = tokens.reader(run)
    assert found.special == {END}
    for row in run.rollouts(["token_ids", "text"]).to_pylist():
        assert tokens.text_of(found, row["token_ids"]) == row["text"]


@pytest.mark.parametrize("place", ["missing", "broken", "another"])
def test_a_tokenizer_that_does_not_give_the_stored_texts_is_not_believed(tmp_path, place):
    if place == "broken":
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "tokenizer.json").write_text("{}")
    if place == "another":
        path = tokenizer_folder(tmp_path / "model") / "tokenizer.json"
        path.write_text(path.read_text().replace("Ġcat", "Ġdog"))
    run = draw(tmp_path / "run", tmp_path / "model", family="f", task="t", variant="base", seed=1)
    assert tokens.reader(run) is None


def gguf_file(path, kind, tokens, control):
    from gguf import GGUFWriter, TokenType

    writer = GGUFWriter(path, "llama")
    writer.add_tokenizer_model(kind)
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL if i in control else TokenType.NORMAL for i in range(len(tokens))])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def test_tokens_of_a_gguf_file(tmp_path):
    made = tokens._of_gguf(gguf_file(tmp_path / "m.gguf", "gpt2", list(VOCABULARY), {END}))
    ids = [2, 0, 1, 6, 7, END]
    assert tokens.split(made, ids) == tokens.split(TOKENIZER, ids)
    assert set(made.get_added_tokens_decoder()) == {END}
    assert made.decode(ids, skip_special_tokens=True) == TOKENIZER.decode(ids, skip_special_tokens=True)


def test_sentencepiece_tokens_of_a_gguf_file(tmp_path):
    words = ["<unk>", "</s>", "▁Hello", "▁wor", "ld", "<0xC3>", "<0xA9>"]
    made = tokens._of_gguf(gguf_file(tmp_path / "m.gguf", "llama", words, {0, 1}))
    assert tokens.split(made, [2, 3, 4, 5, 6, 1]) == ["Hello", " wor", "ld", "", "é", "</s>"]


def test_other_kinds_of_gguf_are_not_guessed(tmp_path):
    assert tokens._of_gguf(gguf_file(tmp_path / "m.gguf", "bert", ["a", "b"], set())) is None


def test_pieces_are_strings_for_arrays_of_ids():
    assert tokens.split(TOKENIZER, np.array([2, 5], np.int32)) == [" cat", " sat"]
