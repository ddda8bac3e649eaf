"""What the robust slope says in words: estimand, verdict, and what was left out, matched, corrected or squeezed."""

from __future__ import annotations

import numpy as np
import pandas as pd

from canopy_stats.mixed import Fit
from canopy_stats.slope.combine import Combined
from canopy_stats.slope.estimates import ALPHA, Estimate
from canopy_stats.slope.support import LEAST_SHARE, NO_OVERLAP, ONE_VARIANT, TRIM, Support

LOW = 0.5
"""Cells whose rates are less reliable than this are counted in a note."""
HEAVY = 1 / 3
"""A cell with more than this share of the weight is named."""
ONE_FAMILY = ("Not available: one family. From one nobody can tell what fine-tuning does from this family's own ways; "
              "add a family, or report the paper's model as a statement about this one.")
SWITCHED_OFF = "Correction of measurement error was switched off."
NO_COLUMNS = "Measurement error is not corrected: the panel lacks the jackknife columns."


def not_identified(support: Support) -> str:
    """Why there is no answer; empty where there is one."""
    table = support.table
    if table["model_name"].nunique() == 1:
        return ONE_FAMILY
    if not support.enough:
        least = table[["base_share", "tuned_share"]].min(axis=1)
        shares = ", ".join(f"{_name(row)} {share:.0%}" for (_, row), share in zip(table.iterrows(), least, strict=True))
        return ("Not identified from common support: base and tuned share too few entropy rates within their cells "
                f"(rows within the shared rates: {shares}; at least {LEAST_SHARE:.0%} of each variant's are needed in "
                "half of the cells). A number here would rest on the shape of the curve alone. Add prompts on which "
                "they are alike, or a checkpoint between the two.")
    if support.families == 1:
        return (f"{ONE_FAMILY} Only {support.kept['model_name'].iloc[0]} has rates that base and tuned share"
                f" ({'; '.join(_left_out(support))}).")
    return ""


def estimand(support: Support) -> str:
    """What is estimated, in the terms of this panel."""
    kept = support.kept if len(support.kept) else support.table
    tasks, families = list(dict.fromkeys(kept["task"])), list(dict.fromkeys(kept["model_name"]))
    if len(families) == 1:
        sample = f"It speaks of {families[0]} alone."
    elif len(tasks) == 1:
        sample = (f"Families ({', '.join(families)}) are taken as a sample of those that could have been studied, and "
                  f"weigh by what they tell about the difference; it speaks of the task {tasks[0]} alone.")
    else:
        sample = ("Families and tasks are taken as samples of those that could have been studied, and weigh by what "
                  "they tell about the difference.")
    lengths = "and lengths " if bool(kept["matched"].all()) else "(and, where enough rows do, lengths) "
    return (
        "Average derivative of the log-odds of the expected semantic diversity in the mean entropy rate (per standard "
        f"deviation), over the rates {lengths}that base and tuned share within a task and family (between their "
        f"{100 * TRIM:g}% and {100 - 100 * TRIM:g}% quantiles; {', '.join(tasks)}), at equal length, for an average "
        f"prompt; tuned = base + difference. {sample}")


def verdict(change: Estimate, ratio: Estimate, combined: Combined, support: Support, notes: tuple[str, ...]) -> str:
    """Whether the slopes differ, how much that varies, and what is not taken care of."""
    word = "differ" if change.pvalue < ALPHA else "are not shown to differ"
    text = (f"At matched rates, with one surface of rate and length shared by both variants, the slopes {word}"
            f"{beyond_lengths(support)} (difference {change.estimate:.3g}, 95% interval {change.interval[0]:.3g} to "
            f"{change.interval[1]:.3g}, p = {change.pvalue:.3g}, {change.df:.1f} degrees of freedom).")
    spread = [f"{sd:.2g} by {source}" for source, sd in combined.spread.items() if sd > 0.005]
    if spread:
        text += f" The difference varies with standard deviation {', '.join(spread)}."
    if ratio.kind != "bounded":
        text += " The base slope is too uncertain for a bounded interval of the ratio; report the difference."
    uncorrected = [note for note in notes if note in (SWITCHED_OFF, NO_COLUMNS)]
    return " ".join([text, *uncorrected])


