"""A run as a Hugging Face data set: read back by ``datasets`` and pyarrow, card and Croissant from the schema."""

import json
import platform
import re

import pyarrow.parquet as pq
import pytest
import yaml
from fake_engine import FakeEngine, make_config, make_prompts, write_run

from canopy_stats import cli
from canopy_stats.schema import PROMPT_COLUMNS, ROLLOUT_COLUMNS, STEP_COLUMNS, UserError, names
from canopy_stats.store import export_runs, open_run

SECRET = "/home/somebody/secret-models/alder"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    prompts = make_prompts(20)
    model = {**FakeEngine().describe(), "model": SECRET, "device_name": "machine-of-somebody", "api_key": "sk-12345",
             "system": "You | are\nkind"}
    config = make_config(prompts, n_rollouts=40, family="fa | ke", model=model)
    return write_run(tmp_path_factory.mktemp("run") / "r", prompts, config)


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory):
    return run.to_hf(tmp_path_factory.mktemp("hub") / "set", license="cc-by-4.0")


@pytest.fixture
def load_dataset(monkeypatch, tmp_path):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    return lambda *a: datasets.load_dataset(*map(str, a), split="train", cache_dir=str(tmp_path / "cache"))


def test_datasets_reads_the_same_rollouts_and_steps(run, folder, load_dataset):
    rollouts, steps = (load_dataset(folder, kind).with_format("arrow")[:] for kind in ("rollouts", "steps"))
    assert len(rollouts) == run.n_stored == 800 and len(steps) == run.n_tokens
    assert rollouts.column_names == ["task", "model_name", "model_variant", "run_id", *names(ROLLOUT_COLUMNS)]
    assert steps.column_names == ["run_id", *names(STEP_COLUMNS)]
    for table, stored in ((rollouts, run.rollouts()), (steps, run.steps())):
        for column in stored.column_names:
            assert table[column].to_pylist() == stored[column].to_pylist()
    first = load_dataset(folder, "rollouts")[3]
    assert first["token_ids"] == run.rollouts()["token_ids"][3].as_py() and first["model_name"] == "fa | ke"


def test_the_default_configuration_is_the_rollouts(run, folder, load_dataset):
    assert len(load_dataset(folder)) == run.n_stored


def test_prompts_go_along(run, folder, load_dataset):
    prompts = load_dataset(folder, "prompts")
    assert prompts.column_names == ["run_id", *names(PROMPT_COLUMNS)] and len(prompts) == 20
    assert [tuple(ids) for ids in prompts["prompt_token_ids"]] == [p.token_ids for p in run.prompts()]
    assert json.loads(prompts[1]["source"]) == run.prompts()[1].source


def test_files_are_written_part_by_part(run, folder):
    """Several row groups: no table was whole in memory."""
    assert pq.ParquetFile(folder / f"steps/{run.run_id}.parquet").num_row_groups >= len(list(run.parts())) > 1


def test_the_card_has_a_header_and_every_column(run, folder):
    text = (folder / "README.md").read_text()
    header = yaml.safe_load(text.split("---\n")[1])
    assert header["license"] == "cc-by-4.0" and header["size_categories"] == ["n<1K"]
    assert [c["config_name"] for c in header["configs"]] == ["rollouts", "steps", "prompts"]
    for column in (*ROLLOUT_COLUMNS, *STEP_COLUMNS, *PROMPT_COLUMNS):
        assert f"| `{column.name}` | {column.dtype} | {column.unit} | {column.meaning}".replace("<", "&lt;") in text
    assert "T=1 cap=20" in text and run.content_hash in text and "fa \\| ke" in text
    tables = [line for line in text.split("```json")[0].splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in tables} <= {5, 9}


def test_nothing_of_the_machine_enters(run, folder):
    data = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    for told in (b"/home/somebody", b"machine-of-somebody", b"sk-12345", str(run.path).encode(), str(folder).encode(),
                 platform.platform().encode()):
        assert told not in data
    assert b'"model": "alder"' in data


def test_croissant_vouches_for_the_files(folder):
    from hashlib import sha256

    told = json.loads((folder / "croissant.json").read_text())
    files = [d for d in told["distribution"] if d["@type"] == "cr:FileObject"]
    assert len(files) == 3
    for file in files:
        assert sha256((folder / file["contentUrl"]).read_bytes()).hexdigest() == file["sha256"]
    for record in told["recordSet"]:
        parquet = next((folder / record["@id"]).glob("*.parquet"))
        assert [f["name"] for f in record["field"]] == pq.read_schema(parquet).names


def test_croissant_is_read_by_its_own_package(run, folder, monkeypatch):
    mlcroissant = pytest.importorskip("mlcroissant")
    monkeypatch.chdir(folder)
    told = mlcroissant.Dataset("croissant.json")
    rows = list(told.records("rollouts"))
    assert len(rows) == run.n_stored
    assert [r["rollouts/entropy_sum"] for r in rows] == pytest.approx(run.rollouts()["entropy_sum"].to_pylist())


def test_several_runs_and_no_licence(run, tmp_path, load_dataset):
    prompts = make_prompts(3)
    other = write_run(tmp_path / "r", prompts, make_config(prompts, n_rollouts=5, variant="instruct"))
    made = export_runs([run, other], tmp_path / "set")
    table = load_dataset(made, "rollouts")
    assert len(table) == 815 and set(table["run_id"]) == {run.run_id, other.run_id}
    text = (made / "README.md").read_text()
    assert "license" not in text.split("---\n")[1] and "No licence was given" in text


@pytest.mark.parametrize(("licence", "message"), [("My Licence", "give the hub's name of a licence"),
                                                  ("a\nb: c", "give the hub's name of a licence")])
def test_a_licence_that_the_hub_does_not_know(run, tmp_path, licence, message):
    with pytest.raises(UserError, match=message):
        run.to_hf(tmp_path / "set", license=licence)
    assert not list(tmp_path.iterdir())


def test_a_folder_with_something_in_it_stays(run, tmp_path):
    (tmp_path / "mine").write_text("keep")
    with pytest.raises(UserError, match="is there already"):
        run.to_hf(tmp_path)
    assert (tmp_path / "mine").read_text() == "keep"


def test_a_run_twice_and_none(run, tmp_path):
    with pytest.raises(UserError, match="given twice"):
        export_runs([run, run], tmp_path / "set")
    with pytest.raises(UserError, match="no run to export"):
        export_runs([], tmp_path / "set")


def test_a_failure_leaves_nothing(run, tmp_path):
    broken = open_run(run.path)
    object.__setattr__(broken, "path", tmp_path / "gone")
    with pytest.raises(UserError):
        broken.to_hf(tmp_path / "set")
    assert not list(tmp_path.iterdir())


def test_the_command(run, tmp_path, capsys):
    assert cli.main(["export", str(run.path), "--out", str(tmp_path / "set"), "--license", "mit"]) == 0
    assert capsys.readouterr().out == f"written: {tmp_path / 'set'}\n"
    assert (tmp_path / "set" / "croissant.json").is_file()
