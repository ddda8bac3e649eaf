"""Scores out of other people's logs: what inspect_ai and lm-evaluation-harness write, read to what they report."""

import json
from pathlib import Path

import pytest

import canopy_stats as cs
from canopy_stats.schema import UserError

BIRCH = Path(__file__).parents[2] / "data" / "models" / "birch" / "base"


def sample(doc, **more):
    return {"doc_id": doc, "filter": "none", "metrics": ["acc"], "acc": 1.0, "doc_hash": f"h{doc}", **more}


def lines(path, *samples):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(one) + "\n" for one in samples))
    return path


# --- lm-evaluation-harness ---------------------------------------------------------------------------------------


def test_a_folder_of_samples(tmp_path):
    """Task and model from where the harness writes them, a row a metric, in the order of the samples."""
    stamp = "2026-01-02T03-04-05.678"
    lines(tmp_path / "org__name" / f"samples_my_task_{stamp}.jsonl", sample(0), sample(1, acc=0.0),
          sample(2, metrics=["acc", "f1"], f1=0.25))
    (tmp_path / "org__name" / f"results_{stamp}.json").write_text(json.dumps({"model_name": "org/name"}))
    lines(tmp_path / "other" / "samples_my_task.jsonl", sample(0))
    found = cs.read_lm_eval(tmp_path)
    assert list(found.columns[:6]) == ["task", "item", "epoch", "model", "metric", "score"]
    assert found[["task", "item", "model", "metric", "score"]].values.tolist() == [
        ["my_task", "0", "org/name", "acc", 1.0], ["my_task", "1", "org/name", "acc", 0.0],
        ["my_task", "2", "org/name", "acc", 1.0], ["my_task", "2", "org/name", "f1", 0.25],
        ["my_task", "0", "other", "acc", 1.0]]
    assert found.attrs["errors"] == [] and found["doc_hash"].iloc[1] == "h1"
    assert cs.read_lm_eval(tmp_path, metric="f1")["score"].tolist() == [0.25]
    assert cs.read_lm_eval(tmp_path, workers=2).equals(found)


def test_samples_without_a_score_stand_beside_the_frame(tmp_path):
    path = lines(tmp_path / "samples_t.jsonl", sample(0), sample(1, acc=None), sample(2, acc=float("nan")),
                 sample(3, metrics=[], acc="x"))
    with path.open("a") as file:
        file.write(json.dumps(sample("\x1b[31m", acc=10**400)) + "\n")
    found = cs.read_lm_eval(path)
    assert found["item"].tolist() == ["0"]
    assert [(e["item"], e["reason"]) for e in found.attrs["errors"]] == [
        ("1", "acc is no number"), ("2", "acc is no number"), ("3", "names no metric"),
        ("\\x1b[31m", "acc is no number")]


@pytest.mark.parametrize(("text", "says"), [
    ('{"doc_id": 0, "metrics": ["acc"], "acc": 1}\n{"doc_id": 1, "met', "line 2 is not JSON; was the file cut off?"),
    ('{"prompt": "a"}\n', "line 1 has no doc_id"),
    ("[1]\n", "line 1 has no doc_id"),
    ("[" * 100_000, "line 1 is not JSON"),
    ("", "give no score"),
    ('{"doc_id": true, "metrics": ["acc"], "acc": 1}', "must be texts or numbers"),
    ('{"doc_id": 0, "metrics": ["acc"], "acc": 1}\n' * 2, "item 0 of t stands twice"),
])
def test_logs_that_are_none(tmp_path, text, says):
    path = tmp_path / "t" / "samples_x.jsonl"
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(UserError, match=says):
        cs.read_lm_eval(path)


@pytest.mark.parametrize("read", [cs.read_lm_eval, cs.read_inspect])
def test_paths_that_are_none(tmp_path, read):
    for given, says in ((tmp_path / "none.eval", "There is no log"), (tmp_path, "holds no"), ([], "No log was named"),
                        (None, "A log is None; it must be a file or a folder"), ([7], "A log is 7"),
                        ("", "A log is ''")):
        with pytest.raises(UserError, match=says):
            read(given)
    lines(tmp_path / "samples_x.jsonl", sample(0))
    if read is cs.read_lm_eval:
        with pytest.raises(UserError, match="there are acc"):
            read(tmp_path, metric="f1")


# --- inspect_ai --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def inspect_log(tmp_path_factory):
    """A log of two epochs with two scorers, a sample that fails, written by inspect_ai."""
    inspect_ai = pytest.importorskip("inspect_ai")
    from inspect_ai.dataset import Sample
    from inspect_ai.model import ModelOutput
    from inspect_ai.scorer import Score, accuracy, match, mean, scorer
    from inspect_ai.solver import solver

    @solver
    def answers():
        async def solve(state, generate):
            if state.sample_id == "bad":
                raise RuntimeError("the tool broke")
            right = state.sample_id == "a" or (state.sample_id == "b" and state.epoch == 2)
            state.output = ModelOutput.from_content("mock", state.target.text if right else "no")
            return state
        return solve

    @scorer(metrics=[mean()], name="graded")
    def graded():
        async def score(state, target):
            return Score(value={"a": 0.25, "b": "P"})
        return score

    folder = tmp_path_factory.mktemp("logs")
    task = inspect_ai.Task(dataset=[Sample(input=i, target="yes", id=i) for i in ("a", "b", "bad")], solver=answers(),
                           scorer=[match(), graded()], epochs=2, name="tiny", fail_on_error=False, metrics=[accuracy()])
    log = inspect_ai.eval(task, model="mockllm/model", log_dir=str(folder), display="none")[0]
    return folder, log


@pytest.mark.slow
def test_what_inspect_ai_itself_writes(inspect_log):
    folder, log = inspect_log
    found = cs.read_inspect(folder)
    assert list(found.columns[:6]) == ["task", "item", "epoch", "model", "metric", "score"]
    right = found[found["metric"] == "match"].set_index(["item", "epoch"])["score"].to_dict()
    assert right == {("a", 1): 1.0, ("b", 1): 0.0, ("a", 2): 1.0, ("b", 2): 1.0}
    reported = next(s for s in log.results.scores if s.name == "match").metrics["accuracy"].value
    assert sum(right.values()) / 4 == pytest.approx(reported)
    grades = found[found["metric"].str.startswith("graded")].groupby("metric")["score"].unique()
    assert grades["graded/a"].tolist() == [0.25] and grades["graded/b"].tolist() == [0.5]
    assert set(found["task"]) == {"tiny"} and set(found["model"]) == {"mockllm/model"}
    assert [e["item"] for e in found.attrs["errors"]] == ["bad", "bad"]
    assert "the tool broke" in found.attrs["errors"][0]["reason"]


@pytest.mark.slow
def test_logs_that_are_cut_off(inspect_log, tmp_path):
    whole = next(inspect_log[0].glob("*.eval")).read_bytes()
    broken = {"cut.eval": whole[: len(whole) // 2], "empty.eval": b"", "x.json": b"{}", "y.json": b"{"}
    for name, content in broken.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(UserError, match="cannot be read as a log of inspect_ai"):
            cs.read_inspect(path)


def test_a_log_and_its_comparison(inspect_log):
    found = cs.read_inspect(inspect_log[0], metric="match")
    with pytest.raises(UserError, match="one level, mockllm/model"):
        cs.compare(found)
