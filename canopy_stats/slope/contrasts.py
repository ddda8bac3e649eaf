"""More than two checkpoints of a family: contrasts of their slopes, with control of the errors over all of them.

The paper's models are fitted once to all variants and their coefficients contrasted; the robust model, whose estimand
rests on the rates that two variants share, is fitted to each pair.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from scipy import stats

from canopy_stats.mixed import Fit
from canopy_stats.mixed.formulas.frames import as_pandas
from canopy_stats.multiplicity import adjusted_p
from canopy_stats.panel_rows import check_rows
from canopy_stats.schema import UserError
from canopy_stats.slope.coefficients import combined, slope_row, uncertified
from canopy_stats.slope.columns import BASE
from canopy_stats.slope.estimates import LEVEL, Estimate, estimate, missing
from canopy_stats.slope.front import slope_change
from canopy_stats.slope.models import TABLE, PaperModel, check_model, logit_unit
from canopy_stats.slope.paper import fit_model
from canopy_stats.slope.prepare import PreparedPanel, prepare

ContrastModel = Literal["interaction", "quadratic", "paper_beta", "paper_vendi", "paper_rse", "robust"]
Adjustment = Literal["holm", "bonferroni", "fdr_bh", "none"]
LevelPair = tuple[str, str]
LevelWeights = Mapping[str, float]
Contrasts = Literal["base", "all", "consecutive"] | Mapping[str, LevelPair | LevelWeights]

FAMILYWISE: tuple[Adjustment, ...] = ("holm", "bonferroni")


def slope_contrasts(panel: pd.DataFrame, *, model: ContrastModel = "robust", contrasts: Contrasts = "base",
                    adjust: Adjustment = "holm", reference: str = BASE, order: Sequence[str] | None = None,
                    correct: bool | None = None) -> pd.DataFrame:
    """Differences between the slopes of any number of variants, a row each.

    Parameters
    ----------
    model : one of the paper's models, fitted to all variants at once, or "robust", fitted to each pair at the rates
        which these two share: its rows need not add up (dpo − base is not sft − base plus dpo − sft)
    contrasts : "base" (each variant against ``reference``), "all" pairs, "consecutive" ones in ``order``, or a mapping
        from names to pairs (reference, variant) or, for the paper's models, to weights of variants that sum to zero
    adjust : "holm" or "bonferroni" (chance of any false difference), "fdr_bh" (share of false ones among those
        found, Benjamini and Hochberg), "none"
    order : the variants in the order of training; an ordered categorical column has its own
    correct : measurement error in the robust model, see :func:`canopy_stats.slope_change`

    Returns
    -------
    DataFrame
        contrast, estimate (of variant − reference), std_error, df, statistic, p_value, conf_low, conf_high (95%, of
        this one alone), p_adjusted, simultaneous_low and _high (Bonferroni's, over all rows that are identified; NaN
        where ``adjust`` does not control the chance of any error), unit, notes. ``attrs``: model, adjust.
    """
    panel = as_pandas(panel)
    check_model(model, get_args(ContrastModel))
    _check_choice("adjust", adjust, get_args(Adjustment))
    if correct is not None and model != "robust":
        raise UserError(f"correct= belongs to model='robust'; {model} does not correct for measurement error.")
    check_rows(panel)
    variants = _variants(panel, reference, order)
    wanted = _wanted(contrasts, variants, reference, panel, order)
    rows = _robust_rows(panel, wanted, correct) if model == "robust" else _joint_rows(panel, model, wanted, variants)
    table = adjusted(pd.DataFrame(rows), adjust)
    table.attrs |= {"model": model, "adjust": adjust}
    return table


# --- which contrasts --------------------------------------------------------------------------------------------


def _check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    if value not in choices:
        raise UserError(f"{name} is {value!r}; choose one of {', '.join(choices)}.")


def _variants(panel: pd.DataFrame, reference: str, order: Sequence[str] | None) -> list[str]:
    """The panel's variants: in the given order, or the reference first."""
    if "model_variant" not in panel:
        raise UserError("The panel lacks model_variant; make it with canopy_stats.panel or rename its column.")
    present = {str(v) for v in panel["model_variant"].unique()}
    if len(present) < 2:
        raise UserError(f"The panel has one variant ({', '.join(present) or 'none'}); a contrast needs at least two. "
                        "Add the runs of another checkpoint.")
    if order is None:
        return sorted(present, key=lambda v: (v != reference, v))
    listed = [str(v) for v in order]
    if sorted(listed) != sorted(present):
        raise UserError(f"order lists {', '.join(listed)}, but the panel has {', '.join(sorted(present))}: name each "
                        "of its variants once.")
    return listed


