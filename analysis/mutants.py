"""Which small defects no test sees: a seeded sample of mutants of the modules that everything rests on.

    python analysis/mutants.py [--only metrics/tree ...] [--survivors] [--sample 50] [--seed 20261125] [--out FILE]

mutmut plants the defects, in a copy of the committed tree, and runs the tests that mirror the module. What a module
gave is written as soon as it is there: modules whose text and sample are those of the stored result are passed over, so
that an interrupted run goes on. ``--survivors`` tries the stored survivors again, with the tests as they are now.

Survivors stand in analysis/results/mutants.json with what was changed and the reason why each may live (an equivalent
change, a word of a message), which is written there by hand and kept while the change is the same. Takes minutes a
module: not part of the suite.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "analysis" / "results" / "mutants.json"
MIRRORS = {
    "mixed/fitting/laplace": ["mixed/test_laplace.py"],
    "mixed/families/shares": ["mixed/test_families.py"],
    "mixed/families/counts": ["mixed/test_families.py"],
    "mixed/families/ordinal": ["mixed/test_families.py"],
    "mixed/algebra/blocks": ["mixed/test_blocks.py"],
    "mixed/inference/profiles": ["mixed/test_profiles.py"],
    "mixed/inference/ratios": ["mixed/test_ratios.py"],
    "slope/robust": ["slope/test_robust.py"],
    "slope/combine": ["slope/test_combine.py"],
    "slope/cells": ["slope/test_cells.py"],
    "generation/terms": ["generation/test_terms.py"],
    "generation/policy": ["generation/test_policy.py"],
    "store/content": ["store/test_content_hash.py"],
    "store/plan": ["store/test_shard_plan.py"],
    "store/writing": ["store/test_run_writer.py"],
    "metrics/tree": ["metrics/test_tree.py"],
    "metrics/rho": ["metrics/test_rho.py"],
    "metrics/origin": ["metrics/test_rho_origin.py"],
}
LIVES = {0, 33}
"""Exit codes of mutmut: all tests passed, or none reaches the place."""
DIES = {1, 3, 36, 24, -24, 152, 255, -9, -11}
"""A test failed, could not go on, took many times as long, or the process died."""

Found = dict[str, Any]


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


def change_of(folder: Path, mutant: str) -> list[str]:
    """The lines that a mutant takes away and puts in."""
    lines = mutmut(folder, "show", mutant).splitlines()
    return [line for line in lines if line[:1] in "+-" and line[:3] not in ("+++", "---")]


def surviving(folder: Path, module: str, chosen: Iterable[str]) -> dict[str, list[str]]:
    """Those of the chosen mutants that no test sees, with what they change."""
    said = mutmut(folder, "run", "--max-children", "1", *chosen)
    codes = {key: states(folder, module)[key] for key in chosen}
    if strange := {key: code for key, code in codes.items() if code not in LIVES | DIES}:
        raise SystemExit(f"{module}: the tests did not run ({strange}).\n{said[-3000:]}")
    return {key: change_of(folder, key) for key, code in codes.items() if code in LIVES}


def examine(module: str, sample: int, seed: int, again: Iterable[str] = ()) -> Found:
    """Sampled, killed and surviving mutants of one module; of those ``again`` alone, where there are any."""
    text = text_of(module)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_of_the_tree(folder, module)
        mutmut(folder, "run", "--max-children", "1", "no-such-mutant")
        every = sorted(states(folder, module))
        chosen = sorted(random.Random(f"{seed}/{module}").sample(every, min(sample, len(every))))
        lives = surviving(folder, module, list(again) or chosen)
    return {"mutants": len(every), "sampled": len(chosen), "killed": len(chosen) - len(lives), "seed": seed,
            "of": text, "survivors": {key: {"change": change} for key, change in lives.items()}}


def text_of(module: str) -> str:
    """SHA-256 of the committed module."""
    text = subprocess.run(["git", "show", f"HEAD:canopy_stats/{module}.py"], cwd=ROOT, capture_output=True, check=True)
    return hashlib.sha256(text.stdout).hexdigest()


def with_reasons(found: Found, before: Found) -> Found:
    """Survivors with the reasons that were given for the same changes."""
    given = {tuple(one["change"]): one.get("reason", "") for one in before.get("survivors", {}).values()}
    for one in found["survivors"].values():
        one["reason"] = given.get(tuple(one["change"]), "")
    return found


def show(module: str, found: Found) -> None:
    print(f"{module}: {found['killed']} of {found['sampled']} killed", flush=True)
    for key, one in found["survivors"].items():
        print("\n".join([f"  {key}: {one['reason'] or 'no reason given'}", *one["change"]]), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=sorted(MIRRORS), default=list(MIRRORS), metavar="MODULE")
    parser.add_argument("--survivors", action="store_true", help="try the stored survivors again")
    parser.add_argument("--sample", type=int, default=50)
    parser.add_argument("--seed", type=int, default=20261125)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    for module in options.only:
        kept = json.loads(options.out.read_text()) if options.out.is_file() else {}
        before = kept.get(module, {})
        same = (before.get("of"), before.get("seed")) == (text_of(module), options.seed)
        if same and not (options.survivors and before["survivors"]):
            continue
        found = examine(module, options.sample, options.seed, before["survivors"] if same else ())
        kept[module] = with_reasons(found, before)
        show(module, found)
        options.out.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
    kept = json.loads(options.out.read_text())
    killed, sampled = (sum(one[name] for one in kept.values()) for name in ("killed", "sampled"))
    print(f"all: {killed} of {sampled} killed ({killed / sampled:.1%})")


if __name__ == "__main__":
    main()
