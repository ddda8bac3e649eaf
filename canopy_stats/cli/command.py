"""What a command is, and the codes it ends with."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

OK, FAILED, USER_ERROR, INTERRUPTED = 0, 1, 2, 130


@dataclass(frozen=True, slots=True)
class Command:
    """One command: what it reads and gives (the overview), its summary and teaching text, its options, its function.

    ``run`` gets the parsed options and returns an exit code.
    """

    name: str
    reads: str
    gives: str
    summary: str
    teaching: str
    add_options: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
