"""What decides the law of a run, which may never change, and where it was drawn, which may.

The identity names family, variant, task, seed, sampling policy, and of the model whatever decides its next-token
distribution: weights, adapter, template, end tokens, number format. Hardware, threads, versions and batches only
decide how results are rounded: they are the surroundings, noted for each shard.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from canopy_stats import files
from canopy_stats.schema import SamplingPolicy

SURROUNDINGS = ("device", "device_name", "threads", "cpu_capability", "attention", "versions", "cache", "mixes_shards",
                "tokenizer", "tokenizer_sha256", "vllm")
"""What an engine says of itself that does not decide the law."""
_REMARKS = ("cautions", "opens_thought", "channels")
"""What it says of the prompts that it has seen."""
_NAMED_BY_CONTENT = {"model": "weights_sha256", "adapter": "adapter_sha256"}
"""Names that stand for nothing more where the hash of the content is known."""


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the law, of a stored configuration. Parts of the law that are at their default do not appear: one
    that an older version stored stays the same."""
    default = asdict(SamplingPolicy())
    whole = _decisive(config)
    return {**whole, "policy": {k: v for k, v in whole["policy"].items() if v != _plain(default[k])}}


def identity_differences(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """Every field of the identity in which two configurations differ, such as ``seed: stored 0, asked 1``."""
    return differences(_decisive(stored), _decisive(asked))


def _decisive(config: Mapping[str, Any]) -> dict[str, Any]:
    given = {name: config.get(name) for name in ("family", "variant", "task", "seed")}
    model = dict(config.get("model") or {})
    return {**given, "policy": {k: _plain(v) for k, v in asdict(policy_from(config["policy"])).items()},
            "model": {k: v for k, v in model.items() if not (_incidental(k, model) or _empty(v))}}


def _incidental(name: str, model: Mapping[str, Any]) -> bool:
    return name in (*SURROUNDINGS, *_REMARKS) or bool(model.get(_NAMED_BY_CONTENT.get(name, "")))


def _empty(value: Any) -> bool:
    return value is None or value == {} or value == []


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def policy_from(stored: Mapping[str, Any]) -> SamplingPolicy:
    """The policy that was stored as a mapping."""
    given: dict[str, Any] = dict(stored)
    return SamplingPolicy(**given)


def run_id(config: Mapping[str, Any]) -> str:
    """16 hexadecimal digits that name a run's identity."""
    return files.sha256(files.canonical_json(identity(config)))[:16]


def first_run_id(config: Mapping[str, Any]) -> str:
    """The same in the first format: of the whole configuration."""
    return files.sha256(files.canonical_json(dict(config)))[:16]


def surroundings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Where and how a configuration is drawn, as far as it does not decide the law."""
    model = dict(config.get("model") or {})
    own = {name: config.get(name) for name in ("engine", "batch_size", "code_version")}
    return {**own, **{k: v for k, v in model.items() if k in SURROUNDINGS and not _empty(v)}}


def surroundings_id(values: Mapping[str, Any]) -> str:
    """12 hexadecimal digits that name surroundings."""
    return files.sha256(files.canonical_json(dict(values)))[:12]


def differences(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """Every field in which two mappings differ, such as ``seed: stored 0, asked 1``."""
    old, new = files.flat(stored), files.flat(asked)
    return [f"{name}: stored {_short(old.get(name))}, asked {_short(new.get(name))}"
            for name in files.differences(stored, asked)]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:28]}...{text[-28:]}"
