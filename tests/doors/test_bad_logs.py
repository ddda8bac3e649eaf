"""Every mistake of a log in one line that says where it stands and what to do."""

import gzip
import json
import subprocess
import sys

import pandas as pd
import pytest
from tiny_models import make_tokenizer

from canopy_stats.doors.importing import import_rollouts
from canopy_stats.doors.sources import mapping, records
from canopy_stats.schema import Caution, SamplingPolicy, UserError

OK = {"prompt": "the cat", "token_ids": [7, 8, 2], "finish_reason": "stop"}


def refused(source, tmp_path, message, **options):
    with pytest.raises(UserError, match=message) as found:
        import_rollouts(source, tmp_path / "run", **{"family": "f", "variant": "base", "task": "t", "progress": False,
                                                     "tokenizer": make_tokenizer(), **options})
    assert "\n" not in str(found.value) and not (tmp_path / "run").exists()


ROWS = {
    "no prompt": ({"completion": "a cat"},
                  "row 1 has no prompt: looked for prompt, messages, input, and found completion"),
    "empty prompt": ({**OK, "prompt": " "}, "row 1: the prompt is empty"),
    "no completion": ({"prompt": "p", "answer": "a"}, "row 1 has no completion.*found prompt, answer"),
    "no completions": ({"prompt": "p", "completions": []}, "row 1 has an empty list of completions"),
    "unequal lengths": ({"prompt": "p", "completions": ["a", "b"], "token_ids": [[7]]},
                        "token_ids has 1 entries for 2 completions"),
    "unequal log-probabilities": ({**OK, "logprobs": [-1.0]}, "3 token ids and 1 log-probabilities"),
    "unequal likeliest": ({**OK, "logprobs": [-1.0] * 3, "top_logprobs": [[-1.0]]}, "top_logprobs for 1 tokens"),
    "beyond the vocabulary": ({**OK, "token_ids": [7, 27]}, "holds the token id 27, but .* from 0 to 26"),
    "negative": ({**OK, "token_ids": [-100, 7]}, "holds the token id -100"),
    "no whole number": ({**OK, "token_ids": [7.5]}, "the token id 7.5 is no whole number"),
    "after the end": ({**OK, "token_ids": [7, 2, 2, 2]}, "goes on after the end token 2 at position 1 .of 4 tokens"),
    "empty": ({**OK, "token_ids": [], "finish_reason": "length"}, "row 1 is empty"),
    "empty text": ({"prompt": "p", "completion": "", "finish_reason": "length"}, "row 1 is empty"),
    "filtered": ({**OK, "finish_reason": "content_filter"}, "ended with 'content_filter', so it is no whole draw"),
    "beyond the cap": ({**OK, "token_ids": [7] * 9, "finish_reason": "length"},
                       "has 9 tokens, but the stated law ends at 8"),
    "surprisals": ({**OK, "logprobs": [1.0, 2.0, 0.5]}, "a log-probability is 2, above zero"),
    "null": ({**OK, "logprobs": [None, -1.0, -1.0]}, "in no form that is known"),
    "a prompt of strange ids": ({**OK, "prompt": [1, -2]}, "the prompt holds the token id -2"),
    "logged ids of another vocabulary": ({**OK, "prompt_token_ids": [1, 27]}, "the prompt holds the token id 27"),
    "a list of anything": ({"messages": [{"role": "user", "content": "x"}], "completion": {"content": "x"}},
                           "the completion is an object"),
    "another text": ({**OK, "prompt_id": "a", "prompt": "q"}, "the prompt 'a' has another text than before"),
}


@pytest.mark.parametrize("name", ROWS)
def test_mistakes_of_a_row(name, tmp_path):
    row, message = ROWS[name]
    first = {**OK, "prompt_id": "a"} if name == "another text" else OK
    refused([first, row], tmp_path, message, policy=SamplingPolicy(max_new_tokens=8))