def beyond_lengths(support: Support) -> str:
    """Words where base and tuned share lengths in fewer than half of the compared cells, else nothing."""
    kept, apart = len(support.kept), int((~support.kept["matched"].astype(bool)).sum())
    return f" at equal length, which is beyond what they share in {apart} of {kept} cells" if 2 * apart > kept else ""


# --- notes ------------------------------------------------------------------------------------------------------


def correction_notes(reliabilities: pd.DataFrame, asked: bool | None) -> tuple[str, ...]:
    """Whether measurement error is corrected, and where the rates are hardly measured."""
    if reliabilities.empty:
        return (SWITCHED_OFF if asked is False else NO_COLUMNS,)
    notes = ["Rate, length and diversity are corrected for measurement error by the jackknife columns."]
    low, clamped = reliabilities["reliability_R"] < LOW, reliabilities["clamped"].astype(bool)
    if low.any():
        notes.append(f"The rate's reliability is below {LOW} in {low.sum()} of {len(low)} cells (lowest "
                     f"{reliabilities['reliability_R'].min():.2f}): more rollouts would tell most there.")
    lengths = reliabilities["clamped_N"].astype(bool)
    if lengths.any():
        notes.append("Lengths differ hardly more than by their error, and their reliability is held at its least: "
                     f"{_names(reliabilities[lengths], variant=True)}.")
    if clamped.any():
        notes.append("Where the rate's spread is hardly more than its error, the reliability is held at its least, and "
                     f"the slope corrected too little: {_names(reliabilities[clamped], variant=True)}.")
    return tuple(notes)


def support_notes(support: Support) -> tuple[str, ...]:
    """How much of the panel is compared, and which cells are not, or not at equal length."""
    notes = [f"{support.inside.sum() / len(support.inside):.0%} of the rows lie within what base and tuned share."]
    notes += [f"Left out: {text}." for text in _left_out(support)]
    unmatched = support.kept[~support.kept["matched"].astype(bool)]
    if len(unmatched):
        notes.append("Lengths hardly overlap, so that slopes at equal length rest on how the cell's own slope changes "
                     f"with length within each variant, carried over the gap between them, in: {_names(unmatched)}.")
    return tuple(notes)


def weight_notes(cells: pd.DataFrame) -> tuple[str, ...]:
    """Cells that carry much of the answer, or weigh less than nothing."""
    heavy = cells[cells["weight"] > HEAVY]
    notes = [f"{_name(row)} carries {row['weight']:.0%} of the weight." for _, row in heavy.iterrows()]
    if cells["weight"].min() < -0.005:
        notes.append("Some cells weigh less than nothing: their errors go with those of better known cells, and "
                     "generalised least squares takes that off.")
    return tuple(notes)


def fit_notes(fit: Fit) -> tuple[str, ...]:
    """The fit's own notes, but for the one that says that nothing was squeezed."""
    return tuple(note for note in fit.notes if not note.startswith("0 of "))


def extreme_notes(fit: Fit) -> tuple[str, ...]:
    """Diversities of exactly 0 or 1, and how they were modelled."""
    y = np.asarray(fit.design.y, dtype=float)
    extreme = int(((y <= 0) | (y >= 1)).sum())
    return (f"{extreme} of {len(y)} diversities are exactly 0 or 1: an ordered beta model has a share of these of its "
            "own, so that they are not squeezed.",) if extreme else ()


def _left_out(support: Support) -> list[str]:
    table = support.table
    reasons = {ONE_VARIANT: "with one variant only", NO_OVERLAP: "for want of common support"}
    return [f"{_names(table[table['why'] == why])} ({text})" for why, text in reasons.items()
            if (table["why"] == why).any()]


def _names(rows: pd.DataFrame, *, variant: bool = False) -> str:
    return ", ".join(_name(row) + (f" ({row['model_variant']})" if variant else "") for _, row in rows.iterrows())


def _name(row: pd.Series) -> str:
    return f"{row['task']} / {row['model_name']}"
