"""Names that no file can have, at every door that takes one; stored files that hold something else."""

from __future__ import annotations

import json
import os
import stat

import numpy as np
import pytest
from fake_engine import make_config, make_prompts, write_run

import canopy_stats as cs
from canopy_stats import files
from canopy_stats.mixed import load_fit
from canopy_stats.panels import read_panel, validate
from canopy_stats.schema import UserError

NAMES = {"long": "x" * 5000, "long part": "a/" + "y" * 300, "zero byte": "a\0b", "nobody": "~no-such-user-here/x"}
CALL = {"family": "f", "variant": "v", "task": "t"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    asked = make_prompts(2)
    write_run(tmp_path_factory.mktemp("run") / "run", asked, make_config(asked, n_rollouts=3))
    return cs.open_run(tmp_path_factory.getbasetemp() / "run0" / "run")


DOORS = {
    "open_run": lambda name, run: cs.open_run(name), "read_panel": lambda name, run: read_panel(name + ".csv"),
    "embed": lambda name, run: cs.embed(run, name), "load_fit": lambda name, run: load_fit(name),
    "import_rollouts": lambda name, run: cs.import_rollouts(name, "out", **CALL),
    "read_lm_eval": lambda name, run: cs.read_lm_eval(name), "to_hf": lambda name, run: run.to_hf(name),
    "generate": lambda name, run: cs.generate(name, ["a"], "out", **CALL),
    "generate's out": lambda name, run: cs.generate("no-model", ["a"], name, **CALL),
    "adapter": lambda name, run: cs.generate("./nowhere", ["a"], "out", adapter=name, **CALL),
    "reward": lambda name, run: cs.reward(run, name)}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", NAMES)
def test_one_line_and_nothing_made(name, door, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        DOORS[door](NAMES[name], run)
    assert "\n" not in str(caught.value) and "\0" not in str(caught.value) and len(str(caught.value)) < 400
    assert list(tmp_path.iterdir()) == []


def test_what_a_person_may_name(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.place("~/x/y") == tmp_path / "x" / "y"
    assert files.place(tmp_path) == tmp_path
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(UserError, match="symbolic links"):
        files.place(tmp_path / "loop")


def test_a_device_or_pipe_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="pipe is a pipe or a device"):
        files.write_atomic(tmp_path / "pipe", b"x")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


@pytest.mark.parametrize("url", ["http://[::1", "http://host:port/v1", "http://host:99999/v1", "https://a b/v1",
                                 "https://host\n/v1", "http:///v1", "http://\x1b[2J/v1", "file:///etc/passwd", "",
                                 "::"])
def test_what_is_no_address_of_a_judge(url):
    with pytest.raises(UserError, match="base_url") as caught:
        cs.OpenAIJudge(url, "m")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("spoil", [
    lambda path: path.write_bytes(b"PK\x03\x04" + b"x" * 50), lambda path: path.write_bytes(b""),
    lambda path: np.save(path.open("wb"), np.arange(3)), lambda path: np.savez(path, meta=np.array("[")),
    lambda path: np.savez(path, meta=np.array(json.dumps({"format": 1}))), lambda path: np.savez(path, y=np.arange(2)),
    lambda path: np.savez(path, meta=np.array(5)), lambda path: path.write_bytes(path.read_bytes()[:-20])])
def test_a_file_that_is_no_fit(spoil, tmp_path):
    table = {"y": [1.0, 2.0, 2.5, 4.0, 4.5, 6.5], "x": [0.0, 1.0, 2.0, 0.0, 1.0, 2.0], "g": list("aaabbb")}
    path = cs.lmm("y ~ x + (1|g)", table).save(tmp_path / "fit")
    load_fit(path)
    spoil(path)
    with pytest.raises(UserError, match="is not a fit written by"):
        load_fit(path)


def test_a_fit_goes_through_no_link(tmp_path):
    table = {"y": [1.0, 2.0, 2.5, 4.0, 4.5, 6.5], "x": [0.0, 1.0, 2.0, 0.0, 1.0, 2.0], "g": list("aaabbb")}
    fit = cs.lmm("y ~ x + (1|g)", table)
    (tmp_path / "other").write_text("mine")
    (tmp_path / "fit.npz").symlink_to(tmp_path / "other")
    with pytest.raises(UserError, match="is a link"):
        fit.save(tmp_path / "fit")
    with pytest.raises(UserError, match="Could not write"):
        fit.save(tmp_path / "nowhere" / "fit")
    assert (tmp_path / "other").read_text() == "mine"


def test_a_panel_shares_what_it_says_of_itself():
    """pandas copies attrs at every step; what is only read is not copied."""
    frame = cs.load_demo_panel().head(30)
    assert validate(frame).attrs["provenance"] is frame.attrs["provenance"]


def test_a_number_that_no_column_holds():
    frame = cs.load_demo_panel().head(30).astype({"M": float})
    frame.loc[3, "M"] = np.inf
    with pytest.raises(UserError, match="values of the wrong type"):
        validate(frame)
