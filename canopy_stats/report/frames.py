"""Every table as a data frame of numbers, from a panel or from a source.

What a paper prints in each cell is made of them in :mod:`canopy_stats.report.views`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from canopy_stats.metrics.pooling import pool, three_level
from canopy_stats.report.coefficients import coefficients
from canopy_stats.report.source import Source
from canopy_stats.schema import UserError

if TYPE_CHECKING:
    from canopy_stats.slope import SlopeChange

CELL = ("task", "model_name", "model_variant")
"""What names one run in a table: task, family, variant."""
NO_CELLS = "The robust model has no slopes by family and task here"
MEASURES = ("GenPPL", "BF", "CE", "cov_NR", "cov_NR_paper", "rho_pearson", "rho_spearman", "rho_kendall", "D",
            "VS", "N_bar", "R_bar", "truncation_rate")


# --- base against tuned -----------------------------------------------------------------------------------------


def base_tuned(panel: pd.DataFrame) -> pd.DataFrame:
    """Base against tuned: a row per family, task and variant, each measure pooled over the cell's prompts.

    Entropies, lengths and rates, their correlations and what follows from them are pooled as ``metrics.pool`` does;
    D and the share that the cap ended are plain means over prompts, VS is exp(mean log_VS), as BF is exp(mean R_bar).
    Where the panel has RSE: its mean, that of RSE_corrected where people judged too, and ``saturated``, the share of
    prompts at log m, of which no two rollouts judged mean the same: a larger m would tell these apart.
    """
    return _by_cell(panel, _pooled_row, ["model_name", "task", "model_variant"])


def _pooled_row(rows: pd.DataFrame) -> dict[str, float]:
    pooled = pool(rows, rows["M"].to_numpy())
    means = {"D": rows["D"].mean(), "truncation_rate": rows["truncation_rate"].mean(),
             "N_bar": pooled["mean_length"], "R_bar": pooled["mean_rate"]}
    if "log_VS" in rows:
        means["VS"] = np.exp(rows["log_VS"].mean())
    judged = {name: float(rows[name].mean()) for name in ("RSE", "RSE_corrected") if name in rows}
    if {"RSE", "rse_m"} <= set(rows):
        judged["saturated"] = saturated(rows)
    found = pooled | means
    return {"prompts": len(rows)} | {name: float(found[name]) for name in MEASURES if name in found} | judged


def saturated(rows: pd.DataFrame) -> float:
    """Share of the judged prompts whose RSE is at its largest value, log m."""
    judged = rows[rows["RSE"].notna()]
    at_most = np.log(judged["rse_m"].to_numpy(float))
    return float(np.mean(judged["RSE"].to_numpy(float) >= at_most * (1 - 1e-9))) if len(judged) else float("nan")


def decomposition(panel: pd.DataFrame) -> pd.DataFrame:
    """Pooled CE* and its three terms, a row per task, family and variant; then each as a signed share of CE*, and the
    paper's share of covariance, which is that of the last two together."""
    return _by_cell(panel, _decomposed, list(CELL))


TERMS = ("product", "cov_within", "cov_between")


def _decomposed(rows: pd.DataFrame) -> dict[str, float]:
    found = three_level(rows)
    shares = {f"share_{name}": found[name] / found["CE"] if found["CE"] > 0 else float("nan") for name in TERMS}
    return {name: found[name] for name in ("CE", *TERMS)} | shares | {
        "share_cov_paper": shares["share_cov_within"] + shares["share_cov_between"]}


def _by_cell(panel: pd.DataFrame, row_of: Any, keys: list[str]) -> pd.DataFrame:
    _refuse_empty(panel)
    cells = panel.assign(_tuned=panel["model_variant"].astype(str) != "base").sort_values("_tuned", kind="stable")
    rows = [dict(zip(keys, map(str, cell), strict=True)) | row_of(group.drop(columns="_tuned"))
            for cell, group in cells.groupby(keys, observed=True, sort=False)]
    return pd.DataFrame(rows).sort_values(keys[:2], kind="stable", ignore_index=True)


def _refuse_empty(panel: pd.DataFrame) -> None:
    if panel.empty:
        raise UserError("The panel has no rows to tabulate: was it filtered to nothing?")


