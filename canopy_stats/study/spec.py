"""A study: what is compared, by which law, in which sizes. One record, which is also what a study file holds.

A study file's keys are the fields here, and what each may hold is said once. Paths are resolved while the file is read
(:mod:`canopy_stats.study.load` gives its folder); a study that is written in Python takes them as they are. Python may
also give loaded models and an engine of its own, which no file can.
"""

from __future__ import annotations

from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from canopy_stats.metrics.extra import needs_of
from canopy_stats.schema import ModelSource, SamplingPolicy, UserError
from canopy_stats.study.choices import Embedder, EmbedderOrName, FewShot, Judge, Law, LawKeys, Reward, RewardOrName
from canopy_stats.study.values import (
    LONGEST_RUN,
    FilePath,
    ModelName,
    Name,
    PlainText,
    PositiveCount,
    Record,
    RunFolder,
    Seed,
    device_name,
    engine_or_object,
    model_alone,
    model_or_object,
    shown,
    whole_or_auto,
)

__all__ = ["Ablation", "Checkpoint", "Embedder", "FewShot", "Judge", "Law", "ModelFamily", "PlannedRun", "Reward",
           "Study"]

BASE, MAIN = "base", "main"


class Checkpoint(Record):
    """One model of a family: a hub name, folder, GGUF file or loaded model.

    ``variant`` and ``chat`` None: what its place in the family says (base: raw prompts; others: the chat template). The
    other fields are those of :func:`canopy_stats.generate`.
    """

    model: Annotated[Any, BeforeValidator(model_or_object)]
    """hub name, folder or GGUF file; in Python also a loaded model"""
    variant: Name | None = None
    """name of the arm; the first is `base`"""
    chat: bool | Literal["rendered-text"] | None = None
    """`true`: the chat template; `false`: the raw prompt; `rendered-text`: tokenised again, as the paper ran it"""
    adapter: ModelName | None = None
    """folder or hub name of a peft adapter, merged in float32"""
    revision: str | None = None
    """commit, tag or branch on the hub"""
    tokenizer: ModelName | None = None
    """another tokenizer than the model's"""
    system: str | None = None
    """system message of the chat template"""
    enable_thinking: bool | None = None
    """for templates that know it (Qwen3)"""
    template_kwargs: dict[str, Any] = {}
    """further arguments of the chat template"""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """`auto`: the checkpoint's own"""
    runs: dict[Name, RunFolder] = {}
    """task to the folder of a run that is taken as it is, such as an imported one; its tasks are not drawn"""

    def settled(self, variant: str) -> Checkpoint:
        """With its variant, and with the chat template's use said outright."""
        chat = variant != BASE if self.chat is None else self.chat
        return self.model_copy(update={"variant": variant, "chat": chat})

    def source(self, device: str = "auto") -> ModelSource:
        """The model, and how prompts are put to it."""
        return ModelSource(self.model, self.tokenizer, self.adapter, self.revision, self.chat, self.system,
                           self.enable_thinking, self.template_kwargs, self.dtype, device)

    def described(self) -> dict[str, Any]:
        """Plain values for provenance; of a path only its last part, since runs hold the weights' hashes."""
        options = ("revision", "tokenizer", "system", "enable_thinking", "template_kwargs", "dtype")
        asked = {name: getattr(self, name) for name in options
                 if getattr(self, name) != type(self).model_fields[name].default}
        if self.runs:
            asked["runs"] = {task: shown(folder) for task, folder in self.runs.items()}
        return {"variant": self.variant, "model": shown(self.model), "chat": self.chat, "adapter": shown(self.adapter),
                **asked}


CheckpointOrName = Annotated[Checkpoint, BeforeValidator(model_alone)]


