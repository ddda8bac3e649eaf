"""The sampling law's ranges, and columns declared once."""

import numpy as np
import pytest

from canopy_stats.schema import (
    PANEL_COLUMNS,
    ROLLOUT_COLUMNS,
    STEP_COLUMNS,
    ModelSource,
    SamplingPolicy,
    UserError,
    names,
)


@pytest.mark.parametrize(
    ("field", "value"),
    [("temperature", 0), ("temperature", -1.0), ("temperature", float("nan")), ("temperature", float("inf")),
     ("top_k", 0), ("top_k", 2.5), ("top_k", True), ("top_p", 0.0), ("top_p", 1.1), ("min_p", -0.1), ("min_p", 1.5),
     ("max_new_tokens", 0), ("max_new_tokens", 1.5)],
)
def test_out_of_range_names_the_field_and_the_value(field, value):
    with pytest.raises(UserError, match=f"{field} is .*must be"):
        SamplingPolicy(**{field: value})


@pytest.mark.parametrize(
    ("policy", "truncates"),
    [({}, False), ({"top_k": 5}, True), ({"top_p": 1.0}, False), ({"top_p": 0.9}, True), ({"min_p": 0.0}, False),
     ({"min_p": 0.1}, True), ({"temperature": 0.5}, False)],
)
def test_truncation_is_known(policy, truncates):
    assert SamplingPolicy(**policy).truncates is truncates


def test_label_names_the_law():
    assert SamplingPolicy(top_k=100, top_p=0.9).label() == "T=1 top-k=100 top-p=0.9 cap=4000"


@pytest.mark.parametrize("columns", [STEP_COLUMNS, ROLLOUT_COLUMNS, PANEL_COLUMNS])
def test_columns_are_declared_once_with_a_meaning(columns):
    assert len(set(names(columns))) == len(columns)
    assert all(c.meaning for c in columns)


@pytest.mark.parametrize("values", [
    {"repetition_penalty": 0}, {"repetition_penalty": float("inf")}, {"min_new_tokens": -1}, {"min_new_tokens": 1.5},
    {"min_new_tokens": 11, "max_new_tokens": 10}, {"stop_token_ids": 3}, {"stop_token_ids": [1.0]},
    {"stop_token_ids": [-1]}, {"suppress_tokens": "12"}, {"suppress_tokens": [True]}, {"stop_strings": "end"},
    {"stop_strings": [""]}, {"stop_strings": [3]}, {"stop_strings": ["a\ud800"]}], ids=str)
def test_ends_and_processors_out_of_range_are_refused_by_name(values):
    with pytest.raises(UserError, match=f"^{next(iter(values))} is .*; it must be "):
        SamplingPolicy(**values)


def test_lists_are_kept_as_tuples():
    policy = SamplingPolicy(stop_token_ids=np.array([3, 1]), stop_strings=["b", "a"], suppress_tokens={9, 2})
    assert policy == SamplingPolicy(stop_token_ids=(3, 1), stop_strings=("b", "a"), suppress_tokens=(2, 9))
    assert hash(policy) == hash(SamplingPolicy(**policy.to_dict()))


def test_a_law_without_later_fields_keeps_its_dictionary():
    """Runs stored before these fields were known are the same runs."""
    assert SamplingPolicy(top_k=5).to_dict() == {"temperature": 1.0, "top_k": 5, "top_p": None, "min_p": None,
                                                 "max_new_tokens": 4000}
    policy = SamplingPolicy(stop_strings=["\n"], min_new_tokens=2)
    assert policy.to_dict()["stop_strings"] == ["\n"] and "suppress_tokens" not in policy.to_dict()
    assert SamplingPolicy(**policy.to_dict()) == policy


def test_labels_tell_laws_apart():
    laws = [{}, {"repetition_penalty": 1.1}, {"min_new_tokens": 2}, {"suppress_tokens": [2]}, {"stop_token_ids": [2]},
            {"stop_strings": ["2"]}, {"suppress_tokens": range(100)}, {"suppress_tokens": range(1, 101)}]
    assert len({SamplingPolicy(**law).label() for law in laws}) == len(laws)
    assert SamplingPolicy(stop_strings=["\n\n"], top_k=5).label() == 'T=1 top-k=5 stop=["\\n\\n"] cap=4000'


def test_a_source_says_where_it_came_from_and_what_the_template_gets(tmp_path):
    source = ModelSource(tmp_path, adapter="org/lora", enable_thinking=False, template_kwargs={"tone": "dry"})
    assert source.origin == {"model": str(tmp_path), "tokenizer": None, "adapter": "org/lora", "revision": None}
    assert source.template_arguments == {"tone": "dry", "enable_thinking": False}
    assert ModelSource(object()).origin["model"] is None and ModelSource("m").template_arguments == {}


@pytest.mark.parametrize(("fields", "message"), [
    ({"chat": "yes"}, "chat is 'yes'; it must be True, False, 'rendered-text'"),
    ({"chat": False, "system": "Be brief."}, "only exist inside a chat template"),
    ({"chat": False, "template_kwargs": {"a": 1}}, "only exist inside a chat template"),
    ({"template_kwargs": {"tokenize": False}}, "holds 'tokenize', which is decided here"),
    ({"template_kwargs": [1]}, r"template_kwargs is \[1\]; it must be a mapping of names"),
    ({"template_kwargs": {"f": {1}}}, "it must be a mapping of names to texts"),
    ({"enable_thinking": True, "template_kwargs": {"enable_thinking": True}}, "give it once")], ids=str)
def test_sources_that_can_not_be(fields, message):
    with pytest.raises(UserError, match=message):
        _ = ModelSource("m", **fields).template_arguments
