"""Prompt files and lists, their mistakes, and how a source becomes token ids."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from transformers import LlamaForCausalLM

from canopy_stats.checks import check
from canopy_stats.generation.prompt_file import read_prompts
from canopy_stats.generation.prompts import encode
from canopy_stats.generation.reference import plain_prompt
from canopy_stats.generation.templates import ChatFormat, check_template
from canopy_stats.metrics.embed import embed
from canopy_stats.report.catalogue import TABLES
from canopy_stats.report.source import Source
from canopy_stats.runs import generate
from canopy_stats.schema import RENDERED_TEXT, SamplingPolicy, UserError

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny_models import make_tokenizer, save_tiny_llama

MESSAGES = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat"},
            {"role": "user", "content": "on"}]
PLAIN, CHAT = ChatFormat(False), ChatFormat(True)


@pytest.fixture(scope="module")
def words():
    return make_tokenizer()


def written(folder: Path, *lines: object) -> Path:
    path = folder / "p.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def test_a_file(tmp_path):
    path = written(tmp_path, {"prompt": "one"}, "", {"prompt": MESSAGES, "id": "chat"}, {"prompt": "three", "id": 7},
                   {"prompt": "vier", "more": 1})
    assert read_prompts(path) == [("0", "one"), ("chat", MESSAGES), ("7", "three"), ("3", "vier")]
    assert read_prompts(str(path)) == read_prompts(path)


def test_a_list():
    assert read_prompts(["one", MESSAGES, [3, 4], (5,)]) == [("0", "one"), ("1", MESSAGES), ("2", [3, 4]), ("3", [5])]


@pytest.mark.parametrize(("lines", "message"), [
    ([], r"p.jsonl holds no prompts; add at least one"),
    (["", "  "], r"p.jsonl holds no prompts"),
    ([{"prompt": "a"}, '{"prompt": "b"'], r"p.jsonl, line 2 is not valid JSON \(.*column \d+\); write one object"),
    ([{"text": "a"}], r"line 1 has no 'prompt' key; write one object a line"),
    (["[1, 2]"], r"line 1 has no 'prompt' key"),
    ([{"prompt": "a"}, {"prompt": "  "}], r"line 2: the prompt is empty; remove it"),
    ([{"prompt": []}], r"line 1: the prompt is empty"),
    ([{"prompt": None}], r"line 1: a prompt is a string, a list of chat messages"),
    ([{"prompt": 3}], r"line 1: a prompt is a string"),
    ([{"prompt": [{"role": "user"}]}], r"line 1: a prompt is a string"),
    ([{"prompt": "a"}, {"prompt": "b"}, {"prompt": "a"}], r"the same prompt stands twice, at line 1 and line 3"),
    ([{"prompt": "a", "id": 1}, {"prompt": "b", "id": "1"}], r"the id '1' stands twice, at line 1 and line 2"),
    ([{"prompt": "a", "id": 1}, {"prompt": "b"}], r"line 2 has no id and is called by its place"),
], ids=str)
def test_mistakes_in_a_file(tmp_path, lines, message):
    with pytest.raises(UserError, match=message):
        read_prompts(written(tmp_path, *lines))


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"There is no prompt file .*no\.jsonl\. Give a JSONL file"):
        read_prompts(tmp_path / "no.jsonl")


def test_a_folder_or_binary_file(tmp_path):
    (tmp_path / "b").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path, tmp_path / "b"):
        with pytest.raises(UserError, match="can't be read"):
            read_prompts(path)


@pytest.mark.parametrize(("items", "message"), [
    ([], "The list of prompts holds no prompts"), ([""], "prompt 0: the prompt is empty"),
    ([[1], [1]], "stands twice, at prompt 0 and prompt 1"), ([[1, "a"]], "prompt 0: a prompt is"),
    ([True], "prompt 0: a prompt is")], ids=str)
def test_mistakes_in_a_list(items, message):
    with pytest.raises(UserError, match=message):
        read_prompts(items)


def test_plain_text_follows_the_tokenizers_own_bos_rule(words):
    ids = encode("the cat", words, PLAIN)
    assert words.convert_ids_to_tokens(list(ids)) == ["<s>", "the", "cat"]


def test_a_template_adds_no_second_bos(words):
    """The template writes <s> itself and the tokenizer would put another before it."""
    ids = encode("the cat", words, CHAT)
    assert words.convert_ids_to_tokens(list(ids)) == ["<s>", "<u>", "the", "cat", "</u>", "<a>"]


def test_messages_and_system_prompt(words):
    tokens = words.convert_ids_to_tokens(list(encode(MESSAGES, words, ChatFormat(True, system="dog"))))
    assert tokens == ["<s>", "<u>", "dog", "</u>", "<u>", "the", "cat", "</u>", "<u>", "sat", "</u>", "<u>", "on",
                      "</u>", "<a>"]


@pytest.mark.parametrize(("thinking", "last"), [(None, "cat"), (True, "dog"), (False, "bird")])
def test_enable_thinking_passes_through(thinking, last):
    words = make_tokenizer()
    words.chat_template = ("{{ messages[0]['content'] }} {% if enable_thinking is not defined %}cat"
                           "{% elif enable_thinking %}dog{% else %}bird{% endif %}")
    ids = encode("the", words, ChatFormat(True, arguments={} if thinking is None else {"enable_thinking": thinking}))
    assert words.convert_ids_to_tokens(list(ids)) == ["the", last]


def test_rendered_text_is_tokenised_once_more_where_that_is_asked_for_by_name(words):
    """The tokenizer's own BOS comes before the one that the template writes."""
    ids = encode("the cat", words, ChatFormat(RENDERED_TEXT))
    assert words.convert_ids_to_tokens(list(ids)) == ["<s>", "<s>", "<u>", "the", "cat", "</u>", "<a>"]
    assert plain_prompt(words, "the cat", chat=RENDERED_TEXT) == ids
    assert plain_prompt(words, "the cat", chat=True) == encode("the cat", words, CHAT)