class ModelFamily(Record):
    """The checkpoints that are compared with each other: ``base`` and ``tuned``, or a list; one is the variant base."""

    name: Name
    """what tables and figures call it"""
    base: CheckpointOrName | None = None
    """the base model"""
    tuned: CheckpointOrName | None = None
    """what was made of it"""
    checkpoints: list[CheckpointOrName] = []
    """instead of base and tuned: a list of two and more, each with a `variant`"""

    @model_validator(mode="after")
    def _variants(self) -> Self:
        if bool(self.checkpoints) == bool(self.base or self.tuned) or (self.base is None) != (self.tuned is None):
            raise ValueError("needs either 'base' and 'tuned', or a list 'checkpoints' of two and more")
        if self.base is not None and self.base.variant not in (None, BASE):
            raise ValueError(f"has a base with the variant {self.base.variant!r}; it is always called 'base'")
        found = [str(arm.variant) for arm in self.arms]
        if BASE not in found or len(found) < 2 or len(set(found)) < len(found):
            raise ValueError(f"has the variants {', '.join(found)}; it needs 'base' and at least one other, each once "
                             "(key 'variant' of a checkpoint)")
        self._refuse_words_for_no_template()
        return self

    def _refuse_words_for_no_template(self) -> None:
        for arm in self.arms:
            if not arm.chat and (arm.system is not None or arm.enable_thinking is not None or arm.template_kwargs):
                raise ValueError(f"gives {arm.variant!r} a 'system', 'enable_thinking' or 'template_kwargs', which "
                                 "exist inside a chat template only; drop them, or set 'chat: true'")
            if arm.enable_thinking is not None and "enable_thinking" in arm.template_kwargs:
                raise ValueError(f"gives {arm.variant!r} enable_thinking twice: also in template_kwargs")

    def drawn(self) -> ModelFamily:
        """With every run drawn, none taken as it is."""
        own = {name: getattr(self, name) for name in type(self).model_fields}
        arms = {name: arm.model_copy(update={"runs": {}}) for name in ("base", "tuned")
                if (arm := getattr(self, name)) is not None}
        listed = [arm.model_copy(update={"runs": {}}) for arm in self.checkpoints]
        return ModelFamily(**{**own, **arms, "checkpoints": listed})

    @cached_property
    def arms(self) -> tuple[Checkpoint, ...]:
        """Every checkpoint with its variant, and with the use of the chat template said outright."""
        if self.base is not None and self.tuned is not None:
            return self.base.settled(BASE), self.tuned.settled(self.tuned.variant or "instruct")
        return tuple(c.settled(c.variant or (BASE if i == 0 else f"tuned{i}")) for i, c in enumerate(self.checkpoints))


class Ablation(Record):
    """A study once more with something else in it, for a panel of its own; None keeps what the study has.

    A ``law`` changes the keys that it names and keeps the others.
    """

    name: Name
    """of its panel, and of its row in the table"""
    law: LawKeys | None = None
    """keys of the law that change; the others stay"""
    embedder: EmbedderOrName | None = None
    """another embedder"""
    few_shot: FewShot | None = None
    """worked examples before the prompts"""
    reward: RewardOrName | None = None
    """only the rollouts that a reward model likes best"""

    @model_validator(mode="after")
    def _changes(self) -> Self:
        if self.name == MAIN:
            raise ValueError("has the name 'main', which means the study itself; choose another")
        if not self.changed:
            raise ValueError("changes nothing; give it a law, embedder, few_shot or reward")
        return self

    @property
    def changed(self) -> list[str]:
        """What is something else than in the study."""
        return [name for name in ("law", "embedder", "few_shot", "reward") if getattr(self, name) is not None]

    @property
    def redraws(self) -> bool:
        """Whether it needs rollouts of its own."""
        return self.law is not None or self.few_shot is not None


# --- the study --------------------------------------------------------------------------------------------------


class PlannedRun(Record):
    """One run of a study: its folder's name, and whose rollouts of which task it holds."""

    name: str
    task: str
    family: str
    checkpoint: Checkpoint


