"""The change of rho(N, r) in a paragraph."""

from __future__ import annotations

import pandas as pd

from canopy_stats.slope.estimates import ALPHA

_NAMES = {"rho_pearson": "Pearson", "rho_spearman": "Spearman", "rho_kendall": "Kendall"}


def verdict(table: pd.DataFrame, cells: pd.DataFrame, margin: float) -> str:
    """The primary coefficient over families and tasks, cell by cell, beside CE*, and the other views of it."""
    first = table[table["primary"]].iloc[0]
    own = cells[cells["primary"]]
    return " ".join([_overall(first, margin), _other(first), _by_cell(own), _jointly(first, table, own),
                     _views(table)]).strip()


def _overall(row: pd.Series, margin: float) -> str:
    word = "rises" if row["estimate"] > 0 else "falls"
    clear = "" if row["p_value"] < ALPHA else " (not significantly)"
    text = (f"Over families and tasks rho(N, r) (Pearson, Fisher's z) {word} by fine-tuning{clear}: by "
            f"{abs(row['estimate']):.2f}, 95% interval of the change {row['conf_low']:.2f} to {row['conf_high']:.2f}, "
            f"p = {row['p_value']:.3g}.")
    if row["equivalence_p"] < ALPHA:
        text += f" It changes by less than {margin:g} (test of equivalence, p = {row['equivalence_p']:.3g})."
    return text


def _other(row: pd.Series) -> str:
    return (f"In another family and task the change may lie between {row['predict_low']:.2f} and "
            f"{row['predict_high']:.2f}.")


def _by_cell(cells: pd.DataFrame) -> str:
    clear = cells["p_value"] < ALPHA
    up, down = clear & (cells["estimate"] > 0), clear & (cells["estimate"] < 0)
    text = f"Of {len(cells)} cells it clearly rises in {int(up.sum())} and clearly falls in {int(down.sum())}"
    names = [f"{row.model_name}, {row.task}" for row in cells[down].itertuples()]
    return f"{text} ({'; '.join(names)})." if names else f"{text}."


def _jointly(row: pd.Series, table: pd.DataFrame, cells: pd.DataFrame) -> str:
    """Rho up while CE* falls: overall, and in how many cells."""
    entropy = table[table["coefficient"] == "log_CE"].iloc[0]
    count = int((cells["joint_p"] < ALPHA).sum()) if "joint_p" in cells else 0
    word = "is" if row["joint_p"] < ALPHA else "is not"
    return (f"That rho rises while total entropy falls (log CE* changes by {entropy['estimate']:.2f}, "
            f"{entropy['conf_low']:.2f} to {entropy['conf_high']:.2f}) {word} shown overall (p = "
            f"{row['joint_p']:.3g}), and is in {count} of {len(cells)} cells.")


def _views(table: pd.DataFrame) -> str:
    """The other coefficients and quantities, where their sign or clearness differs."""
    first = table[table["primary"]].iloc[0]
    others = table[~table["primary"] & (table["coefficient"] != "log_CE")]
    differ = others[((others["estimate"] > 0) != (first["estimate"] > 0)) | (
        (others["p_value"] < ALPHA) != (first["p_value"] < ALPHA))]
    if others.empty:
        return ""
    if differ.empty:
        return "The other coefficients agree."
    names = [f"{_NAMES[row.coefficient]} {row.quantity} ({row.estimate:.2f}, p = {row.p_value:.2g})"
             for row in differ.itertuples()]
    return f"Others differ in sign or in being clear: {', '.join(names)}."