# --- slopes -----------------------------------------------------------------------------------------------------


def slopes(source: Source) -> pd.DataFrame:
    """The slope table, for each tuned variant."""
    return _for_each_variant(source, source.fitter.slope_table)


def quadratic(source: Source) -> pd.DataFrame:
    """How far a parabola moves the base slope (beta) and its change (eta), for each tuned variant."""
    table = _for_each_variant(source, source.fitter.quadratic_check)
    table.attrs["notes"] = ["Interaction and quadratic model by maximum likelihood, slopes at the mean rate; moved: "
                            "quadratic − linear, also in standard errors of the linear one (the paper asks for at most "
                            "one). LRT of both quadratic terms on 2 df.", *table.attrs.get("notes", [])]
    return table


def _for_each_variant(source: Source, table_of: Callable[[pd.DataFrame], pd.DataFrame]) -> pd.DataFrame:
    made = {variant: table_of(source.pair(variant)) for variant in source.variants}
    if len(made) == 1:
        return next(iter(made.values()))
    table = pd.concat([one.assign(tuned=variant) for variant, one in made.items()], ignore_index=True)
    table.attrs["notes"] = list(dict.fromkeys(note for one in made.values() for note in one.attrs.get("notes", [])))
    return table


def coefficient_table(models: Sequence[str]) -> Callable[[Source], pd.DataFrame]:
    """The coefficients of some models, for every tuned variant."""
    def make(source: Source) -> pd.DataFrame:
        found = source.slope_changes(models)
        table = coefficients(found.changes)
        table.attrs["notes"] += found.refused
        return table

    return make


def scrutiny(source: Source) -> pd.DataFrame:
    """The paper's headline slope beside the robust one, with what follows in words."""
    parts = {variant: source.scrutiny(variant) for variant in source.variants}
    several = len(parts) > 1
    table = pd.concat([one.table.assign(tuned=variant) if several else one.table for variant, one in parts.items()],
                      ignore_index=True)
    table.attrs["notes"] = [f"{variant}: {one.verdict}" if several else one.verdict for variant, one in parts.items()]
    return table


def cells(source: Source) -> pd.DataFrame:
    """The robust model's slopes in each family and task: base, tuned, difference with errors, 95% interval, weight."""
    parts = []
    for variant in source.variants:
        change = source.change("robust", variant)
        if change.cells is None:
            raise UserError(f"{NO_CELLS}: {change.verdict}")
        parts.append(change.cells.assign(tuned_variant=variant) if len(source.variants) > 1 else change.cells)
    return pd.concat(parts, ignore_index=True)


def changes(found: Sequence[tuple[Mapping[str, Any], SlopeChange]]) -> pd.DataFrame:
    """Slope changes of several panels or models, a row each: what tells them apart, then the numbers."""
    return pd.DataFrame([{**label, **change.row()} for label, change in found])


# --- parts of the panel, and other choices ----------------------------------------------------------------------

COMPARED, ROBUST = ("interaction", "paper_beta"), "robust"
"""Models of every panel of the ablation table; the robust slope and those of other diversities, which take longer, are
for the whole and ablations."""
OTHER = {"paper_vendi": "VS", "paper_rse": "RSE"}
"""Models of other diversities, and the column without which a panel has none."""


def ablations(source: Source) -> pd.DataFrame:
    """Slopes and ratio on the whole panel, without each family, without each task, and on the study's ablations."""
    rows: list[tuple[Mapping[str, Any], SlopeChange]] = []
    refused: list[str] = []
    for variant in source.variants:
        label = {"tuned": variant} if len(source.tuned) > 1 else {}
        for name, part in panels(source, variant).items():
            sizes = {"rows": len(part.panel), "mean_D": part.panel["D"].mean(), "mean_R": part.panel["R_bar"].mean()}
            found = part.slope_changes(COMPARED if name.startswith(WITHOUT) else _every_model(part.panel), strict=False)
            rows += [({"panel": name, **label, **sizes}, change) for change in found.changes.values()]
            refused += [f"{name}: {reason}" for reason in found.refused]
            refused += [f"{name}: the {one.model} fit is not certified." for one in found.changes.values()
                        if one.fit is not None and not one.fit.converged]
    if not rows:
        raise UserError(refused[0])
    table = changes(rows)
    table.attrs["notes"] = ["Standard errors in brackets; 95% sets of the ratio by Fieller. interaction: D per "
                            "nat/token; the others: log-odds per standard deviation of that panel's rates, of D, of "
                            "(VS - 1)/(M - 1) for paper_vendi and of RSE / log m for paper_rse.",
                            *refused]
    return table


