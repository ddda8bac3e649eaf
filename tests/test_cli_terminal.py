"""What a terminal sees, what a file gets, and that messages name options on the command line."""

import io
import json
import re
from contextlib import redirect_stdout

import pandas as pd
import pytest
from fake_engine import make_config, make_prompts, write_run

import canopy_stats as cs
from canopy_stats import cli
from canopy_stats.cli import printing
from canopy_stats.cli.parser import COMMANDS, build_parser
from canopy_stats.cli.wording import as_options, option_names
from canopy_stats.report.printed import console

TABLE = pd.DataFrame({"task": ["stories", "stories", "[bold]math[/bold]"], "CE": [12.5, 3.25, float("nan")],
                      "why": ["ok", "\x1b[31mred", "WRONG"]})
COLOUR, ESCAPE = re.compile(r"\x1b\[[0-9;]*3[1-7]m"), re.compile(r"\x1b\[[0-9;]*m")


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def seen(monkeypatch):
    """What a terminal is sent by an action."""
    for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")

    def sent(action, *arguments):
        with redirect_stdout(Terminal()) as out:
            action(*arguments)
        return out.getvalue()

    return sent


def test_a_terminal_sees_rules_and_colours(seen):
    text = seen(printing.show, TABLE)
    assert COLOUR.search(text) and "─" in text
    bare = ESCAPE.sub("", text)
    assert "[bold]math[/bold]" in bare and r"\x1b[31mred" in bare and "\x1b" not in bare
    assert all(cell in bare for cell in ("task", "CE*", "12.5", "3.2", "–")) and bare.count("stories") == 1


def test_no_color_is_obeyed(seen, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    text = seen(printing.show, TABLE) + seen(printing.marked, "z of S - H  7.1  (at most 4)  WRONG")
    assert not COLOUR.search(text) and "WRONG" in text


def test_a_table_that_is_too_wide_keeps_its_headings_whole(seen):
    wide = pd.DataFrame({f"a heading of column {i}": [i] for i in range(8)})
    assert seen(printing.show, wide) == console(wide) + "\n"


def test_a_file_gets_plain_text(capsys):
    printing.show(TABLE.iloc[:1])
    printing.marked("(at most 4)  ok")
    assert capsys.readouterr().out == console(TABLE.iloc[:1]) + "\n(at most 4)  ok\n"


def test_verdicts_stand_out(seen):
    text = seen(printing.marked, "z  1.0  (at most 4)  ok\nz  9.0  (at most 4)  WRONG")
    assert re.search(r"\x1b\[[0-9;]*31m\s*WRONG", text) and re.search(r"\x1b\[[0-9;]*32mok", text)


# --- options in messages ----------------------------------------------------------------------------------------

NAMES = {"batch_size": "--batch-size", "dtype": "--dtype", "strict": "--strict", "chat": "--chat", "model": "--model",
         "n_rollouts": "--rollouts", "temperature": "--temperature"}


@pytest.mark.parametrize(("said", "shown"), [
    ("try dtype='float32'; if it stays", "try --dtype float32; if it stays"),
    ("(strict=True) refuses", "(--strict) refuses"), ("give chat=False.", "give --no-chat."),
    ("rho need model=.", "rho need --model."), ("batch_size is 'x'; it must", "--batch-size is 'x'; it must"),
    ("n_rollouts is 1; at least 2", "--rollouts is 1; at least 2"),
    ("State it with policy=.", "State it with --temperature, --top-k and the other options of the law."),
    ("Draw with a larger law.max_new_tokens.", "Draw with a larger law.max_new_tokens."),
    ("scores[scores.metric == '...']", "scores[scores.metric == '...']"),
    ("the key unknown='x'", "the key unknown='x'"),
    ("in runs/batch_size/x", "in runs/batch_size/x")])
def test_arguments_become_options(said, shown):
    assert as_options(said, NAMES) == shown


def test_every_command_knows_its_options():
    for name, command in COMMANDS.items():
        parser = build_parser()._subparsers._group_actions[0].choices[name]
        names = option_names(parser)
        assert all(option.startswith("--") for option in names.values()), command


def test_an_error_on_the_command_line_names_the_option(tmp_path, capsys):
    log = tmp_path / "log.jsonl"
    log.write_text('{"prompt": "a", "token_ids": [1, 2, 3]}\n')
    arguments = ["import", str(log), "--out", str(tmp_path / "r"), "--family", "f", "--variant", "v", "--task", "t"]
    assert cli.main([*arguments, "--quiet"]) == 0
    said = capsys.readouterr().err
    assert "policy=" not in said and "model=" not in said and "tokenizer=" not in said
    assert "need --model" in said and "Give --tokenizer" in said


# --- more answers as JSON ---------------------------------------------------------------------------------------


def test_embed_plan_import_and_doctor_answer_as_json(tmp_path, capsys):
    prompts = make_prompts(3)
    run = write_run(tmp_path / "r", prompts, make_config(prompts, n_rollouts=4))

    def records(*arguments):
        assert cli.main([*map(str, arguments), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    [row] = records("embed", run.path, "--embedder", "tfidf")
    assert (row["texts"], row["run"], row["empty"]) == (12, "fake/base/chain", 0)
    log = tmp_path / "log.jsonl"
    log.write_text('{"prompt": "a", "token_ids": [1, 2, 3]}\n' * 2)
    named = ("--family", "f", "--variant", "v", "--task", "t")
    [made] = records("import", log, "--out", tmp_path / "i", *named, "--quiet")
    assert (made["rollouts"], made["tokens"], made["terms"], made["prompts"]) == (2, 6, "missing", 1)
    assert made["content"] == cs.open_run(tmp_path / "i").content_hash
    (tmp_path / "p.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    (tmp_path / "s.yaml").write_text(f"title: small\ntasks: {{t: {tmp_path}/p.jsonl}}\nrollouts: 4\n"
                                     "families: [{name: ash, base: {model: nobody/ash}, tuned: {model: nobody/it}}]\n")
    rows = records("plan", tmp_path / "s.yaml", "--out", tmp_path / "out")
    assert [row["rollouts"] for row in rows] == [8, 8] and {row["variant"] for row in rows} == {"base", "instruct"}
    assert cli.main(["doctor", "--json"]) in (0, 1)
    assert json.loads(capsys.readouterr().out)[0]["extra"] == ""
