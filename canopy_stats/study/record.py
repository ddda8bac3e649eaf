"""What a study compares: families of checkpoints, tasks with their prompts, the law, and the sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import product
from pathlib import Path
from typing import Any

from canopy_stats.metrics.embed import Prompted
from canopy_stats.schema import SamplingPolicy, UserError
from canopy_stats.study.prompts import FewShot, choose_prompts

__all__ = ["Ablation", "Checkpoint", "Family", "FewShot", "Prompted", "Reward", "Study", "choose_prompts"]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One model of a family: a hub name, folder, GGUF file or loaded model; ``chat`` applies its chat template.

    The other fields are those of :func:`canopy_stats.generate`.
    """

    variant: str
    model: Any
    chat: bool
    adapter: str | None = None
    revision: str | None = None
    tokenizer: str | None = None
    system: str | None = None
    enable_thinking: bool | None = None
    dtype: str = "auto"

    def described(self) -> dict[str, Any]:
        """Plain values for provenance; of a path only its last part, since runs hold the weights' hashes."""
        asked = {name: getattr(self, name) for name in _OPTIONS if getattr(self, name) != _OPTIONS[name]}
        return {"variant": self.variant, "model": _shown(self.model), "chat": self.chat,
                "adapter": _shown(self.adapter), **asked}


_OPTIONS = {"revision": None, "tokenizer": None, "system": None, "enable_thinking": None, "dtype": "auto"}


def _shown(model: Any) -> str | None:
    """A hub name whole, a path by its last part, an object by its type."""
    if model is None:
        return None
    if not isinstance(model, (str, Path)):
        return type(model).__name__
    return Path(model).name if Path(model).exists() or Path(model).is_absolute() else str(model)


@dataclass(frozen=True, slots=True)
class Family:
    """The checkpoints that are compared with each other; one of them is the variant ``base``."""

    name: str
    checkpoints: tuple[Checkpoint, ...]


@dataclass(frozen=True, slots=True)
class Reward:
    """A reward model, and the share of each prompt's rollouts that are kept: those that it likes best."""

    model: str
    keep: float = 0.7


@dataclass(frozen=True, slots=True)
class Ablation:
    """A study once more with something else in it, for a panel of its own; None keeps what the study has."""

    name: str
    policy: SamplingPolicy | None = None
    embedder: str | Prompted | None = None
    few_shot: FewShot | None = None
    reward: Reward | None = None

    @property
    def redraws(self) -> bool:
        """Whether it needs rollouts of its own."""
        return self.policy is not None or self.few_shot is not None


@dataclass(frozen=True, slots=True)
class Study:
    """Families, tasks with their prompt files, the law, and the sizes.

    ``contrast`` says in words what differs between base and tuned. ``prompts_per_task`` None takes all of a file;
    ``drift_tokens`` are drawn again at other batch sizes for each run, and ``check_sample`` rollouts scored again.
    ``workers`` processes of one thread each draw the rollouts; None draws them here, with all threads. ``engine`` is a
    name or an object with the methods of ``schema.Engine``, ``judge`` what ``metrics.judge`` is asked for, ``think``
    what becomes of a ``<think>`` part before texts are embedded.
    """

    title: str
    contrast: str
    families: tuple[Family, ...]
    tasks: Mapping[str, str | Path]
    policy: SamplingPolicy
    n_rollouts: int
    prompts_per_task: int | None = None
    embedder: str | Prompted = "minilm"
    seed: int = 0
    batch_size: int | str = "auto"
    drift_tokens: int = 256
    check_sample: int = 8
    workers: int | None = None
    engine: Any = "torch"
    device: str = "auto"
    think: str = "keep"
    few_shot: FewShot | None = None
    judge: Mapping[str, Any] | None = None
    reward: Reward | None = None
    ablations: tuple[Ablation, ...] = field(default=())

    def cells(self) -> dict[str, tuple[str, Family, Checkpoint]]:
        """Every run by its name: task, family and checkpoint; a checkpoint's tasks follow each other."""
        return {f"{task}-{family.name}-{checkpoint.variant}": (task, family, checkpoint)
                for family in self.families for checkpoint, task in product(family.checkpoints, self.tasks)}

    @property
    def variants(self) -> tuple[str, ...]:
        """The variants in their order, each once."""
        return tuple(dict.fromkeys(c.variant for family in self.families for c in family.checkpoints))

    def ablated(self, ablation: Ablation) -> Study:
        """The study with an ablation's changes, and without further ablations."""
        changed = {f.name: getattr(ablation, f.name) for f in fields(ablation) if f.name != "name"}
        return replace(self, ablations=(), **{name: value for name, value in changed.items() if value is not None})

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
        ablations = tuple(Ablation(**{**a, **_records(a)}) for a in values["ablations"])
        return cls(**{**values, "families": families, "ablations": ablations, **_records(values)})

    def described(self) -> dict[str, Any]:
        """The settings as plain values, for provenance; of paths the last part only."""
        plain = {"title": self.title, "contrast": self.contrast, "tasks": list(self.tasks),
                 "families": {f.name: [c.described() for c in f.checkpoints] for f in self.families},
                 "prompts_per_task": self.prompts_per_task, "n_rollouts": self.n_rollouts, "seed": self.seed,
                 "law": self.policy.to_dict(), "embedder": _embedder_shown(self.embedder)}
        more = {"few_shot": self.few_shot.described() if self.few_shot else None, "judge": _with_shown(self.judge),
                "reward": _with_shown(asdict(self.reward)) if self.reward else None,
                "ablations": [_ablation_shown(a) for a in self.ablations]}
        return plain | {name: value for name, value in more.items() if value}


_RECORDS = {"policy": SamplingPolicy, "few_shot": FewShot, "reward": Reward, "embedder": Prompted}


def _records(values: Mapping[str, Any]) -> dict[str, Any]:
    """The plain values that stand for records, as records."""
    return {name: record(**values[name]) for name, record in _RECORDS.items() if isinstance(values.get(name), Mapping)}


def _embedder_shown(embedder: str | Prompted) -> Any:
    return _with_shown(asdict(embedder)) if isinstance(embedder, Prompted) else _shown(embedder)


def _with_shown(values: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Settings with the last part of each path."""
    models = ("model", "embedder")
    return {k: _shown(v) if k in models else v for k, v in values.items()} if values is not None else None


def _ablation_shown(ablation: Ablation) -> dict[str, Any]:
    """An ablation's name and what it changes."""
    changed = {"law": ablation.policy.to_dict() if ablation.policy else None,
               "embedder": _embedder_shown(ablation.embedder) if ablation.embedder else None,
               "few_shot": ablation.few_shot.described() if ablation.few_shot else None,
               "reward": _with_shown(asdict(ablation.reward)) if ablation.reward else None}
    return {"name": ablation.name} | {name: value for name, value in changed.items() if value is not None}
