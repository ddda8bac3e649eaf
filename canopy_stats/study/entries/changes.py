"""Slope changes by several models: what was fitted, and what a panel does not suffice for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from canopy_stats.schema import UserError
from canopy_stats.study.material import Material

if TYPE_CHECKING:
    from canopy_stats.slope import SlopeChange

LINEAR = ("main", "interaction", "quadratic")
BETA = ("paper_beta", "paper_vendi", "paper_rse")
ROBUST = "robust"


@dataclass(frozen=True)
class Found:
    """Slope changes by name, and what was refused, in words."""

    changes: dict[str, SlopeChange]
    refused: list[str]


def slope_changes(material: Material, models: Sequence[str], variants: Sequence[str] | None = None, *,
                  strict: bool = True) -> Found:
    """Slope changes by model, or by model and tuned variant where the panel has several (None: all of them).

    What the panel does not suffice for is told apart; if ``strict``, UserError when it suffices for none.
    """
    found = Found({}, [])
    for variant in variants or material.tuned or (material.first_tuned,):
        for model in models:
            name = f"{model}, {variant}" if len(material.tuned) > 1 else model
            try:
                found.changes[name] = material.change(model, variant)
            except UserError as error:
                found.refused.append(f"No {name}: {error}")
    if strict and not found.changes:
        raise UserError(" ".join(found.refused))
    return found
