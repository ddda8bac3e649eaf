"""What a run is made of, apart from where it is stored: an engine, a configuration, shards, and redraws for the drift.

Everything here may be called in any process; whoever holds the run's writer stores what comes back.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from canopy_stats import __version__
from canopy_stats.drift import BATCH_SIZES, Drift, Pair, choose_rollouts
from canopy_stats.schema import Engine, ModelSource, Prompt, Rollout, RunConfig, RunKey, SamplingPolicy, UserError
from canopy_stats.store import Run, RunWriter, ShardPlan, ShardTables, prompts_hash, shard_tables

BATCH_SIZE = 32
"""What "auto" means for an engine that suggests nothing."""
_RECORDED = ("torch", "transformers", "tokenizers", "peft", "gguf", "numpy", "pyarrow")

# --- an engine, and prompts as its model receives them ----------------------------------------------------------


@contextmanager
def ready_engine(engine: str | Engine, source: ModelSource, variant: str,
                 options: Mapping[str, Any] | None) -> Iterator[Engine]:
    """An engine that was given, or one by its name, which lasts no longer than this."""
    if not isinstance(engine, str):
        if options:
            raise UserError("engine_options are for an engine by name; set them where the engine is made.")
        yield engine
        return
    made = load_engine_by_name(engine, source, variant, options)
    try:
        yield made
    finally:
        getattr(made, "close", lambda: None)()


def load_engine_by_name(name: str, source: ModelSource, variant: str,
                        options: Mapping[str, Any] | None = None) -> Engine:
    """The engine "torch" or "vllm" with a model; UserError for other names, and where its packages are missing."""
    if name == "vllm":
        found = find_spec("vllm")
        if found is None or found.origin is None:  # a folder of this name is no package
            raise UserError("engine='vllm' needs vLLM, in an environment of its own: pip install 'canopy-stats[vllm]' "
                            "-c constraints-vllm.txt (docs/engines.md).")
        from canopy_stats.generation.vllm.engine import load_engine as load_vllm

        return load_vllm(source, variant=variant, options=options)
    if name != "torch":
        raise UserError(f"There is no engine {name!r}. Use 'torch' or 'vllm', or pass an object with the Engine "
                        "methods.")
    from canopy_stats.generation.torch_engine import load_engine

    return load_engine(source, variant=variant, options=options)


def encoded_prompts(prompts: Any, engine: Engine) -> list[Prompt]:
    """A prompt file or list as the model receives it."""
    from canopy_stats.generation.prompt_file import read_prompts

    return encoded(read_prompts(prompts), engine)


def encoded(sources: Sequence[tuple[str, Any]], engine: Engine) -> list[Prompt]:
    """Prompts, given as (id, source), as the model receives them."""
    from canopy_stats.generation.prompt_file import prompt_hash

    return [Prompt(prompt_id, prompt_hash(source), source, engine.encode(source)) for prompt_id, source in sources]


def refuse_long_prompts(prompts: Sequence[Prompt], engine: Any, policy: SamplingPolicy) -> None:
    """Look at all prompts before the first is drawn, where the engine knows of a limit."""
    if hasattr(engine, "check_length"):
        for prompt in prompts:
            engine.check_length(prompt, policy)


# --- a run, begun -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AskedRun:
    """What is asked of a run beside its model and prompts: the arguments of :func:`generate` of these names."""

    family: str
    variant: str
    task: str
    n_rollouts: int
    policy: SamplingPolicy
    seed: int


@dataclass(frozen=True, slots=True)
class Begun:
    """What an engine makes of a run before its first rollout, and all that its writer needs to know."""

    config: RunConfig
    prompts: tuple[Prompt, ...]
    versions: Mapping[str, str]
    whole: bool
    """Whether the batch decides how terms are rounded; see RunWriter."""
    mixes: bool
    """Whether the engine draws several shards at a time."""


def begin(engine: Engine, prompts: Sequence[Prompt], asked: AskedRun, batch_size: int | str = "auto",
          stored: Mapping[str, Any] | None = None) -> Begun:
    """The run that ``asked`` is with this engine and its prompts; ``stored`` is the configuration that is there."""
    refuse_long_prompts(prompts, engine, asked.policy)
    size = _batch_size(batch_size, engine, prompts, asked.policy, stored)
    config = RunConfig(family=asked.family, variant=asked.variant, task=asked.task, n_rollouts=asked.n_rollouts,
                       seed=asked.seed, policy=asked.policy, engine=engine.name, batch_size=size,
                       prompts_hash=prompts_hash(prompts), model=engine.describe(), code_version=code_version())
    return Begun(config, tuple(prompts), versions(), getattr(engine, "batch_decides_bits", False),
                 getattr(engine, "mixes_shards", False))


def writer_of(out: str | Path, begun: Begun, source: ModelSource, *, strict: bool = False) -> RunWriter:
    """The writer of a run that was begun."""
    return RunWriter(out, begun.config, begun.prompts, versions=begun.versions, origin=source.origin, strict=strict,
                     whole=begun.whole)


def _batch_size(asked: int | str, engine: Engine, prompts: Sequence[Prompt], policy: SamplingPolicy,
                stored: Mapping[str, Any] | None) -> int:
    if asked == "auto":
        # What fits may differ from day to day; a run goes on with the batch size that it began with.
        suggest = getattr(engine, "suggest_batch_size", lambda prompts, policy: BATCH_SIZE)
        return stored["batch_size"] if stored else suggest(prompts, policy)
    if isinstance(asked, str) or asked < 1:
        raise UserError(f"batch_size is {asked!r}; it must be 'auto' or a whole number of at least 1.")
    return int(asked)


# --- shards -----------------------------------------------------------------------------------------------------

Block = tuple[Sequence[Prompt], ShardPlan]
"""A shard to be drawn, with its own prompts."""
TellTokens = Callable[[int], None]


def draw_shards(engine: Any, blocks: Sequence[Block], config: RunConfig,
                count: TellTokens = lambda tokens: None) -> Iterator[tuple[int, ShardTables, int]]:
    """Shards of a run, each as soon as it is whole: its place in ``blocks``, its tables, the batch size really used.

    They depend on these arguments alone. An engine that mixes shards draws several at a time, so that it does not wait
    for a shard's tail; every other one draws them in turn. ``count`` is told the tokens of each rollout.
    """
    key = RunKey(config.seed, config.family, config.variant)
    for number, drawn in _rollouts_of(engine, blocks, config, key):
        prompts, shard = blocks[number]
        rollouts = _all_of(shard.pairs, _counted(drawn, count))
        tables = shard_tables(prompts, rollouts, config.task, engine.decode)
        yield number, tables, getattr(engine, "batch_size_used", None) or config.batch_size


def _rollouts_of(engine: Any, blocks: Sequence[Block], config: RunConfig,
                 key: RunKey) -> Iterator[tuple[int, Iterable[Rollout]]]:
    if getattr(engine, "mixes_shards", False):
        asked = ((prompts, shard.pairs) for prompts, shard in blocks)
        yield from engine.sample_shards(asked, config.policy, key, config.batch_size)
        return
    for number, (prompts, shard) in enumerate(blocks):
        yield number, engine.sample(prompts, shard.pairs, config.policy, key, config.batch_size)


def _counted(drawn: Iterable[Rollout], count: TellTokens) -> Iterator[Rollout]:
    for rollout in drawn:
        count(len(rollout.token_ids))
        yield rollout


def _all_of(pairs: Sequence[tuple[int, int]], drawn: Iterator[Rollout]) -> list[Rollout]:
    """The rollouts, after making sure that the engine gave each one that was asked for, once."""
    rollouts = list(drawn)
    if sorted((r.prompt_index, r.rollout) for r in rollouts) != sorted(pairs):
        raise RuntimeError("the engine did not return every rollout of the shard exactly once")
    return rollouts


# --- the drift of a complete run --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Redraw:
    """Rollouts of a run that are drawn again at a batch size; of one of its ``surroundings``, or (None) of all."""

    pairs: tuple[Pair, ...]
    batch_size: int
    surroundings: str | None = None


def redraws(run: Run, tokens: int, here: str) -> list[Redraw]:
    """What is drawn again when a run is complete: some rollouts at other batch sizes, and some of each of the
    surroundings other than ``here``; nothing for no tokens."""
    if tokens <= 0:
        return []
    seed, own = run.config.seed, run.config.batch_size
    pairs = tuple(choose_rollouts(run, tokens, seed))
    elsewhere = sorted({s.get("surroundings", "") for s in run.shards} - {here})
    return [*(Redraw(pairs, size) for size in BATCH_SIZES if size != own),
            *(Redraw(tuple(choose_rollouts(run, tokens, seed, _numbers(run, name))), own, name) for name in elsewhere)]


def _numbers(run: Run, surroundings: str) -> set[int]:
    return {s["number"] for s in run.shards if s.get("surroundings", "") == surroundings}


def drift_stamp(run: Run, found: Sequence[tuple[Redraw, Drift]]) -> dict[str, Any] | None:
    """What changed in the redraws of a run, for its manifest; None where none was asked for."""
    if not found:
        return None
    stamp: dict[str, Any] = {"batch_size": run.config.batch_size,
                             "redrawn": [drift.to_dict() for one, drift in found if one.surroundings is None]}
    elsewhere = {one.surroundings: drift.to_dict() for one, drift in found if one.surroundings is not None}
    return {**stamp, "elsewhere": elsewhere} if elsewhere else stamp


# --- provenance -------------------------------------------------------------------------------------------------


def code_version() -> str:
    """The package's version and a hash of the sources that decide what is drawn and which terms are stored."""
    only_looking = ("plain.py", "reference.py")
    sources = sorted(p for p in (Path(__file__).parent / "generation").rglob("*.py") if p.name not in only_looking)
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    return f"{__version__}+{digest[:12]}"


def versions() -> dict[str, str]:
    """Versions of Python and of the packages behind a run, as far as they are installed."""
    found = {"canopy_stats": __version__, "python": platform.python_version(), "platform": platform.platform()}
    for name in _RECORDED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
