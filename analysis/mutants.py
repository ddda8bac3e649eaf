"""Which small defects no test sees: a seeded sample of mutants of the modules that everything rests on.

    python analysis/mutants.py [--only metrics/tree ...] [--survivors] [--sample 50] [--seed 20261125] [--out FILE]

mutmut plants the defects, in a copy of the committed tree, and runs the tests that mirror the module. Results are
written after every 50 mutants: a run that was interrupted goes on with the untried ones, and passes over modules whose
text is the stored one. ``--survivors`` tries the stored survivors again, with the tests as they are now.

Survivors stand in analysis/results/mutants.json with what was changed and the reason why each may live (an equivalent
change, a word of a message), which is written there by hand and kept while the change is the same. Takes minutes a
module: not part of the suite.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
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
PIECE = 50
"""Mutants that are tried before their results are written: each piece costs a run of the unchanged tests."""
UNSHRUNK = """
from hypothesis import Phase, settings

settings.register_profile("unshrunk", phases=[Phase.explicit, Phase.generate], database=None)
settings.load_profile("unshrunk")
"""
"""Put at the end of the copy's conftest: a defect that an example shows need not be shown by the smallest one."""
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
    with (folder / "tests" / "conftest.py").open("a") as file:
        file.write(UNSHRUNK)
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


def changes_of(folder: Path, module: str, chosen: Iterable[str]) -> dict[str, list[str]]:
    """The lines that mutants take away and put in: each stands beside the original in the file that mutmut wrote."""
    text = (folder / "mutants" / "canopy_stats" / f"{module}.py").read_text()
    lines = text.splitlines()
    bodies = {node.name: lines[node.lineno - 1:node.end_lineno] for node in ast.walk(ast.parse(text))
              if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    return {mutant: change(*(bodies[name] for name in (original(mutant), mutant.rpartition(".")[2])))
            for mutant in chosen}


def original(mutant: str) -> str:
    """The name that mutmut gives to the unchanged function of a mutant."""
    return f"{mutant.rpartition('.')[2].rpartition('__mutmut_')[0]}__mutmut_orig"


def change(before: list[str], after: list[str]) -> list[str]:
    """The lines that differ, but for those that hold a function's name."""
    differing = [line for line in difflib.ndiff(before, after) if line[:2] in ("- ", "+ ")]
    return [line[0] + line[2:] for line in differing if "__mutmut_" not in line]


def surviving(folder: Path, module: str, chosen: Sequence[str]) -> dict[str, list[str]]:
    """Those of the chosen mutants that no test sees, with what they change.

    mutmut runs the tests that reached a function when no defect was planted. What a shared fixture calls is counted for
    its first test alone, so whoever lives is tried once more with every test.
    """
    lives = living(folder, module, chosen)
    if lives:
        ask_every_test(folder)
        lives = living(folder, module, lives)
    return changes_of(folder, module, lives)


def living(folder: Path, module: str, chosen: Sequence[str]) -> list[str]:
    said = mutmut(folder, "run", "--max-children", "1", *chosen)
    codes = {key: states(folder, module)[key] for key in chosen}
    if strange := {key: code for key, code in codes.items() if code not in LIVES | DIES}:
        raise SystemExit(f"{module}: the tests did not run ({strange}).\n{said[-3000:]}")
    return [key for key, code in codes.items() if code in LIVES]


def ask_every_test(folder: Path) -> None:
    """Has mutmut run all tests of the module for each of its mutants."""
    path = folder / "mutants" / "mutmut-stats.json"
    kept = json.loads(path.read_text())
    every = sorted(kept["duration_by_test"])
    kept["tests_by_mangled_function_name"] = {name: every for name in kept["function_hashes"]}
    path.write_text(json.dumps(kept))


def examine(module: str, sample: int, seed: int, before: Found, again: bool) -> Iterator[Found]:
    """What is known of a module after each piece of its sampled mutants, beginning with what was known ``before``."""
    text = text_of(module)
    known = (before.get("of"), before.get("seed")) == (text, seed)
    if known and not before["untried"] and not (again and before["survivors"]):
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_of_the_tree(folder, module)
        mutmut(folder, "run", "--max-children", "1", "no-such-mutant")
        found = before if known else new_sample(sorted(states(folder, module)), sample, f"{seed}/{module}")
        found |= {"seed": seed, "of": text}
        todo = found["untried"] + (list(found["survivors"]) if again else [])
        for piece in (todo[i:i + PIECE] for i in range(0, len(todo), PIECE)):
            found = updated(found, piece, surviving(folder, module, piece), before)
            yield found


def new_sample(every: list[str], sample: int, seed: str) -> Found:
    chosen = sorted(random.Random(seed).sample(every, min(sample, len(every))))
    return {"mutants": len(every), "killed": 0, "survivors": {}, "untried": chosen}


def updated(found: Found, tried: list[str], lives: dict[str, list[str]], before: Found) -> Found:
    """With the outcome of some mutants; survivors keep the reasons that were given for the same changes."""
    given = {tuple(one["change"]): one["reason"] for one in before.get("survivors", {}).values()}
    rest = {key: one for key, one in found["survivors"].items() if key not in tried}
    new = {key: {"change": change, "reason": given.get(tuple(change), "")} for key, change in lives.items()}
    return found | {"killed": found["killed"] + len(tried) - len(lives), "survivors": rest | new,
                    "untried": [key for key in found["untried"] if key not in tried]}


def text_of(module: str) -> str:
    """SHA-256 of the committed module."""
    text = subprocess.run(["git", "show", f"HEAD:canopy_stats/{module}.py"], cwd=ROOT, capture_output=True, check=True)
    return hashlib.sha256(text.stdout).hexdigest()


def tried(found: Found) -> int:
    return int(found["killed"]) + len(found["survivors"])


def show(module: str, found: Found) -> None:
    print(f"{module}: {found['killed']} of {tried(found)} killed, {len(found['untried'])} untried", flush=True)
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
    kept = json.loads(options.out.read_text()) if options.out.is_file() else {}
    for module in options.only:
        for found in examine(module, options.sample, options.seed, kept.get(module, {}), options.survivors):
            kept[module] = found
            options.out.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
        if module in kept:
            show(module, kept[module])
    killed, count = sum(int(one["killed"]) for one in kept.values()), sum(map(tried, kept.values()))
    print(f"all: {killed} of {count} killed ({killed / max(count, 1):.1%})")


if __name__ == "__main__":
    main()
