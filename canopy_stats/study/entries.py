"""How each table and figure of the catalogue is made from a study's material."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from canopy_stats.report import regressions, tables
from canopy_stats.schema import UserError
from canopy_stats.study.material import BASE, Material, identity

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from canopy_stats.slope import SlopeChange

LINEAR = ("main", "interaction", "quadratic")
BETA = ("paper_beta", "paper_vendi", "paper_rse")
ROBUST = "robust"
COMPARED = ("interaction", "paper_beta")
"""Models of every panel of the ablation table; the robust slope, which takes longer, is for the whole and ablations."""


# --- tables -----------------------------------------------------------------------------------------------------


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


# --- figures of the panel ---------------------------------------------------------------------------------------


def cloud(by: str) -> Callable[[Material], Figure]:
    """Diversity against entropy rate with the interaction model's lines."""
    return curves({"interaction": "fitted"}, by)


def curves(models: Mapping[str, str], by: str = "task") -> Callable[[Material], Figure]:
    """Diversity against entropy rate with the curves of several models, by model and its name in the figure.

    Each tuned variant has the curve of its own comparison with the base; the base has that of the first.
    """
    def draw(material: Material) -> Figure:
        from canopy_stats.report import figures

        parts: list[pd.DataFrame] = []
        for variant in material.tuned or (material.first_tuned,):
            drawn = [variant] if parts else [BASE, variant]
            found = slope_changes(material, list(models), [variant])
            made = [model_curve(change, material.pair(variant), by).assign(model=models[change.model])
                    for change in found.changes.values() if change.fit is not None]
            parts += [curve[curve["model_variant"].isin(drawn)] for curve in made]
        return figures.diversity_against_rate(material.panel, by=by, curves=pd.concat(parts, ignore_index=True))

    return draw


POINTS, MOST_ROWS = 30, 150
RATES = ("R_bar", "R_c", "R_sc", "x")
"""Names of the rate in the models' data: as it is, centred, standardised, and standardised without its error."""


def model_curve(change: SlopeChange, panel: pd.DataFrame, by: str) -> pd.DataFrame:
    """A model's mean D over each variant's own rates, averaged over its own rows (at most 150, evenly chosen).

    Columns ``by``, ``model_variant``, ``R_bar``, ``D``. Rates are moved in the fit's own data, where they may be
    centred, standardised, or corrected for their error; rows that the model left out have no curve.
    """
    fit, rows = _fit_and_rows(change, panel)
    data = fit.design.data.set_axis(rows.index)
    identity, rates = rows[[by, "model_variant"]].astype(str), rows["R_bar"]
    axis = next(name for name in RATES if name in data)
    slope, start = np.polyfit(data[axis], rates, 1)  # exact but for corrected rates, whose mean is that of the raw ones
    parts = []
    for value, variant in identity.drop_duplicates().itertuples(index=False, name=None):
        own = data[(identity[by] == value) & (identity["model_variant"] == variant)]
        grid = np.linspace(own[axis].min(), own[axis].max(), POINTS)
        chosen = own.iloc[np.linspace(0, len(own) - 1, min(len(own), MOST_ROWS)).astype(int)]
        parts.append(pd.DataFrame({by: value, "model_variant": variant, "R_bar": start + slope * grid,
                                   "D": _mean_over(fit, chosen, axis, grid, start / slope)}))
    return pd.concat(parts, ignore_index=True)


def _fit_and_rows(change: SlopeChange, panel: pd.DataFrame) -> tuple[Any, pd.DataFrame]:
    """A change's fit and the panel's rows that it was fitted to; fitted anew where a stored fit lost track of them."""
    from canopy_stats.slope import slope_change

    if change.fit is not None:
        data = change.fit.design.data
        rows = panel.loc[data.index] if data.index.isin(panel.index).all() else panel
        if data["prompt_uid"].astype(str).tolist() == rows["prompt_uid"].astype(str).tolist():
            return change.fit, rows
    again = slope_change(panel, model=change.model)  # type: ignore[arg-type]
    if again.fit is None:
        raise UserError(f"The {change.model} model has no curve to draw: {again.verdict}")
    return again.fit, panel.loc[again.fit.design.data.index]


def _mean_over(fit: Any, rows: pd.DataFrame, axis: str, grid: np.ndarray, zero: float) -> np.ndarray:
    """Predicted mean (points,) of the rows with the rate ``axis`` set to each point of the grid; the rate itself is
    proportional to axis + zero."""
    moved = [_moved(rows, axis, float(value), zero) for value in grid]
    copies: pd.DataFrame = pd.concat(moved, ignore_index=True)
    return np.asarray(fit.predict(copies), dtype=float).reshape(len(grid), len(rows)).mean(axis=1)


