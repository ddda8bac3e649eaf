"""Every format to the same stream of completions."""

import json
from types import SimpleNamespace

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from canopy_stats.doors.sources import mapping, records

TOPS = [[-0.1, -3.0], [-0.2, -2.5]]


def lines(tmp_path, *rows, name="log.jsonl"):
    (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / name


def only(source, **options):
    found = list(records(source, **options))
    assert len(found) == 1
    return found[0]


def test_a_row_of_one_completion(tmp_path):
    one = only(lines(tmp_path, {"id": 7, "prompt": "p", "completion": "c", "finish_reason": "stop", "other": 1}))
    assert (one.prompt, one.prompt_id, one.text, one.finish_reason) == ("p", "7", "c", "stop")
    assert one.token_ids is None and one.logprobs is None


def test_a_row_of_many_completions_and_their_parallel_lists(tmp_path):
    a, b = records(lines(tmp_path, {"prompt": "p", "completions": ["c", "d"], "token_ids": [[1], [2, 3]],
                                    "logprobs": [[-1.0], [-2.0, -3.0]], "finish_reason": ["stop", "length"]}))
    assert (a.token_ids, b.token_ids) == ([1], [2, 3]) and b.logprobs == [-2.0, -3.0]
    assert b.finish_reason == "length" and "completion 1" in b.where and "line 1" in b.where


def test_completions_may_be_ids_or_objects(tmp_path):
    found = list(records([{"prompt": "p", "completions": [[1, 2], {"text": "x", "finish_reason": "stop"}]}]))
    assert found[0].token_ids == [1, 2] and found[1].text == "x"


def test_fields_have_other_names_and_may_be_nested(tmp_path):
    path = lines(tmp_path, {"meta": {"q": "p"}, "answers": [{"body": "c"}]})
    one = only(path, fields=mapping(["prompt=meta.q", "completions=answers", "completion=body"]))
    assert (one.prompt, one.text) == ("p", "c")


def test_openai_completions(tmp_path):
    choice = {"index": 0, "text": "c d", "finish_reason": "length", "logprobs": {
        "tokens": ["c", " d"], "token_logprobs": [-0.1, -2.5],
        "top_logprobs": [{"c": -0.1, "x": -3.0}, {" e": -0.2, " d": -2.5}]}}
    one = only(lines(tmp_path, {"request": {"prompt": "p"}, "response": {"id": "r", "choices": [choice]}}))
    assert (one.prompt, one.text, one.logprobs, one.top_logprobs) == ("p", "c d", [-0.1, -2.5], TOPS)


def test_openai_chats(tmp_path):
    content = [{"token": "c", "logprob": -0.1, "top_logprobs": [{"token": "c", "logprob": -0.1},
                                                               {"token": "x", "logprob": -3.0}]},
               {"token": " d", "logprob": -2.5, "top_logprobs": [{"token": " e", "logprob": -0.2},
                                                                 {"token": " d", "logprob": -2.5},
                                                                 {"token": "z", "logprob": -9999.0}]}]
    messages = [{"role": "user", "content": "p"}]
    row = {"messages": messages, "logprobs": True, "choices": [
        {"message": {"content": "c d"}, "finish_reason": "stop", "logprobs": {"content": content}}]}
    one = only(lines(tmp_path, row))
    assert one.prompt == messages and one.text == "c d" and one.top_logprobs == TOPS and one.finish_reason == "stop"


def test_a_batch_of_openai(tmp_path):
    row = {"custom_id": "a", "body": {"messages": [{"role": "user", "content": "p"}]},
           "response": {"body": {"choices": [{"message": {"content": "c"}, "finish_reason": "stop"}]}}}
    one = only(lines(tmp_path, row))
    assert (one.prompt_id, one.text) == ("a", "c")


VLLM = {"prompt": "p", "prompt_token_ids": [5, 6], "outputs": [{
    "text": "c d", "token_ids": [1, 2], "finish_reason": "stop",
    "logprobs": [{"1": {"logprob": -0.1, "rank": 1}, "9": {"logprob": -3.0, "rank": 2}},
                 {"2": {"logprob": -2.5, "rank": 2}, "7": {"logprob": -0.2, "rank": 1}}]}]}


def test_a_dump_of_vllm(tmp_path):
    one = only(lines(tmp_path, VLLM))
    assert one.prompt_token_ids == [5, 6] and one.token_ids == [1, 2] and one.logprobs == [-0.1, -2.5]
    assert [sorted(t) for t in one.top_logprobs] == [sorted(t) for t in TOPS]


def test_vllms_own_objects():
    steps = [{int(k): SimpleNamespace(**v) for k, v in step.items()} for step in VLLM["outputs"][0]["logprobs"]]
    output = SimpleNamespace(**{**VLLM["outputs"][0], "logprobs": steps, "token_ids": (1, 2)})
    one = only([SimpleNamespace(prompt="p", prompt_token_ids=[5, 6], outputs=[output])])
    assert one.token_ids == [1, 2] and one.logprobs == [-0.1, -2.5] and one.prompt == "p"


def test_samples_of_lm_eval(tmp_path):
    row = {"doc_id": 3, "doc": {}, "arguments": {"gen_args_0": {"arg_0": "p", "arg_1": {"until": ["\n"]}}},
           "resps": [["c", "d"]], "filtered_resps": ["c"], "target": "c"}
    a, b = records(lines(tmp_path, row))
    assert (a.prompt, a.prompt_id, a.text, b.text) == ("p", "3", "c", "d")


def test_a_json_log_of_inspect(tmp_path):
    sample = {"id": 1, "epoch": 2, "input": "p", "messages": [{"role": "system", "content": "s"},
              {"role": "user", "content": [{"type": "text", "text": "p"}]}, {"role": "assistant", "content": "c"}],
              "output": {"choices": [{"message": {"role": "assistant", "content": "c"}, "stop_reason": "max_tokens"}]}}
    path = tmp_path / "log.json"
    path.write_text(json.dumps({"version": 2, "status": "success", "eval": {"task": "t"}, "samples": [sample]}))
    one = only(path)
    assert one.prompt == [{"role": "system", "content": "s"}, {"role": "user", "content": "p"}]
    assert (one.text, one.finish_reason) == ("c", "max_tokens") and "sample 1 epoch 2" in one.where


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame, pa.table, lambda rows: rows],
                         ids=["pandas", "polars", "pyarrow", "columns"])
