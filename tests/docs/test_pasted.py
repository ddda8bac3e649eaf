"""Python in README and in pages that are not run at build time: a page's blocks run in order, as a reader pastes them.

The reader's folder is made here: the bundled models under the names that the pages use, short prompt files, runs of a
few rollouts, logs of other tools. A block that nobody can paste stands below a comment that says why, and is counted.
"""

import contextlib
import json
import os
import re
from pathlib import Path

import pytest
from threadpoolctl import threadpool_limits

import canopy_stats as cs

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "data" / "models"
WRITTEN = [ROOT / "README.md", ROOT / "CONTRIBUTING.md",
           *sorted(p for p in (ROOT / "docs").rglob("*.md") if not {"_build", "reference"} & set(p.parts))]
BLOCK = re.compile(r"(<!-- not run: [^\n]+ -->\n)?```python\n(.*?)```", re.DOTALL)
ELSEWHERE = {"docs/mixed-models.md"}  # test_mixed_models_page.py holds it to what it prints, too
NOT_RUN = {"docs/howto/trajectory.md": 1}
"""How many blocks of a page are marked as not run."""


def name_of(page):
    return page.relative_to(ROOT).as_posix()


def blocks(page):
    """(whether it is marked as not run, code) of each block."""
    return [(bool(mark), code) for mark, code in BLOCK.findall(page.read_text())]


PASTED = [page for page in WRITTEN if blocks(page) and name_of(page) not in ELSEWHERE]


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A reader's folder, and their threads: one."""
    folder = tmp_path_factory.mktemp("desk")
    with contextlib.chdir(folder), threadpool_limits(1):
        link_models()
        runs = draw_runs()
        write_logs(runs)
        write_scores()
    return folder


def link_models():
    for here, there in {"data/models": MODELS, "models/base": MODELS / "alder" / "base",
                        "models/tuned": MODELS / "alder" / "instruct"}.items():
        Path(here).parent.mkdir(exist_ok=True)
        os.symlink(there, here)
    Path("data/prompts").mkdir()
    for file in (ROOT / "data" / "prompts").glob("*.jsonl"):
        Path("data/prompts", file.name).write_text("\n".join(file.read_text().splitlines()[:2]) + "\n")


def draw_runs():
    """The runs that pages open, and one at the temperature that they import and audit."""
    asked = dict(family="alder", task="stories", n_rollouts=3, progress=False, drift_tokens=0)
    prompts = [f"Tell me about the {thing}." for thing in ("harbour", "mill", "goose")]
    short = cs.SamplingPolicy(max_new_tokens=80)
    for name in ("base", "training/step-0", "training/step-100", "training/step-200"):
        cs.generate("models/base", prompts, f"runs/{name}", variant=Path(name).name, policy=short,
                    chat=False, **asked)
    return cs.generate("models/tuned", prompts[:2], "runs/cool", variant="instruct",
                       policy=cs.SamplingPolicy(temperature=0.7, max_new_tokens=160), **asked)


def write_logs(run):
    """The cool run as somebody would log it, with entropies under two names."""
    asked = {p.prompt_id: p.source for p in run.prompts()}
    steps = run.steps().to_pandas().groupby(["prompt_id", "rollout"])["entropy"].agg(list)
    rows = [{"prompt": asked[r["prompt_id"]], "token_ids": r["token_ids"], "finish_reason": r["finish_reason"],
             "ent": steps[r["prompt_id"], r["rollout"]], "entropy": steps[r["prompt_id"], r["rollout"]]}
            for r in run.rollouts().to_pylist()]
    for name in ("answers.jsonl", "log.jsonl"):
        Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_scores():
    """lm-evaluation-harness's samples of two models."""
    for model, right in {"small": 3, "large": 2}.items():
        folder = Path("out", model)
        folder.mkdir(parents=True)
        (folder / "samples_sums.jsonl").write_text("".join(
            json.dumps({"doc_id": i, "filter": "none", "metrics": ["acc"], "acc": float(i % right > 0)}) + "\n"
            for i in range(12)))


@pytest.fixture(scope="module")
def inspect_log(desk):
    """A log of inspect_ai in the reader's folder; without the package its page is not tried."""
    inspect_ai = pytest.importorskip("inspect_ai", reason="not installed: pip install 'canopy-stats[logs]'")
    from inspect_ai.dataset import Sample
    from inspect_ai.model import ModelOutput
    from inspect_ai.scorer import match
    from inspect_ai.solver import solver

    @solver
    def four():
        async def solve(state, generate):
            state.output = ModelOutput.from_content("mock", "4")
            return state
        return solve

    samples = [Sample(input="2 + 2", target="4", id="a")]
    task = inspect_ai.Task(dataset=samples, solver=four(), scorer=match(), name="sums")
    inspect_ai.eval(task, model="mockllm/model", log_dir=str(desk / "logs"), display="none")


@pytest.fixture
def small_panel(monkeypatch):
    """The demo panel with a quarter of its prompts: what a page prints of the whole one is held elsewhere."""
    whole = cs.load_demo_panel()
    small = whole[whole["prompt_id"].astype(int) % 4 == 0].reset_index(drop=True)
    monkeypatch.setattr(cs, "load_demo_panel", lambda: small)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", PASTED, ids=name_of)
def test_blocks_run_as_pasted(page, desk, small_panel, request):
    """In one namespace a page, which starts empty: what a page needs, it imports and makes."""
    if "load_dataset" in page.read_text():
        pytest.importorskip("datasets", reason="datasets is not installed")
    if "read_inspect" in page.read_text():
        request.getfixturevalue("inspect_log")
    names: dict[str, object] = {"__name__": "__main__"}
    with contextlib.chdir(desk), threadpool_limits(1), contextlib.redirect_stdout(None):
        for i, (marked, code) in enumerate(blocks(page)):
            if not marked:
                exec(compile(code, f"{name_of(page)}, block {i}", "exec"), names)


def test_blocks_that_are_not_run_are_few_and_say_why():
    marked = {name_of(page): sum(mark for mark, _ in blocks(page)) for page in WRITTEN}
    assert {name: n for name, n in marked.items() if n} == NOT_RUN
    assert all("not run:" not in page.read_text() for page in WRITTEN if name_of(page) not in NOT_RUN)


def test_pages_that_are_run_at_build_time_have_no_other_python():
    """There a block that is no cell would be run by nobody."""
    executed = [page for page in WRITTEN if page.read_text().startswith("---\nfile_format: mystnb")]
    assert len(executed) >= 8 and not [name_of(page) for page in executed if blocks(page)]
