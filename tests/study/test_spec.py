"""What a study says of itself, and its way to another process."""

from __future__ import annotations

import json

from small_studies import write_study

from canopy_stats.study import read_study
from canopy_stats.study.spec import Study
from canopy_stats.study.worker import Job


def everything(folder):
    (folder / "pool.jsonl").write_text('{"prompt": "a", "answer": "b"}\n')
    for name in ("embedder", "reward"):
        (folder / name).mkdir()
    return read_study(write_study(
        folder, embedders=[{"model": "./embedder", "prompt": "x: "}, {"model": "./embedder", "name": "plain"}],
        judge={"kind": "embedding", "threshold": 0.5, "embedder": "./embedder"}, reward={"model": "./reward"},
        few_shot={"pool": "pool.jsonl", "shots": 1},
        ablations=[{"name": "all", "law": {"top_p": 0.5}, "embedder": {"model": "org/e", "prompt": "y: "},
                    "few_shot": {"pool": "pool.jsonl", "shots": 1, "seed": 3}, "reward": {"model": "org/r"}}])).study


def test_no_path_of_this_machine_is_told(tmp_path):
    told = json.dumps(everything(tmp_path).described())
    assert str(tmp_path) not in told and "org/e" in told and '"pool.jsonl"' in told and '"embedder"' in told


def test_a_study_survives_as_json(tmp_path):
    study = everything(tmp_path)
    assert Study.from_json(study.to_json()) == study
    job = Job(study, tmp_path, tuple(study.runs))
    assert Job.from_json(job.to_json()) == job


def test_an_ablation_leaves_out_what_is_of_the_studys_own_rollouts(tmp_path):
    """People judged pairs of the study's rollouts; a judge's verdicts are of all of a prompt's."""
    (tmp_path / "people.csv").write_text("")
    judge = {"kind": "embedding", "threshold": 0.5, "people": "people.csv"}
    study = read_study(write_study(
        tmp_path, judge=judge, extra=["vendi_2", "distinct_2"],
        ablations=[{"name": "hot", "law": {"temperature": 2.0}}, {"name": "best", "reward": {"model": "org/r"}}])).study
    hot, best = (study.ablated(ablation) for ablation in study.every_ablation)
    assert hot.judge.people is None and hot.asked_extra == ["vendi_2", "distinct_2"]
    assert best.judge.people == study.judge.people and best.asked_extra == ["vendi_2"]


def test_an_ablation_changes_what_it_names_and_nothing_else(tmp_path):
    study = everything(tmp_path)
    plain, ablated = (study.ablated(ablation) for ablation in study.every_ablation)
    assert plain.embedder.asked == str(tmp_path / "embedder") and plain.policy == study.policy
    assert (plain.few_shot, plain.reward, plain.judge) == (study.few_shot, study.reward, study.judge)
    assert (ablated.policy.top_p, ablated.policy.max_new_tokens, ablated.few_shot.seed) == (0.5, 6, 3)
    assert ablated.reward.model == "org/r" and ablated.ablations == [] and ablated.tasks == study.tasks
