"""What is left of a text without its thinking part: closed, cut off, opened in the prompt, in channels."""

from types import SimpleNamespace

import pytest

from canopy_stats.metrics.texts import prepare, with_openings
from canopy_stats.schema import UserError

HARMONY = "<|channel|>analysis<|message|>so\n<|end|><|start|>assistant<|channel|>final<|message|>Six.<|return|>"


@pytest.mark.parametrize(("text", "left"), [
    (" a ", "a"), ("<think>so</think> six", "six"), ("so</think>six", "six"), ("<think>cut", ""),
    ("one <think>a</think>two<think>b", "one two"), ("a < b", "a < b"),
    (HARMONY, "Six."), (HARMONY[:40], ""), ("<|channel|>final<|message|>Six.", "Six."),
    ("<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>commentary to=f<|message|>{}<|call|>", ""),
    ("analysisso\nassistantfinalSix.", "Six."), ("analysis of a poem", "analysis of a poem"),
    ("analysisaassistantcommentaryassistantfinalSix.", "Six."),
])
def test_thoughts_are_dropped(text, left):
    assert prepare([text], "drop") == [left]
    assert prepare([text], "keep") == [text.strip()]
    with pytest.raises(UserError, match="think is 'some'"):
        prepare([text], "some")


def run(**model):
    prompts = [SimpleNamespace(prompt_id="a", prompt_hash="h1"), SimpleNamespace(prompt_id="b", prompt_hash="h2")]
    return SimpleNamespace(config=SimpleNamespace(model=model), prompts=lambda: prompts)


@pytest.mark.parametrize(("model", "left"), [
    ({}, ["cut", "six"]), ({"opens_thought": True}, ["", ""]), ({"opens_thought": ["h1"]}, ["", "six"]),
    ({"opens_thought": False}, ["cut", "six"])])
def test_what_the_prompt_opened_is_known_from_the_run(model, left):
    assert prepare(with_openings(run(**model), ["cut", "six"], ["a", "b"]), "drop") == left


def test_a_channel_that_was_cut_off_is_known_from_the_run():
    texts, ids = ["analysisso", "finalSix.", "analysissoassistantfinalSix."], ["a", "a", "b"]
    assert prepare(with_openings(run(channels=True), texts, ids), "drop") == ["", "Six.", "Six."]
    assert prepare(with_openings(run(), texts, ids), "drop") == ["analysisso", "finalSix.", "Six."]
