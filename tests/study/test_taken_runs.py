"""A study over runs that are there already, such as imported ones, and over others that it draws itself."""

import json
import shutil

import pytest
import yaml
from small_studies import settings, write_prompts

import canopy_stats as cs
from canopy_stats.schema import UserError
from canopy_stats.study import read_study, run_study
from canopy_stats.study.pipeline import run_stages
from canopy_stats.study.taken import take

LAW = cs.SamplingPolicy(max_new_tokens=6)


@pytest.fixture(scope="module")
def imported(checkpoints, tmp_path_factory):
    """The base model's rollouts, drawn by us, exported as JSONL without terms, imported with the model."""
    home = tmp_path_factory.mktemp("imported")
    prompts = write_prompts(home / "walk.jsonl")
    own = cs.generate(checkpoints / "base", prompts, home / "own", family="ash", variant="base", task="walk",
                      n_rollouts=3, policy=LAW, chat=False, progress=False, drift_tokens=0)
    texts = {p.prompt_id: p.source for p in own.prompts()}
    rows = own.rollouts().to_pylist()
    (home / "log.jsonl").write_text("".join(json.dumps({
        "prompt_id": r["prompt_id"], "prompt": texts[r["prompt_id"]], "token_ids": r["token_ids"],
        "finish_reason": r["finish_reason"]}) + "\n" for r in rows))
    return cs.import_rollouts(home / "log.jsonl", home / "run", family="ash", variant="base", task="walk",
                              model=checkpoints / "base", policy=LAW, progress=False)


@pytest.fixture
def study(make_study, imported):
    path = make_study()
    keys = settings(families=[{"name": "ash", "base": {"model": "./models/base", "runs": {"walk": str(imported.path)}},
                               "tuned": "./models/instruct"}])
    path.write_text(yaml.safe_dump(keys, sort_keys=False))
    return path


@pytest.mark.slow
def test_a_taken_run_is_in_the_panel_beside_a_drawn_one(study, imported):
    file = read_study(study)
    out = file.folder()
    result = run_study(file.study, out, say=lambda line: None, progress=False)
    taken = cs.open_run(out / "runs" / "walk-ash-base")
    assert taken.content_hash == imported.content_hash and taken.config.engine == "imported"
    assert set(result.panel["model_variant"]) == {"base", "instruct"} and set(result.panel["M"]) == {3}
    base = result.panel[result.panel["model_variant"] == "base"].set_index("prompt_id")["CE"]
    assert base.to_dict() == pytest.approx(cs.measure(imported).set_index("prompt_id")["CE"].to_dict())
    told = []
    run_stages(file.study, out, ["generate"], say=told.append, progress=False)
    assert not any("walk-ash-base" in line for line in told)  # it is there: nothing is copied or drawn again


@pytest.mark.slow
def test_what_lies_in_its_place_stays(study, imported):
    """Rollouts that no stamp names, as where somebody lost stages/."""
    file = read_study(study)
    place = file.folder() / "runs" / "walk-ash-base"
    shutil.copytree(imported.path.parent / "own", place)
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="holds something else than the run in .*nothing was changed"):
        take(file.study.runs["walk-ash-base"], imported.path, place)
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_a_run_under_another_name_is_refused(study, imported):
    keys = yaml.safe_load(study.read_text())
    keys["families"][0]["name"] = "oak"
    study.write_text(yaml.safe_dump(keys))
    file = read_study(study)
    with pytest.raises(UserError, match="is called ash/base/walk; the study calls it oak/base/walk"):
        run_stages(file.study, file.folder(), ["generate"], say=lambda line: None, progress=False)


@pytest.mark.slow
def test_a_folder_without_a_run_is_refused_by_its_key(study, tmp_path):
    keys = yaml.safe_load(study.read_text())
    keys["families"][0]["base"]["runs"] = {"walk": "models/base"}
    study.write_text(yaml.safe_dump(keys))
    with pytest.raises(UserError, match=r"families\[0\].base.runs.*no run in .*no manifest.json"):
        read_study(study)


@pytest.mark.slow
def test_an_ablation_that_draws_takes_none(study):
    keys = yaml.safe_load(study.read_text())
    keys["ablations"] = [{"name": "hot", "law": {"temperature": 2.0}}, {"name": "again", "embedder": "minilm"}]
    study.write_text(yaml.safe_dump(keys))
    whole = read_study(study).study
    parts = {one.name: whole.ablated(one) for one in whole.ablations}
    assert [bool(part.families[0].arms[0].runs) for part in parts.values()] == [False, True]