def _every_model(panel: pd.DataFrame) -> tuple[str, ...]:
    """The models of the whole panel and of an ablation."""
    return (*COMPARED, *(model for model, column in OTHER.items() if column in panel), ROBUST)


WHOLE, WITHOUT = "all", "without "


def panels(source: Source, variant: str) -> dict[str, Source]:
    """The panels of the ablation table, by name; of a variable with one value nothing is left out."""
    whole = source.pair(variant)
    known = {key: change for key, change in source.known.items() if key[1] == variant}
    out = {WHOLE: source.of_panel(whole, known=known)}
    for column, word in (("model_name", "family"), ("task", "task")):
        values = sorted(whole[column].astype(str).unique())
        out |= {f"{WITHOUT}{word} {v}": source.of_panel(whole[whole[column].astype(str) != v])
                for v in values if len(values) > 1}
    own = {name: source.of_panel(panel).pair(variant) for name, panel in (source.ablations or {}).items()}
    return out | {name: source.of_panel(panel) for name, panel in own.items() if panel["model_variant"].nunique() == 2}


# --- lengths ----------------------------------------------------------------------------------------------------

THIRDS = ("shortest", "middle", "longest")


def length_thirds(panel: pd.DataFrame) -> pd.DataFrame:
    """Lengths, truncation, rates and diversity by task and variant, for all prompts and for thirds by mean length.

    Thirds are formed within each run (task, family, variant), so that a family with long texts is not one of them;
    prompts of equal length are divided by name. Columns are means over prompts, with the standard deviation, shortest
    and longest of the mean lengths and the standard deviation of D.
    """
    _refuse_empty(panel)
    panel = panel.reset_index(drop=True)
    by = panel.groupby(list(CELL), observed=True)["N_bar"]
    ordered = panel.sort_values(["N_bar", "prompt_uid"])
    place = ordered.groupby(list(CELL), observed=True).cumcount().reindex(panel.index)
    third = np.asarray(THIRDS)[(3 * place / by.transform("size")).astype(int)]
    rows = [frame for part in (panel.assign(third="all"), panel.assign(third=third)) for frame in _described(part)]
    table = pd.DataFrame(rows)
    rank = {name: i for i, name in enumerate(("base", *sorted(set(table["model_variant"]) - {"base"})))}
    order = {"model_variant": rank, "third": {name: i for i, name in enumerate(("all", *THIRDS))}}
    table = table.sort_values(["task", "model_variant", "third"], ignore_index=True,
                              key=lambda c: c.map(order[str(c.name)]) if c.name in order else c)
    table.attrs["notes"] = ["Thirds of the prompts by mean length, within each task, family and variant; means over "
                            "prompts and families."]
    return table


def _described(panel: pd.DataFrame) -> list[dict[str, Any]]:
    keys = ["task", "model_variant", "third"]
    return [dict(zip(keys, map(str, cell), strict=True)) | {"rows": len(rows)} | {
        name: float(how(rows[column])) for name, (column, how) in _DESCRIBED.items() if column in rows}
        for cell, rows in panel.groupby(keys, observed=True)]


_DESCRIBED: dict[str, tuple[str, Callable[[pd.Series], float]]] = {
    "N_bar": ("N_bar", pd.Series.mean), "N_sd": ("N_bar", pd.Series.std), "N_shortest": ("N_bar", pd.Series.min),
    "N_longest": ("N_bar", pd.Series.max), "truncation_rate": ("truncation_rate", pd.Series.mean),
    "R_bar": ("R_bar", pd.Series.mean), "D": ("D", pd.Series.mean), "D_sd": ("D", pd.Series.std),
    "log_VS": ("log_VS", pd.Series.mean), "RSE": ("RSE", pd.Series.mean)}
