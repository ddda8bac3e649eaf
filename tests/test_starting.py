"""The first minutes: a study file that reads back, and what is installed."""

import json
from importlib.metadata import PackageNotFoundError

import pytest

from canopy_stats import cli, installation
from canopy_stats.cli import starting
from canopy_stats.study import read_study


@pytest.fixture
def prompts(tmp_path):
    (tmp_path / "sub").mkdir()
    file = tmp_path / "sub" / "p.jsonl"
    file.write_text('{"prompt": "a"}\n')
    return file


def init(path, *more):
    return cli.main(["init", str(path), *map(str, more)])


def test_init_writes_what_was_asked(tmp_path, prompts, monkeypatch):
    """Names of any kind, paths relative to the file, sizes; the file reads back."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "one").mkdir(parents=True)
    code = init("studies/s.yaml", "--family", "m: #1", "models/one", "hub/two", "--family", "n", "a", "b", "--task",
                "x: y=sub/p.jsonl", "--title", 'A "title"', "--rollouts", 7, "--max-new-tokens", 33)
    assert code == 0
    study = read_study("studies/s.yaml").study
    assert [f.name for f in study.families] == ["m: #1", "n"]
    assert "../models/one" in (tmp_path / "studies" / "s.yaml").read_text()
    assert study.families[0].tuned.model == "hub/two"
    assert list(study.tasks) == ["x: y"] and study.title == 'A "title"'
    assert (study.rollouts, study.policy.max_new_tokens) == (7, 33)


def test_init_keeps_what_is_there(tmp_path, prompts, capsys):
    path = tmp_path / "s.yaml"
    path.write_text("mine")
    asked = (path, "--family", "m", "a", "b", "--task", f"x={prompts}")
    assert init(*asked) == 2 and path.read_text() == "mine"
    assert "--force" in capsys.readouterr().err
    assert init(*asked, "--force") == 0 and read_study(path).study.tasks


@pytest.mark.parametrize(("family", "task", "says"), [
    (["a/b", "x", "y"], "t={p}", "name without slashes"),
    (["m", "x", "y"], "t=none.jsonl", "no prompt file none.jsonl"),
    (["m", "x", "y"], "t", "NAME=FILE"),
])
def test_init_refuses_and_writes_nothing(tmp_path, prompts, capsys, family, task, says):
    try:
        code = init(tmp_path / "s.yaml", "--family", *family, "--task", task.format(p=prompts))
    except SystemExit as stop:
        code = stop.code
    assert code == 2 and says in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["sub"]


def test_init_asks_on_a_terminal(tmp_path, prompts, monkeypatch):
    answers = iter(["mine", "", "base-model", "tuned-model", "stories", str(prompts)])
    monkeypatch.setattr(starting.sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: next(answers))
    assert init(tmp_path / "s.yaml") == 0
    assert read_study(tmp_path / "s.yaml").study.families[0].base.model == "base-model"


def test_init_without_a_terminal_names_the_option(tmp_path, capsys):
    assert init(tmp_path / "s.yaml") == 2
    assert "--family NAME BASE TUNED" in capsys.readouterr().err


def test_doctor_here(capsys):
    """The suite's environment has everything that the tests use."""
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "core       installed" in out and "cpu" in out and "minilm" in out


def test_doctor_says_what_is_missing(monkeypatch, capsys):
    """A package that is absent and one that is too old."""
    def version(name):
        if name == "peft":
            raise PackageNotFoundError(name)
        return "0.1" if name == "gguf" else "999"

    monkeypatch.setattr(installation, "version", version)
    monkeypatch.setattr(installation, "_requirements",
                        lambda: {"": ["numpy>=2.0"], "generate": ["peft>=0.17", "gguf (>=0.17)", "torch[x]>=2.6"]})
    core, generate = installation.extras()
    assert not core.missing and generate.found == {"torch": "999"}
    assert generate.missing == ("peft", "gguf >=0.17 (0.1 is here)")
    assert cli.main(["doctor"]) == 0
    assert "pip install 'canopy-stats[generate]'" in " ".join(capsys.readouterr().out.split())


def test_doctor_without_torch(monkeypatch):
    monkeypatch.setattr(installation, "find_spec", lambda name: None)
    assert installation.devices() == [] and list(installation.local_models()) == []


def test_local_models_of_the_hub_cache(tmp_path, monkeypatch):
    """A model folder in the layout of the Hugging Face cache."""
    commit = "a" * 40
    snapshot = tmp_path / "models--org--name" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps({}))
    (tmp_path / "models--org--name" / "refs").mkdir()
    (tmp_path / "models--org--name" / "refs" / "main").write_text(commit)
    import huggingface_hub
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    real = huggingface_hub.scan_cache_dir
    monkeypatch.setattr(huggingface_hub, "scan_cache_dir", lambda: real(tmp_path))
    assert ("org/name", "0.0 GB in the Hugging Face cache") in list(installation.local_models())


@pytest.mark.parametrize(("typed", "says"), [("scrutinize", "did you mean 'scrutinise'?"),
                                             ("zzzz", "the commands are generate,"),
                                             ("\x1b[31mplan", "there is no command")])
def test_an_unknown_command_names_the_nearest(capsys, typed, says):
    with pytest.raises(SystemExit) as stop:
        cli.main([typed])
    err = capsys.readouterr().err
    assert stop.value.code == 2 and says in err and "\x1b" not in err