FILES = {
    "truncated": (json.dumps(OK) + '\n{"prompt": "p", "compl', "line 2 breaks off: the log was cut"),
    "damaged": (json.dumps(OK) + "\n{'prompt': 1}\n", "line 2 is not valid JSON"),
    "no object": ("[1, 2]", "item 0 is a int; give a list of objects"),
    "a number": (json.dumps(OK) + "\n7\n", "line 2 is a int; write one object a line"),
    "truncated list": ('[{"prompt": "p"', "breaks off or is not valid JSON"),
    "empty": ("", "holds no rows"),
    "choices": ('{"doc_id": 0, "arguments": [["p", "c"]], "resps": [[["-1.5", "False"]]]}\n',
                "holds log-likelihoods and no completions"),
    "failed": ('{"version": 2, "eval": {}, "samples": [{"id": 1, "epoch": 1, "error": {"message": "boom"}}]}',
               r"sample 1 epoch 1 failed \(boom\)"),
    "agents": ('{"version": 2, "eval": {}, "samples": [{"id": 1, "epoch": 1, "messages": [{"role": "assistant"}, '
               '{"role": "assistant"}], "output": {"choices": [{"message": {"content": "x"}}]}}]}', "has 2 answers"),
    "a number as a message": ('{"version": 2, "eval": {}, "samples": [{"id": 1, "epoch": 1, "input": "x", "output": '
                              '{"choices": [{"message": {"content": 7}}]}}]}', "the content of a message is a int"),
    "comma separated": ("prompt,completion\np,the cat\n", "holds no JSON; read it with pandas.read_csv"),
    "a list below a blank line": ("\n[7]", "item 0 is a int"),
    "no samples": ('{"version": 2, "eval": {}}', "an inspect log without samples"),
}


@pytest.mark.parametrize("name", FILES)
def test_mistakes_of_a_file(name, tmp_path):
    text, message = FILES[name]
    ends = {"{\"version": ".json", "[": ".json", "prompt,": ".csv"}
    path = tmp_path / f"log{next((end for start, end in ends.items() if text.startswith(start)), '.jsonl')}"
    path.write_text(text)
    refused(path, tmp_path, message)


@pytest.mark.parametrize(("content", "message"), [
    (gzip.compress(b"{}"), "is compressed; unpack it"), (b"PK\x03\x04 and more", "is an archive; unpack it"),
    (json.dumps(OK).encode("utf-16"), "is no UTF-8 text"), (b"PAR1 and more", "is a Parquet file; name it .parquet")],
    ids=["gzip", "zip", "utf-16", "parquet"])
def test_files_of_other_kinds_are_not_called_cut(content, message, tmp_path):
    (tmp_path / "log.jsonl").write_bytes(content)
    refused(tmp_path / "log.jsonl", tmp_path, message)


def test_messages_in_parts_are_read_and_a_missing_id_is_none(tmp_path):
    parts = [{"type": "text", "text": "the "}, {"type": "text", "text": "cat"}]
    asked = [{"role": "user", "content": "x"}]
    (one,) = records([{"messages": asked, "choices": [{"message": {"content": parts}, "finish_reason": "stop"}]}])
    assert one.text == "the cat"
    (tmp_path / "log.json").write_text(json.dumps({"version": 2, "eval": {}, "samples": [
        {"id": None, "epoch": 1, "input": "x", "output": {"choices": [{"message": {"content": parts}}]}}]}))
    (one,) = records(tmp_path / "log.json")
    assert one.text == "the cat" and one.prompt_id is None


def test_likeliest_tokens_without_the_drawn_ones_are_left_out_and_it_is_said(tmp_path):
    with pytest.warns(Caution, match="1 completions have top_logprobs without logprobs"):
        import_rollouts([{**OK, "top_logprobs": [[-1.0]] * 3}], tmp_path / "run", family="f", variant="base", task="t",
                        tokenizer=make_tokenizer(), progress=False)


