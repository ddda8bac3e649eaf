"""Every mistake of a log in one line that says where it stands and what to do."""

import json
import subprocess
import sys

import pytest
from tiny_models import make_tokenizer

from canopy_stats.doors.importing import import_rollouts
from canopy_stats.doors.sources import mapping, records
from canopy_stats.schema import SamplingPolicy, UserError

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
    "no samples": ('{"version": 2, "eval": {}}', "an inspect log without samples"),
}


@pytest.mark.parametrize("name", FILES)
def test_mistakes_of_a_file(name, tmp_path):
    text, message = FILES[name]
    path = tmp_path / ("log.json" if text.startswith(("{\"version", "[")) else "log.jsonl")
    path.write_text(text)
    refused(path, tmp_path, message)


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
    ([{"prompt": "p", "completion": "a cat"}], {"tokenizer": None}, "a text without token ids, so its length"),
    ([{**OK, "logprobs": [-1.0] * 3}], {"tokenizer": None}, "need the vocabulary's size"),
])
def test_mistakes_of_the_call(source, options, message, tmp_path):
    refused(source, tmp_path, message, **options)


def test_mistakes_of_a_mapping():
    with pytest.raises(UserError, match="not of the form field=name"):
        mapping(["completion"])


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