def test_token_ids_pass_through(words):
    assert encode([9, 8], words, CHAT) == encode([9, 8], None, PLAIN) == (9, 8)


def test_what_can_not_be_encoded(words):
    with pytest.raises(UserError, match="without a tokenizer; give one with tokenizer="):
        encode("text", None, PLAIN)
    with pytest.raises(UserError, match="takes plain text; set chat=True"):
        encode(MESSAGES, words, PLAIN)
    with pytest.raises(UserError, match="system message and a system prompt was given too"):
        encode([{"role": "system", "content": "the"}], words, ChatFormat(True, system="dog"))
    strict = make_tokenizer()
    strict.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(UserError, match="template refuses the prompt .roles must alternate."):
        encode("the", strict, CHAT)


def test_formats_that_can_not_be(words):
    with pytest.raises(UserError, match="only exist inside a chat template"):
        ChatFormat(False, system="dog")
    bare = make_tokenizer()
    bare.chat_template = None
    with pytest.raises(UserError, match="tokenizer has none; set chat=False"):
        check_template(bare, CHAT)
    check_template(bare, PLAIN)
    check_template(words, CHAT)


# --- from the prompts to a run and its texts --------------------------------------------------------------------------


def saved(folder: Path, template: str, *more: str) -> Path:
    """A tiny model whose tokenizer has a template and some more tokens of its own."""
    words = make_tokenizer()
    words.chat_template = template
    words.add_tokens(list(more), special_tokens=True)
    save_tiny_llama(folder)
    net = LlamaForCausalLM.from_pretrained(folder)
    net.resize_token_embeddings(len(words))
    net.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


TURN = "{{ '<s>' }}{% for m in messages %}{{ '<u>' + m['content'] + '</u>' }}{% endfor %}{{ '<a>' }}"


def draw(folder: Path, **options):
    return generate(folder, ["the cat", "a dog"], folder / "run", family="f", variant="tuned", task="t", n_rollouts=3,
                    policy=SamplingPolicy(max_new_tokens=6), progress=False, drift_tokens=0, **options)


def embedded(run) -> list[str]:
    texts: list[str] = []

    def note(distinct):
        texts.extend(distinct)
        return np.eye(len(distinct), 8)

    embed(run, note, think="drop")
    return texts


def test_a_thought_that_the_template_opened_and_the_cap_cut_off_is_dropped(tmp_path):
    run = draw(saved(tmp_path / "m", TURN + "{{ '<think>' }}", "<think>", "</think>"))
    assert run.config.model["opens_thought"] is True and any(run.rollouts()["text"].to_pylist())
    assert embedded(run) == [""]


def test_texts_of_prompts_that_open_no_thought_stay(tmp_path):
    run = draw(saved(tmp_path / "m", TURN))
    assert set(embedded(run)) == {text.strip() for text in run.rollouts()["text"].to_pylist()}


@pytest.mark.slow
def test_the_date_is_in_the_run_and_check_holds_on_another_day(tmp_path, monkeypatch):
    run = draw(saved(tmp_path / "m", "{{ strftime_now('%d') }} " + TURN))
    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", None)
    assert run.config.model["template_date"] == "2024-07-26" and check(run).ok
    assert draw(tmp_path / "m").content_hash == run.content_hash


@pytest.mark.slow
def test_the_second_bos_is_in_the_law_and_the_cautions(tmp_path):
    run = draw(saved(tmp_path / "m", TURN), chat="rendered-text")
    assert run.config.model["chat"] == "rendered-text" and check(run).ok
    assert run.prompts()[0].token_ids[:2] == (1, 1)
    assert any("rendered-text" in line for line in run.config.model["cautions"])


@pytest.mark.slow
def test_what_rendered_text_changes_of_the_same_prompts_stands_in_the_check_and_in_a_table(tmp_path):
    """Each prompt has one token more by rendered text, the second BOS; the template here writes one of its own."""
    runs = {name: draw(saved(tmp_path / name, TURN), chat=chat)
            for name, chat in (("by-template", True), ("rendered", "rendered-text"))}
    findings = pd.concat([check(run, n_sample=1).to_frame().assign(run=name) for name, run in runs.items()])
    panel = pd.DataFrame({"model_variant": ["base"]})
    table = TABLES["rendered_text"].make(Source(panel, None, runs, findings=findings)).set_index("drawn_by")
    lengths = {name: np.mean([len(p.token_ids) for p in run.prompts()]) for name, run in runs.items()}
    for row in (table.loc["template"], table.loc["rendered-text"]):
        assert row["tokens_template"] == pytest.approx(lengths["by-template"])
        assert row["tokens_rendered"] == pytest.approx(lengths["rendered"]) == pytest.approx(lengths["by-template"] + 1)
        assert (row["differing"], row["second_bos_template"], row["second_bos_rendered"]) == (1, 0, 1)
    assert check(runs["by-template"], n_sample=1).ok


def test_of_usual_prompts_a_run_says_nothing(tmp_path):
    assert "cautions" not in draw(saved(tmp_path / "m", TURN)).config.model