def _wanted(contrasts: Contrasts, variants: list[str], reference: str, panel: pd.DataFrame,
            order: Sequence[str] | None) -> dict[str, dict[str, float]]:
    """Names of contrasts to weights of variants."""
    if isinstance(contrasts, Mapping):
        named = {str(name): _checked_weights(str(name), given, variants) for name, given in contrasts.items()}
        if not named:
            raise UserError("contrasts is an empty mapping; give names with pairs (reference, variant).")
        return named
    _check_choice("contrasts", contrasts, ("base", "all", "consecutive", "a mapping from names to pairs"))
    if contrasts == "base" and reference not in variants:
        raise UserError(f"There is no variant {reference} to contrast with; the panel has {', '.join(variants)}. Name "
                        "one of them as reference.")
    pairs = {"base": lambda: [(reference, v) for v in variants if v != reference],
             "all": lambda: list(combinations(variants, 2)),
             "consecutive": lambda: list(pairwise(_ordered(variants, panel, order)))}[contrasts]()
    return {f"{variant} - {first}": {first: -1.0, variant: 1.0} for first, variant in pairs}


def _ordered(variants: list[str], panel: pd.DataFrame, order: Sequence[str] | None) -> list[str]:
    if order is not None:
        return variants
    column = panel["model_variant"]
    if isinstance(column.dtype, pd.CategoricalDtype) and column.cat.ordered:
        return [str(v) for v in column.cat.categories if str(v) in variants]
    raise UserError(f"Consecutive contrasts need the order of training, which names alone do not tell: give "
                    f"order=[...] with {', '.join(variants)}.")


def _checked_weights(name: str, given: LevelPair | LevelWeights, variants: list[str]) -> dict[str, float]:
    if isinstance(given, Mapping):
        weights = {str(v): float(w) for v, w in given.items()}
    elif isinstance(given, (tuple, list)) and len(given) == 2 and given[0] != given[1]:
        weights = {str(given[0]): -1.0, str(given[1]): 1.0}
    else:
        raise UserError(f"The contrast {name} is {given!r}; give (reference, variant), or weights of variants.")
    unknown = [v for v in weights if v not in variants]
    if unknown:
        raise UserError(f"The contrast {name} names {', '.join(unknown)}; the panel has {', '.join(variants)}.")
    if abs(sum(weights.values())) > 1e-9 or not any(weights.values()):
        raise UserError(f"The weights of the contrast {name} sum to {sum(weights.values()):g}; a difference needs "
                        "weights that sum to zero, not all of them zero.")
    return weights


# --- pairs of variants ------------------------------------------------------------------------------------------


def _robust_rows(panel: pd.DataFrame, wanted: Mapping[str, dict[str, float]],
                 correct: bool | None) -> list[dict[str, Any]]:
    """A fit for each pair, all per standard deviation of R over the whole panel. A pair that has no answer says why in
    its notes; UserError if none has one."""
    for name, weights in wanted.items():
        if sorted(weights.values()) != [-1.0, 1.0]:
            raise UserError(f"The robust model compares two variants at the rates they share; the contrast {name} "
                            f"weighs {len(weights)}. Use a pair, or one of the paper's models.")
    spread = float(panel["R_bar"].std()) if "R_bar" in panel else float("nan")
    unit, rows = logit_unit(spread), []
    for name, weights in wanted.items():
        try:
            found, notes = _robust_difference(panel, weights, spread, correct)
        except UserError as error:
            found, notes = missing(), (str(error),)
        rows.append(_row(name, found, unit, notes))
    if all(np.isnan(row["estimate"]) for row in rows):
        raise UserError(str(rows[0]["notes"]))
    return rows


