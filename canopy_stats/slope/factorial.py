"""Weights × template: how much of the change by fine-tuning is the chat template's.

Usually the base weights read plain prompts and the tuned ones a chat template, so that the two cannot be told apart.
With the other two cells there (base weights with the template, tuned ones without), the change from (base, raw) to
(tuned, chat) is exactly the main effect of the weights plus that of the template, each an average over both settings
of the other; their interaction cancels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from canopy_stats.mixed import Fit, lmm
from canopy_stats.mixed.formulas.frames import as_pandas
from canopy_stats.notebook import Shown
from canopy_stats.panel_rows import check_rows
from canopy_stats.schema import UserError
from canopy_stats.slope.coefficients import combined, names
from canopy_stats.slope.columns import BASE
from canopy_stats.slope.contrasts import JointFit, joint_fit, prepare_all
from canopy_stats.slope.estimates import ALPHA, Estimate, ratio_of
from canopy_stats.slope.prepare import PreparedPanel

FactorialModel = Literal["interaction", "quadratic", "paper_beta"]
Levels = str | Mapping[str, str]
Cell = tuple[str, str]

CELLS = ("base, raw", "base, chat", "tuned, raw", "tuned, chat")
"""Order of the cells' rows; the levels' own names take the place of these."""
EFFECTS: dict[str, tuple[float, ...]] = {
    "weights": (-0.5, -0.5, 0.5, 0.5),
    "template": (-0.5, 0.5, -0.5, 0.5),
    "interaction": (1.0, -1.0, -1.0, 1.0),
    "total": (-1.0, 0.0, 0.0, 1.0),
}
"""Weights of the cells in each effect. interaction: the template's effect on tuned weights less that on base ones."""
SHARE = "template share"
CAVEAT = ("Families and tasks are taken as they are: where effects differ between them, the intervals do not speak for "
          "other families, and curvature and measurement error are not corrected.")


@dataclass(frozen=True)
class TemplateFactorial(Shown):
    """Main effects of weights and template, their interaction, the total change and the template's share of it.

    ``table``: quantity ("slope", or "mean D"), effect (:data:`EFFECTS` and the share), estimate, std_error, df,
    statistic, p_value, conf_low, conf_high, kind, unit. ``cells``: the slope and the mean of D in each of the four
    cells, with standard errors.
    """

    table: pd.DataFrame
    cells: pd.DataFrame
    verdict: str
    notes: tuple[str, ...]
    fits: tuple[Fit, Fit]

    def _shown(self) -> tuple[str, list[Any]]:
        return "Weights and template", [self.verdict, self.table, self.cells, *self.notes]


def template_factorial(panel: pd.DataFrame, *, weights: Levels, template: Levels, model: FactorialModel = "interaction",
                       reference: Cell = (BASE, "raw")) -> TemplateFactorial:
    """Separate the template's part from the weights' in a panel with all four combinations.

    Parameters
    ----------
    weights, template : column of the panel, or mapping
        A mapping has the level of each model_variant, such as ``weights={"base": "base", "base-chat": "base",
        "instruct-raw": "tuned", "instruct": "tuned"}``.
    model : str
        Which of the paper's models gives the slopes (one for each cell, in one joint fit).
    reference : pair
        The levels that the effects start from.

    Notes
    -----
    The slope's effects come from the joint model; those on the mean of D from ``D ~ cell + task + model_name +
    (1|prompt_uid)``, at whatever rates and lengths each cell has. The share's interval is Fieller's; its p-value tests
    the template's main effect.
    """
    panel = as_pandas(panel)
    if model not in get_args(FactorialModel):
        raise UserError(f"model is {model!r}; choose one of {', '.join(get_args(FactorialModel))}.")
    check_rows(panel)
    labelled, cells = _with_cells(panel, weights, template, reference)
    slopes = joint_fit(labelled, model, list(cells))
    if np.isnan(slopes.rows).any():
        raise UserError("The four slopes cannot be told from the other terms in this panel (aliased columns): is a "
                        "factor such as task or model_name another name for the cells?")
    means = _means(labelled, list(cells))
    table = pd.concat([_effects("slope", slopes), _effects("mean D", means)], ignore_index=True)
    notes = tuple(dict.fromkeys((*slopes.notes, *means.notes, *_incomplete(labelled), CAVEAT)))
    return TemplateFactorial(table, _cell_table(cells, slopes, means), _verdict(table), notes, (slopes.fit, means.fit))


# --- the four cells ---------------------------------------------------------------------------------------------


def _with_cells(panel: pd.DataFrame, weights: Levels, template: Levels,
                reference: Cell) -> tuple[pd.DataFrame, dict[str, Cell]]:
    """The panel with its cell as model_variant, and the four cells in the order of :data:`CELLS`."""
    of_weights, of_template = _levels(panel, weights, "weights"), _levels(panel, template, "template")
    (w0, w1), (t0, t1) = (_two(values, first, name) for values, first, name in (
        (of_weights, reference[0], "weights"), (of_template, reference[1], "template")))
    cells = {f"{w}, {t}": (w, t) for w in (w0, w1) for t in (t0, t1)}
    labels = of_weights + ", " + of_template
    counts = {cell: int((labels == cell).sum()) for cell in cells}
    empty = [cell for cell, n in counts.items() if n == 0]
    if empty:
        raise UserError(f"The factorial lacks the cell {'; '.join(empty)}: without it the template cannot be told from "
                        "the weights. Generate these runs (--chat or --no-chat sets the template).")
    return panel.assign(model_variant=labels), cells


