"""The map of the house names what is there."""

import re
from pathlib import Path

import canopy_stats as cs

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "canopy_stats"


def modules():
    """Dotted names of every file and folder, and every ending of them: fitting.laplace, laplace."""
    paths = [p.relative_to(PACKAGE).with_suffix("") for p in [*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*")]
             if "__pycache__" not in p.parts and (p.is_dir() or p.suffix == ".py")]
    return {".".join(p.parts[k:]) for p in paths for k in range(len(p.parts))}


def test_every_module_on_the_map_is_there():
    """A name in backticks is a file or folder, or a name inside one: slope.front.slope_change."""
    text = re.sub(r"```.*?```", "", (ROOT / "docs" / "architecture.md").read_text(), flags=re.DOTALL)
    named = set(re.findall(r"`([a-z_]+(?:[./][a-z_]+)*/?)`", text))
    known = modules() | set(cs.__all__)

    def there(name):
        dotted = name.rstrip("/").replace("/", ".").removeprefix("canopy_stats.").removeprefix("cs.")
        return dotted in known or dotted.rpartition(".")[0] in known or (ROOT / name).exists()

    assert len(named) > 80
    assert sorted(name for name in named if not there(name)) == []
