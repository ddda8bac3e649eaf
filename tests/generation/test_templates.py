"""Chat templates: the date, open turns, what they leave out; and what is said of prompts."""

import json
import sys
from datetime import datetime
from pathlib import Path

import pytest

from canopy_stats.generation.prompt_file import prompt_hash
from canopy_stats.generation.prompts import Remarks, encode, opens_thought
from canopy_stats.generation.reference import plain_prompt
from canopy_stats.generation.templates import DEFAULT_DATE, ChatFormat, check_template, pinned
from canopy_stats.schema import RENDERED_TEXT, UserError

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny_models import make_tokenizer

CHAT, PLAIN = ChatFormat(True), ChatFormat(False)
TURNS = ("{% for m in messages %}{{ '<u>' + m['content'] + '</u>' }}{% endfor %}"
         "{% if add_generation_prompt %}{{ '<a>' }}{% endif %}")


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def with_template(template: str):
    words = make_tokenizer()
    words.chat_template = template
    return words


def tokens(words, ids) -> list[str]:
    return words.convert_ids_to_tokens(list(ids))


# --- the date ---------------------------------------------------------------------------------------------------------


def render(template: str, **context) -> str:
    words = with_template(template)
    return words.apply_chat_template([user("the")], tokenize=False, **context)


@pytest.mark.parametrize("code", ["%d %b %Y", "%Y-%m-%d", "%B %-d, %Y", "%A %H", "%F", "%j%%d", "%I %p", "no"])
def test_a_pinned_clock_tells_noon_of_its_day(code):
    template = f"{{{{ strftime_now('{code}') }}}} {{{{ messages[0]['content'] }}}}"
    told = render(pinned(template, "2025-11-03"))
    assert told == datetime(2025, 11, 3, 12).strftime(code) + " the"


@pytest.mark.parametrize("start", ["", "\n", "  \n", "{% set a = 1 %}\n", "{{- 'x' }}", " {%- if true %} y{% endif %}"])
def test_pinning_changes_nothing_else(start):
    template = start + "{% if strftime_now is defined %}{{ messages[0]['content'] }}{% endif %}\n z"
    assert render(pinned(template, DEFAULT_DATE)) == render(template)
    assert pinned("no clock", DEFAULT_DATE) == "no clock"


LLAMA = ("{%- if not date_string is defined %}{%- set date_string = strftime_now('%d %b %Y') %}{%- endif %}"
         "{{ '<s>' }}{{ date_string }} " + TURNS)


def test_a_template_that_asks_for_today_is_told_one_day(monkeypatch):
    words = with_template(LLAMA)
    ids = encode("the cat", words, CHAT)
    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", None)  # nobody looks at the clock
    assert encode("the cat", words, CHAT) == ids == plain_prompt(words, "the cat", chat=True, day=DEFAULT_DATE)
    style = ChatFormat(True, arguments={"template_date": "2020-02-02"})
    assert encode("the cat", words, style) == plain_prompt(words, "the cat", chat=True, day="2020-02-02")
    remarks = looked_at(words, style, "the cat")
    assert remarks == ["The chat template asks for today's date and is told 2020-02-02 on every day; "
                       "template_kwargs={'template_date': ...} sets another."]


def test_dates_that_are_none():
    with pytest.raises(UserError, match="template_date is 'today'; it must be a day such as '2024-07-26'"):
        ChatFormat(True, arguments={"template_date": "today"})
    with pytest.raises(UserError, match="the chat template does not ask for the date"):
        check_template(make_tokenizer(), ChatFormat(True, arguments={"template_date": "2020-02-02"}))


def test_template_arguments_reach_the_template():
    words = with_template("{{ '<s>' if tone == 'dry' else '<a>' }}" + TURNS)
    assert tokens(words, encode("the", words, ChatFormat(True, arguments={"tone": "dry"})))[0] == "<s>"
    assert plain_prompt(words, "the", chat=True, arguments={"tone": "dry"}) == encode(
        "the", words, ChatFormat(True, arguments={"tone": "dry"}))


def test_arguments_that_the_template_does_not_know_are_said():
    assert looked_at(with_template(TURNS), ChatFormat(True, arguments={"enable_thinking": False}), "the cat") == [
        "The chat template does not use enable_thinking: it changes nothing."]


# --- turns ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", [CHAT, ChatFormat(RENDERED_TEXT), ChatFormat(True, "a dog")])
def test_the_assistants_last_turn_stays_open(style):
    words = with_template(TURNS)
    prompt = [user("the cat"), {"role": "assistant", "content": "sat on"}]
    ids = encode(prompt, words, style)
    assert tokens(words, ids)[-4:] == ["</u>", "<u>", "sat", "on"]
    assert ids == plain_prompt(words, prompt, chat=style.chat, system=style.system)
    with pytest.raises(UserError, match="ends in an assistant message without words"):
        encode([user("the cat"), {"role": "assistant", "content": " "}], words, style)


