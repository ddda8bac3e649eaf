"""How each figure of the catalogue is made from a study's source."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from canopy_stats.report import figures, frames
from canopy_stats.report.source import BASE, Source, identity
from canopy_stats.schema import UserError
from canopy_stats.slope.mean_curve import rows_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from canopy_stats.slope import SlopeChange


# --- figures of the panel ---------------------------------------------------------------------------------------


def cloud(by: str) -> Callable[[Source], Figure]:
    """Diversity against entropy rate with the interaction model's lines."""
    return curves({"interaction": "interaction model"}, by)


def curves(models: Mapping[str, str], by: str = "task") -> Callable[[Source], Figure]:
    """Diversity against entropy rate with the curves of several models, by model and its name in the figure.

    Each tuned variant has the curve of its own comparison with the base; the base has that of the first.
    """
    def draw(source: Source) -> Figure:
        parts: list[pd.DataFrame] = []
        for variant in source.variants:
            drawn = [variant] if parts else [BASE, variant]
            found = source.slope_changes(list(models), [variant])
            made = [change.curve(by, source.pair(variant)).assign(model=models[change.model])
                    for change in found.changes.values() if change.fit is not None]
            parts += [curve[curve["model_variant"].isin(drawn)] for curve in made]
        if not parts:
            raise UserError(f"None of the models {', '.join(models)} has a curve on this panel.")
        return figures.diversity_against_rate(source.panel, by=by, curves=pd.concat(parts, ignore_index=True))

    return draw


def forest(models: Sequence[str]) -> Callable[[Source], Figure]:
    """The slopes of some models with their intervals."""
    def draw(source: Source) -> Figure:
        changes = source.slope_changes(models).changes
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
    shown = change.ratio.kind == "bounded" and np.isfinite(change.ratio.estimate)
    return row | {"ratio": f"{change.ratio.estimate:.2f}" if shown else None}


def finding(source: Source) -> Figure:
    """What the study says of both claims: the change of slope in every version, and the change of rho(N, r)."""
    variant = source.first_tuned
    return figures.finding_forest(source.claims(variant), source.rho_row(variant))


def cell_forest(source: Source) -> Figure:
    """The robust model's slopes in each family and task."""
    return figures.cell_forest(frames.cells(source))


def residuals(models: Sequence[str]) -> Callable[[Source], Figure]:
    """Quantile residuals of some models, for the first tuned variant."""
    def draw(source: Source) -> Figure:
        from canopy_stats.mixed import quantile_residuals

        panel, parts, tests = source.pair(source.first_tuned), [], {}
        changes = source.slope_changes(models, [source.first_tuned]).changes.values()
        for model, fit in ((c.model, c.fit) for c in changes if c.fit is not None):
            rows = rows_of(fit.design.data.reset_index(drop=True), panel)[["R_bar", "model_variant"]]
            found = quantile_residuals(fit, seed=0, along={"rate": rows["R_bar"].to_numpy(dtype=float)})
            tests[model] = found.tests
            parts.append(rows.assign(model=model, residual=found.residuals, fitted=found.fitted))
        if not parts:
            raise UserError(f"None of the models {', '.join(models)} has residuals on this panel.")
        return figures.residual_diagnostics(pd.concat(parts, ignore_index=True), tests)

    return draw


def decomposition_figure(source: Source) -> Figure:
    return figures.decomposition_bars(frames.decomposition(source.panel))


def share_figure(source: Source) -> Figure:
    return figures.share_bars(frames.decomposition(source.panel))


# --- figures of the rollouts ------------------------------------------------------------------------------------


def length_figure(source: Source) -> Figure:
    return figures.length_histograms(source.rollouts)


def density_figure(source: Source) -> Figure:
    return figures.length_densities(source.rollouts)


def within_figure(source: Source) -> Figure:
    return figures.within_prompt(figures.within_variances(source.rollouts), base=BASE)


def profile_figure(source: Source) -> Figure:
    return figures.entropy_profile(source.steps, by="task")


def running_figure(source: Source) -> Figure:
    return figures.running_rate(source.steps, by="task")


def cohort_figure(source: Source) -> Figure:
    return figures.cohort_profile(source.steps)


def hazard_figure(source: Source) -> Figure:
    return figures.hazard_map(source.steps)


def cap_figure(source: Source) -> Figure:
    return figures.cap_curves(curves_by_checkpoint(source))


def curves_by_checkpoint(source: Source) -> pd.DataFrame:
    """Each checkpoint's cap curve, averaged over its tasks, which all have the same number of prompts."""
    from canopy_stats.metrics import cap_curve

    names = {"mean_length": "N_bar", "mean_rate": "R_bar"}
    parts = [cap_curve(run).rename(columns=names).assign(**identity(run)) for run in source.opened.values()]
    grouped = pd.concat(parts, ignore_index=True).groupby(["model_name", "model_variant", "cap"], sort=False)
    return grouped[["CE", "N_bar", "R_bar", "truncation_rate"]].mean().reset_index()
