"""Prompt files as people write them: what is read, and each mistake with its line."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from canopy_stats.files import canonical_json, sha256
from canopy_stats.generation.prompt_file import parse_line, prompt_hash, read_prompts, read_source
from canopy_stats.schema import UserError

TOOL = {"function": {"name": "look", "arguments": {"where": "hill"}}}


def file(folder: Path, data: str | bytes) -> Path:
    path = folder / "p.jsonl"
    path.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass"))
    return path


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\u0085", "\\u000b", "\x7f"])
def test_only_a_line_feed_ends_a_line(tmp_path, mark):
    line = f'{{"prompt": "one{mark}two"}}'
    found = read_prompts(file(tmp_path, line + "\n" + '{"prompt": "b"}'))
    assert found == [("0", json.loads(line)["prompt"]), ("1", "b")]


@pytest.mark.parametrize("data", [b"\xef\xbb\xbf" + b'{"prompt": "a"}\n', b'{"prompt": "a"}\r\n\r\n',
                                  b'\n \t\n{"prompt": "a"}'])
def test_marks_at_the_start_and_ends_of_other_systems(tmp_path, data):
    assert read_prompts(file(tmp_path, data)) == [("0", "a")]


def test_ids_are_texts_or_whole_numbers(tmp_path):
    lines = '{"id": 7, "prompt": "a"}\n{"id": "two words é", "prompt": "b"}\n{"id": -1, "prompt": "c"}\n{"prompt": "d"}'
    assert [name for name, _ in read_prompts(file(tmp_path, lines))] == ["7", "two words é", "-1", "3"]


@pytest.mark.parametrize(("lines", "unnamed", "named"), [
    ('{"prompt": "a"}\n{"prompt": "b", "id": 0}', 1, 2), ('{"prompt": "a", "id": "1"}\n\n{"prompt": "b"}', 3, 1)])
def test_places_that_are_others_ids_are_told(tmp_path, lines, unnamed, named):
    message = rf"line {unnamed} has no id and is called by its place, '\d', which is the id of line {named}. Give ids"
    with pytest.raises(UserError, match=message):
        read_prompts(file(tmp_path, lines))


@pytest.mark.parametrize("value", [None, {"a": 1}, [1, 2], True, False, "", "  ", 1.5, "a\nb", "\x1b[31m", "x" * 201,
                                   [], 10**250], ids=lambda value: repr(value)[:12])
def test_other_ids_are_refused(tmp_path, value):
    line = json.dumps({"prompt": "b", "id": value})
    with pytest.raises(UserError, match=r"line 2: the id is .*; an id is a whole number or a text") as refused:
        read_prompts(file(tmp_path, '{"prompt": "a"}\n' + line))
    assert str(refused.value).isprintable() and len(str(refused.value)) < 400


@pytest.mark.parametrize(("line", "message"), [
    ('{"prompt": "a", "prompt": "b"}', "line 2 is not valid JSON .the key 'prompt' stands twice"),
    ('{"prompt": [{"role": "user", "role": "system", "content": "a"}]}', "the key 'role' stands twice"),
    ('{"prompt": "a", "n": ' + "1" * 5000 + "}", "line 2 is not valid JSON .Exceeds the limit"),
    ('{"prompt": "a", "n": NaN}', "NaN is no JSON value"),
    ("[" * 100_000, "line 2 is nested too deeply"),
    ('{"prompt": "\\ud800"}', r"line 2 holds half of a character \(\\ud800\); write the whole one"),
    ('{"prompt": [{"role": "user", "content": "a\\udc00"}]}', r"half of a character \(\\udc00\)"),
    ('{"prompt": [{"role": "user", "content": "a", "name": "\\udc00"}]}', r"half of a character"),
    ('{"prompt": [{"role": "user", "content": "a", "x": ' + "[" * 60 + "1" + "]" * 60 + "}]}", "more than 50 levels"),
    ('{"prompt": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]}', "of the type 'image_url'"),
    ('{"prompt": [{"role": "user", "content": [{"type": "text"}]}]}', "of the type 'text'"),
    ('{"prompt": [{"role": "user", "content": ["a"]}]}', "content of message 1 is a list that is no list of parts"),
    ('{"prompt": [{"role": "user", "content": null}]}', "the content of message 1 is missing"),
    ('{"prompt": [{"role": "user", "content": 3}]}', "the content of message 1 is a int"),
    ('{"prompt": [12345678901234567890]}', "more digits than any vocabulary"),
    ('{"prompt": [1.5]}', "a prompt is a string"), ('{"prompt": true}', "a prompt is a string"),
    ('{"prompt": {"role": "user", "content": "a"}}', "a prompt is a string"), ("7", "has no 'prompt' key"),
    (b"\xff\xfe", "line 2 is no UTF-8 text, so the file can't be read; save it as UTF-8"),
], ids=lambda case: case[:40] if isinstance(case, str) else "bytes")
def test_mistakes_name_their_line(tmp_path, line, message):
    data = b'{"prompt": "first"}\n' + (line if isinstance(line, bytes) else line.encode())
    with pytest.raises(UserError, match=message) as refused:
        read_prompts(file(tmp_path, data))
    assert "line 2" in str(refused.value) and "\n" not in str(refused.value) and len(str(refused.value)) < 500


@pytest.mark.parametrize(("data", "message"), [
    (b"", "holds no prompts"), (b"\xef\xbb\xbf\n", "holds no prompts"),
    (gzip.compress(b'{"prompt": "a"}', mtime=0), "compressed with gzip.; unpack it first"),
    ('{"prompt": "a"}'.encode("utf-16"), "can't be read; save it as UTF-8"),
])
def test_files_that_hold_none(tmp_path, data, message):
    with pytest.raises(UserError, match=message):
        read_prompts(file(tmp_path, data))


def test_no_pipe_is_waited_for(tmp_path):
    import os

    os.mkfifo(tmp_path / "p")
    with pytest.raises(UserError, match="is a pipe or a device"):
        read_prompts(tmp_path / "p")
    with pytest.raises(UserError, match="prompt file"):
        read_prompts("a\0b")


def test_parts_of_text_are_one_text():
    parts = [{"type": "text", "text": "the cat "}, {"type": "text", "text": "sat"}]
    assert read_source([{"role": "user", "content": parts}], "here") == [{"role": "user", "content": "the cat sat"}]


def test_what_else_a_message_holds_is_kept_unless_it_is_empty():
    message = {"role": "assistant", "content": None, "tool_calls": [TOOL], "name": None, "refusal": ""}
    assert read_source([message], "here") == [{"tool_calls": [TOOL], "role": "assistant", "content": ""}]


def test_lists_from_programs():
    assert read_prompts([np.array([3, 4]), (5,), "a"]) == [("0", [3, 4]), ("1", [5]), ("2", "a")]
    for item in (b"bytes", {3}, [[1]], 5, [{"role": "user", "content": "a", "f": {1, 2}}]):
        with pytest.raises(UserError, match="prompt 0: "):
            read_prompts([item]) if not isinstance(item, set) else read_prompts([[*item, "a"]])


json_values = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
                           lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
                           max_leaves=8)
messages = st.lists(st.fixed_dictionaries({"role": st.text() | json_values, "content": st.text() | json_values},
                                          optional={"name": json_values, "tool_calls": json_values}), max_size=3)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.text() | json_values | messages | st.lists(st.integers(), max_size=4))
def test_every_source_is_read_or_refused(item):
    """What is read has canonical bytes, and reading it again gives the same."""
    try:
        source = read_source(item, "here")
    except UserError as error:
        assert "here" in str(error)
        return
    try:
        ((_, again),) = read_prompts([source])
    except UserError as error:
        assert "JSON cannot" in str(error)
        return
    assert canonical_json(again) == canonical_json(source)
    assert prompt_hash(again) == sha256(canonical_json(source))


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.text(max_size=40) | json_values.map(lambda value: json.dumps(value)))
def test_every_line_is_read_or_refused(line):
    try:
        assert isinstance(parse_line(line, "here"), dict)
    except UserError as error:
        assert str(error).startswith("here") and "\n" not in str(error)
