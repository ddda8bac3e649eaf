"""The command line: help that teaches, one line for each user error, exit codes."""

import re
import subprocess
import sys
import warnings
from dataclasses import replace

import pytest

from canopy_stats import cli
from canopy_stats.cli import parser, printing
from canopy_stats.schema import Caution, UserError

COMMANDS = ["generate", "check", "export", "import", "audit", "embed", "measure", "judge", "rho", "panel",
            "fit", "scrutinise", "curve", "power", "run", "plan", "status", "report", "demo", "init", "doctor"]
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


def test_overview_and_list_name_every_command_in_the_order_of_a_study(capsys):
    code, out, _ = run(capsys, "--help")
    overview = re.findall(r"^  (\w+) .* -> .+$", out, re.MULTILINE)
    assert code == 0 and overview == COMMANDS
    assert re.findall(r"^    (\w+)\b", out.partition("  COMMAND\n")[2], re.MULTILINE) == COMMANDS


def test_overview_stands_in_columns(capsys):
    lines = [line for line in run(capsys, "--help")[1].splitlines() if " -> " in line]
    assert len({line.index(" -> ") for line in lines}) == 1 and max(map(len, lines)) <= 100


@pytest.mark.slow
def test_help_is_light():
    code = ("import sys; from canopy_stats.cli import parser; parser.build_parser(); "
            "print({'torch', 'pandas'} & set(sys.modules))")
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "set()"


