"""Strange files, replies and options to the functions that read them: nothing but UserError.

    python analysis/fuzz.py --inputs 21000 --out analysis/results/fuzz.json

Inputs are mutants of valid ones: half of them with values that the format does not foresee, half with others of the
same kind. Study files, prompt files, stamps, manifests with their run_id made to fit, shard logs, shards with their
hashes made to fit, panels, a judge's replies, kept verdicts, logs of completions and scores, stored fits, and words of
the command line, whose command then runs beneath ``main``. A judge's reply may also be one of the three refusals that
its pool turns into words.

Prints how many each target got, how many got past its parser (accepted, or refused for what was read), and every
exception that is no UserError with the seed that made it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fuzz_targets import TARGETS, Past  # type: ignore[import-not-found]  # beside this file

from canopy_stats import files
from canopy_stats.schema import UserError

SHARES = {"options": 1, "shard": 2, "study": 3, "panel": 4, "manifest": 4, "shard_log": 4, "stamp": 4, "verdicts": 4,
          "log": 3, "scores": 3, "fit_file": 1, "reply": 6, "prompts": 6}
"""Inputs of each target, in proportion: what a target costs lies between a millisecond and a second."""


def turns(only: Sequence[str], shares: Mapping[str, int] = SHARES) -> list[str]:
    """The targets in the order in which they get an input, again and again."""
    return [name for turn in range(max(shares.values())) for name in only if turn < shares[name]]


def fuzz(inputs: int, seed: int = 0, only: Sequence[str] = tuple(TARGETS), shares: Mapping[str, int] = SHARES,
         say: Callable[[str], None] = lambda line: None) -> dict[str, dict[str, Any]]:
    """Counts by target: inputs, accepted, refused after and by the parser, and what failed."""
    order = turns(only, shares)
    counts: dict[str, dict[str, Any]] = {name: {"inputs": 0, "accepted": 0, "refused_later": 0, "refused": 0,
                                                "failed": []} for name in only}
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), \
            contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        folder = Path(name)
        (folder / "walk.jsonl").write_text('{"prompt": "a"}\n')
        os.chdir(folder)  # a mutated place is one of this folder
        try:
            for i in range(inputs):
                target = order[i % len(order)]
                failed = _one(counts[target], TARGETS[target], folder, seed * 10**9 + i)
                if failed or i % 1000 == 999:
                    say(failed or f"{i + 1:,} inputs")
        finally:
            os.chdir(before)
    return counts


def _one(count: dict[str, Any], target: Callable[[Path, random.Random], None], folder: Path, seed: int) -> str:
    """One input; tells what failed."""
    count["inputs"] += 1
    try:
        target(folder, random.Random(seed))
        count["accepted"] += 1
    except Past:
        count["refused_later"] += 1
    except UserError:
        count["refused"] += 1
    except Exception as error:  # what this program looks for
        count["failed"].append(f"seed {seed}: {type(error).__name__}: {str(error)[:200]}")
        return f"{target.__name__}, {count['failed'][-1]}"
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=21_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", choices=list(TARGETS), default=list(TARGETS))
    parser.add_argument("--out", type=Path, help="keep seeds and counts here")
    given = parser.parse_args()
    counts = fuzz(given.inputs, given.seed, given.only, say=lambda line: print(line, file=sys.__stderr__, flush=True))
    for name, count in counts.items():
        past = (count["accepted"] + count["refused_later"]) / max(count["inputs"], 1)
        print(f"{name}: {count['inputs']:,} inputs, {count['accepted']:,} accepted, {count['refused_later']:,} refused "
              f"after and {count['refused']:,} by the parser ({past:.0%} past it), {len(count['failed'])} failed")
        print("\n".join(f"  {line}" for line in count["failed"][:10]))
    if given.out is not None:
        files.write_json(given.out, {"seed": given.seed, "inputs": given.inputs, "counts": counts})
    return int(any(count["failed"] for count in counts.values()))


if __name__ == "__main__":
    sys.exit(main())
