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


@pytest.mark.parametrize("code", [
    "from canopy_stats import *; print(len(dir()))",
    "import inspect, canopy_stats as cs; assert {'oracle', 'lmm'} <= {n for n, _ in inspect.getmembers(cs)}",
    "import canopy_stats as cs; assert hasattr(cs, 'oracle') and hasattr(cs, 'generate')",
    "import canopy_stats as cs, pydoc; assert 'lmm' in pydoc.plain(pydoc.render_doc(cs))",
    "import canopy_stats as cs; p = cs.load_demo_panel(); assert len(p) == 2400",
])
def test_a_core_install_can_be_explored(code):
    done = core(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("code", ["cs.oracle.MarkovLM", "from canopy_stats.generation.oracle import MarkovLM",
                                  "cs.generate('m', ['p'], 'o', family='f', variant='base', task='t')"])
def test_a_core_install_says_what_to_install(code):
    done = core(f"import canopy_stats as cs\n{code}")
    assert "UserError" in done.stderr and "canopy-stats[generate]" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("first", ["canopy_stats.panel", "canopy_stats.mixed.fit", "canopy_stats.metrics.tree"])
def test_a_module_loaded_first_hides_no_verb(first):
    code = f"import {first}, canopy_stats as cs; assert all(map(callable, (cs.panel, cs.rho, cs.profile)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("package", ["metrics", "mixed", "slope", "generation", "report", "study", "cli"])
def test_no_verb_hides_the_module_of_its_name(package):
    code = f"""
import importlib, pkgutil, types
import canopy_stats.{package} as package
for found in pkgutil.iter_modules(package.__path__):
    module = importlib.import_module(f"canopy_stats.{package}.{{found.name}}")
    assert getattr(package, found.name) is module, found.name
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
