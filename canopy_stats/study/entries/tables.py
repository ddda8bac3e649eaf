"""How each table of the catalogue is made from a study's material."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from canopy_stats.report import regressions, tables
from canopy_stats.schema import UserError
from canopy_stats.study.entries.changes import ROBUST, slope_changes
from canopy_stats.study.material import Material

if TYPE_CHECKING:
    from canopy_stats.slope import SlopeChange

COMPARED = ("interaction", "paper_beta")
"""Models of every panel of the ablation table; the robust slope, which takes longer, is for the whole and ablations."""


def slopes(material: Material) -> pd.DataFrame:
    """The slope table, for each tuned variant."""
    from canopy_stats.slope import slope_table

    made = {variant: slope_table(material.pair(variant)) for variant in material.tuned or (material.first_tuned,)}
    if len(made) == 1:
        return next(iter(made.values()))
    table = pd.concat([one.assign(tuned=variant) for variant, one in made.items()], ignore_index=True)
    table.attrs["notes"] = list(dict.fromkeys(note for one in made.values() for note in one.attrs.get("notes", [])))
    return table


def base_tuned(material: Material) -> pd.DataFrame:
    return tables.base_tuned(material.panel)


def paired(material: Material) -> pd.DataFrame:
    return material.paired


def decomposition(material: Material) -> pd.DataFrame:
    return tables.decomposition(material.panel)


def lengths(material: Material) -> pd.DataFrame:
    return tables.length_thirds(material.panel)


def checks(material: Material) -> Any:
    return material.checks


def coefficients(models: Sequence[str]) -> Callable[[Material], pd.DataFrame]:
    """The coefficient table of some models, for every tuned variant."""
    def make(material: Material) -> pd.DataFrame:
        found = slope_changes(material, models)
        table = regressions.coefficients(found.changes)
        table.attrs["notes"] += found.refused
        return table

    return make


def scrutiny(material: Material) -> pd.DataFrame:
    """The paper's headline slope beside the robust one, with what follows in words."""
    parts = {variant: material.scrutiny(variant) for variant in material.tuned or (material.first_tuned,)}
    several = len(parts) > 1
    table = pd.concat([one.table.assign(tuned=variant) if several else one.table for variant, one in parts.items()],
                      ignore_index=True)
    table.attrs["notes"] = [f"{variant}: {one.verdict}" if several else one.verdict for variant, one in parts.items()]
    return table


def ablations(material: Material) -> pd.DataFrame:
    """Slopes and ratio on the whole panel, without each family, without each task, and on the study's ablations."""
    rows: list[tuple[Mapping[str, Any], SlopeChange]] = []
    refused: list[str] = []
    for variant in material.tuned or (material.first_tuned,):
        label = {"tuned": variant} if len(material.tuned) > 1 else {}
        for name, part in panels(material, variant).items():
            sizes = {"rows": len(part.panel), "mean_D": part.panel["D"].mean(), "mean_R": part.panel["R_bar"].mean()}
            found = slope_changes(part, COMPARED if name.startswith(WITHOUT) else (*COMPARED, ROBUST), strict=False)
            rows += [({"panel": name, **label, **sizes}, change) for change in found.changes.values()]
            refused += [f"{name}: {reason}" for reason in found.refused]
            refused += [f"{name}: the {one.model} fit is not certified." for one in found.changes.values()
                        if one.fit is not None and not one.fit.converged]
    if not rows:
        raise UserError(refused[0])
    table = tables.changes(rows)
    table.attrs["notes"] = ["Standard errors in brackets; 95% sets of the ratio by Fieller. interaction: D per "
                            "nat/token; paper_beta and robust: log-odds per standard deviation of that panel's rates.",
                            *refused]
    return table


WHOLE, WITHOUT = "all", "without "


def panels(material: Material, variant: str) -> dict[str, Material]:
    """The panels of the ablation table, by name; of a variable with one value nothing is left out."""
    whole = material.pair(variant)
    known = {key: change for key, change in material.known.items() if key[1] == variant}
    out = {WHOLE: Material(whole, known=known)}
    for column, word in (("model_name", "family"), ("task", "task")):
        values = sorted(whole[column].astype(str).unique())
        out |= {f"{WITHOUT}{word} {v}": Material(whole[whole[column].astype(str) != v])
                for v in values if len(values) > 1}
    own = {name: Material(panel).pair(variant) for name, panel in (material.ablations or {}).items()}
    return out | {name: Material(panel) for name, panel in own.items() if panel["model_variant"].nunique() == 2}