def _moved(rows: pd.DataFrame, axis: str, value: float, zero: float) -> pd.DataFrame:
    """The rows at another rate, with the columns that follow from it."""
    moved = rows.assign(**{axis: value})
    if "R_c2" in rows:
        return moved.assign(R_c2=value**2)
    if "log_R" not in rows:
        return moved
    factor = np.maximum(value + zero, 1e-6) / np.maximum(rows[axis] + zero, 1e-6)
    return moved.assign(x_tun=value * rows["tun"], log_R=rows["log_R"] + np.log(factor))


def forest(models: Sequence[str]) -> Callable[[Material], Figure]:
    """The slopes of some models with their intervals."""
    def draw(material: Material) -> Figure:
        from canopy_stats.report import figures

        changes = slope_changes(material, models).changes
        drawn = pd.DataFrame([forest_row(name, change) for name, change in changes.items()])
        units = list(dict.fromkeys(change.unit for change in changes.values()))
        return figures.slope_forest(drawn, scale=" or ".join(units))

    return draw


def forest_row(name: str, change: SlopeChange) -> dict[str, Any]:
    """A slope change as the forest draws it; of a model with one slope for both variants only that one."""
    row: dict[str, Any] = {"model": f"{change.model} model{name.removeprefix(change.model)}"}
    for which in ("base", "tuned", "difference"):
        estimate, hidden = getattr(change, which), change.model == "main" and which != "base"
        values = [float("nan")] * 3 if hidden else [estimate.estimate, *estimate.interval]
        row |= dict(zip((which, f"{which}_low", f"{which}_high"), values, strict=True))
    return row | {"ratio": f"{change.ratio.estimate:.2f}" if np.isfinite(change.ratio.estimate) else None}


def residuals(models: Sequence[str]) -> Callable[[Material], Figure]:
    """Quantile residuals of some models, for the first tuned variant."""
    def draw(material: Material) -> Figure:
        from canopy_stats.mixed import quantile_residuals
        from canopy_stats.report import figures

        panel, parts, tests = material.pair(material.first_tuned), [], {}
        changes = slope_changes(material, models, [material.first_tuned]).changes.values()
        for model, change in ((c.model, c) for c in changes if c.fit is not None):
            fit, rows = _fit_and_rows(change, panel)
            found = quantile_residuals(fit, seed=0)
            tests[model] = found.tests
            parts.append(rows[["R_bar", "model_variant"]].assign(model=model, residual=found.residuals,
                                                                 fitted=found.fitted))
        return figures.residual_diagnostics(pd.concat(parts, ignore_index=True), tests)

    return draw


def decomposition_figure(material: Material) -> Figure:
    from canopy_stats.report import figures

    return figures.decomposition_bars(tables.decomposition(material.panel))


# --- figures of the rollouts ------------------------------------------------------------------------------------


def length_figure(material: Material) -> Figure:
    from canopy_stats.report import figures

    return figures.length_histograms(material.rollouts)


def density_figure(material: Material) -> Figure:
    from canopy_stats.report import figures

    return figures.length_densities(material.rollouts)


def within_figure(material: Material) -> Figure:
    from canopy_stats.report import figures

    return figures.within_prompt(figures.within_variances(material.rollouts), base=BASE)


def profile_figure(material: Material) -> Figure:
    from canopy_stats.report import figures

    return figures.entropy_profile(material.steps, by="task")


def cohort_figure(material: Material) -> Figure:
    from canopy_stats.report import figures

    return figures.cohort_profile(material.steps)


def hazard_figure(material: Material) -> Figure:
    from canopy_stats.report import figures

    return figures.hazard_map(material.steps)


def cap_figure(material: Material) -> Figure:
    from canopy_stats.report import figures

    return figures.cap_curves(curves_by_checkpoint(material))


def curves_by_checkpoint(material: Material) -> pd.DataFrame:
    """Each checkpoint's cap curve, averaged over its tasks, which all have the same number of prompts."""
    from canopy_stats.metrics import cap_curve

    names = {"mean_length": "N_bar", "mean_rate": "R_bar"}
    parts = [cap_curve(run).rename(columns=names).assign(**identity(run)) for run in material.opened.values()]
    grouped = pd.concat(parts, ignore_index=True).groupby(["model_name", "model_variant", "cap"], sort=False)
    return grouped[["CE", "N_bar", "R_bar", "truncation_rate"]].mean().reset_index()
