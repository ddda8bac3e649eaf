"""The package's arrows run one way, no circle hides in a folder, and importing it is cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from itertools import chain
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "canopy_stats"
# The floors from the ground up; a module imports only from floors below its own. Rooms of one floor stand in order.
FLOORS = [["schema"], ["files", "progress", "figure_style", "notebook", "panel_rows"], ["mixed"], ["generation"],
          ["oracle", "store"], ["slope"], ["metrics"],
          ["drift", "drawing", "runs", "candidates", "diagnosis", "checks", "end_tokens", "panels", "installation"],
          ["doors"], ["report"], ["study"], ["cli"]]
ORDER = list(chain.from_iterable(FLOORS))
MIXED_MAY = {"schema", "files", "progress", "figure_style", "notebook"}  # mixed models know nothing of language models
TORCH_ALLOWED = ("generation/", "metrics/embed.py",
                 "metrics/reward.py")  # a reward model scores texts, as an embedding model does
# The public names are loaded on first use: the one place where a module is imported by its name.
DYNAMIC_ALLOWED = {"__init__.py"}

EVERY = sorted(PACKAGE.rglob("*.py"))
FILES = [p for p in EVERY if p.relative_to(PACKAGE).parts[0] not in ("__init__.py", "__main__.py")]


def _name(path: Path) -> str:
    """A file's dotted module name."""
    parts = ["canopy_stats", *path.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _package(path: Path) -> list[str]:
    return ["canopy_stats", *path.relative_to(PACKAGE).parts[:-1]]


def _typing_only(tree: ast.Module) -> set[ast.AST]:
    """The nodes under ``if TYPE_CHECKING``, which never run."""
    guarded = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)]
    return {inner for node in guarded for part in node.body for inner in ast.walk(part)}


def _imports(path: Path, *, typing_only: bool = True) -> set[str]:
    """Every module or name that a file imports, absolute; imports inside functions included."""
    tree, package, found = ast.parse(path.read_text()), _package(path), set[str]()
    left_out = set() if typing_only else _typing_only(tree)
    for node in ast.walk(tree):
        if node in left_out:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, [base, node.module]))
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return found


def _stage(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _ids(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", FILES, ids=_ids)
def test_arrows_run_down(path):
    stage = _stage(path)
    assert stage in ORDER, f"{stage} has no floor: give it its place in FLOORS"
    internal = {name.split(".")[1] for name in _imports(path) if name.startswith("canopy_stats.")} & set(ORDER)
    allowed = MIXED_MAY if stage == "mixed" else set(ORDER[: ORDER.index(stage)])
    assert internal <= allowed | {stage}


def _modules(paths: list[Path]) -> dict[str, set[str]]:
    """The modules of the package that each file imports when it is loaded or run (not for its types alone).

    ``from package import name`` is an arrow to the module ``package.name`` where that is one, else to the package.
    """
    known = {_name(path) for path in paths}
    arrows = {}
    for path in paths:
        found = _imports(path, typing_only=False) & known
        # a package named only as the way to its modules is no arrow to the package's own file
        through = {a for a in found if any(b.startswith(f"{a}.") for b in found)}
        arrows[_name(path)] = (found - through) - {_name(path)}
    return arrows


def _circle(arrows: dict[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_import_circle():
    arrows = {name: found - {"canopy_stats"} for name, found in _modules(EVERY).items()}
    assert not _circle(arrows), " -> ".join(_circle(arrows))


def test_a_circle_is_seen():
    assert _circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})


def test_no_import_hides_behind_a_name():
    """A module imported by its name, as a text, would be an arrow that no reader of the imports sees."""
    hidden = [(_ids(path), node.lineno) for path in EVERY if _ids(path) not in DYNAMIC_ALLOWED
              for node in ast.walk(ast.parse(path.read_text()))
              if isinstance(node, (ast.Name, ast.Attribute, ast.alias))
              and getattr(node, "id", getattr(node, "attr", getattr(node, "name", ""))) in
              ("import_module", "__import__", "importlib", "importlib.import_module", "exec_module", "run_module")]
    assert hidden == []


@pytest.mark.parametrize("path", FILES, ids=_ids)
def test_torch_stays_where_it_belongs(path):
    where = str(path.relative_to(PACKAGE))
    roots = {name.split(".")[0] for name in _imports(path)}
    if not where.startswith(TORCH_ALLOWED):
        assert not roots & {"torch", "transformers", "peft", "sentence_transformers"}


def test_import_is_light():
    heavy = {"torch", "transformers", "matplotlib", "pandas"}
    code = f"import sys, canopy_stats; print(sorted({heavy} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_every_public_name_resolves():
    import canopy_stats

    for name in canopy_stats.__all__:
        assert getattr(canopy_stats, name) is not None
