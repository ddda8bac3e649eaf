"""What ``import canopy_stats`` gives, in a full and in a core install."""

from __future__ import annotations

import subprocess
import sys

import pytest

import canopy_stats as cs

# Run before the test's code: the packages of the extras are not there, as in a core install.
CORE = """
import importlib.machinery as machinery
blocked = {"torch", "transformers", "sentence_transformers", "peft", "gguf", "tokenizers", "accelerate", "filelock",
           "tqdm", "httpx2"}
found = machinery.PathFinder.find_spec
def find_spec(name, path=None, target=None):
    return None if name.split(".")[0] in blocked else found(name, path, target)
machinery.PathFinder.find_spec = find_spec
"""


def core(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", CORE + code], capture_output=True, text=True, timeout=300)


def test_every_name_of_the_stub_resolves():
    for name in cs.__all__:
        assert getattr(cs, name) is not None


def test_names_of_the_contract():
    assert {"SamplingPolicy", "anova", "bootstrap", "check", "embed", "generate", "glmm", "lmm", "load_demo_panel",
            "measure", "metrics", "open_run", "oracle", "panel", "profile", "quantile_residuals", "rescore",
            "slope_change", "slopes"} <= set(cs.__all__)


def test_unknown_names_are_refused():
    with pytest.raises(AttributeError, match="no_such_name"):
        cs.no_such_name  # noqa: B018


@pytest.mark.slow
@pytest.mark.parametrize("code", [
    "from canopy_stats import *; print(len(dir()))",
    "import canopy_stats as cs; assert hasattr(cs, 'oracle') and hasattr(cs, 'generate')\n"
    "import inspect, pydoc; assert {'oracle', 'lmm'} <= {n for n, _ in inspect.getmembers(cs)}\n"
    "assert 'lmm' in pydoc.plain(pydoc.render_doc(cs)) and len(cs.load_demo_panel()) == 2400",
])
def test_a_core_install_can_be_explored(code):
    done = core(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("code", ["cs.oracle.MarkovLM", "from canopy_stats.generation.oracle import MarkovLM",
                                  "cs.generate('m', ['p'], 'o', family='f', variant='base', task='t')"])
def test_a_core_install_says_what_to_install(code):
    done = core(f"import canopy_stats as cs\n{code}")
    assert "UserError" in done.stderr and "canopy-stats[generate]" in done.stderr.splitlines()[-1]


# A verb hides a module where a package holds both under one name: who imports the module then gets the verb, or the
# other way round, depending on which was loaded first.
EVERYTHING = """
import importlib, pkgutil, sys, types
import canopy_stats as cs

def load_modules():
    for name in sorted((m.name for m in pkgutil.walk_packages(cs.__path__, "canopy_stats.")), reverse=REVERSED):
        if not name.endswith("__main__"):
            try:
                importlib.import_module(name)
            except ModuleNotFoundError as error:
                assert error.name == "vllm", error  # an engine of an environment of its own

def load_names():
    for name in cs.__all__:
        getattr(cs, name)

for load in (load_names, load_modules)[::-1 if REVERSED else 1]:
    load()
for name, module in list(sys.modules.items()):
    if name.startswith("canopy_stats."):
        package, _, last = name.rpartition(".")
        assert getattr(sys.modules[package], last) is module, f"a name of {package} hides the module {last}"
modules = {name for name in cs.__all__ if isinstance(getattr(cs, name), types.ModuleType)}
assert modules == {"metrics", "mixed", "oracle", "report", "slope"}, modules
"""


@pytest.mark.slow
@pytest.mark.parametrize("backwards", [False, True],
                         ids=["names first", "modules first"])
def test_no_verb_hides_a_module_whatever_is_loaded_first(backwards):
    pytest.importorskip("torch")  # every module is loaded
    done = subprocess.run([sys.executable, "-c", EVERYTHING.replace("REVERSED", str(backwards))], capture_output=True,
                          text=True, timeout=300)
    assert done.returncode == 0, done.stderr
