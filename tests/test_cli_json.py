"""--json: the command's table as records, alone on stdout."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from fake_engine import make_config, make_prompts, write_run

import canopy_stats as cs
from canopy_stats import cli
from canopy_stats.cli import printing


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    prompts = make_prompts(4)
    return write_run(tmp_path_factory.mktemp("runs") / "r", prompts, make_config(prompts, n_rollouts=12))


@pytest.fixture(scope="module")
def panel(tmp_path_factory):
    """A part of the panel in the package: 30 prompts of each task."""
    path, whole = tmp_path_factory.mktemp("panel") / "p.parquet", cs.load_demo_panel()
    kept = whole.drop_duplicates("prompt_uid").groupby("task").head(30)["prompt_uid"]
    whole[whole["prompt_uid"].isin(kept)].to_parquet(path)
    return path


@pytest.fixture
def records(capsys):
    def answer(*arguments, code=0):
        assert cli.main([*map(str, arguments), "--json"]) == code
        told = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
        assert isinstance(told, list) and all(isinstance(row, dict) for row in told)
        return told

    return answer


def same(rows, frame):
    """Records against a frame: every number in full, null where there is none."""
    assert [list(row) for row in rows] == [list(frame)] * len(frame)
    for row, (_, wanted) in zip(rows, frame.iterrows(), strict=True):
        for name, value in row.items():
            if isinstance(wanted[name], str | bool | np.bool_):
                assert value == wanted[name]
            elif value is None:
                assert wanted[name] is None or not math.isfinite(wanted[name])
            else:
                assert value == wanted[name]


def untimed(rows):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def test_measure(records, run, tmp_path):
    rows = records("measure", run.path, "--csv", tmp_path / "m.csv", "--caps", "2,4")
    same(rows, cs.measure(run))
    assert rows[0]["D"] is None and rows[0]["M"] == 12 and (tmp_path / "m.csv").is_file()


def test_rho(records, run):
    found = cs.rho(run, n_boot=20).table
    rows = records("rho", run.path, "--replicates", "20")
    same([{name: row[name] for name in found} for row in rows], found)
    assert rows[0]["model_variant"] == "base"


def test_check(records, run):
    found = cs.check(run).to_frame().assign(run="fake/base/chain")
    same(records("check", run.path), found)


def test_check_that_fails_still_answers(records, tmp_path):
    from fake_engine import FakeEngine

    prompts = make_prompts(8)
    wrong = write_run(tmp_path / "r", prompts, make_config(prompts), engine=FakeEngine(drawn_at=2.0))
    assert False in [row["ok"] for row in records("check", wrong.path, code=1)]


def test_panel(records, run, tmp_path):
    rows = records("panel", run.path, "--embedder", "tfidf", "--out", tmp_path / "p.parquet")
    same(rows, pd.read_parquet(tmp_path / "p.parquet"))


@pytest.mark.slow
def test_fit(records, panel):
    same(records("fit", panel), cs.slope_table(pd.read_parquet(panel)))
    one = records("fit", panel, "--model", "interaction")
    assert [row["quantity"] for row in one] == ["base", "tuned", "difference", "ratio"]
    change = cs.slope_change(pd.read_parquet(panel), model="interaction")
    assert one[2]["estimate"] == change.difference.estimate and one[2]["p_value"] == change.difference.pvalue
    formula = "D ~ R_bar + (1|prompt_uid)"
    same(records("fit", panel, "--formula", formula), cs.lmm(formula, pd.read_parquet(panel)).tidy())


@pytest.mark.slow
def test_scrutinise(records, panel):
    found = cs.slope_scrutiny(pd.read_parquet(panel), paper="interaction").table
    same(records("scrutinise", panel, "--paper", "interaction"), found)


@pytest.mark.slow
def test_curve(records, panel):
    rows = records("curve", panel, "--only", "model=linear", "--only", "slopes=same", "--only", "response=D", "--only",
                   "length=none")
    choices = {"model": ["linear"], "slopes": ["same"], "response": ["D"], "length": ["none"]}
    same(untimed(rows), cs.specification_curve(pd.read_parquet(panel), choices=choices).table.drop(columns="seconds"))


@pytest.mark.slow
def test_power(records, panel):
    rows = records("power", panel, "--effect", "0.3", "--quick", "--prompts", "10", "--rollouts", "5", "--sims", "2")
    found = cs.slope_power(pd.read_parquet(panel), effect=0.3, prompts=[10], rollouts=[5], model="interaction",
                           method="closed", replicates=2).table
    same(untimed(rows), found.drop(columns="seconds"))


def test_status(records, tmp_path):
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    path = tmp_path / "s.yaml"
    path.write_text(f"""title: small
families: [{{name: ash, base: {{model: nobody/ash}}, tuned: {{model: nobody/ash-it}}}}]
tasks: {{t: {tmp_path}/prompts.jsonl}}
rollouts: 4
""")
    rows = records("status", path, "--out", tmp_path / "out")
    assert {row["state"] for row in rows if row["kind"] == "run"} == {"missing"}
    assert {row["kind"] for row in rows} == {"run", "stage"}


def test_an_error_leaves_stdout_empty(capsys):
    assert cli.main(["measure", "nowhere", "--json"]) == 2
    told = capsys.readouterr()
    assert told.out == "" and "There is no run folder nowhere." in told.err


def test_values_without_a_number_are_null_and_others_whole(capsys):
    table = pd.DataFrame({"a": [0.1 + 0.2, np.nan, np.inf], "b": pd.array([1, None, 2**60], "Int64"),
                          "c": ["x", None, "\x1b[31m"], "d": [True, False, True], 5: [np.int64(1)] * 3})
    printing.show_json(table)
    assert json.loads(capsys.readouterr().out) == [
        {"a": 0.1 + 0.2, "b": 1, "c": "x", "d": True, "5": 1}, {"a": None, "b": None, "c": None, "d": False, "5": 1},
        {"a": None, "b": 2**60, "c": "\x1b[31m", "d": True, "5": 1}]
