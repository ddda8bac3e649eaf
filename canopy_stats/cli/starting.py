"""Commands for the first minutes: init, doctor."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from canopy_stats.cli.command import FAILED, OK, Command
from canopy_stats.cli.options import json_option, plain_name, whole_number
from canopy_stats.cli.printing import paragraph, tell, written
from canopy_stats.files import place
from canopy_stats.schema import UserError

if TYPE_CHECKING:
    from canopy_stats.installation import Extra


def _init(options: argparse.Namespace) -> int:
    from canopy_stats.study.template import ModelPair, study_text, write_study

    path = place(options.study)
    families = [ModelPair(name, *(_relative(path, model) for model in models))
                for name, *models in options.family or [_asked_family()]]
    tasks = {name: _prompt_file(path, file) for name, file in options.task or [_asked_task()]}
    text = study_text(families, tasks, title=options.title,
                      rollouts=options.rollouts, max_new_tokens=options.max_new_tokens, embedder=options.embedder)
    write_study(path, text, overwrite=options.force)
    written(path)
    tell(f"next: canopy-stats plan {path}")
    return OK


def _prompt_file(study: Path, file: str) -> str:
    if not place(file).is_file():
        raise UserError(f"There is no prompt file {file}. It holds JSON lines such as "
                        '{"prompt": "Once upon a time"}.')
    return _relative(study, file)


def _relative(study: Path, given: str) -> str:
    """What is here, as the study file names it: relative to its folder. Hub names and absolute paths stay."""
    path = place(given)
    if path.is_absolute() or not path.exists():
        return str(path) if path.is_absolute() else given
    return Path(os.path.relpath(path, study.parent)).as_posix()


def _asked_family() -> tuple[str, str, str]:
    return (_ask("Name of the family", "--family NAME BASE TUNED"), _ask("Base model (hub name, folder, GGUF file)"),
            _ask("Tuned model"))


def _asked_task() -> tuple[str, str]:
    return _ask("Name of a task", "--task NAME=FILE"), _ask("Its prompt file (JSON lines)")


def _ask(question: str, option: str = "") -> str:
    """An answer from the terminal. UserError where there is none to ask."""
    if not sys.stdin.isatty():
        raise UserError(f"There is no terminal to ask on: give {option}.")
    answer = ""
    while not answer:
        answer = input(f"{question}: ").strip()
    return answer


def _task(text: str) -> tuple[str, str]:
    """A task as ``name=file``."""
    name, equals, file = text.partition("=")
    if not (name and equals and file):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=FILE, such as math=math.jsonl")
    return name, file


def _init_options(command: argparse.ArgumentParser) -> None:
    add = command.add_argument
    add("study", nargs="?", default="study.yaml", metavar="FILE", help="study file to write (default study.yaml)")
    add("--family", nargs=3, action="append", metavar=("NAME", "BASE", "TUNED"),
        help="a base model and what was made of it: hub names, folders or GGUF files; may be given several times")
    add("--task", type=_task, action="append", metavar="NAME=FILE",
        help="a task and its prompt file; may be given several times")
    add("--title", type=plain_name, default="Base and tuned", help="of the report")
    add("--rollouts", type=whole_number(2), default=24, metavar="M", help="of each prompt (default 24)")
    add("--max-new-tokens", type=whole_number(1), default=512, metavar="N", help="length cap (default 512)")
    add("--embedder", default="minilm", metavar="NAME", help="minilm, tfidf, or a model's name (default minilm)")
    add("--force", action="store_true", help="replace a file that is there")


INIT = Command(
    "init", reads="names of models", gives="a commented study file",
    summary="a study file for your own checkpoints", run=_init, add_options=_init_options,
    teaching="""
    Write a study file with a comment at each key. Without --family or --task it asks. Nothing is loaded; `plan`
    says afterwards what the study would take.

    Example:
      canopy-stats init study.yaml --family mine models/base models/tuned --task stories=stories.jsonl
    """)


def _doctor(options: argparse.Namespace) -> int:
    import pandas as pd

    from canopy_stats import installation

    found = installation.extras()
    options.answer = pd.DataFrame([{"extra": extra.name, "installed": not extra.missing, "gives": extra.gives,
                                    "missing": ", ".join(extra.missing)} for extra in found])
    for extra in found:
        tell(_said(extra))
    tell("\nDevices: " + ("; ".join(installation.devices()) or "unknown, since torch is not installed"))
    _list("Models that load without a network", [f"{name}: {where}" for name, where in installation.local_models()])
    return FAILED if found[0].missing else OK


def _said(extra: Extra) -> str:
    """One extra: whether it is whole, what it gives, what is missing and how to get it."""
    name = f"[{extra.name}]" if extra.name else "core"
    state = "incomplete" if extra.missing else "installed"
    line = f"{name:<10} {state:<10} {extra.gives}"
    if not extra.missing:
        return line
    how = f"pip install 'canopy-stats[{extra.name}]'" if extra.name else "pip install canopy-stats"
    return line + "\n" + paragraph(f"{'':<10} missing: {', '.join(extra.missing)}. {how}", hanging=" " * 11)


def _list(title: str, lines: list[str]) -> None:
    tell(f"\n{title}:" + ("" if lines else " none"))
    for line in lines:
        tell(f"  {line}")


DOCTOR = Command(
    "doctor", reads="this machine", gives="what works here, what each extra would add",
    summary="what is installed, which devices and models are here", run=_doctor, add_options=json_option,
    teaching="""
    One line for the core and each extra, with what is missing and how to install it; the devices; the models that
    load without a network. Ends with 1 where the core is incomplete. Nothing is loaded or downloaded.

    Example:
      canopy-stats doctor
    """)

COMMANDS = (INIT, DOCTOR)
