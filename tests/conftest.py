"""What tests of every folder use."""

import gc
import importlib.util
import sys
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
settings.load_profile("untimed")

TESTS = Path(__file__).parent
if str(TESTS) not in sys.path:
    sys.path.insert(0, str(TESTS))  # helpers beside this file: fake_engine, tiny_models


def pytest_collection_finish():
    """What is loaded stays until the end: looking through it for garbage takes a second each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def analysis_script():
    """Loads a script of ``analysis/`` as a module, by its name."""
    def load(name):
        spec = importlib.util.spec_from_file_location(name, TESTS.parent / "analysis" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="session")
def one_torch_thread():
    """Models this small run faster on one thread, and beside another test process much faster."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