def test_tables(frame):
    columns = {"prompt": ["p", "q"], "completions": [["a", "b"], ["c"]]}
    source = frame(columns)
    if isinstance(source, dict):
        source = [{"prompt": "p", "completions": ["a", "b"]}, {"prompt": "q", "completions": ["c"]}]
    assert [(o.prompt, o.text) for o in records(source)] == [("p", "a"), ("p", "b"), ("q", "c")]


def test_hugging_face_data_sets():
    datasets = pytest.importorskip("datasets", reason="the datasets package is not installed")
    source = datasets.Dataset.from_dict({"prompt": ["p"], "completion": ["a"]})
    assert only(source).text == "a"


def test_parquet_json_lists_and_several_files(tmp_path):
    pd.DataFrame({"prompt": ["p"], "completion": ["a"]}).to_parquet(tmp_path / "a.parquet")
    (tmp_path / "b.json").write_text('[\n{"prompt": "p",\n "completion": "b"}]')
    table = pd.DataFrame({"prompt": ["p"], "token_ids": [[1, 2]], "logprobs": [[-0.1, -2.5]], "top_logprobs": [TOPS]})
    table.to_parquet(tmp_path / "c.parquet")
    one = only(pd.read_parquet(tmp_path / "c.parquet"))  # pandas gives arrays of arrays
    assert (one.token_ids, one.logprobs, one.top_logprobs) == ([1, 2], [-0.1, -2.5], TOPS)
    assert [o.text for o in records([tmp_path / "a.parquet", tmp_path / "b.json"])] == ["a", "b"]
