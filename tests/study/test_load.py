"""The study file: what it gives, and what it says of mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from small_studies import settings, write_study

from canopy_stats.metrics.embedding.embedders import Prompted
from canopy_stats.schema import SamplingPolicy, UserError
from canopy_stats.study import demo, read_study, rollouts
from canopy_stats.study.ready import ready
from canopy_stats.study.spec import Ablation, Embedder, FewShot, Law, Study

STUDIES = Path(__file__).resolve().parents[2] / "analysis" / "studies"
needs_studies = pytest.mark.skipif(not STUDIES.is_dir(), reason="a checkout carries the studies")


def family(**changes):
    return {"families": [{"name": "ash", "base": "org/base", "tuned": {"model": "org/tuned"}} | changes]}


def test_vllm_and_its_options(tmp_path):
    """They say how rollouts are drawn, not which: other options make no run stale."""
    told = {"engine": "vllm", "engine_options": {"tensor_parallel_size": 2}}
    study = read_study(write_study(tmp_path, **told)).study
    assert (study.engine, study.engine_options) == ("vllm", {"tensor_parallel_size": 2})
    assert Study.from_json(study.to_json()) == study
    name = next(iter(study.runs))
    more = study.model_copy(update={"engine_options": {}})
    assert rollouts.asked(study, name) == rollouts.asked(more, name) and rollouts.asked(study, name)["engine"] == "vllm"


def test_what_a_file_says_is_what_runs(tmp_path):
    (tmp_path / "pool.jsonl").write_text('{"prompt": "a", "answer": "b"}\n')
    path = write_study(
        tmp_path, contrast="c", prompts_per_task=2, seed=4, device="cpu", batch_size=7, workers=2, think="drop",
        law={"temperature": 0.5, "top_k": 10, "max_new_tokens": 9},
        embedders=["tfidf", {"model": "org/e", "prompt": "clustering: ", "name": "clustered"}, "org/m3"],
        few_shot={"pool": "pool.jsonl", "shots": 1},
        judge={"kind": "openai", "base_url": "http://here", "model": "m", "m": 5},
        ablations=[{"name": "full", "law": {"top_k": None}}, {"name": "mini", "embedder": "minilm"},
                   {"name": "best", "reward": {"model": "org/r", "keep": 0.5}}],
        **family(base={"model": "./models/base", "revision": "abc"},
                 tuned={"model": "org/tuned", "variant": "chatty", "system": "Be brief.", "enable_thinking": False,
                        "dtype": "bfloat16"}))
    file = read_study(path)
    study = file.study
    base, tuned = study.families[0].arms
    assert (base.variant, base.chat, base.revision) == ("base", False, "abc")
    assert base.model == str(tmp_path / "models" / "base")
    assert (tuned.variant, tuned.chat, tuned.system, tuned.enable_thinking, tuned.dtype, tuned.model) == (
        "chatty", True, "Be brief.", False, "bfloat16", "org/tuned")
    assert study.policy == SamplingPolicy(temperature=0.5, top_k=10, max_new_tokens=9)
    assert study.tasks == {"walk": str(tmp_path / "walk.jsonl")}
    assert (study.rollouts, study.prompts_per_task, study.seed, study.batch_size, study.workers, study.think,
            study.device, study.drift_tokens, study.check_sample) == (3, 2, 4, 7, 2, "drop", "cpu", 0, 1)
    assert study.embedder.asked == "tfidf" and study.few_shot == FewShot(pool=str(tmp_path / "pool.jsonl"), shots=1)
    assert study.judge.spec() == {"kind": "openai", "base_url": "http://here", "model": "m", "m": 5}
    clustered, m3, full, mini, _ = study.every_ablation
    assert (clustered.name, clustered.embedder.asked) == ("clustered", Prompted("org/e", "clustering: "))
    assert (m3.name, m3.embedder.asked) == ("m3", "org/m3")
    assert full == Ablation(name="full", law=Law(top_k=None))
    assert study.ablated(full).policy == SamplingPolicy(temperature=0.5, top_k=None, max_new_tokens=9)
    assert mini == Ablation(name="mini", embedder=Embedder(model="minilm"))
    assert [a.redraws for a in study.every_ablation] == [False, False, True, False, False]
    assert file.folder() == tmp_path / "out" and file.folder("there") == Path("there")
    assert Study.from_json(study.to_json()) == study


def test_more_than_two_checkpoints_of_a_family(tmp_path):
    several = {"families": [{"name": "ash", "checkpoints": [
        {"model": "org/a", "variant": "base"}, {"model": "org/b", "variant": "sft"}, {"model": "org/c", "variant": "rl",
                                                                                     "chat": False}]}]}
    study = read_study(write_study(tmp_path, **several)).study
    assert [arm.variant for arm in study.families[0].arms] == ["base", "sft", "rl"]
    assert [arm.chat for arm in study.families[0].arms] == [False, True, False]


WRONG = [
    ({"famlies": []}, "famlies is not a known key; did you mean 'families'?"),
    (family(tuned={"modle": "org/x"}), r"families[0].tuned.modle is not a known key; did you mean 'model'?"),
    (family(tuned={"model": 3}), "families[0].tuned.model is 3; it must be a text"),
    (family(tuned={"model": "org/x", "dtype": "float8"}),
     "families[0].tuned.dtype is 'float8'; it must be one of 'auto', 'float32', 'bfloat16' or 'float16'"),
    (family(name="a/b"), "families[0].name is 'a/b'; it must be a name without slashes"),
    (family(tuned=None), "families[0] needs either 'base' and 'tuned', or a list 'checkpoints'"),
    (family(tuned={"model": "org/x", "variant": "base"}),
     "families[0] has the variants base, base; it needs 'base' and at least one other"),
    (family(base={"model": "org/x", "system": "Be brief."}),
     "families[0] gives 'base' a 'system', 'enable_thinking' or"),
    (family(base="./nowhere"), "families[0].base.model is './nowhere', but there is nothing at"),
    ({"law": {"top_k": 0}}, "law has a wrong value: top_k is 0; it must be a whole number of at least 1"),
    ({"law": {"temprature": 1.0}}, "law.temprature is not a known key; did you mean 'temperature'?"),
    ({"law": {"temperature": "hot"}}, "law.temperature is 'hot'; it must be a number"),
    ({"rollouts": 1}, "rollouts is 1; it must be at least 2"),
    ({"rollouts": 2.5}, "rollouts is 2.5; it must be a whole number"),
    ({"seed": True}, "seed is True; it must be a whole number"),
    ({"batch_size": "many"}, "batch_size is 'many'; it must be 'auto' or a whole number of at least 1"),
    ({"tasks": {}}, "tasks is empty; it needs at least one entry"),
    ({"tasks": ["walk.jsonl"]}, "tasks is ['walk.jsonl']; it must be a mapping of keys"),
    ({"tasks": {"walk": "none.jsonl"}}, "tasks.walk is 'none.jsonl', but there is no file"),
    ({"embedders": []}, "embedders is empty"),
    ({"embedders": ["word2vec"]},
     "embedders[0] has the model 'word2vec'; it must be 'minilm', 'tfidf', a folder, or a hub"),
    ({"embedders": [{"model": "tfidf", "prompt": "x: "}]},
     "embedders[0] has a prompt, but the embedder 'tfidf' counts words"),
    ({"embedders": ["tfidf", "org/e", "orh/e"]}, "the name 'e' stands twice"),
    ({"judge": {"kind": "human"}}, "judge.kind is 'human'; it must be one of 'embedding' or 'openai'"),
    ({"judge": {"kind": "openai"}}, "judge of kind 'openai' needs 'base_url' and 'model'"),
    ({"judge": {"kind": "embedding"}}, "judge of kind 'embedding' needs 'threshold'"),
    ({"judge": {"kind": "embedding", "threshold": 0.5, "people": "none.csv"}},
     "judge.people is 'none.csv', but there is no file"),
    ({"extra": ["vendi_two"]}, "There is no measure 'vendi_two' on request"),
    ({"extra": ["distinct_4"]}, "extra: distinct_4 needs a judge; add the key 'judge'"),
    ({"extra": ["utility_4"]}, "extra: utility_4 needs the reward of every rollout"),
    ({"extra": ["distinct_2"], "judge": {"kind": "embedding", "threshold": 0.5}, "reward": {"model": "org/r"}},
     "extra: distinct_2 is of all rollouts, and 'reward' keeps some of them"),
    ({"few_shot": {"pool": "none.jsonl", "shots": 2}}, "few_shot.pool is 'none.jsonl', but there is no file"),
    ({"ablations": [{"name": "nothing"}]}, "ablations[0] changes nothing"),
    ({"ablations": [{"name": "main", "law": {"top_k": 1}}]}, "ablations[0] has the name 'main'"),
    ({"reward": {"model": "org/r", "keep": 1.5}}, "reward.keep is 1.5; it must be at most 1"),
    ({"think": "maybe"}, "think is 'maybe'; it must be one of 'keep' or 'drop'"),
    ({"title": None}, "title is None; it must be a text"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG, ids=[message[:50] for _, message in WRONG])
def test_a_mistake_is_named_by_its_key(tmp_path, changes, message):
    with pytest.raises(UserError) as told:
        read_study(write_study(tmp_path, **changes))
    assert message in str(told.value) and str(tmp_path / "study.yaml") in str(told.value)


def test_several_mistakes_are_told_at_once_unknown_keys_first(tmp_path):
    with pytest.raises(UserError) as told:
        read_study(write_study(tmp_path, rollouts=1, seed="x", ttile="y", **family(tuned={"modle": "z"})))
    lines = str(told.value).splitlines()
    assert len(lines) == 5 and "modle" in lines[0] and "ttile" in lines[1] and "tuned.model is missing" in lines[2]


@pytest.mark.parametrize(("text", "message"), [
    ("title: [", "is not valid YAML"), ("", "holds nothing"), ("- a\n- b\n", "holds list"),
    ("title: a\ntitle: b\n", "the key 'title' stands twice"), ("title: !!python/object:os.x {}", "is not valid YAML")])
def test_what_is_no_study_file_is_said_in_a_line(tmp_path, text, message):
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(UserError, match=message) as told:
        read_study(tmp_path / "s.yaml")
    assert "\n" not in str(told.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="There is no study file"):
        read_study(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes("title: é".encode("latin-1"))
    with pytest.raises(UserError, match="cannot be read|not valid YAML"):
        read_study(tmp_path / "latin.yaml")
    with pytest.raises(UserError, match="cannot be read"):
        read_study(tmp_path)


def test_two_runs_never_share_a_folder(tmp_path):
    (tmp_path / "x.jsonl").write_text("{}\n")
    clash = {"tasks": {"a-b": "x.jsonl", "a": "x.jsonl"},
             "families": [{"name": n, "base": "org/b", "tuned": "org/t"} for n in ("c", "b-c")]}
    with pytest.raises(UserError, match="same folder name"):
        read_study(write_study(tmp_path, **clash))


# --- the studies that come with the project ---------------------------------------------------------------------


@needs_studies
def test_every_study_of_the_project_is_valid():
    found = {path.stem: read_study(path).study for path in STUDIES.glob("*.yaml")}
    assert {"demo", "paper"} <= found.keys()
    paper = found["paper"]
    assert paper.policy == SamplingPolicy(temperature=1.0, top_k=100, max_new_tokens=4000)
    assert (paper.rollouts, paper.prompts_per_task, len(paper.runs)) == (100, 100, 24)
    assert paper.families[0].arms[0].model == "Qwen/Qwen3-8B-Base"
    laws = {a.name: a.law.top_k for a in paper.ablations if a.law}
    assert laws == {"top-k-1000": 1000, "top-k-5000": 5000, "full-law": None}
    assert [f.arms[1].chat for f in paper.families] == ["rendered-text"] * 3


@needs_studies
def test_the_papers_study_says_what_the_paper_ran(monkeypatch):
    paper = read_study(STUDIES / "paper.yaml").study
    parts = {a.name: a for a in paper.every_ablation}
    few_shot = parts["few-shot"].few_shot
    assert (few_shot.shots, few_shot.same) == (5, True)
    assert [few_shot.form_of(task) for task in paper.tasks] == ["continuation", *["question-answer"] * 3]
    assert parts["best-70"].reward.model == "Skywork/Skywork-Reward-V2-Llama-3.1-8B"
    assert {(e.dtype, e.max_tokens) for e in paper.embedders} == {("bfloat16", 8192)}
    monkeypatch.delenv("CANOPY_JUDGE_API_KEY", raising=False)
    assert paper.judge.spec()["m"] == 24 and paper.asked_judge is None and ready(paper) == []
    monkeypatch.setenv("CANOPY_JUDGE_API_KEY", "secret")
    assert paper.asked_judge is paper.judge


@needs_studies
def test_the_demo_as_a_file_draws_the_runs_of_the_demo(monkeypatch):
    asked = []
    monkeypatch.setattr(demo, "run_study", lambda study, out, **options: asked.append(study))
    demo.run_demo()
    (study,) = asked
    file = read_study(STUDIES / "demo.yaml").study
    for one, other in zip(study.families, file.families, strict=True):
        assert one.name == other.name
        arms = [[arm.model_copy(update={"model": Path(arm.model).resolve()}) for arm in f.arms] for f in (one, other)]
        assert arms[0] == arms[1]
    tasks = [{task: Path(path).resolve() for task, path in one.tasks.items()} for one in (study, file)]
    assert tasks[0] == tasks[1]
    for name in ("policy", "rollouts", "prompts_per_task", "seed", "embedders", "drift_tokens", "check_sample",
                 "think"):
        assert getattr(study, name) == getattr(file, name)


@needs_studies
def test_no_example_is_a_prompt_of_the_project():
    pool = [yaml.safe_load(line) for line in (STUDIES / "few_shot_pool.jsonl").read_text().splitlines()]
    prompts = STUDIES.parents[1] / "data" / "prompts"
    taken = {yaml.safe_load(line)["prompt"] for path in prompts.glob("*.jsonl") for line in path.open()}
    assert len(pool) == 48 and not taken & {example["prompt"] for example in pool}


def test_settings_are_a_valid_study(tmp_path):
    assert read_study(write_study(tmp_path)).study.title == settings()["title"]
