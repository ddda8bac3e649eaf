"""Reference pages out of the package itself: commands, keys of the study file, columns, public names.

    python docs/reference_pages.py      writes them to docs/reference
"""

from __future__ import annotations

import ast
import re
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import UnionType

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

import canopy_stats
from canopy_stats import schema
from canopy_stats.cli import parser
from canopy_stats.study import choices, spec

RECORDS = {"The file": spec.Study, "families": spec.ModelFamily, "base, tuned, checkpoints": spec.Checkpoint,
           "law": choices.Law, "embedders": choices.Embedder, "few_shot": choices.FewShot, "judge": choices.Judge,
           "reward": choices.Reward, "ablations": spec.Ablation}


def write(folder: Path) -> None:
    """Write each page that changed."""
    folder.mkdir(exist_ok=True)
    for name, text in {"commands": commands(), "study-file": study_file(), "columns": columns(), "api": api()}.items():
        path = folder / f"{name}.md"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


# --- commands ---------------------------------------------------------------------------------------------------


def commands() -> str:
    """Every command's help, as the terminal shows it."""
    lines = ["# Commands", "", "What `canopy-stats COMMAND --help` prints. `python -m canopy_stats` is the same.", ""]
    built = parser.build_parser()
    own = next(action.choices for action in built._actions if isinstance(action.choices, Mapping))
    for name, command in own.items():
        command.formatter_class = lambda prog: parser.argparse.RawDescriptionHelpFormatter(prog, width=100)
        lines += [f"## {name}", "", f"{parser.COMMANDS[name].summary[0].upper()}{parser.COMMANDS[name].summary[1:]}.",
                  "", "```text", command.format_help().rstrip(), "```", ""]
    return "\n".join(lines)


# --- the study file ---------------------------------------------------------------------------------------------


def study_file() -> str:
    """Every key with what it may hold, its default, its meaning and an example."""
    lines = ["# The study file", "", "YAML. `canopy-stats init` writes one with comments; `analysis/studies` holds the "
             "demo's and the paper's. Unknown keys are refused, and the nearest known one is named. Paths are relative "
             "to the file.", ""]
    for title, record in RECORDS.items():
        lines += [f"## {title if title == 'The file' else f'`{title}`'}", "", _first_sentence(record), "",
                  "| key | holds | default | meaning | example |", "|---|---|---|---|---|"]
        lines += [_row(name, field, example) for (name, field), example in
                  zip(record.model_fields.items(), examples()[title], strict=True)]
        lines.append("")
    return "\n".join(lines)


def examples() -> dict[str, list[str]]:
    """A line of a study file for each key of each record, in the record's order."""
    return dict(yaml.safe_load((Path(__file__).parent / "study-examples.yaml").read_text()))


def _first_sentence(record: type[BaseModel]) -> str:
    text = " ".join((record.__doc__ or "").split("\n\n")[0].split())
    return re.sub(r":\w+:`([^`]*)`", r"`\1`", text.replace("``", "`"))


def _row(name: str, field: FieldInfo, example: str) -> str:
    meaning = field.description or policy_meanings().get(name, "")
    shown = [f"`{name}`", holds(field.annotation), _default(field), meaning, f"`{example}`"]
    return f"| {' | '.join(shown)} |".replace("\n", " ")


def policy_meanings() -> dict[str, str]:
    """What SamplingPolicy's docstring says of each field."""
    text = schema.SamplingPolicy.__doc__ or ""
    found = re.findall(r"^    (\w+) : [^\n]*\n((?:        [^\n]*\n)+)", text, re.MULTILINE)
    return {name: " ".join(text.split()).replace("``", "`") for name, text in found}


def holds(kind: typing.Any) -> str:
    """A type in words."""
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return holds(inside[0])
    if origin is typing.Literal:
        return ", ".join(f"`{one}`" for one in inside)
    if origin in (typing.Union, UnionType):
        return " or ".join(dict.fromkeys(holds(one) for one in inside if one is not type(None)))
    if origin in (list, tuple):
        return f"list of {holds(inside[0])}"
    if origin is dict:
        return "mapping"
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return f"{kind.__name__} (below)"
    return {str: "text", int: "whole number", float: "number", bool: "true or false"}.get(kind, "text")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "its defaults"
    if isinstance(value, list) and value and isinstance(value[0], choices.Embedder):
        return f"`[{value[0].model}]`"
    return "" if value in (None, "", [], {}, ()) else f"`{str(value).lower() if isinstance(value, bool) else value}`"


# --- columns ----------------------------------------------------------------------------------------------------


def columns() -> str:
    """Every stored column, from the one place that declares it."""
    lines = ["# Columns", "", "Every column of a panel, of a run's two tables, and of its prompts. Formulas: "
             "[what every number means](../definitions.md).", ""]
    tables = {"Panel": (schema.PANEL_COLUMNS, "One row for each task, prompt, family and variant (`cs.panel`)."),
              "Rollouts": (schema.ROLLOUT_COLUMNS, "One row a rollout (`run.rollouts()`)."),
              "Steps": (schema.STEP_COLUMNS, "One row a token (`run.steps()`)."),
              "Prompts": (schema.PROMPT_COLUMNS, "One row a prompt, in the data sets that `export` and `run.to_hf` "
                          "write; `run.prompts()` gives the same as records.")}
    for title, (found, meaning) in tables.items():
        lines += [f"## {title}", "", meaning, "", "| column | type | unit | meaning |", "|---|---|---|---|"]
        lines += [f"| `{c.name}` | {c.dtype} | {c.unit} | {_escaped(c.meaning)} |" for c in found] + [""]
    return "\n".join(lines)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;")


# --- public names -----------------------------------------------------------------------------------------------


def api() -> str:
    """Public names by the room that they come from."""
    lines = ["# Python", "", "`import canopy_stats as cs`. Names load on first use; what needs torch says so.", ""]
    for room, names in _by_room():
        lines += [f"## {room}", "", "```{eval-rst}", ".. autosummary::", "   :toctree: api", "   :nosignatures:", "",
                  *(f"   canopy_stats.{name}" for name in names), "```", ""]
    return "\n".join(lines)


ROOMS = {"mixed": "Mixed models", "slope": "The slope", "generation": "Generation", "runs": "Generation",
         "store": "Generation", "schema": "Generation", "checks": "Generation", "metrics": "Metrics",
         "panel": "Panels", "panels": "Panels", "doors": "Other people's rollouts, logs and scores", "study": "Studies",
         "report": "Studies"}


def _by_room() -> Iterator[tuple[str, list[str]]]:
    """The stub's names, each under the heading of its module's room."""
    found: dict[str, list[str]] = {}
    stub = Path(canopy_stats.__file__).with_suffix(".pyi").read_text()
    for node in ast.parse(stub).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            heading = ROOMS.get(node.module.split(".")[0], "More")
            found.setdefault(heading, []).extend(alias.name for alias in node.names)
    for heading in dict.fromkeys((*ROOMS.values(), "More")):
        if heading in found:
            yield heading, sorted(found[heading], key=str.lower)


if __name__ == "__main__":
    write(Path(__file__).parent / "reference")
