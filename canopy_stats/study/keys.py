"""The keys of a study file, with what each may hold."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from canopy_stats.schema import SamplingPolicy


def _model_alone(value: Any) -> Any:
    """A model's name may stand for the mapping that holds nothing else."""
    return {"model": value} if isinstance(value, str) else value


def _whole_or_auto(value: Any) -> Any:
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ValueError(f"is {value!r}; it must be 'auto' or a whole number of at least 1")


Name = Annotated[str, Field(pattern=r"^[^/\\\s][^/\\]*$")]
Count = Annotated[int, Field(ge=1)]


class _Keys(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class CheckpointKeys(_Keys):
    model: str
    variant: Name | None = None
    adapter: str | None = None
    revision: str | None = None
    chat: bool | None = None
    system: str | None = None
    enable_thinking: bool | None = None
    tokenizer: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"


CheckpointOrName = Annotated[CheckpointKeys, BeforeValidator(_model_alone)]


class FamilyKeys(_Keys):
    name: Name
    base: CheckpointOrName | None = None
    tuned: CheckpointOrName | None = None
    checkpoints: list[CheckpointOrName] = []

    @model_validator(mode="after")
    def _variants(self) -> Self:
        if bool(self.checkpoints) == bool(self.base or self.tuned) or (self.base is None) != (self.tuned is None):
            raise ValueError("needs either 'base' and 'tuned', or a list 'checkpoints' of two and more")
        if self.base is not None and self.base.variant not in (None, "base"):
            raise ValueError(f"has a base with the variant {self.base.variant!r}; it is always called 'base'")
        found = [variant for _, variant, _ in self.named()]
        if "base" not in found or len(found) < 2 or len(set(found)) < len(found):
            raise ValueError(f"has the variants {', '.join(found)}; it needs 'base' and at least one other, each once "
                             "(key 'variant' of a checkpoint)")
        return self

    def named(self) -> list[tuple[CheckpointKeys, str, str]]:
        """(checkpoint, variant, key) in order."""
        if self.base is None or self.tuned is None:
            return [(c, c.variant or ("base" if i == 0 else f"tuned{i}"), f"checkpoints[{i}]")
                    for i, c in enumerate(self.checkpoints)]
        return [(self.base, "base", "base"), (self.tuned, self.tuned.variant or "instruct", "tuned")]


class LawKeys(_Keys):
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    max_new_tokens: int = 4000

    @model_validator(mode="after")
    def _possible(self) -> Self:
        SamplingPolicy(**self.model_dump())
        return self


class FewShotKeys(_Keys):
    pool: str
    shots: Count
    seed: int = 0


class EmbedderKeys(_Keys):
    model: str
    prompt: str | None = None
    name: Name | None = None


class RewardKeys(_Keys):
    model: str
    keep: float = Field(default=0.7, gt=0, le=1)


class JudgeKeys(_Keys):
    model_config = ConfigDict(extra="allow", strict=True, frozen=True)
    kind: Literal["embedding", "openai"]
    threshold: float | None = Field(default=None, gt=-1, le=1)
    m: int | None = Field(default=None, ge=2)
    seed: int | None = None
    embedder: str | None = None
    base_url: str | None = None
    model: str | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        needed = {"embedding": ("threshold",), "openai": ("base_url", "model")}[self.kind]
        if any(getattr(self, name) is None for name in needed):
            raise ValueError(f"of kind {self.kind!r} needs {' and '.join(map(repr, needed))}")
        return self


EmbedderOrName = Annotated[EmbedderKeys, BeforeValidator(_model_alone)]
RewardOrName = Annotated[RewardKeys, BeforeValidator(_model_alone)]


class AblationKeys(_Keys):
    name: Name
    law: LawKeys | None = None
    embedder: EmbedderOrName | None = None
    few_shot: FewShotKeys | None = None
    reward: RewardOrName | None = None

    @model_validator(mode="after")
    def _changes(self) -> Self:
        if not self.model_fields_set - {"name"}:
            raise ValueError("changes nothing; give it a law, embedder, few_shot or reward")
        return self


class Keys(_Keys):
    """The keys of a study file."""

    title: str
    contrast: str = ""
    families: list[FamilyKeys] = Field(min_length=1)
    tasks: dict[Name, str] = Field(min_length=1)
    prompts_per_task: Count | None = None
    few_shot: FewShotKeys | None = None
    law: LawKeys = LawKeys()
    rollouts: int = Field(default=100, ge=2)
    seed: int = 0
    engine: str = "torch"
    batch_size: Annotated[Any, BeforeValidator(_whole_or_auto)] = "auto"
    device: str = "auto"
    workers: Count | None = None
    drift_tokens: int = Field(default=512, ge=0)
    check_sample: Count = 32
    embedders: list[EmbedderOrName] = Field(default=[EmbedderKeys(model="minilm")], min_length=1)
    think: Literal["keep", "drop"] = "keep"
    judge: JudgeKeys | None = None
    reward: RewardOrName | None = None
    ablations: list[AblationKeys] = []
    out: str | None = None
