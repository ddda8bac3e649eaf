"""What a call of the doors may be given beside its data: refused at once, before a log is read or a model loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from canopy_stats.schema import SamplingPolicy
from canopy_stats.schema.problems import require


def check_names(**names: Any) -> None:
    """UserError for a family, variant or task that is no name."""
    for what, name in names.items():
        require(isinstance(name, str) and bool(name.strip()) and name.isprintable(), what, name, "a printable text")


def check_law(policy: Any) -> None:
    """UserError for a law that is none."""
    require(policy is None or isinstance(policy, SamplingPolicy), "policy", policy, "a cs.SamplingPolicy, or None")


def check_whole(name: str, value: Any, *others: Any) -> None:
    """UserError for what is no whole number of at least 1, nor one of the others."""
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    require(whole or any(value is other or value == other for other in others), name, value,
            " or ".join(["a whole number of at least 1", *map(repr, others)]))


def check_level(level: Any) -> None:
    """UserError for a level of confidence that is none."""
    number = isinstance(level, int | float) and not isinstance(level, bool)
    require(number and 0 < level < 1, "level", level, "between 0 and 1, such as 0.95")


def check_mapping(fields: Any) -> None:
    """UserError for fields that are no mapping of names."""
    known = isinstance(fields, Mapping) and all(isinstance(n, str) for pair in fields.items() for n in pair)
    require(known, "fields", fields, "a mapping of names, such as {'completion': 'answer'}")
