"""The study file: YAML to a :class:`Study`, with every mistake named by its key.

:mod:`canopy_stats.study.keys` declares the keys, :mod:`canopy_stats.study.record` is what the chain works with. Paths
are relative to the study file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from canopy_stats.metrics.embed import BUILT_IN
from canopy_stats.schema import SamplingPolicy, UserError
from canopy_stats.study.keys import (
    AblationKeys,
    CheckpointKeys,
    EmbedderKeys,
    FamilyKeys,
    FewShotKeys,
    JudgeKeys,
    Keys,
    RewardKeys,
)
from canopy_stats.study.record import Ablation, Checkpoint, Family, FewShot, Prompted, Reward, Study


@dataclass(frozen=True, slots=True)
class StudyFile:
    """A study as its file has it, with the folder that the file names for the results (None: it names none)."""

    path: Path
    study: Study
    out: Path | None

    def folder(self, out: str | Path | None = None) -> Path:
        """Where results go: ``out``, else what the file says, else runs/<name of the file> here."""
        return Path(out) if out is not None else self.out or Path("runs") / self.path.stem


def read_study(path: str | Path) -> StudyFile:
    """Read and validate a study file. UserError names the key, what was found, and what is allowed."""
    path = Path(path)
    values = _loaded(path)
    try:
        keys = Keys.model_validate(values)
    except ValidationError as error:
        from canopy_stats.study.messages import explained

        raise UserError(f"{path}: {explained(error, Keys)}") from None
    try:
        study = _study(keys, _Place(path.resolve().parent))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return StudyFile(path, study, path.resolve().parent / Path(keys.out).expanduser() if keys.out else None)


def _loaded(path: Path) -> Any:
    """The file's YAML as plain values."""
    import yaml

    try:
        values = yaml.load(path.read_bytes(), Loader=_strict_loader())
    except FileNotFoundError:
        raise UserError(f"There is no study file {path}. analysis/studies has examples.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The study file {path} cannot be read ({error}); give a UTF-8 text file.") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}. Mend that place.") from None
    if not isinstance(values, Mapping):
        raise UserError(f"{path} holds {type(values).__name__ if values is not None else 'nothing'}; a study file is a "
                        "mapping of keys such as 'title:', 'families:' and 'tasks:'.")
    return values


