"""From a model and prompts to a stored run, and the terms of given rollouts under another model or law."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from canopy_stats import __version__
from canopy_stats.drift import BATCH_SIZES, choose_rollouts, measure_drift
from canopy_stats.progress import Progress
from canopy_stats.schema import Engine, Prompt, Rollout, RunConfig, RunKey, SamplingPolicy, UserError
from canopy_stats.store import Run, RunWriter, prompts_hash

DRIFT_TOKENS = 512
_RECORDED = ("torch", "transformers", "tokenizers", "peft", "gguf", "numpy", "pyarrow")


def generate(
    model: Any,
    prompts: Any,
    out: str | Path,
    *,
    family: str,
    variant: str,
    task: str,
    n_rollouts: int = 100,
    policy: SamplingPolicy | None = None,
    seed: int = 0,
    engine: str | Engine = "torch",
    tokenizer: Any = None,
    chat: bool | None = None,
    system: str | None = None,
    enable_thinking: bool | None = None,
    adapter: str | Path | None = None,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    batch_size: int | str = "auto",
    drift_tokens: int = DRIFT_TOKENS,
    progress: bool = True,
) -> Run:
    """Draw ``n_rollouts`` rollouts of each prompt with their exact entropy terms, and store them in the folder ``out``.

    An interrupted call resumes: shards that are intact stay, the others are drawn anew, and the content is that of an
    uninterrupted run. A folder with another configuration is refused.

    Parameters
    ----------
    model : str, path or transformers model
        Hub name, folder, GGUF file, or a loaded causal language model.
    prompts : path or list
        JSONL file with a ``prompt`` key on each line, or a list of strings, chat message lists, or token id lists.
    family, variant, task : str
        Names for the panel: which models belong together, which checkpoint this is, what the prompts ask.
    n_rollouts : int
        Rollouts of each prompt; at least 2, because every metric compares rollouts of one prompt.
    chat : bool, optional
        Whether the chat template is applied; None means for every variant but ``base``.
    batch_size : int or "auto"
        Rollouts decoded at once. It decides the rounding, so it is part of the configuration.
    drift_tokens : int
        Tokens drawn again at other batch sizes when the run is complete; the flips are stamped on it. 0 skips it.
    """
    _refuse_few_rollouts(n_rollouts)
    policy = policy or SamplingPolicy()
    if isinstance(engine, str):
        engine = _load_engine(engine, model, tokenizer=tokenizer, chat=_templated(chat, variant), system=system,
                              enable_thinking=enable_thinking, adapter=adapter, revision=revision, dtype=dtype,
                              device=device)
    encoded = _encoded(prompts, engine, policy)
    config = RunConfig(family=family, variant=variant, task=task, n_rollouts=int(n_rollouts), seed=int(seed),
                       policy=policy, engine=engine.name, batch_size=_batch_size(batch_size, engine),
                       prompts_hash=prompts_hash(encoded), model=engine.describe(), code_version=code_version())
    with RunWriter(out, config, encoded, versions()) as writer:
        _draw_missing(writer, engine, config, progress)
        if not writer.finished:
            writer.finish(_drift_stamp(writer.run(), engine, drift_tokens))
        return writer.run()


def _refuse_few_rollouts(n_rollouts: int) -> None:
    if n_rollouts < 2:
        raise UserError(f"n_rollouts is {n_rollouts}; at least 2 rollouts a prompt are needed, because diversity, "
                        "covariance and correlation compare rollouts of one prompt (the paper draws 100).")


def _templated(chat: bool | None, variant: str) -> bool:
    return variant != "base" if chat is None else chat


def _load_engine(name: str, model: Any, **options: Any) -> Engine:
    if name != "torch":
        raise UserError(f"There is no engine {name!r}. Use 'torch', or pass an object with the Engine methods.")
    from canopy_stats.generation.torch_engine import TorchEngine

    return TorchEngine.load(model, **options)


def _encoded(prompts: Any, engine: Engine, policy: SamplingPolicy) -> list[Prompt]:
    from canopy_stats.generation.prompts import read_prompts

    return read_prompts(prompts, engine.encode)


def _batch_size(asked: int | str, engine: Engine) -> int:
    """The batch size, chosen by a rule that gives the same number whenever the run is resumed on this machine."""
    if asked == "auto":
        return 128 if str(engine.describe().get("device", "cpu")).startswith("cuda") else 32
    if isinstance(asked, str) or asked < 1:
        raise UserError(f"batch_size is {asked!r}; it must be 'auto' or a whole number of at least 1.")
    return int(asked)


def _draw_missing(writer: RunWriter, engine: Engine, config: RunConfig, show: bool) -> None:
    key = RunKey(config.seed, config.family, config.variant)
    total = len(writer.prompts) * config.n_rollouts
    stored = total - sum(len(writer.plan[i]) for i in writer.missing) * config.n_rollouts
    with Progress(f"{config.family}/{config.variant}/{config.task}", total, stored, show=show) as bar:
        for index in writer.missing:
            part = writer.shard_prompts(index)
            pairs = [(i, r) for i in range(len(part)) for r in range(config.n_rollouts)]
            drawn = engine.sample(part, pairs, config.policy, key, config.batch_size)
            rollouts = _all_of(pairs, _counted(drawn, bar))
            used = getattr(engine, "batch_size_used", config.batch_size)
            writer.write_shard(index, rollouts, engine.decode, batch_size=used)


def _counted(drawn: Iterator[Rollout], bar: Progress) -> Iterator[Rollout]:
    for rollout in drawn:
        bar.add(len(rollout.token_ids))
        yield rollout


def _all_of(pairs: Sequence[tuple[int, int]], drawn: Iterator[Rollout]) -> list[Rollout]:
    """The rollouts, after making sure that the engine gave each one that was asked for, once."""
    rollouts = list(drawn)
    if sorted((r.prompt_index, r.rollout) for r in rollouts) != sorted(pairs):
        raise RuntimeError("the engine did not return every rollout of the shard exactly once")
    return rollouts


def _drift_stamp(run: Run, engine: Engine, tokens: int) -> dict[str, Any] | None:
    """What changes when some rollouts are drawn again at other batch sizes; None when that was not asked for."""
    if tokens <= 0:
        return None
    pairs = choose_rollouts(run, tokens, seed=run.config.seed)
    sizes = [b for b in BATCH_SIZES if b != run.config.batch_size]
    measured = [measure_drift(run, engine, pairs, b).to_dict() for b in sizes]
    return {"batch_size": run.config.batch_size, "redrawn": measured}


def code_version() -> str:
    """The package's version and a hash of the sources that decide what is drawn and which terms are stored."""
    sources = sorted((Path(__file__).parent / "generation").glob("*.py"))
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
