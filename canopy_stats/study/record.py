"""What a study compares: families of checkpoints, tasks with their prompts, the law, and the sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from canopy_stats import files
from canopy_stats.schema import SamplingPolicy, UserError


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One model of a family: a hub name, folder, GGUF file or loaded model; ``chat`` applies its chat template."""

    variant: str
    model: Any
    chat: bool
    adapter: str | None = None

    def described(self) -> dict[str, Any]:
        """Plain values for provenance; of a path only its last part, since runs hold the weights' hashes."""
        model = Path(self.model).name if isinstance(self.model, (str, Path)) else type(self.model).__name__
        adapter = Path(self.adapter).name if self.adapter else None
        return {"variant": self.variant, "model": model, "chat": self.chat, "adapter": adapter}


@dataclass(frozen=True, slots=True)
class Family:
    """The checkpoints that are compared with each other; one of them is the variant ``base``."""

    name: str
    checkpoints: tuple[Checkpoint, ...]


@dataclass(frozen=True, slots=True)
class Study:
    """Families, tasks with their prompt files, the law, and the sizes.

    ``contrast`` says in words what differs between base and tuned. ``prompts_per_task`` None takes all of a file;
    ``drift_tokens`` are drawn again at other batch sizes for each run, and ``check_sample`` rollouts scored again.
    ``workers`` processes of one thread each draw the rollouts; None draws them here, with all threads.
    """

    title: str
    contrast: str
    families: tuple[Family, ...]
    tasks: Mapping[str, str | Path]
    policy: SamplingPolicy
    n_rollouts: int
    prompts_per_task: int | None = None
    embedder: str = "minilm"
    seed: int = 0
    batch_size: int | str = "auto"
    drift_tokens: int = 256
    check_sample: int = 8
    workers: int | None = None

    def cells(self) -> dict[str, tuple[str, Family, Checkpoint]]:
        """Every run by its name: task, family and checkpoint; a checkpoint's tasks follow each other."""
        return {f"{task}-{family.name}-{checkpoint.variant}": (task, family, checkpoint)
                for family in self.families for checkpoint, task in product(family.checkpoints, self.tasks)}

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values, which :meth:`from_dict` reads back. UserError for a model that is an object."""
        loaded = [c.variant for f in self.families for c in f.checkpoints if not isinstance(c.model, (str, Path))]
        if loaded:
            raise UserError(f"The model of {', '.join(loaded)} is a loaded object, which other processes cannot be "
                            "given: name a folder or file, or set workers=None.")
        families = [{"name": f.name, "checkpoints": [{**asdict(c), "model": str(c.model)} for c in f.checkpoints]}
                    for f in self.families]
        return {**asdict(self), "families": families, "tasks": {task: str(path) for task, path in self.tasks.items()}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Study:
        """The study that :meth:`to_dict` wrote."""
        families = tuple(Family(f["name"], tuple(Checkpoint(**c) for c in f["checkpoints"]))
                         for f in values["families"])
        return cls(**{**values, "families": families, "policy": SamplingPolicy(**values["policy"])})

    def described(self) -> dict[str, Any]:
        """The settings as plain values, for provenance."""
        return {"title": self.title, "contrast": self.contrast, "tasks": list(self.tasks),
                "families": {f.name: [c.described() for c in f.checkpoints] for f in self.families},
                "prompts_per_task": self.prompts_per_task, "n_rollouts": self.n_rollouts, "seed": self.seed,
                "law": self.policy.to_dict(), "embedder": self.embedder}


def choose_prompts(source: str | Path, wanted: int | None, copy: Path) -> Path:
    """Copy ``wanted`` prompts, evenly spread over a prompt file (all of them for None), to ``copy``."""
    path = Path(source)
    if not path.is_file():
        raise UserError(f"There is no prompt file {path}. The project has its own in data/prompts: run this in a "
                        "checkout, or say where they are.")
    lines = [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    if wanted is not None and not 1 <= wanted <= len(lines):
        raise UserError(f"prompts_per_task is {wanted}, but {path.name} has {len(lines)} prompts: ask for 1 to "
                        f"{len(lines)} of them.")
    count = len(lines) if wanted is None else wanted
    files.make_folder(copy.parent)
    files.write_atomic(copy, "".join(lines[i * len(lines) // count] + "\n" for i in range(count)).encode())
    return copy
