"""Messages name Python's arguments; on the command line they name the options."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping

_ALIASES = {"n_rollouts": "rollouts", "enable_thinking": "thinking", "stop_strings": "stop_string", "fields": "map",
            "others": "other", "n_sample": "sample", "n_boot": "replicates"}
"""Arguments that have another name on the command line."""
_NAMED = re.compile(r"(?<![\w.\-])([a-z]\w*)=(?:(True|False|None|\d[\d.]*)|'([^']*)'|\.\.\.)?(?![\w=])")
_WORD = re.compile(r"(?<![\w.\-/'\"])([a-z]+(?:_[a-z]+)+)(?![\w=./'\"])")


def option_names(command: argparse.ArgumentParser) -> dict[str, str]:
    """The options of a command by the names of the Python arguments behind them."""
    found = {action.dest: action.option_strings[-1] for action in command._actions
             if action.option_strings and not action.option_strings[0].startswith("--no-")}
    return found | {python: found[own] for python, own in _ALIASES.items() if own in found}


def as_options(text: str, names: Mapping[str, str]) -> str:
    """``dtype='float32'`` as ``--dtype float32``, ``strict=True`` as ``--strict``, ``batch_size`` as ``--batch-size``.

    What is no argument of this command stays as it is.
    """
    text = _NAMED.sub(lambda found: _option(found, names), text)
    return _WORD.sub(lambda found: names.get(found[1], found[1]), text)


def _option(found: re.Match[str], names: Mapping[str, str]) -> str:
    name, value, quoted = found.groups()
    if name == "policy" and "temperature" in names:
        return "--temperature, --top-k and the other options of the law"
    if name not in names:
        return found[0]
    option = names[name]
    if value in ("True", "None", None) and quoted is None:
        return option
    if value == "False":
        return f"--no-{option.removeprefix('--')}"
    return f"{option} {value if quoted is None else quoted}"