@pytest.mark.slow  # inspect_ai takes seconds to import
def test_truncated_archives_of_inspect(tmp_path):
    pytest.importorskip("inspect_ai", reason="inspect_ai is not installed: pip install 'canopy-stats[logs]'")
    (tmp_path / "log.eval").write_bytes(b"PK\x03\x04 and no more")
    refused(tmp_path / "log.eval", tmp_path, "cannot be read as an inspect log")


@pytest.mark.parametrize(("source", "options", "message"), [
    ("none.jsonl", {}, "There is no file none.jsonl"),
    ("none.eval", {}, "There is no file none.eval"),
    (".", {}, "is a folder; give the files in it"),
    ([OK], {"format": "csv"}, "There is no format 'csv'; choose one of auto, jsonl"),
    ([OK], {"fields": {"answer": "a"}}, "There is no field 'answer' to give a name for"),
    (7, {}, "cannot be read from a int"),
    ([], {}, "holds no rows"),
    ([7], {}, "Row 0 is a int"),
    ([OK], {"after_end": "keep"}, "after_end is 'keep'"),
    ([OK], {"batch_size": 0}, "batch_size is 0"),
    ([OK], {"batch_size": 1.5}, "batch_size is 1.5; it must be a whole number of at least 1 or 'auto'"),
    ([OK], {"family": ""}, "family is ''; it must be a printable text"),
    ([OK], {"task": 7}, "task is 7; it must be a printable text"),
    ([OK], {"variant": None}, "variant is None; it must be a printable text"),
    ([OK], {"vocabulary": -1}, "vocabulary is -1; it must be a whole number of at least 1"),
    ([OK], {"vocabulary": "27"}, "vocabulary is '27'; it must be a whole number"),
    ([OK], {"policy": {"temperature": 1}}, "policy is .*; it must be a cs.SamplingPolicy"),
    ([OK], {"tokenizer": 7}, "tokenizer is 7; it must be a tokenizer"),
    ([OK], {"fields": {"prompt": 7}}, "fields is .*; it must be a mapping of names"),
    ([OK], {"fields": "prompt=p"}, "fields is .*; it must be a mapping of names"),
    ([{**OK, "token_ids": [2**31]}], {"tokenizer": None}, "holds the token id 2147483648"),
    (pd.DataFrame([["p", "q", "c"]], columns=["prompt", "prompt", "completion"]), {}, "two columns of one name"),
    ([{"prompt": "p", "completion": "a cat"}], {"tokenizer": None}, "a text without token ids, so its length"),
    ([{**OK, "logprobs": [-1.0] * 3}], {"tokenizer": None}, "need the vocabulary's size"),
])
def test_mistakes_of_the_call(source, options, message, tmp_path):
    refused(source, tmp_path, message, **options)


def test_mistakes_of_a_mapping():
    with pytest.raises(UserError, match="not of the form field=name"):
        mapping(["completion"])


@pytest.mark.slow
def test_a_long_log_is_streamed(tmp_path):
    """36 MB of JSONL are read and staged in less memory than that."""
    path = tmp_path / "long.jsonl"
    with path.open("w") as file:
        for i in range(1000):
            file.write(json.dumps({"prompt": f"p{i % 20}", "token_ids": [i % 20] * 500, "text": "x" * 35_000}) + "\n")
    code = f"""
import resource
from pathlib import Path
from canopy_stats.doors.sources import records
from canopy_stats.doors.staging import Staged
from canopy_stats.doors.validate import Validator
from canopy_stats.doors.words import Words
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
staged, validator = Staged(Path({str(tmp_path)!r})), Validator(Words(None, (), None), None, False)
for one in records({str(path)!r}):
    staged.add(one, validator.completion(one))
assert sum(staged.counts) == 1000 and len(staged.names) == 20
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert path.stat().st_size > 32e6 and float(done.stdout) < 30


def test_one_row_is_held_at_a_time(tmp_path):
    (tmp_path / "log.jsonl").write_text(json.dumps(OK) + "\nno json\n")
    stream = records(tmp_path / "log.jsonl")
    assert next(stream).token_ids == [7, 8, 2]
    with pytest.raises(UserError):
        next(stream)