def _incomplete(panel: pd.DataFrame) -> tuple[str, ...]:
    """A note on prompts of a family that are not in all four cells, where cells differ by more than the factors."""
    seen = panel.groupby(["model_name", "prompt_uid"], observed=True)["model_variant"].nunique()
    return () if (seen == 4).all() else (
        f"{int((seen < 4).sum())} of {len(seen)} prompts of a family are not in all four cells: their difference is "
        "left to the model. Generate them in each cell for a cleaner answer.",)


def _levels(panel: pd.DataFrame, given: Levels, name: str) -> pd.Series:
    if isinstance(given, str):
        if given not in panel:
            raise UserError(f"{name} is {given!r}, which is no column of the panel; name a column, or map each "
                            "model_variant to its level.")
        return panel[given].astype(str)
    variants = panel["model_variant"].astype(str)
    unknown = sorted(set(variants) - {str(v) for v in given})
    if unknown:
        raise UserError(f"{name} does not say what {', '.join(unknown)} has; map every model_variant to its level, or "
                        "leave those rows out.")
    return variants.map({str(v): str(level) for v, level in given.items()})


def _two(values: pd.Series, first: str, name: str) -> tuple[str, str]:
    """The two levels, the reference first."""
    levels = sorted(set(values))
    if len(levels) != 2 or first not in levels:
        raise UserError(f"{name} has the level{'s'[:len(levels) - 1]} {', '.join(levels)}; a 2 × 2 factorial needs "
                        f"two, one of them the reference {first!r} (set by reference=(weights, template)).")
    return first, next(level for level in levels if level != first)


# --- effects ----------------------------------------------------------------------------------------------------


def _means(panel: pd.DataFrame, cells: list[str]) -> JointFit:
    """Mean of D by cell at equal task and family, whatever the cell's rates and lengths are."""
    prepared: PreparedPanel = prepare_all(panel, cells[0], "D")
    factors = [name for name in ("task", "model_name") if name not in prepared.single]
    fit = lmm(f"D ~ {' + '.join(['model_variant', *factors])} + (1|prompt_uid)", prepared.data,
              reference={"model_variant": BASE})
    known = names(fit)
    others = np.array([0.0 if n.startswith("model_variant[") else 1.0 for n in known]) * _average_row(fit)
    rows = np.stack([others + np.isin(known, [f"model_variant[T.{cell}]"]) for cell in cells])
    return JointFit(fit, cells, rows, "D", prepared.notes)


def _average_row(fit: Fit) -> np.ndarray:
    """Mean of the design's rows (p,): an average over the panel's tasks and families."""
    mean: np.ndarray = np.asarray(fit.design.fixed.matrix, dtype=float).mean(axis=0)
    return mean


def _effects(quantity: str, joint: JointFit) -> pd.DataFrame:
    found = dict(zip(EFFECTS, joint.combinations(np.array(list(EFFECTS.values()))), strict=True))
    found[SHARE] = _share(joint, found["template"], found["total"])
    return pd.DataFrame([{"quantity": quantity, "effect": name, **e.row(), "kind": e.kind,
                          "unit": "share" if name == SHARE else joint.unit} for name, e in found.items()])


def _share(joint: JointFit, template: Estimate, total: Estimate) -> Estimate:
    """The template's main effect over the total change, with Fieller's set."""
    pair = np.array([EFFECTS["template"], EFFECTS["total"]]) @ joint.rows
    _, covariance, df = combined(joint.fit, pair)
    return ratio_of(template.estimate, total.estimate, covariance, float(df.min()), template.pvalue)


def _cell_table(cells: Mapping[str, Cell], slopes: JointFit, means: JointFit) -> pd.DataFrame:
    found = zip(cells.values(), slopes.combinations(np.eye(4)), means.combinations(np.eye(4)), strict=True)
    return pd.DataFrame([{"weights": weights, "template": template, "slope": slope.estimate,
                          "slope_std_error": slope.se, "mean_D": mean.estimate, "mean_D_std_error": mean.se}
                         for (weights, template), slope, mean in found])


def _verdict(table: pd.DataFrame) -> str:
    return " ".join(_sentence(str(quantity), rows.set_index("effect")) for quantity, rows in table.groupby(
        "quantity", sort=False))


def _sentence(quantity: str, rows: pd.DataFrame) -> str:
    share, total = rows.loc[SHARE], rows.loc["total"]
    text = f"The total change of the {quantity} is {total['estimate']:.3g} (p = {total['p_value']:.3g}); "
    if share["kind"] != "bounded":
        return text + "it is too uncertain for the template's share to have a bounded interval: read the two effects."
    text += (f"the template's share of it is {share['estimate']:.0%} (95% set {share['conf_low']:.0%} to "
             f"{share['conf_high']:.0%}).")
    if rows["p_value"].to_dict()["interaction"] < ALPHA:
        text += " The template does not do the same to both weights: see the interaction and the four cells."
    return text
