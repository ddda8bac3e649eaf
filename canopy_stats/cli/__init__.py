"""The ``canopy-stats`` command: one function for each step from a model to the slope table.

A command's function, options and teaching text stand side by side in ``runs``, ``measures``, ``panels`` or
``studies``, and ``parser`` collects them. What a step needs is imported inside its function, so that ``--help``
answers at once.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from canopy_stats.cli.command import INTERRUPTED, OK, USER_ERROR
from canopy_stats.cli.parser import build_parser
from canopy_stats.cli.printing import for_people, show_json, warned
from canopy_stats.cli.wording import as_options
from canopy_stats.schema import Caution, UserError


@contextmanager
def _cautions_in_one_line(options: argparse.Namespace) -> Iterator[None]:
    """While it lasts, a caution is a line on stderr without the place in the sources that Python would add."""
    with warnings.catch_warnings():
        usual = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            if issubclass(category, Caution):
                warned("canopy-stats: note:", as_options(str(message), options.names), "bold yellow")
            else:
                usual(message, category, *place, **more)

        warnings.showwarning = show
        yield


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 (a check failed), 2 (input to mend), 130 (interrupted)."""
    given = list(sys.argv[1:] if argv is None else argv)
    options = build_parser().parse_args(given)
    options.command_line = shlex.join(["canopy-stats", *given])
    try:
        as_json = getattr(options, "json", False)
        with _cautions_in_one_line(options), for_people(silent=as_json):
            status: int = options.run(options)
        if as_json:
            show_json(options.answer)
        return status
    except UserError as error:
        warned("canopy-stats:", as_options(" ".join(str(error).split()), options.names), "bold red")
        return USER_ERROR
    except KeyboardInterrupt:
        print("canopy-stats: interrupted. The same command resumes from what is stored.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output (such as `head`) has left; say no more, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
