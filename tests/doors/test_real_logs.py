"""Logs that inspect_ai and lm-evaluation-harness write themselves, of the tiny families, become runs."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import canopy_stats as cs
from canopy_stats.doors.importing import import_rollouts
from canopy_stats.doors.sources import records

BIRCH = Path(__file__).parents[2] / "data" / "models" / "birch" / "base"
HAVE = "pip install 'canopy-stats[logs]'"
QUIET = pytest.mark.filterwarnings("ignore::canopy_stats.schema.Caution")
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "INSPECT_DISABLE_TELEMETRY": "1", "NO_COLOR": "1"}

INSPECT = """
import sys
from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.model import GenerateConfig, ModelOutput, ModelUsage, get_model
from inspect_ai.solver import generate
def answer(text):
    made = ModelOutput.from_content("mockllm/model", text)
    made.usage = ModelUsage(input_tokens=1, output_tokens=2, total_tokens=3)
    return made
words = ["one two", "three", "four five six", "seven", "eight", "nine ten"]
model = get_model("mockllm/model", custom_outputs=[answer(w) for w in words])
task = Task(dataset=[Sample(id=i, input=f"question {i}") for i in range(3)], solver=[generate()], name="few")
log = eval(task, model=model, epochs=2, log_dir=sys.argv[1], log_format=sys.argv[2], display="none", max_samples=1)[0]
print(log.location)
"""


def run_python(code, *arguments, cwd=None):
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, cwd=cwd,
                          env={**os.environ, **OFFLINE}, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
@QUIET
@pytest.mark.skipif(find_spec("inspect_ai") is None, reason=f"inspect_ai is not installed: {HAVE}")
@pytest.mark.parametrize("kind", ["eval", "json"])
def test_a_log_of_inspect(kind, tmp_path):
    run_python(INSPECT, tmp_path / "logs", kind)
    path, = (tmp_path / "logs").glob(f"*.{kind}")
    found = [(o.prompt, o.prompt_id, o.text) for o in records(path)]
    assert len(found) == 6 and {p for p, _, _ in found} == {f"question {i}" for i in range(3)}
    assert sorted(t for _, _, t in found) == sorted(["one two", "three", "four five six", "seven", "eight", "nine ten"])
    run = import_rollouts(path, tmp_path / "run", family="mock", variant="base", task="few", tokenizer=str(BIRCH),
                          progress=False)
    assert run.counts == [2, 2, 2] and len(cs.measure(run, embedder="tfidf")) == 3


FEW = """
task: few
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {do_sample: true, temperature: 1.0, max_gen_toks: 12, until: ["@@"]}
repeats: 3
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""
EVEN = """
task: even
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: ["even", "odd"]
doc_to_target: "{{answer}}"
metric_list: [{metric: acc}]
"""
QUESTIONS = {"few": [{"question": f"The sea was {word}", "answer": "x"} for word in ("calm", "grey")],
             "even": [{"question": f"{i} is", "answer": i % 2} for i in range(6)]}


@pytest.fixture(scope="module")
def harness(tmp_path_factory):
    """What lm-evaluation-harness writes of both tasks, on one of the project's small models."""
    if find_spec("lm_eval") is None:
        pytest.skip(f"lm-eval is not installed: {HAVE}")
    root = tmp_path_factory.mktemp("harness")
    for name, task in (("few", FEW), ("even", EVEN)):
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS[name]))
        (root / f"{name}.yaml").write_text(task.replace("DATA", str(root / f"{name}.jsonl")))
    run_python("import sys; from lm_eval.__main__ import cli_evaluate; cli_evaluate()", "run", "--model", "hf",
               "--model_args", f"pretrained={BIRCH},dtype=float32", "--include_path", root, "--tasks", "few,even",
               "--device", "cpu", "--output_path", root / "out", "--log_samples", cwd=root)
    return root / "out"


@pytest.mark.slow
@QUIET
def test_samples_of_lm_eval(harness, tmp_path):
    path, = harness.rglob("samples_few_*.jsonl")
    found = list(records(path))
    assert [o.prompt for o in found] == [row["question"] for row in QUESTIONS["few"] for _ in range(3)]
    run = import_rollouts(path, tmp_path / "run", family="birch", variant="base", task="few", model=str(BIRCH),
                          policy=cs.SamplingPolicy(max_new_tokens=13), progress=False)
    assert run.counts == [3, 3] and run.config.terms == "exact"


@pytest.mark.slow
def test_scores_of_lm_eval(harness):
    """The mean of our scores is the accuracy that the harness prints."""
    results = json.loads(next(harness.rglob("results_*.json")).read_text())
    found = cs.read_lm_eval(harness)
    even = found[(found["task"] == "even") & (found["metric"] == "acc")]
    assert len(even) == 6 and set(found["task"]) == {"few", "even"} and not found.attrs["errors"]
    assert even["score"].mean() == pytest.approx(results["results"]["even"]["acc,none"])
    assert set(found["model"]) == {results["model_name"]}
