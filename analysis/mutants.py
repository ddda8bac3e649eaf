"""Which small defects no test sees: a seeded sample of mutants of the modules that everything rests on.

    python analysis/mutants.py [--only metrics/tree ...] [--sample 50] [--seed 20261125] [--out FILE]

mutmut plants the defects, in a copy of the committed tree, and runs the tests that mirror the module. Survivors are
printed with what was changed. Reasons why one may live (an equivalent change, a word of a message) are kept by its
name in analysis/results/mutants.json and carried over. Takes minutes a module: not part of the suite.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "analysis" / "results" / "mutants.json"
MIRRORS = {
    "mixed/fitting/laplace": ["mixed/test_laplace.py", "mixed/test_glmm.py"],
    "mixed/families/shares": ["mixed/test_families.py"],
    "mixed/families/counts": ["mixed/test_families.py"],
    "mixed/families/ordinal": ["mixed/test_families.py"],
    "mixed/algebra/blocks": ["mixed/test_blocks.py", "mixed/test_laplace.py"],
    "mixed/inference/profiles": ["mixed/test_inference.py"],
    "mixed/inference/ratios": ["slope/test_ratio.py"],
    "slope/robust": ["slope/test_robust.py"],
    "slope/combine": ["slope/test_combine.py"],
    "slope/cells": ["slope/test_robust.py"],
    "generation/terms": ["generation/test_terms.py"],
    "generation/policy": ["generation/test_policy.py"],
    "store/content": ["test_store.py"],
    "store/plan": ["test_store.py"],
    "store/writing": ["test_store.py"],
    "metrics/tree": ["metrics/test_tree.py"],
    "metrics/rho": ["metrics/test_rho.py"],
}
KILLED, SURVIVED, UNTESTED = 1, 0, 33


def copy_of_the_tree(folder: Path, module: str) -> None:
    """The committed files, with mutmut told what to change and which tests to run."""
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x"], cwd=folder, input=archive, check=True)
    tests = [f"tests/{path}" for path in MIRRORS[module]]
    with (folder / "pyproject.toml").open("a") as file:
        file.write(f'\n[tool.mutmut]\nsource_paths = ["canopy_stats"]\nonly_mutate = ["canopy_stats/{module}.py"]\n'
                   f'pytest_add_cli_args_test_selection = {json.dumps(tests)}\n'
                   'also_copy = ["data", "LICENSE", "README.md", "analysis", "constraints.txt"]\n')


def mutmut(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": "", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, "-m", "mutmut", *arguments], cwd=folder, capture_output=True, text=True,
                          env=environment)
    return done.stdout + done.stderr


def states(folder: Path, module: str) -> dict[str, int | None]:
    """The exit code of the tests for each mutant; None for those that were not tried."""
    meta = folder / "mutants" / "canopy_stats" / f"{module}.py.meta"
    found: dict[str, int | None] = json.loads(meta.read_text())["exit_code_by_key"]
    return found


def examine(module: str, sample: int, seed: int) -> dict[str, object]:
    """Sampled, killed and surviving mutants of one module, survivors with their diffs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_of_the_tree(folder, module)
        mutmut(folder, "run", "--max-children", "1", "no-such-mutant")
        every = sorted(states(folder, module))
        chosen = sorted(random.Random(f"{seed}/{module}").sample(every, min(sample, len(every))))
        said = mutmut(folder, "run", "--max-children", "2", *chosen)
        codes = {key: states(folder, module)[key] for key in chosen}
        if any(code is None for code in codes.values()):
            raise SystemExit(f"{module}: the tests did not run.\n{said[-3000:]}")
        lives = [key for key, code in codes.items() if code in (SURVIVED, UNTESTED)]
        diffs = {key: mutmut(folder, "show", key) for key in lives}
    return {"mutants": len(every), "sampled": len(chosen), "killed": len(chosen) - len(lives), "survivors": diffs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=sorted(MIRRORS), default=sorted(MIRRORS), metavar="MODULE")
    parser.add_argument("--sample", type=int, default=50)
    parser.add_argument("--seed", type=int, default=20261125)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    kept = json.loads(options.out.read_text()) if options.out.is_file() else {"modules": {}, "reasons": {}}
    for module in options.only:
        found = examine(module, options.sample, options.seed)
        kept["modules"][module] = {**found, "seed": options.seed}
        print(f"{module}: {found['killed']} of {found['sampled']} killed", flush=True)
        for key, diff in dict(found["survivors"]).items():  # type: ignore[call-overload]
            print(f"  {key}: {kept['reasons'].get(key, 'no reason given')}\n{diff}", flush=True)
        options.out.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
    total = [sum(m[name] for m in kept["modules"].values()) for name in ("killed", "sampled")]
    print(f"all: {total[0]} of {total[1]} killed ({total[0] / total[1]:.1%})")


if __name__ == "__main__":
    main()
