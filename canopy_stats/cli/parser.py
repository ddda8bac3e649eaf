"""The parser and the table of commands, in the order in which a study needs them."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Sequence
from textwrap import dedent
from typing import NoReturn

from canopy_stats import __version__
from canopy_stats.cli import imports, measures, panels, runs, starting, studies
from canopy_stats.cli.command import USER_ERROR, Command
from canopy_stats.cli.wording import option_names
from canopy_stats.schema import printable

_STEPS: tuple[Command, ...] = (*runs.COMMANDS, *imports.COMMANDS, *measures.COMMANDS, *panels.COMMANDS)
COMMANDS: dict[str, Command] = {command.name: command for command in (*_STEPS, *studies.COMMANDS, *starting.COMMANDS)}


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, as all others here."""

    def error(self, message: str) -> NoReturn:
        self.exit(USER_ERROR, f"{self.prog}: {_near(message)} (see {self.prog} --help)\n")


def _near(message: str) -> str:
    """An unknown command's message with the command that looks most like it; others as they are."""
    unknown = re.match(r"argument COMMAND: invalid choice: '(.*?)'", message)
    if unknown is None:
        return printable(message)
    close = difflib.get_close_matches(unknown[1], COMMANDS, n=1, cutoff=0.6)
    hint = f"; did you mean {close[0]!r}?" if close else f"; the commands are {', '.join(COMMANDS)}"
    return f"there is no command {printable(unknown[1][:40])!r}{hint}"


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; the options of each carry its function as ``run``."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = _Parser(prog="canopy-stats", formatter_class=raw, description=_overview())
    parser.add_argument("--version", action="version", version=f"canopy-stats {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS.values():
        own = commands.add_parser(command.name, help=command.summary, description=dedent(command.teaching).strip(),
                                  formatter_class=raw)
        command.add_options(own)
        own.set_defaults(run=command.run, names=option_names(own))
    return parser


def _overview() -> str:
    return "\n".join([
        "How much a language model can say, and how fine-tuning changes it.", "",
        "Each step reads what the one before it stored:", "", *_lines(_STEPS), "",
        "All of them for a study, which a YAML file describes:", "", *_lines(studies.COMMANDS), "",
        "The first minutes:", "", *_lines(starting.COMMANDS)])


def _lines(commands: Sequence[Command]) -> list[str]:
    """Name, what is read, what comes of it: columns as wide in both halves of the overview."""
    name, reads = (max(len(getattr(c, part)) for c in COMMANDS.values()) for part in ("name", "reads"))
    return [f"  {c.name:<{name}}  {c.reads:<{reads}}  -> {c.gives}" for c in commands]