def _strict_loader() -> Any:
    """YAML's safe loader, which also refuses a key that stands twice: the first value would be lost in silence."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    def mapping(loader: Any, node: Any) -> dict[Any, Any]:
        twice = [k for k, n in Counter(key.value for key, _ in node.value).items() if n > 1]
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice[0]!r} stands twice", node.start_mark)
        return loader.construct_mapping(node, deep=True)

    Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    return Loader


# --- keys to the record -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Place:
    """The folder that paths are relative to."""

    folder: Path

    def file(self, given: str, key: str) -> str:
        """The path of a file that must be there."""
        path = self.folder / Path(given).expanduser()
        if not path.is_file():
            raise UserError(f"{key} is {given!r}, but there is no file {path}. Paths are relative to the study file.")
        return str(path)

    def model(self, given: str, key: str) -> str:
        """A model: the path of one that is on the disk, or a hub name as it is."""
        path = self.folder / Path(given).expanduser()
        if path.exists():
            return str(path.resolve())
        if given.startswith((".", "/", "~")) or given.endswith(".gguf") or given.count("/") > 1:
            raise UserError(f"{key} is {given!r}, but there is nothing at {path}. Paths are relative to the study "
                            "file; a hub name is organisation/name.")
        return given


def _study(keys: Keys, place: _Place) -> Study:
    main, *further = keys.embedders
    law = SamplingPolicy(**keys.law.model_dump())
    ablations = [*_further_embedders(further, place), *(_ablation(a, law, i, place)
                                                        for i, a in enumerate(keys.ablations))]
    study = Study(
        keys.title, keys.contrast, tuple(_family(f, i, place) for i, f in enumerate(keys.families)),
        {task: place.file(path, f"tasks.{task}") for task, path in keys.tasks.items()}, law, keys.rollouts,
        keys.prompts_per_task, _embedder(main, "embedders[0]", place), keys.seed, keys.batch_size, keys.drift_tokens,
        keys.check_sample, keys.workers, keys.engine, keys.device, keys.think,
        _few_shot(keys.few_shot, "few_shot", place),
        _judge(keys.judge, place) if keys.judge else None, _reward(keys.reward, "reward", place),
        tuple(ablations))
    _refuse_equal_names("families", [f.name for f in study.families])
    _refuse_equal_names("ablations and further embedders", [a.name for a in study.ablations])
    if len(study.cells()) < sum(len(f.checkpoints) for f in study.families) * len(study.tasks):
        raise UserError("Two runs would have the same folder name <task>-<family>-<variant>; rename a task or family.")
    return study


def _refuse_equal_names(what: str, found: list[str]) -> None:
    twice = [name for name, count in Counter(found).items() if count > 1]
    if twice:
        raise UserError(f"{what}: the name {twice[0]!r} stands twice; names must differ.")


def _family(keys: FamilyKeys, index: int, place: _Place) -> Family:
    return Family(keys.name, tuple(_checkpoint(c, variant, f"families[{index}].{key}", place)
                                   for c, variant, key in keys.named()))


def _checkpoint(keys: CheckpointKeys, variant: str, key: str, place: _Place) -> Checkpoint:
    paths = {name: place.model(getattr(keys, name), f"{key}.{name}") if getattr(keys, name) else None
             for name in ("model", "adapter", "tokenizer")}
    chat = variant != "base" if keys.chat is None else keys.chat
    if not chat and (keys.system is not None or keys.enable_thinking is not None):
        raise UserError(f"{key} has a 'system' or 'enable_thinking', which exist inside a chat template only; drop "
                        "them, or set 'chat: true'.")
    return Checkpoint(variant=variant, chat=chat, **paths, **keys.model_dump(  # type: ignore[arg-type]
        include={"revision", "system", "enable_thinking", "dtype"}))


def _embedder(keys: EmbedderKeys, key: str, place: _Place) -> str | Prompted:
    model = keys.model if keys.model in BUILT_IN else place.model(keys.model, f"{key}.model")
    if model == keys.model and model not in BUILT_IN and "/" not in model:
        raise UserError(f"{key}.model is {model!r}; it must be {', '.join(map(repr, BUILT_IN))}, a folder, or a hub "
                        "name written as organisation/name.")
    if keys.prompt and model == "tfidf":
        raise UserError(f"{key}.prompt: the embedder 'tfidf' counts words and heeds no prompt; leave it out.")
    return Prompted(model, keys.prompt) if keys.prompt else model


def _further_embedders(keys: list[EmbedderKeys], place: _Place) -> list[Ablation]:
    """Every embedder after the first gives a panel of its own, as an ablation does."""
    return [Ablation(k.name or k.model.rsplit("/", 1)[-1], embedder=_embedder(k, f"embedders[{i}]", place))
            for i, k in enumerate(keys, 1)]


def _ablation(keys: AblationKeys, law: SamplingPolicy, index: int, place: _Place) -> Ablation:
    key = f"ablations[{index}]"
    if keys.name == "main":
        raise UserError(f"{key}.name is 'main', which means the study itself; choose another.")
    changed = keys.law.model_dump(include=keys.law.model_fields_set) if keys.law else None
    return Ablation(keys.name, SamplingPolicy(**{**law.to_dict(), **changed}) if changed is not None else None,
                    _embedder(keys.embedder, f"{key}.embedder", place) if keys.embedder else None,
                    _few_shot(keys.few_shot, f"{key}.few_shot", place), _reward(keys.reward, f"{key}.reward", place))


def _few_shot(keys: FewShotKeys | None, key: str, place: _Place) -> FewShot | None:
    return FewShot(place.file(keys.pool, f"{key}.pool"), keys.shots, keys.seed) if keys else None


def _judge(keys: JudgeKeys, place: _Place) -> dict[str, Any]:
    """The judge's mapping as metrics.judge takes it, with the path of an embedder that is on the disk."""
    spec = keys.model_dump(exclude_none=True)
    if keys.embedder is not None and keys.embedder not in BUILT_IN:
        spec["embedder"] = place.model(keys.embedder, "judge.embedder")
    return spec


def _reward(keys: RewardKeys | None, key: str, place: _Place) -> Reward | None:
    return Reward(place.model(keys.model, f"{key}.model"), keys.keep) if keys else None
