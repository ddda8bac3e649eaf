"""What a study chooses beside its models: the law, worked examples, embedders, a reward model, a judge."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, get_type_hints

from pydantic import BeforeValidator, ConfigDict, Field, ValidationInfo, create_model, model_validator

from canopy_stats.metrics.embed import BUILT_IN, Prompted
from canopy_stats.metrics.judge import from_spec
from canopy_stats.schema import SamplingPolicy
from canopy_stats.study.values import Count, FilePath, ModelName, Name, Record, Seed, folder_of, model_alone, shown


def _law_fields() -> dict[str, Any]:
    """The law's keys are the fields of SamplingPolicy; YAML has lists where Python has tuples."""
    hints = get_type_hints(SamplingPolicy)
    return {f.name: (Annotated[hints[f.name], Field(strict="tuple" not in str(hints[f.name]))], f.default)
            for f in fields(SamplingPolicy)}


class _Law(Record):
    @model_validator(mode="after")
    def _possible(self) -> Self:
        SamplingPolicy(**self.model_dump())
        return self


if TYPE_CHECKING:
    class Law(_Law):
        """The sampling law, key by key."""

        def __init__(self, **keys: Any) -> None: ...
else:
    Law = create_model("Law", __base__=_Law, __doc__="The sampling law, key by key.", **_law_fields())


def _law_as_keys(value: Any) -> Any:
    return value.to_dict() if isinstance(value, SamplingPolicy) else value


LawKeys = Annotated[Law, BeforeValidator(_law_as_keys)]


class FewShot(Record):
    """``shots`` examples before every prompt, drawn from the JSON lines of ``pool`` by ``seed``.

    A line of the pool has a ``prompt`` and its ``answer``, and may name the ``task`` it is for.
    """

    pool: FilePath
    """JSON lines with `prompt`, `answer` and an optional `task`"""
    shots: Count
    """examples before each prompt"""
    seed: Seed = 0
    """of their choice"""

    def described(self) -> dict[str, Any]:
        """Plain values for provenance; of the pool's path the last part."""
        return {**self.model_dump(), "pool": Path(self.pool).name}


class Embedder(Record):
    """A built-in embedder, a sentence-transformers folder or hub name, with a prompt before each text."""

    model: ModelName
    """`minilm`, `tfidf`, or a sentence-transformers folder or hub name"""
    prompt: str | None = None
    """text before each text"""
    name: Name | None = None
    """of its panel"""

    @model_validator(mode="after")
    def _known(self, info: ValidationInfo) -> Self:
        if folder_of(info) is not None and self.model not in BUILT_IN and "/" not in self.model:
            raise ValueError(f"has the model {self.model!r}; it must be {', '.join(map(repr, BUILT_IN))}, a folder, or "
                             "a hub name written as organisation/name")
        if self.prompt and self.model == "tfidf":
            raise ValueError("has a prompt, but the embedder 'tfidf' counts words and heeds none; leave it out")
        return self

    @property
    def asked(self) -> str | Prompted:
        """The embedder as metrics.embed takes it."""
        return Prompted(self.model, self.prompt) if self.prompt else self.model

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.model} (prompt {self.prompt!r})" if self.prompt else self.model

    def described(self) -> Any:
        """Plain values for provenance."""
        return {"model": shown(self.model), "prompt": self.prompt} if self.prompt else shown(self.model)


class Reward(Record):
    """A reward model, and the share of each prompt's rollouts that are kept: those that it likes best."""

    model: ModelName
    """hub name or folder of a reward model"""
    keep: float = Field(default=0.7, gt=0, le=1)
    """share of each prompt's rollouts that is kept"""

    def described(self) -> dict[str, Any]:
        """Plain values for provenance."""
        return {"model": shown(self.model), "keep": self.keep}


class Judge(Record):
    """Who says which rollouts mean the same: what :func:`canopy_stats.metrics.judge.judge_run` takes."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True, use_attribute_docstrings=True)
    kind: Literal["embedding", "openai"]
    """an embedding threshold, or a model behind an OpenAI-compatible endpoint"""
    threshold: float | None = Field(default=None, gt=-1, le=1)
    """cosine from which two texts mean the same (embedding)"""
    m: int | None = Field(default=None, ge=2)
    """rollouts of each prompt that are compared"""
    seed: Seed | None = None
    """of their choice"""
    embedder: ModelName | None = None
    """of the embedding judge"""
    base_url: str | None = None
    """of the endpoint, such as https://host/v1 (openai)"""
    model: str | None = None
    """that the endpoint shall use (openai)"""
    max_failed: float | None = Field(default=None, ge=0, le=1)
    """share of verdicts that may fail"""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        needed = {"embedding": ("threshold",), "openai": ("base_url", "model")}[self.kind]
        if any(getattr(self, name) is None for name in needed):
            raise ValueError(f"of kind {self.kind!r} needs {' and '.join(map(repr, needed))}")
        from_spec({name: value for name, value in self.spec().items() if name not in ("m", "seed", "max_failed")})
        return self

    def spec(self) -> dict[str, Any]:
        """The mapping that ``judge_run`` takes."""
        return self.model_dump(exclude_none=True)

    def described(self) -> dict[str, Any]:
        """Plain values for provenance."""
        return {name: shown(v) if name in ("model", "embedder") else v for name, v in self.spec().items()}


EmbedderOrName = Annotated[Embedder, BeforeValidator(model_alone)]
RewardOrName = Annotated[Reward, BeforeValidator(model_alone)]
