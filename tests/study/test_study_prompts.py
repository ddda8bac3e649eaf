"""Prompts with worked examples before them."""

from __future__ import annotations

import json
import re

import pytest

from canopy_stats.schema import UserError
from canopy_stats.study.prompts import choose_prompts, examples, with_examples
from canopy_stats.study.spec import FewShot

POOL = [{"prompt": f"q{i}", "answer": f"a{i}", "task": "math" if i < 5 else "stories"} for i in range(10)]
PROMPTS = [json.dumps({"id": f"p{i}", "prompt": f"question {i}", "source": "here"}) for i in range(8)]


@pytest.fixture
def pool(tmp_path):
    path = tmp_path / "pool.jsonl"
    path.write_text("".join(json.dumps(e) + "\n" for e in [*POOL, {"prompt": "any", "answer": "task"}]))
    return path


def shown(line):
    """(examples as (prompt, answer), the prompt itself) of a dressed line."""
    *before, last = json.loads(line)["prompt"].split("\n\n")
    return [tuple(example.split("\n")) for example in before], last


def test_examples_stand_before_the_prompt_and_come_from_the_pool_of_the_task(pool):
    for line, plain in zip(with_examples(PROMPTS, FewShot(pool=str(pool), shots=3), "math"), PROMPTS, strict=True):
        before, last = shown(line)
        assert last == json.loads(plain)["prompt"]
        assert len(set(before)) == 3
        assert set(before) <= {(f"q{i}", f"a{i}") for i in range(5)} | {("any", "task")}
        assert {k: v for k, v in json.loads(line).items() if k != "prompt"} == {"id": json.loads(plain)["id"],
                                                                               "source": "here"}


def test_a_prompts_examples_depend_on_seed_task_and_prompt_alone(pool):
    shots = FewShot(pool=str(pool), shots=2, seed=3)
    whole = with_examples(PROMPTS, shots, "math")
    assert with_examples(PROMPTS[::-1], shots, "math") == whole[::-1]
    assert with_examples(PROMPTS[2:3], shots, "math") == whole[2:3]
    assert with_examples(PROMPTS, FewShot(pool=str(pool), shots=2, seed=4), "math") != whole
    assert len({tuple(shown(line)[0]) for line in whole}) > 1


def test_a_prompt_is_never_its_own_example(pool):
    lines = [json.dumps({"prompt": f"q{i}"}) for i in range(5)]
    for line in with_examples(lines, FewShot(pool=str(pool), shots=5), "math"):
        before, last = shown(line)
        assert last not in [prompt for prompt, _ in before]


def test_ids_are_those_of_the_prompts_without_examples(pool, tmp_path):
    from canopy_stats.generation.prompt_file import read_prompts

    source = tmp_path / "plain.jsonl"
    source.write_text("".join(json.dumps({"prompt": f"question {i}"}) + "\n" for i in range(4)))
    plain = read_prompts(choose_prompts(source, None, tmp_path / "a.jsonl"))
    dressed = read_prompts(choose_prompts(source, None, tmp_path / "b.jsonl", FewShot(pool=str(pool), shots=2), "math"))
    assert [i for i, _ in plain] == [i for i, _ in dressed] == ["0", "1", "2", "3"]


@pytest.mark.parametrize(("form", "before", "after"), [
    ("question-answer", r"Question: q\d\nAnswer: a\d", "Question: question 0\nAnswer:"),
    ("continuation", r"q\d a\d", "question 0"), ("lines", r"q\d\na\d", "question 0"),
    ({"math": "continuation", "stories": "question-answer"}, r"q\d a\d", "question 0")])
def test_examples_are_written_in_the_form_of_their_task(pool, form, before, after):
    pool.write_text("".join(json.dumps(e) + "\n" for e in POOL))
    few_shot = FewShot(pool=str(pool), shots=5, form=form)
    *shown, last = json.loads(with_examples(PROMPTS, few_shot, "math")[0])["prompt"].split("\n\n")
    assert last == after and len(set(shown)) == 5 and all(re.fullmatch(before, example) for example in shown)


def test_all_prompts_of_a_task_can_have_the_same_examples(pool):
    shots = FewShot(pool=str(pool), shots=3, same=True)
    assert len({tuple(shown(line)[0]) for line in with_examples(PROMPTS, shots, "math")}) == 1
    with pytest.raises(UserError, match="Prompt 2 of math is among its own examples"):
        with_examples([json.dumps({"prompt": "other"}), json.dumps({"prompt": "q0"})],
                      FewShot(pool=str(pool), shots=6, same=True), "math")
    assert shots.described() == {"pool": "pool.jsonl", "shots": 3, "seed": 0, "same": True}


@pytest.mark.parametrize(("line", "message"), [
    ("not json", "line 12: an example is an object"), ('{"prompt": "a"}', "line 12"),
    ('{"prompt": "a", "answer": " "}', "line 12"), ("[1]", "line 12")])
def test_a_broken_example_is_named_by_its_line(pool, line, message):
    pool.write_text(pool.read_text() + line + "\n")
    with pytest.raises(UserError, match=message):
        examples(pool, "math")


def test_what_cannot_be_dressed_is_refused(pool):
    with pytest.raises(UserError, match="few_shot.shots is 9, but pool.jsonl has 6 examples for math"):
        with_examples(PROMPTS, FewShot(pool=str(pool), shots=9), "math")
    with pytest.raises(UserError, match="Prompt 1 is not a text"):
        with_examples(['{"prompt": [{"role": "user", "content": "x"}]}'], FewShot(pool=str(pool), shots=1), "math")
    with pytest.raises(UserError, match="Prompt 1 is not a JSON object"):
        with_examples(["x"], FewShot(pool=str(pool), shots=1), "math")
