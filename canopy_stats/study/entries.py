"""How each table and figure of the catalogue is made from a study's material."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
COMPARED = ("interaction",)
"""Models of the ablation table."""


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
        return regressions.coefficients(slope_changes(material, models))

    return make


def slope_changes(material: Material, models: Sequence[str]) -> dict[str, SlopeChange]:
    """Slope changes by model, or by model and tuned variant where there are several."""
    several = len(material.tuned) > 1
    return {f"{model}, {variant}" if several else model: material.change(model, variant)
            for variant in material.tuned or (material.first_tuned,) for model in models}


def ablations(material: Material) -> pd.DataFrame:
    """Slopes and ratio on the whole panel, without each family, without each task, and on the study's ablations."""
    from canopy_stats.slope import slope_change

    found: list[tuple[Mapping[str, Any], SlopeChange]] = []
    for variant in material.tuned or (material.first_tuned,):
        label = {"tuned": variant} if len(material.tuned) > 1 else {}
        for name, panel in panels(material, variant).items():
            sizes = {"rows": len(panel), "mean_D": float(panel["D"].mean()), "mean_R": float(panel["R_bar"].mean())}
            whole = name == WHOLE
            found += [({"panel": name, **label, **sizes}, material.change(model, variant) if whole else
                       slope_change(panel, model=model)) for model in COMPARED]  # type: ignore[arg-type]
    table = tables.changes(found)
    table.attrs["notes"] = ["Slopes by the model named, standard errors in brackets; 95% sets of the ratio by Fieller."]
    return table


WHOLE = "all"


def panels(material: Material, variant: str) -> dict[str, pd.DataFrame]:
    """The panels of the ablation table, by name; of a variable with one value nothing is left out."""
    whole = material.pair(variant)
    out = {WHOLE: whole}
    for column, word in (("model_name", "family"), ("task", "task")):
        values = sorted(whole[column].astype(str).unique())
        out |= {f"without {word} {v}": whole[whole[column].astype(str) != v] for v in values if len(values) > 1}
    own = {name: Material(panel).pair(variant) for name, panel in (material.ablations or {}).items()}
    return out | {name: panel for name, panel in own.items() if panel["model_variant"].nunique() == 2}


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
            made = [model_curve(material.change(model, variant), material.pair(variant), by).assign(model=name)
                    for model, name in models.items()]
            parts += [curve[curve["model_variant"].isin(drawn)] for curve in made]
        return figures.diversity_against_rate(material.panel, by=by, curves=pd.concat(parts, ignore_index=True))

    return draw


POINTS, MOST_ROWS = 40, 400
RATES = ("R_bar", "R_c", "R_sc")
"""Names of the rate in the models' data: as it is, centred, standardised."""


def model_curve(change: SlopeChange, panel: pd.DataFrame, by: str) -> pd.DataFrame:
    """A model's mean D over each variant's own rates, averaged over its own rows (at most 400, evenly chosen).

    Columns ``by``, ``model_variant``, ``R_bar``, ``D``. Rates are moved in the fit's own data, where they may be
    centred or standardised.
    """
    fit = change.fit
    if fit is None or len(fit.design.data) != len(panel):
        raise UserError(f"The {change.model} model has no fit of this panel to draw.")
    data, rates = fit.design.data.reset_index(drop=True), panel["R_bar"].to_numpy()
    maps = {name: np.polyfit(rates, data[name], 1) for name in RATES if name in data}
    identity = panel[[by, "model_variant"]].astype(str).reset_index(drop=True)
    parts = []
    for value, variant in identity.drop_duplicates().itertuples(index=False, name=None):
        place = np.flatnonzero((identity[by] == value) & (identity["model_variant"] == variant))
        grid = np.linspace(rates[place].min(), rates[place].max(), POINTS)
        chosen = data.loc[place[np.linspace(0, len(place) - 1, min(len(place), MOST_ROWS)).astype(int)]]
        parts.append(pd.DataFrame({by: value, "model_variant": variant, "R_bar": grid,
                                   "D": _mean_over(fit, chosen, maps, grid)}))
    return pd.concat(parts, ignore_index=True)


def _mean_over(fit: Any, rows: pd.DataFrame, maps: Mapping[str, np.ndarray], grid: np.ndarray) -> np.ndarray:
    """Predicted mean (points,) of the rows with the rate set to each point of the grid."""
    copies: pd.DataFrame = pd.concat([_moved(rows, maps, float(rate)) for rate in grid], ignore_index=True)
    return np.asarray(fit.predict(copies), dtype=float).reshape(len(grid), len(rows)).mean(axis=1)


def _moved(rows: pd.DataFrame, maps: Mapping[str, np.ndarray], rate: float) -> pd.DataFrame:
    moved = rows.assign(**{name: np.polyval(line, rate) for name, line in maps.items()})
    return moved.assign(R_c2=moved["R_c"] ** 2) if "R_c2" in rows else moved


def forest(models: Sequence[str]) -> Callable[[Material], Figure]:
    """The slopes of some models with their intervals."""
    def draw(material: Material) -> Figure:
        from canopy_stats.report import figures

        changes = slope_changes(material, models)
        return figures.slope_forest(pd.DataFrame([forest_row(name, change) for name, change in changes.items()]))

    return draw


def forest_row(name: str, change: SlopeChange) -> dict[str, Any]:
    """A slope change as the forest draws it; of a model with one slope for both variants only that one."""
    row: dict[str, Any] = {"model": f"{change.model} model{name.removeprefix(change.model)}"}
    for which in ("base", "tuned", "difference"):
        estimate, hidden = getattr(change, which), change.model == "main" and which != "base"
        values = [float("nan")] * 3 if hidden else [estimate.estimate, *estimate.interval]
        row |= dict(zip((which, f"{which}_low", f"{which}_high"), values, strict=True))
    return row | {"ratio": None if change.model == "main" else f"{change.ratio.estimate:.2f}"}


def residuals(models: Sequence[str]) -> Callable[[Material], Figure]:
    """Quantile residuals of some models."""
    def draw(material: Material) -> Figure:
        from canopy_stats.mixed import quantile_residuals
        from canopy_stats.report import figures

        panel = material.pair(material.first_tuned)
        parts, tests = [], {}
        for model in models:
            change = material.change(model)
            assert change.fit is not None
            found = quantile_residuals(change.fit, seed=0)
            tests[model] = found.tests
            parts.append(panel[["R_bar", "model_variant"]].assign(model=model, residual=found.residuals,
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