def test_version(capsys):
    assert run(capsys, "--version")[1].startswith("canopy-stats 0.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["grow"], "there is no command 'grow'"),
        (["generate", "m"], "required: --prompts, --out, --family, --variant, --task"),
        ([*GENERATE, "--temperature", "0"], "temperature is 0.0; it must be a positive, finite number."),
        ([*GENERATE, "--temperature", "hot"], "argument --temperature: invalid float value: 'hot'"),
        ([*GENERATE, "--top-k", "0"], "--top-k is 0; it must be a whole number of at least 1"),
        ([*GENERATE, "--top-p", "1.2"], "--top-p is 1.2; it must be above 0 and at most 1"),
        ([*GENERATE, "--min-p", "-1"], "--min-p is -1.0; it must be between 0 and 1"),
        ([*GENERATE, "--max-new-tokens", "0"], "--max-new-tokens is 0; it must be"),
        ([*GENERATE, "--rollouts", "1"], "--rollouts is 1; at least 2 rollouts a prompt are needed"),
        ([*GENERATE, "--batch-size", "many"], "'many' is neither 'auto' nor a whole number"),
        ([*GENERATE, "--chat", "m"], "'m' is not 'rendered-text'; --chat alone applies the template"),
        ([*GENERATE, "--template-kwargs", "[1]"], "'[1]' is not a JSON object such as"),
        (["check", "nowhere"], "There is no run folder nowhere."),
        (["embed", "nowhere"], "There is no run folder nowhere."),
        (["measure", "nowhere"], "There is no run folder nowhere."),
        (["measure", "nowhere", "--caps", "a,2"], "'a,2' is not a list of whole numbers"),
        (["panel", "nowhere", "--out", "p.parquet"], "There is no run folder nowhere."),
        (["panel", "nowhere", "--out", "p.xlsx"], "ends in .parquet or .csv"),
        (["fit", "nothing.parquet"], "There is no panel file nothing.parquet."),
        (["fit", "--model", "cubic"], "invalid choice: 'cubic'"),
        (["curve", "nothing.parquet"], "There is no panel file nothing.parquet."),
        (["curve", "--only", "model"], "'model' is not of the form choice=option,option"),
        (["curve", "--only", "model=probit"], "model has no option probit; choose among beta, linear, ordbeta."),
        (["power", "--effect", "0.1", "--prompts", "2", "--quick"], "prompts is [2]; give whole numbers of at least"),
        (["power"], "the following arguments are required: --effect"),
        (["power", "nothing.parquet", "--effect", "1"], "There is no panel file nothing.parquet."),
        (["curve", "--workers", "0"], "workers is 0; give a whole number of at least 1."),
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

    monkeypatch.setitem(parser.COMMANDS, "demo", replace(parser.COMMANDS["demo"], run=fail))


def test_interrupt_says_that_it_resumes(capsys, monkeypatch):
    raise_in_place_of(monkeypatch, KeyboardInterrupt())
    code, _, err = run(capsys, "demo")
    assert code == 130 and "resumes" in err and err.count("\n") == 1


def test_message_of_two_lines_becomes_one(capsys, monkeypatch):
    raise_in_place_of(monkeypatch, UserError("wrong\nmend it"))
    assert run(capsys, "demo")[2] == "canopy-stats: wrong mend it\n"


def test_cautions_are_one_line_on_stderr(capsys, monkeypatch):
    def say(options):
        warnings.warn("two arms differ", Caution, stacklevel=2)
        return 0

    monkeypatch.setitem(parser.COMMANDS, "demo", replace(parser.COMMANDS["demo"], run=say))
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert run(capsys, "demo") == (0, "", "canopy-stats: note: two arms differ\n")


def test_a_defect_keeps_its_traceback(capsys, monkeypatch):
    raise_in_place_of(monkeypatch, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        cli.main(["demo"])


@pytest.mark.slow
def test_closed_pipe_is_no_error():
    both = f"{sys.executable} -m canopy_stats --help | head -1"
    done = subprocess.run(["bash", "-c", both], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""


@pytest.mark.parametrize(("columns", "widest"), [("60", 60), ("300", 100), ("1", 20)])
def test_paragraphs_fit_the_terminal_and_keep_their_words(monkeypatch, columns, widest):
    monkeypatch.setenv("COLUMNS", columns)
    text = "The difference is -0.147 (p = 6.75e-210), " * 9 + "with random-intercepts."
    wrapped, hanging = printing.paragraph(text), printing.note(text)
    assert wrapped.split() == hanging.split() == text.split()
    assert all(line.startswith("  ") for line in hanging.splitlines()[1:]) and hanging.startswith("The")
    lines = wrapped.splitlines() + hanging.splitlines()
    assert max(map(len, lines)) <= widest
    assert max(map(len, lines)) > widest - len("random-intercepts.") or columns == "1"
    assert wrapped.count("(p = 6.75e-210),") == 9


# ---------------------------------------------------------------------------------------------- a chain on tiny models


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    from tiny_models import save_tiny_llama

    folder = tmp_path_factory.mktemp("models")
    return {name: save_tiny_llama(folder / name, seed) for seed, name in enumerate(["ash", "ash-it", "oak", "oak-it"])}


@pytest.fixture(scope="module")
def prompt_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("prompts") / "p.jsonl"
    texts = ["the cat sat", "a dog", "the red bird", "it was", "then a hill", "on the mat", "a small tree", "blue red"]
    path.write_text("".join(f'{{"id": "{i:03}", "prompt": "{text}"}}\n' for i, text in enumerate(texts)))
    return path


def generate_arguments(model, prompts, out, *, family="ash", variant="base", task="stories"):
    return ["generate", model, "--prompts", prompts, "--out", out, "--family", family, "--variant", variant, "--task",
            task, "--rollouts", "6", "--max-new-tokens", "8", "--drift-tokens", "20", "--quiet"]


@pytest.fixture(scope="module")
def runs(models, prompt_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for family in ("ash", "oak"):
        for variant, model in (("base", family), ("instruct", f"{family}-it")):
            for task in ("stories", "math"):
                arguments = generate_arguments(models[model], prompt_file, folder / f"{family}-{variant}-{task}",
                                               family=family, variant=variant, task=task)
                assert cli.main([str(a) for a in arguments]) == 0
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def panel_file(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("panel") / "panel.parquet"
    assert cli.main(["panel", *map(str, runs), "--embedder", "tfidf", "--out", str(out)]) == 0
    return out


@pytest.mark.slow
def test_generate_tells_what_it_stored_and_resumes(capsys, models, prompt_file, tmp_path):
    arguments = generate_arguments(models["ash"], prompt_file, tmp_path / "run")
    code, out, err = run(capsys, *arguments)
    assert code == 0
    assert "48 rollouts" in out and "T=1 cap=8" in out and "drawn again at batch size 1: 0 flips" in out
    assert run(capsys, *arguments)[1] == out


@pytest.mark.slow
def test_check_agrees(capsys, runs):
    code, out, _ = run(capsys, "check", *runs[:2], "--sample", "8")
    assert code == 0 and out.count("nothing speaks against the law it claims") == 2


@pytest.mark.slow
def test_check_that_fails_has_exit_code_1(capsys, runs, models):
    code, out, _ = run(capsys, "check", runs[0], "--sample", "4", "--model", models["oak-it"])
    assert code == 1 and "WRONG" in out and "does not agree" in out


@pytest.mark.slow
def test_embed_counts(capsys, runs):
    code, out, _ = run(capsys, "embed", runs[0], "--embedder", "tfidf")
    assert code == 0 and "48 texts embedded" in out and "longer than it reads" in out


@pytest.mark.slow
def test_measure_prints_and_writes(capsys, runs, tmp_path):
    code, out, _ = run(capsys, "measure", *runs[:2], "--embedder", "tfidf", "--caps", "2,4", "--csv",
                       tmp_path / "m.csv", "--extra", "vendi_2", "length_thirds")
    assert code == 0 and "VS_q2" in out and "D middle" in out
    assert "covariance between prompts" in out and "Under smaller length caps" in out
    assert len((tmp_path / "m.csv").read_text().splitlines()) == 1 + 2 * 8


@pytest.mark.slow
def test_rho_prints_writes_and_draws(capsys, runs, tmp_path):
    code, out, _ = run(capsys, "rho", *runs[:2], "--replicates", "20", "--csv", tmp_path / "r.csv", "--figure",
                       tmp_path / "rho")
    assert code == 0 and out.count("excess") == 2 * 3
    assert len((tmp_path / "r.csv").read_text().splitlines()) == 1 + 2 * 12
    assert (tmp_path / "rho.png").is_file() and (tmp_path / "rho.svg").is_file()


@pytest.mark.slow
def test_measure_cap_above_the_run(capsys, runs):
    code, _, err = run(capsys, "measure", runs[0], "--cap", "9")
    assert code == 2 and err.count("\n") == 1 and "9" in err


@pytest.mark.slow
def test_panel_keeps_how_it_was_made(panel_file, runs):
    from canopy_stats.panels import read_panel

    panel = read_panel(panel_file)
    assert len(panel) == 8 * 8
    made = panel.attrs["provenance"]
    assert made["command"].startswith("canopy-stats panel") and len(made["runs"]) == 8
    assert {r["label"] for r in made["runs"]} == {f"{f}/{v}/{t}" for f in ("ash", "oak") for v in ("base", "instruct")
                                                 for t in ("stories", "math")}


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_fit_prints_one_row_for_each_model(capsys, runs, tmp_path, suffix):
    path = tmp_path / f"panel.{suffix}"
    assert run(capsys, "panel", *runs, "--embedder", "tfidf", "--out", path)[0] == 0
    code, out, _ = run(capsys, "fit", path, "--csv", tmp_path / "slopes.csv")
    assert code == 0
    assert all(model in out for model in ("main", "interaction", "quadratic"))
    assert len((tmp_path / "slopes.csv").read_text().splitlines()) == 4


@pytest.mark.slow
def test_fit_of_one_model_in_detail(capsys, panel_file):
    code, out, _ = run(capsys, "fit", panel_file, "--model", "interaction")
    assert code == 0 and "R_bar:model_variant[T.instruct]" in out and "difference" in out and "ratio" in out


@pytest.mark.slow
def test_fit_of_a_formula(capsys, panel_file, tmp_path):
    code, out, _ = run(capsys, "fit", panel_file, "--formula", "D ~ R_bar + N_bar + (1|prompt_uid)", "--csv",
                       tmp_path / "f.csv")
    assert code == 0 and "R_bar" in out and "R_bar" in (tmp_path / "f.csv").read_text()


@pytest.mark.slow
def test_fit_of_a_formula_with_an_unknown_column(capsys, panel_file):
    code, _, err = run(capsys, "fit", panel_file, "--formula", "D ~ rate + (1|prompt_uid)")
    assert code == 2 and "rate" in err and err.count("\n") == 1


@pytest.mark.slow
def test_one_family_and_one_task_end_with_the_papers_row(capsys, tmp_path):
    """Where the walk through somebody's own two checkpoints ends: the paper's model, and why there is no robust one."""
    import canopy_stats as cs
    from canopy_stats.panels import write_panel

    panel = cs.load_demo_panel()
    write_panel(panel[(panel["model_name"] == "birch") & (panel["task"] == "math")], tmp_path / "panel.parquet")
    code, out, err = run(capsys, "scrutinise", tmp_path / "panel.parquet")
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.split()}
    assert code == 0 and "Not available: one family." in " ".join(out.split()), err
    assert rows["robust"][:2] == ["not", "available"] and "paper_beta" in rows


@pytest.mark.slow
def test_curve_counts_writes_and_draws(capsys, panel_file, tmp_path):
    code, out, _ = run(capsys, "curve", panel_file, "--only", "model=linear", "--only", "slopes=same", "--only",
                       "response=D", "--csv", tmp_path / "c.csv", "--figure", tmp_path / "c")
    assert code == 0 and "specifications the slope is" in " ".join(out.split()) and "not_significant" in out
    assert len((tmp_path / "c.csv").read_text().splitlines()) == 1 + 2 * 3 * 3 * 2 * 2
    assert (tmp_path / "c.png").exists() and (tmp_path / "c.svg").exists()


@pytest.mark.slow
def test_power_prints_recommends_writes_and_draws(capsys, tmp_path):
    code, out, _ = run(capsys, "power", "--effect", "0.3", "--quick", "--prompts", "10,20", "--rollouts", "5,10",
                       "--sims", "2", "--budget", "1e6", "--csv", tmp_path / "p.csv", "--figure", tmp_path / "p")
    assert code == 0 and "With no effect, model interaction" in out and "\nOf 1e+06 tokens" in out
    assert max(len(line) for line in out.splitlines() if not line.startswith("written: ")) <= 100
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 1 + 5
    assert (tmp_path / "p.png").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (None, "There is no prompt file"),
        ("", "holds no prompts"),
        ('{"prompt": "a"}\n{"prompt": \n', "line 2 is not valid JSON"),
        ('{"prompt": "a"}\n\n{"text": "b"}\n', "line 3 has no 'prompt' key"),
        ('{"prompt": "a"}\n{"prompt": "a"}\n', "stands twice, at line 1 and line 2"),
        ('{"prompt": "a"}\n{"prompt": " "}\n', "line 2: the prompt is empty"),
        ('{"prompt": "' + "cat " * 200 + '"}\n', "exceeds the model's context of 128 tokens"),
    ],
    ids=["missing", "empty file", "malformed", "no key", "duplicate", "empty prompt", "too long"],
)
def test_bad_prompt_files(capsys, models, tmp_path, lines, message):
    if lines is not None:
        (tmp_path / "p.jsonl").write_text(lines)
    code, _, err = run(capsys, *generate_arguments(models["ash"], tmp_path / "p.jsonl", tmp_path / "run"))
    mine = err.splitlines()[-1]
    assert code == 2 and mine.startswith("canopy-stats: ") and message in mine
    assert not (tmp_path / "run").exists()


def test_missing_model(capsys, prompt_file, tmp_path):
    code, _, err = run(capsys, *generate_arguments(tmp_path / "gone", prompt_file, tmp_path / "run"))
    assert code == 2 and "There is no model at" in err and err.count("\n") == 1


@pytest.mark.slow
def test_no_chat_template(capsys, models, prompt_file, tmp_path):
    import shutil

    bare = shutil.copytree(models["ash"], tmp_path / "bare")
    (bare / "chat_template.jinja").unlink()
    code, _, err = run(capsys, *generate_arguments(bare, prompt_file, tmp_path / "run", variant="instruct"))
    assert code == 2 and "chat template" in err.splitlines()[-1] and "--help" not in err


@pytest.mark.slow
def test_other_setting_into_the_same_folder(capsys, models, prompt_file, runs):
    arguments = generate_arguments(models["ash"], prompt_file, runs[0], task=runs[0].name.split("-")[-1])
    code, _, err = run(capsys, *arguments, "--seed", "7", "--top-k", "5")
    assert code == 2
    assert "policy.top_k: stored None, asked 5" in err and "seed: stored 0, asked 7" in err


@pytest.mark.slow
def test_a_core_install_says_which_extra_draws_rollouts(tmp_path):
    # As if torch were not installed.
    code = ("import sys, importlib.util\n"
            "real = importlib.util.find_spec\n"
            "importlib.util.find_spec = lambda name, *a: None if name == 'torch' else real(name, *a)\n"
            "from canopy_stats.cli import main\n"
            f"sys.exit(main(['generate', 'm', '--prompts', 'p', '--task', 't', '--family', 'f', '--variant', 'base', "
            f"'--out', {str(tmp_path / 'run')!r}]))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "(torch)" in done.stderr and "pip install 'canopy-stats[generate]'" in done.stderr
