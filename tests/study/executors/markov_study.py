"""A study of Markov chains that any worker can draw, and the programs that draw it apart from the tests.

    python markov_study.py FOLDER OUT EXECUTOR WORKERS

draws and checks it, and prints one JSON line with the hash of each result.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from fake_engine import FakeEngine

from canopy_stats.study import Checkpoint, Embedder, Law, ModelFamily, Study
from canopy_stats.study.executors import Executor, Local, Ray
from canopy_stats.study.pipeline import run_stages
from canopy_stats.study.result import contents

STORE = 100_000_000


@dataclass
class Dying(FakeEngine):
    """Ends the process that holds it with SIGKILL, once, in the middle of a shard: ``marker`` says that it did."""

    marker: str = ""

    def sample(self, prompts, rollouts, policy, key, batch_size):
        for number, rollout in enumerate(super().sample(prompts, rollouts, policy, key, batch_size)):
            if number == 3 and self.marker and not Path(self.marker).exists():
                Path(self.marker).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            yield rollout


class Slow(FakeEngine):
    """Takes its time, so that something is in hand whenever a worker is lost."""

    def sample(self, prompts, rollouts, policy, key, batch_size):
        for rollout in super().sample(prompts, rollouts, policy, key, batch_size):
            time.sleep(0.02)
            yield rollout


def study(folder: Path, engine: FakeEngine | None = None, prompts: int = 9, rollouts: int = 33) -> Study:
    """Two arms of one family, four shards each."""
    path = folder / "walk.jsonl"
    path.write_text("".join(json.dumps({"id": f"p{i}", "prompt": "x" * (i + 1)}) + "\n" for i in range(prompts)))
    pair = ModelFamily(name="fake", base=Checkpoint(model=object()), tuned=Checkpoint(model=object(), chat=False))
    return Study(title="Markov", families=[pair], tasks={"walk": path}, law=Law(max_new_tokens=4), rollouts=rollouts,
                 embedders=[Embedder(model="tfidf")], drift_tokens=12, check_sample=2, engine=engine or FakeEngine())


def drawn(asked: Study, out: Path, executor: Executor, said: list[str] | None = None) -> dict[str, str]:
    """The hash of each result, once the study's rollouts are drawn and checked."""
    run_stages(asked, out, ["generate", "check"], executor=executor, say=(said if said is not None else []).append)
    return contents(out)


def executor(name: str, workers: int) -> Executor:
    return Local() if name == "local" else Ray(workers=workers, object_store=STORE)


def main(arguments: Sequence[str]) -> None:
    folder, out, name, workers = arguments
    print(json.dumps(drawn(study(Path(folder)), Path(out), executor(name, int(workers)))))


if __name__ == "__main__":
    main(sys.argv[1:])
