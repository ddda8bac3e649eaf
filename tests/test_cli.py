"""The command line: help that teaches, one line for each user error, exit codes."""

import subprocess
import sys

import pytest

from canopy_stats import cli
from canopy_stats.schema import UserError

COMMANDS = ["generate", "embed", "measure", "panel", "fit", "check", "demo"]
GENERATE = ["generate", "no-model", "--prompts", "none.jsonl", "--out", "out", "--family", "f", "--variant", "base",
            "--task", "t"]


def run(capsys, *arguments):
    """(exit code, stdout, stderr) of one command in this process."""
    try:
        code = cli.main([str(a) for a in arguments])
    except SystemExit as stop:
        code = stop.code
    told = capsys.readouterr()
    return code, told.out, told.err


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_and_fits_a_line(capsys, command):
    code, out, _ = run(capsys, command, "--help")
    assert code == 0
    assert "Example" in out and f"canopy-stats {command}" in out
    assert max(map(len, out.splitlines())) <= 120


def test_overview_names_every_command(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0 and all(f"\n  {command} " in out for command in COMMANDS)


def test_help_is_light():
    code = "import sys; from canopy_stats.cli import _parser; _parser(); print({'torch', 'pandas'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "set()"


def test_version(capsys):
    assert run(capsys, "--version")[1].startswith("canopy-stats 0.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["grow"], "invalid choice: 'grow'"),
        (["generate", "m"], "required: --prompts, --out, --family, --variant, --task"),
        ([*GENERATE, "--temperature", "0"], "temperature is 0.0; it must be a positive, finite number."),
        ([*GENERATE, "--temperature", "hot"], "argument --temperature: invalid float value: 'hot'"),
        ([*GENERATE, "--top-k", "0"], "top_k is 0; it must be a whole number of at least 1"),
        ([*GENERATE, "--top-p", "1.2"], "top_p is 1.2; it must be above 0 and at most 1"),
        ([*GENERATE, "--min-p", "-1"], "min_p is -1.0; it must be between 0 and 1"),
        ([*GENERATE, "--max-new-tokens", "0"], "max_new_tokens is 0; it must be"),
        ([*GENERATE, "--rollouts", "1"], "n_rollouts is 1; at least 2 rollouts a prompt are needed"),
        ([*GENERATE, "--batch-size", "many"], "'many' is neither 'auto' nor a whole number"),
        (["check", "nowhere"], "There is no run folder nowhere."),
        (["embed", "nowhere"], "There is no run folder nowhere."),
        (["measure", "nowhere"], "There is no run folder nowhere."),
        (["measure", "nowhere", "--caps", "a,2"], "'a,2' is not a list of whole numbers"),
        (["panel", "nowhere", "--out", "p.parquet"], "There is no run folder nowhere."),
        (["panel", "nowhere", "--out", "p.xlsx"], "ends in .parquet or .csv"),
        (["fit", "nothing.parquet"], "There is no panel file nothing.parquet."),
        (["fit", "--model", "cubic"], "invalid choice: 'cubic'"),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, list) else None,
)
def test_user_error_is_one_line_with_exit_code_2(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *arguments)
    assert code == 2 and out == ""
    assert message in err and err.count("\n") == 1 and "Traceback" not in err


def test_unreadable_panel(capsys, tmp_path):
    (tmp_path / "p.parquet").write_text("not parquet")
    code, _, err = run(capsys, "fit", tmp_path / "p.parquet")
    assert code == 2 and "cannot be read as a panel" in err and err.count("\n") == 1


def raise_in_place_of(monkeypatch, error):
    def fail(options):
        raise error

    _, add_options, *texts = cli._COMMANDS["demo"]
    monkeypatch.setitem(cli._COMMANDS, "demo", (fail, add_options, *texts))


def test_interrupt_says_that_it_resumes(capsys, monkeypatch):
    raise_in_place_of(monkeypatch, KeyboardInterrupt())
    code, _, err = run(capsys, "demo")
    assert code == 130 and "resumes" in err and err.count("\n") == 1


def test_message_of_two_lines_becomes_one(capsys, monkeypatch):
    raise_in_place_of(monkeypatch, UserError("wrong\nmend it"))
    assert run(capsys, "demo")[2] == "canopy-stats: wrong mend it\n"


def test_a_defect_keeps_its_traceback(capsys, monkeypatch):
    raise_in_place_of(monkeypatch, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        cli.main(["demo"])


def test_closed_pipe_is_no_error():
    both = f"{sys.executable} -m canopy_stats --help | head -1"
    done = subprocess.run(["bash", "-c", both], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