def _robust_difference(panel: pd.DataFrame, weights: Mapping[str, float], spread: float,
                       correct: bool | None) -> tuple[Estimate, tuple[str, ...]]:
    """Difference of two variants per ``spread`` nats/token, and notes."""
    first, variant = sorted(weights, key=lambda v: weights[v])
    labels = panel["model_variant"].astype(str)
    pair = panel.assign(model_variant=labels.map({first: BASE, variant: "tuned"}))[labels.isin([first, variant])]
    change = slope_change(pair, model="robust", correct=correct)
    if not change.identified:
        return missing(), (change.verdict, *change.notes)
    found, scale = change.difference, spread / float(pair["R_bar"].std())
    return estimate(scale * found.estimate, scale * found.se, found.df), change.notes


def _row(name: str, found: Estimate, unit: str, notes: Sequence[str]) -> dict[str, Any]:
    return {"contrast": name, **found.row(), "unit": unit, "notes": " ".join(notes)}


# --- all variants at once ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class JointFit:
    """One of the paper's models fitted to all variants: ``rows`` (variants, p) gives each variant's slope from the
    coefficients; NaN where it is aliased."""

    fit: Fit
    variants: list[str]
    rows: np.ndarray
    unit: str
    notes: tuple[str, ...]

    def combinations(self, weights: np.ndarray) -> list[Estimate]:
        """Linear combinations of slopes for weights (k, variants); missing where one of the slopes is."""
        known = ~(np.abs(weights) @ np.isnan(self.rows).any(axis=1) > 0)
        values, joint, df = combined(self.fit, weights[known] @ np.nan_to_num(self.rows))
        found = iter([estimate(*one) for one in zip(values, np.sqrt(np.diag(joint)), df, strict=True)])
        return [next(found) if ok else missing() for ok in known]


def joint_fit(panel: pd.DataFrame, name: PaperModel, variants: Sequence[str]) -> JointFit:
    """Fit one of the paper's models to all variants; the base, or else the first of them, is the reference level."""
    first = BASE if BASE in variants else variants[0]
    model = TABLE[name]
    prepared = prepare_all(model.response.added_to(panel, name), first, model.response.column)
    fit = fit_model(prepared, model)
    rows = np.stack([slope_row(fit, model.rate, None if v == first else v) for v in variants])
    notes = (*prepared.notes, *fit.notes, *uncertified(fit))
    return JointFit(fit, list(variants), rows, model.unit(prepared.rate_sd), notes)


def prepare_all(panel: pd.DataFrame, first: str, response: str) -> PreparedPanel:
    """Check a panel of any number of variants; ``first`` is renamed to the base, which the models refer to."""
    labels = panel["model_variant"].astype(str)
    prepared = prepare(panel.assign(model_variant=np.where(labels == first, BASE, "tuned")), response)
    return replace(prepared, data=prepared.data.assign(model_variant=labels.where(labels != first, BASE)))


def _joint_rows(panel: pd.DataFrame, model: PaperModel, wanted: Mapping[str, LevelWeights],
                variants: list[str]) -> list[dict[str, Any]]:
    joint = joint_fit(panel, model, variants)
    found = joint.combinations(np.array([[weights.get(v, 0.0) for v in variants] for weights in wanted.values()]))
    return [_row(name, one, joint.unit, joint.notes) for name, one in zip(wanted, found, strict=True)]


# --- multiplicity -----------------------------------------------------------------------------------------------


def adjusted(table: pd.DataFrame, adjust: Adjustment) -> pd.DataFrame:
    """Add p_adjusted and simultaneous intervals over the rows that have a p-value."""
    level = 1 - (1 - LEVEL) / max(int(table["p_value"].notna().sum()), 1)
    half = stats.t.ppf((1 + level) / 2, table["df"]) * table["std_error"] * (1.0 if adjust in FAMILYWISE else np.nan)
    out = table.assign(p_adjusted=adjusted_p(table["p_value"], adjust), simultaneous_low=table["estimate"] - half,
                       simultaneous_high=table["estimate"] + half)
    return out[["contrast", "estimate", "std_error", "df", "statistic", "p_value", "conf_low", "conf_high",
                "p_adjusted", "simultaneous_low", "simultaneous_high", "unit", "notes"]]
