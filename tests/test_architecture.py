"""The package's arrows run one way, no circle hides in a folder, and importing it is cheap.

An import for types alone (under ``if TYPE_CHECKING``) or inside a function is an arrow like any other: it says what a
reader must know. All of them run down the floors, and none closes a circle.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from itertools import chain
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "canopy_stats"
# The floors from the ground up; a module imports only from floors below its own. Rooms of one floor stand in order.
FLOORS = [["schema"], ["files", "progress", "seeds", "figure_style", "picture", "notebook", "panel_rows",
           "multiplicity"], ["mixed"],
          ["generation"], ["oracle", "store"], ["slope"], ["metrics"],
          ["drift", "drawing", "runs", "candidates", "diagnosis", "checks", "end_tokens", "panels",
           "installation"],
          ["doors"], ["report"], ["study"], ["cli"]]
ORDER = list(chain.from_iterable(FLOORS))
MIXED_MAY = {"schema", "files", "progress", "seeds", "figure_style", "picture", "notebook",
             "multiplicity"}  # no language models
TORCH_ALLOWED = ("generation/", "metrics/embedding/models.py", "metrics/cut_texts.py",
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


@cache
def _imports(path: Path) -> set[str]:
    """Every module or name that a file imports, absolute; imports inside functions and for types alone included."""
    package, found = _package(path), set[str]()
    for node in ast.walk(ast.parse(path.read_text())):
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
    """The modules of the package that each file imports.

    ``from package import name`` is an arrow to the module ``package.name`` where that is one, else to the package.
    """
    known = {_name(path) for path in paths}
    arrows = {}
    for path in paths:
        found = _imports(path) & known
        # a package named only as the way to its modules is no arrow to the package's own file
        through = {a for a in found if any(b.startswith(f"{a}.") for b in found)}
        arrows[_name(path)] = (found - through) - {_name(path), "canopy_stats"}
    return arrows


def _within(folder: str, arrows: dict[str, set[str]]) -> dict[str, set[str]]:
    """The arrows between a folder's own rooms and files: a room stands for every module in it."""
    def room(module: str) -> str:
        return module.removeprefix(f"{folder}.").split(".")[0] if module.startswith(f"{folder}.") else ""

    rooms: dict[str, set[str]] = {room(module): set() for module in arrows}
    for module, found in arrows.items():
        rooms[room(module)] |= {room(other) for other in found}
    return {name: found - {name, ""} for name, found in rooms.items() if name}


def _circle(arrows: dict[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_import_circle():
    arrows = _modules(EVERY)
    assert not _circle(arrows), " -> ".join(_circle(arrows))


@pytest.mark.parametrize("folder", sorted({".".join(_package(path)) for path in FILES}))
def test_no_circle_of_rooms(folder):
    """Two rooms of a folder do not need each other, even where no two of their modules do."""
    found = _circle(_within(folder, _modules(EVERY)))
    assert not found, " -> ".join(found)


def test_a_circle_is_seen(tmp_path, monkeypatch):
    """Also one that only type checkers run, and one between rooms alone."""
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    lines = {"a/one.py": "if TYPE_CHECKING:\n    from ..b.two import Two", "a/other.py": "",
             "b/two.py": "from ..a import other", "b/last.py": "def f():\n    from canopy_stats.b.two import Two",
             "c/top.py": "if TYPE_CHECKING:\n    from .end import End", "c/end.py": "from . import top"}
    for name, text in lines.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    arrows = _modules([tmp_path / name for name in lines])
    assert arrows["canopy_stats.b.last"] == {"canopy_stats.b.two"}
    assert set(_circle(arrows)) == {"canopy_stats.c.top", "canopy_stats.c.end"}
    assert set(_circle(_within("canopy_stats", arrows))) == {"a", "b"}
    assert not _circle(_within("canopy_stats.a", arrows))


def test_no_import_hides_behind_a_name():
    """A module imported by its name, as a text, would be an arrow that no reader of the imports sees."""
    hidden = [(_ids(path), node.lineno) for path in EVERY if _ids(path) not in DYNAMIC_ALLOWED
              for node in ast.walk(ast.parse(path.read_text()))
              if isinstance(node, (ast.Name, ast.Attribute, ast.alias))
              and getattr(node, "id", getattr(node, "attr", getattr(node, "name", ""))) in
              ("import_module", "__import__", "importlib", "importlib.import_module", "exec_module", "run_module")]
    assert hidden == []


def _types(path: Path) -> dict[str, str]:
    """The classes and aliases of types that others can import from a file, each with what it stands for."""
    found = {}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef):
            found[node.name] = f"{_ids(path)}:{node.lineno}"
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = ast.unparse(node.value)
    return {name: what for name, what in found.items() if name[0].isupper() and not name.isupper()}


def test_one_name_is_one_thing():
    """No two modules give one name to two types: a reader who has met a word knows it everywhere."""
    meanings: dict[str, set[str]] = {}
    for path in EVERY:
        for name, what in _types(path).items():
            meanings.setdefault(name, set()).add(what)
    assert {name: sorted(found) for name, found in meanings.items() if len(found) > 1} == {}


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
