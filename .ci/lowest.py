"""Prints the lowest versions that pyproject.toml declares for a core install, as constraints for pip."""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement

PROJECT = Path(__file__).parents[1] / "pyproject.toml"


def lowest(requirement: str) -> str:
    """``numpy>=2.0`` -> ``numpy==2.0``."""
    parsed = Requirement(requirement)
    (floor,) = (s.version for s in parsed.specifier if s.operator in (">=", "=="))
    return f"{parsed.name}=={floor}"


if __name__ == "__main__":
    print(*map(lowest, tomllib.loads(PROJECT.read_text())["project"]["dependencies"]), sep="\n")
