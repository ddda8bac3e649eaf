"""Kill a study with SIGKILL in the middle of a write of each stage, resume it, and tell its content.

    python killed.py FOLDER

A program of its own, because it forks: nothing here imports torch, so that a child costs no more than its work.
Prints one line of JSON: the stages in which a child was killed, and the content hashes of the uninterrupted and of
the resumed study.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fake_engine import FakeEngine
from matplotlib.figure import Figure

from canopy_stats import files
from canopy_stats.report import catalogue
from canopy_stats.study import Ablation, Checkpoint, Embedder, Judge, Law, ModelFamily, Study, run_study
from canopy_stats.study.result import content_hash
from canopy_stats.study.stages import KINDS


class Speaking(FakeEngine):
    """Tokens as words, so that some texts are more alike than others."""

    def decode(self, token_ids):
        return " ".join(super().decode(token_ids))


def study(folder: Path) -> Study:
    path = folder / "walk.jsonl"
    path.write_text("".join(json.dumps({"id": f"p{i}", "prompt": "x" * (i + 1)}) + "\n" for i in range(10)))
    pair = ModelFamily(name="fake", base=Checkpoint(model=object()), tuned=Checkpoint(model=object(), chat=False))
    return Study(title="Killed", families=[pair], tasks={"walk": path}, law=Law(max_new_tokens=9), rollouts=5,
                 embedders=[Embedder(model="tfidf")], drift_tokens=20, check_sample=2, engine=Speaking(),
                 judge=Judge(kind="embedding", embedder="tfidf", threshold=0.3, m=3),
                 ablations=[Ablation(name="cool", law=Law(temperature=0.5))])


class Killer:
    """Lets a stage make some writes and kills the process half-way through the next one."""

    def __init__(self, stage: str, spared: int) -> None:
        self.stage, self.spared, self.armed = stage, spared, False
        self.through, self.savefig = files._write_through, Figure.savefig

    def say(self, line: str) -> None:
        self.armed = self.armed or line == f"{self.stage} ..."

    def due(self) -> bool:
        self.spared -= self.armed
        return self.armed and self.spared < 0

    def write_through(self, path: Path, data: bytes) -> None:
        if self.due():
            path.write_bytes(data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        self.through(path, data)

    def save(self, figure: Figure, path: Path, **options: object) -> None:
        if self.due():
            path.write_bytes(b"half a picture")
            os.kill(os.getpid(), signal.SIGKILL)
        self.savefig(figure, path, **options)


def killed(folder: Path, out: Path, stage: str, spared: int) -> bool:
    """Run the study in a child that is killed in a stage; whether that happened before its end."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    killer = Killer(stage, spared)
    files._write_through = killer.write_through
    Figure.savefig = lambda figure, path, **options: killer.save(figure, path, **options)  # type: ignore[method-assign]
    run_study(study(folder), out, say=killer.say, progress=False)
    os._exit(0)


def main() -> None:
    folder = Path(sys.argv[1])
    catalogue.CATALOGUE["figures"] = {name: catalogue.FIGURES[name] for name in ("slopes", "lengths")}
    run_study(study(folder), folder / "whole", say=lambda line: None, progress=False)
    hit = [stage for place, stage in enumerate(KINDS) if killed(folder, folder / "out", stage, place % 2)]
    run_study(study(folder), folder / "out", say=lambda line: None, progress=False)
    print(json.dumps({"hit": hit, "whole": content_hash(folder / "whole"), "resumed": content_hash(folder / "out"),
                      "torch": "torch" in sys.modules}))


if __name__ == "__main__":
    main()
