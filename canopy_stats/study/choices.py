"""What a study chooses beside its models: the law, worked examples, embedders, a reward model, a judge."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, get_type_hints

from pydantic import BeforeValidator, ConfigDict, Field, ValidationInfo, create_model, model_validator

from canopy_stats.metrics.embedding.embedders import BUILT_IN, Prompted
from canopy_stats.metrics.judge import from_spec
from canopy_stats.schema import SamplingPolicy
from canopy_stats.study.values import (
    FilePath,
    ModelName,
    Name,
    PositiveCount,
    Record,
    Seed,
    folder_of,
    model_alone,
    shown,
)


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


Form = Literal["lines", "question-answer", "continuation"]


class FewShot(Record):
    """``shots`` examples before every prompt, drawn from the JSON lines of ``pool`` by ``seed``.

    A line of the pool has a ``prompt`` and its ``answer``, and may name the ``task`` it is for. ``form`` is how
    examples and prompt are written, one for all tasks or one by task: "lines" (answer below its prompt),
    "question-answer" (``Question: ... Answer: ...``, the prompt's answer left open) or "continuation" (answer behind
    its prompt). ``same`` draws one set of examples for all prompts of a task; a prompt that is among them would be its
    own example, and is refused.
    """

    pool: FilePath
    """JSON lines with `prompt`, `answer` and an optional `task`"""
    shots: PositiveCount
    """examples before each prompt"""
    seed: Seed = 0
    """of their choice"""
    form: Form | dict[Name, Form] = "lines"
    """how examples and prompt are written: `lines`, `question-answer` or `continuation`, for all or by task"""
    same: bool = False
    """one set of examples for all prompts of a task"""

    def form_of(self, task: str) -> Form:
        """How the examples of a task are written."""
        return self.form.get(task, "lines") if isinstance(self.form, dict) else self.form

    def described(self) -> dict[str, Any]:
        """Plain values for provenance; of the pool's path the last part. Later keys are left out at their defaults."""
        return {**self.model_dump(exclude_defaults=True), "seed": self.seed, "pool": Path(self.pool).name}


class Embedder(Record):
    """A built-in embedder, a sentence-transformers folder or hub name, with a prompt before each text."""

    model: ModelName
    """`minilm`, `tfidf`, or a sentence-transformers folder or hub name"""
    prompt: str | None = None
    """text before each text"""
    name: Name | None = None
    """of its panel"""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """of its weights"""
    max_tokens: PositiveCount | None = None
    """of each text; longer ones are cut, and counted"""

    @model_validator(mode="after")
    def _known(self, info: ValidationInfo) -> Self:
        if folder_of(info) is not None and self.model not in BUILT_IN and "/" not in self.model:
            raise ValueError(f"has the model {self.model!r}; it must be {', '.join(map(repr, BUILT_IN))}, a folder, or "
                             "a hub name written as organisation/name")
        if self.model == "tfidf" and (given := [name for name in _SETTINGS if getattr(self, name)]):
            raise ValueError(f"has a {given[0]}, but the embedder 'tfidf' counts words and heeds none; leave it out")
        return self

    @property
    def asked(self) -> str | Prompted:
        """The embedder as metrics.embed takes it."""
        return Prompted(self.model, **given) if (given := self.settings) else self.model

    @property
    def settings(self) -> dict[str, Any]:
        """What is asked for beside the model."""
        return {name: value for name in _SETTINGS if (value := getattr(self, name))}

    @property
    def label(self) -> str:
        """For people."""
        return self.model + Prompted(self.model, **self.settings).suffix

    def described(self) -> Any:
        """Plain values for provenance."""
        return {"model": shown(self.model), **self.settings} if self.settings else shown(self.model)


_SETTINGS = ("prompt", "dtype", "max_tokens")
"""What an embedder can be asked for beside its model."""


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
    """Who says which rollouts mean the same: what :func:`canopy_stats.metrics.judge.judge_run` takes.

    An ``optional`` one is asked only where the environment variable of its ``api_key_env`` is set.
    """

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
    people: FilePath | None = None
    """CSV of people's verdicts on pairs of rollouts; the panel then has `RSE_corrected` beside RSE"""
    optional: bool = False
    """ask only where the key's environment variable is set"""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        needed = {"embedding": ("threshold",), "openai": ("base_url", "model")}[self.kind]
        if any(getattr(self, name) is None for name in needed):
            raise ValueError(f"of kind {self.kind!r} needs {' and '.join(map(repr, needed))}")
        from_spec({name: value for name, value in self.spec().items() if name not in ("m", "seed", "max_failed")})
        return self

    def spec(self) -> dict[str, Any]:
        """The mapping that ``judge_run`` takes."""
        return self.model_dump(exclude_none=True, exclude={"optional", "people"})

    @property
    def at_hand(self) -> bool:
        """Whether it is asked here and now."""
        variable = (self.model_extra or {}).get("api_key_env")
        return not (self.optional and variable) or bool(os.environ.get(variable))

    def described(self) -> dict[str, Any]:
        """Plain values for provenance."""
        people = {"people": Path(self.people).name} if self.people else {}
        return {name: shown(v) if name in ("model", "embedder") else v for name, v in self.spec().items()} | people


EmbedderOrName = Annotated[Embedder, BeforeValidator(model_alone)]
RewardOrName = Annotated[Reward, BeforeValidator(model_alone)]
