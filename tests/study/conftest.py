import shutil
import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from small_studies import write_study  # noqa: E402
from tiny_models import save_tiny_llama  # noqa: E402


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """Two tiny random checkpoints, base and instruct."""
    root = tmp_path_factory.mktemp("checkpoints")
    for seed, variant in enumerate(("base", "instruct")):
        save_tiny_llama(root / variant, seed)
    return root


@pytest.fixture(scope="module", autouse=True)
def few_figures():
    """Two figures stand for all: what they show is tested elsewhere, and drawing takes longer than all else here."""
    from canopy_stats.report import catalogue

    few = {name: catalogue.FIGURES[name] for name in ("slopes", "lengths")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(catalogue.CATALOGUE, "figures", few)
        yield


@pytest.fixture
def make_study(checkpoints, tmp_path):
    """Write a study file over the tiny checkpoints into a folder of its own."""
    def make(**more):
        if not (tmp_path / "models").exists():
            shutil.copytree(checkpoints, tmp_path / "models")
        return write_study(tmp_path, **more)

    return make