@pytest.mark.parametrize(("template", "prompt", "left_out"), [
    ("{{ '<s>' }}", "the cat", "what the user says"),
    ("{% for m in messages if m.role == 'system' %}{{ m.content }}{% endfor %}<a>",
     [{"role": "system", "content": "a dog"}, user("the cat")], "what the user says"),
    (TURNS, [{**user("the cat"), "name": "bird"}], "holds as 'name'"),
    (TURNS, [{"role": "assistant", "content": "on", "tool_calls": [{"function": {}}]}, user("the")], "as 'tool_calls'"),
])
def test_what_a_template_leaves_out_is_refused(template, prompt, left_out):
    with pytest.raises(UserError, match=f"The chat template leaves out .*{left_out}"):
        encode(prompt, with_template(template), CHAT)


def test_what_a_template_uses_is_kept():
    words = with_template("{% for m in messages %}{{ (m.name or '') + ' ' + m.content + ' ' }}"
                          "{% if m.tool_calls %}{{ m.tool_calls[0].function.name }} {% endif %}{% endfor %}<a>")
    prompt = [{**user("the cat"), "name": "bird"},
              {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "hill"}}]}, user("sat")]
    assert tokens(words, encode(prompt, words, CHAT)) == ["bird", "the", "cat", "hill", "sat", "<a>"]


# --- plain text -------------------------------------------------------------------------------------------------------


def appending():
    """A tokenizer that puts BOS before a text and its end token after it, as ``add_eos_token`` does."""
    from tokenizers import processors

    words = make_tokenizer()
    words.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    return words


@pytest.mark.parametrize(("text", "wanted"), [
    ("the cat", ["<s>", "the", "cat"]), ("the </s>", ["<s>", "the", "</s>"]), ("<s> the", ["<s>", "<s>", "the"])])
def test_an_end_token_of_the_tokenizers_own_is_left_out(text, wanted):
    words = appending()
    assert tokens(words, words(text)["input_ids"]) == [*wanted, "</s>"]
    assert tokens(words, encode(text, words, PLAIN)) == wanted
    assert plain_prompt(words, text, chat=False) == encode(text, words, PLAIN)


def test_a_text_of_nothing_but_special_tokens_of_the_tokenizers_own_is_refused():
    words = make_tokenizer()
    words.backend_tokenizer.normalizer = __import__("tokenizers").normalizers.Replace("zip", "")
    with pytest.raises(UserError, match="makes no tokens of the prompt 'zip'; remove it"):
        encode("zip", words, PLAIN)


# --- what is said -----------------------------------------------------------------------------------------------------


def looked_at(words, style, *sources) -> list[str]:
    return remarks_of(words, style, *sources).said()


def remarks_of(words, style, *sources) -> Remarks:
    remarks = Remarks(words, (2,), style)
    for source in [*sources, *sources]:  # a prompt that is looked at twice counts once
        remarks.look(source, encode(source, words, style))
    return remarks


def test_nothing_is_said_of_usual_prompts():
    assert looked_at(make_tokenizer(), PLAIN, "the cat", "a dog", [3, 4]) == []
    assert looked_at(make_tokenizer(), CHAT, "the cat", [user("a dog")]) == []


def test_what_is_said():
    rendered = "<s> <u> the cat </u> <a>"
    assert looked_at(make_tokenizer(), PLAIN, rendered, "a dog") == [
        "A second BOS stands at the start of 1 of 2 prompts: it is in the text and put there once more."]
    assert looked_at(appending(), PLAIN, "the cat", "a dog") == [
        "The tokenizer puts an end token after 2 of 2 prompts; it was left out, since the text goes on."]
    assert looked_at(make_tokenizer(), PLAIN, "the </s>", [5, 2], "a dog") == [
        "A token that ends rollouts stands at the end of 2 of 3 prompts: the model is asked to write after the end."]
    assert looked_at(make_tokenizer(), PLAIN, "the zebra", "the lion") == [
        "The tokenizer does not tell 1 of 1 prompts from another one: they become the same token ids."]


def test_rendered_text_is_said_with_its_second_bos():
    said = looked_at(make_tokenizer(), ChatFormat(RENDERED_TEXT), "the cat")
    assert len(said) == 2 and "second BOS stands at the start of 1 of 1" in said[0]
    assert "tokenised again, as asked for (chat='rendered-text')" in said[1]


@pytest.mark.parametrize(("text", "opens"), [("a<think>", True), ("<think>\n\n", True), ("<think> hm", False),
                                             ("<think></think>", False), ("", False)])
def test_thoughts_that_a_prompt_opens(text, opens):
    assert opens_thought(text) is opens


def thinking_tokenizer():
    from tokenizers import AddedToken

    words = with_template("{{ '<s>' }}" + TURNS + "{{ '<think>\n' }}")
    words.add_tokens([AddedToken("<think>"), AddedToken("</think>")])
    return words


def test_open_thoughts_are_all_none_or_named():
    assert remarks_of(thinking_tokenizer(), CHAT, "the cat", "a dog").open_thoughts() is True
    assert remarks_of(make_tokenizer(), CHAT, "the cat").open_thoughts() is False
    some = remarks_of(thinking_tokenizer(), PLAIN, "the cat", "a dog <think>")
    assert some.open_thoughts() == [prompt_hash("a dog <think>")]
    assert json.dumps(some.open_thoughts())
