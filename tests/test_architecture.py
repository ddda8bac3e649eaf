"""The package's arrows run one way, and importing it is cheap."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "canopy_stats"
# Data flows down this list; a module imports only from those above it.
ORDER = ["schema", "files", "store", "progress", "drift", "generation", "runs", "checks", "metrics", "panel", "mixed",
         "slope", "report", "study", "cli"]
TORCH_ALLOWED = ("generation/", "metrics/embed.py",
                 "metrics/reward.py")  # a reward model scores texts, as an embedding model does


def _imports(path: Path) -> set[str]:
    """Every module that a file imports, absolute, nested imports included."""
    package = ["canopy_stats", *path.relative_to(PACKAGE).parts[:-1]]
    found = set()
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


FILES = [p for p in sorted(PACKAGE.rglob("*.py")) if _stage(p) not in ("__init__", "__main__")]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_up(path):
    stage = _stage(path)
    internal = {name.split(".")[1] for name in _imports(path) if name.startswith("canopy_stats.")} & set(ORDER)
    allowed = {"schema"} if stage == "mixed" else set(ORDER[: ORDER.index(stage)])
    assert internal <= allowed | {stage}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
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
