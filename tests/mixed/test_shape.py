"""The rooms of mixed/: their order from the ground up, and every module reachable by its name beside the verbs."""

import ast
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

import canopy_stats.mixed as mixed

ROOM = Path(mixed.__file__).parent
MODULES = [".".join(path.relative_to(ROOM).with_suffix("").parts) for path in sorted(ROOM.rglob("*.py"))
           if path.name != "__init__.py"]


@cache
def _imports(name: str) -> set[str]:
    """Modules of the room that one module imports, at whatever depth."""
    tree = ast.parse((ROOM / (name.replace(".", "/") + ".py")).read_text())
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("canopy_stats.mixed"):
            base = node.module.removeprefix("canopy_stats.mixed").removeprefix(".")
            found |= {base, *(f"{base}.{alias.name}".removeprefix(".") for alias in node.names)}
    return found & set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_no_module_is_hidden_by_a_verb(name):
    """What Python finds under the module's name is the module, also after the verbs were imported."""
    found = mixed
    for part in name.split("."):
        import_module(f"canopy_stats.mixed.{name}")
        found = getattr(found, part)
    assert found is import_module(f"canopy_stats.mixed.{name}")


def test_public_names_are_there():
    assert all(hasattr(mixed, name) for name in mixed.__all__)


# From the ground up; the modules that lie in mixed/ itself stand between the rooms.
ORDER = ["certificate", "formulas", "families", "model_frame", "algebra", "estimates", "fitting", "results", "fit",
         "effects", "inference", "models", "storage"]


@pytest.mark.parametrize("name", MODULES)
def test_rooms_import_downwards(name):
    """A module imports from its own room and from those below it."""
    floor = ORDER.index(name.split(".")[0])
    assert {other for other in _imports(name) if ORDER.index(other.split(".")[0]) > floor} == set()