class Study(Record):
    """Families, tasks with their prompt files, the law, and the sizes.

    ``contrast`` says in words what differs between base and tuned. ``prompts_per_task`` None takes all of a file;
    ``drift_tokens`` are drawn again at other batch sizes for each run, and ``check_sample`` rollouts scored again.
    ``workers`` processes of one thread each draw the rollouts; None draws them here, with all threads. ``engine`` is a
    name or an object with the methods of ``schema.Engine``, ``engine_options`` go to vLLM, ``think`` is what becomes
    of a ``<think>`` part before texts are embedded. The first embedder makes the panel, each further one a panel of its
    own.
    """

    title: str
    """of the report"""
    contrast: str = ""
    """in words, what differs between base and tuned"""
    families: list[ModelFamily] = Field(min_length=1)
    """the models that are compared"""
    tasks: dict[Name, FilePath] = Field(min_length=1)
    """name to prompt file (JSON lines with `prompt` and an optional `id`)"""
    prompts_per_task: PositiveCount | None = None
    """the first so many of each file; without it all"""
    few_shot: FewShot | None = None
    """worked examples before every prompt"""
    law: LawKeys = Field(default_factory=Law)
    """the sampling law"""
    rollouts: int = Field(default=100, ge=2, le=10**9)
    """of each prompt"""
    seed: Seed = 0
    """of every draw"""
    engine: Annotated[Any, BeforeValidator(engine_or_object)] = "torch"
    """`torch` or `vllm`; in Python also an object of your own"""
    engine_options: dict[str, Any] = Field(default_factory=dict)
    """of the engine, such as `tensor_parallel_size` of vLLM"""
    batch_size: Annotated[Any, BeforeValidator(whole_or_auto)] = "auto"
    """rows at a time; `auto` fits the memory"""
    device: Annotated[str, AfterValidator(device_name)] = "auto"
    """`auto`, `cpu`, `mps`, `cuda` or `cuda:1`"""
    workers: PositiveCount | None = None
    """processes of one thread each that draw; without it this one, with all threads"""
    drift_tokens: int = Field(default=512, ge=0, le=10**12)
    """tokens of each run that are drawn again at other batch sizes"""
    check_sample: PositiveCount = 32
    """rollouts of each run that are scored again"""
    embedders: list[EmbedderOrName] = Field(default=[Embedder(model="minilm")], min_length=1)
    """the first makes the panel, each further one a panel of its own"""
    think: Literal["keep", "drop"] = "keep"
    """what becomes of a `<think>` part before texts are embedded"""
    judge: Judge | None = None
    """who says which rollouts mean the same"""
    reward: RewardOrName | None = None
    """keep only the rollouts that a reward model likes best"""
    extra: list[str] = []
    """measures on request: `vendi_2`, `length_diversity`, `length_thirds`; with a judge also `distinct_4`"""
    ablations: list[Ablation] = []
    """the study once more with something else in it"""
    out: PlainText | None = None
    """where everything is stored; without it runs/<name of the file>"""

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        _refuse_equal("families", [f.name for f in self.families])
        _refuse_equal("ablations and further embedders", [a.name for a in self.every_ablation])
        if len(self.runs) < sum(len(f.arms) for f in self.families) * len(self.tasks):
            raise ValueError("Two runs would have the same folder name <task>-<family>-<variant>; rename a task or "
                             "family")
        if long := [name for name in self.runs if len(name.encode()) > LONGEST_RUN]:
            raise ValueError(f"The run {long[0][:40]}... would have a folder name of more than {LONGEST_RUN} bytes; "
                             "shorten its task, family or variant")
        return self

    @model_validator(mode="after")
    def _extra_can_be_made(self) -> Self:
        for name, needs in needs_of(self.extra).items():
            if "reward" in needs:
                raise ValueError(f"extra: {name} needs the reward of every rollout, which a study does not keep; give "
                                 "cs.measure(run, extra=..., reward=...) the runs afterwards")
            if "judge" in needs and self.judge is None:
                raise ValueError(f"extra: {name} needs a judge; add the key 'judge'")
            if "judge" in needs and self.reward is not None:
                raise ValueError(f"extra: {name} is of all rollouts, and 'reward' keeps some of them; leave one out")
        return self

    @cached_property
    def policy(self) -> SamplingPolicy:
        """The sampling law."""
        return SamplingPolicy(**self.law.model_dump())

    @property
    def embedder(self) -> Embedder:
        """The embedder of the panel."""
        return self.embedders[0]

    @property
    def asked_extra(self) -> list[str]:
        """The measures on request, without those of a judge that is optional and not at hand."""
        return [name for name, needs in needs_of(self.extra).items() if "judge" not in needs or self.asked_judge]

    @property
    def asked_judge(self) -> Judge | None:
        """The judge, unless it is optional and not at hand."""
        return self.judge if self.judge is not None and self.judge.at_hand else None

    @cached_property
    def runs(self) -> dict[str, PlannedRun]:
        """Every run by its name; a checkpoint's tasks follow each other."""
        every = [PlannedRun.model_construct(name=f"{task}-{family.name}-{arm.variant}", task=task, family=family.name,
                                            checkpoint=arm)
                 for family in self.families for arm in family.arms for task in self.tasks]
        return {run.name: run for run in every}

    @cached_property
    def every_ablation(self) -> tuple[Ablation, ...]:
        """One for each further embedder, then those of the file."""
        further = [Ablation(name=e.name or Path(e.model).name, embedder=e) for e in self.embedders[1:]]
        return *further, *self.ablations

    def ablated(self, ablation: Ablation) -> Study:
        """The study with an ablation's changes, and without further ablations."""
        changed = {name: getattr(ablation, name) for name in ablation.changed if name not in ("law", "embedder")}
        if ablation.law is not None:
            law = ablation.law.model_dump(include=ablation.law.model_fields_set)
            changed["law"] = Law(**{**self.law.model_dump(), **law})
        if ablation.redraws and self.judge is not None:  # people judged pairs of the study's own rollouts
            changed["judge"] = self.judge.model_copy(update={"people": None})
        if ablation.redraws:  # what was taken as it is belongs to the study's own law and prompts
            changed["families"] = [family.drawn() for family in self.families]
        changed["embedders"] = [ablation.embedder or self.embedder]
        kept = {name: getattr(self, name) for name in type(self).model_fields}
        if ablation.reward is not None:  # a judge's verdicts are of all rollouts
            kept["extra"] = [name for name, needs in needs_of(self.extra).items() if "judge" not in needs]
        return self.model_validate({**kept, "ablations": [], **changed})

    def to_json(self) -> str:
        """All fields as JSON, which :meth:`from_json` reads. UserError for a model or engine that is an object."""
        loaded = [str(arm.variant) for f in self.families for arm in f.arms if not isinstance(arm.model, str)]
        if loaded or not isinstance(self.engine, str):
            raise UserError(f"The {'model of ' + ', '.join(loaded) if loaded else 'engine'} is a loaded object, which "
                            "other processes cannot be given: name a folder or file, or set workers=None.")
        return self.model_dump_json(exclude_unset=True)

    @classmethod
    def from_json(cls, text: str) -> Study:
        """The study that :meth:`to_json` wrote."""
        return cls.model_validate_json(text)

    def described(self) -> dict[str, Any]:
        """The settings as plain values, for provenance; of paths the last part only."""
        plain = {"title": self.title, "contrast": self.contrast, "tasks": list(self.tasks),
                 "families": {f.name: [arm.described() for arm in f.arms] for f in self.families},
                 "prompts_per_task": self.prompts_per_task, "n_rollouts": self.rollouts, "seed": self.seed,
                 "law": self.policy.to_dict(), "embedder": self.embedder.described()}
        more = {name: one.described() for name in ("few_shot", "judge", "reward") if (one := getattr(self, name))}
        more |= {"extra": self.extra} if self.extra else {}
        ablations = [self._ablation_described(a) for a in self.every_ablation]
        return plain | more | ({"ablations": ablations} if ablations else {})

    def _ablation_described(self, ablation: Ablation) -> dict[str, Any]:
        """An ablation's name and what it changes."""
        changed = {name: getattr(ablation, name).described() for name in ablation.changed if name != "law"}
        if ablation.law is not None:
            changed = {"law": self.ablated(ablation).policy.to_dict(), **changed}
        return {"name": ablation.name, **changed}


def _refuse_equal(what: str, found: list[str]) -> None:
    twice = [name for name, count in Counter(found).items() if count > 1]
    if twice:
        raise ValueError(f"{what}: the name {twice[0]!r} stands twice; names must differ")
