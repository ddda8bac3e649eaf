"""What a reader should know before quoting a study: each caution is one or two sentences with its numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from canopy_stats.checks import Z_LIMIT

if TYPE_CHECKING:
    import pandas as pd

CAPPED = 0.10
"""Share of a cell's rollouts ended by the length cap from which it is named."""
UNEVEN = 0.05
"""Difference between two variants' shares of such rollouts from which it is named."""
UNREAD = 0.01
"""Share of a cell's texts that are cut by the embedder, or empty, from which it is named."""
_CELL = ["task", "model_name", "model_variant"]


def cautions(panel: pd.DataFrame, checks: pd.DataFrame | None, slopes: Sequence[Mapping[str, Any]] = (),
             drift: Mapping[str, Mapping[str, Any] | None] | None = None, told: str = "",
             said: Mapping[str, Sequence[str]] | None = None) -> list[str]:
    """All that apply, the gravest first: checks, slopes, models and prompts, the cap, texts.

    ``checks`` has a row for each finding of each run, ``slopes`` a mapping for each slope model, ``drift`` each
    run's stamp of what was drawn again, ``said`` what each run said of its model and prompts. What the finding has
    ``told`` already is not said twice.
    """
    return [*of_checks(checks), *of_slopes(slopes, told), *of_runs(said or {}), *of_the_cap(panel), *of_texts(panel),
            *of_drift(drift or {})]


def of_checks(checks: pd.DataFrame | None) -> list[str]:
    """Runs that do not agree with their law, and runs whose tokens flipped when they were drawn again."""
    if checks is None:
        return ["The runs were not checked against the law they claim: there is no checks.csv."]
    value, name = checks["value"], checks["name"].astype(str)
    wrong = checks["ok"].astype(str).eq("False") | (name.str.startswith("z of") & (value.abs() > Z_LIMIT))
    said = [f"The check of {run} disagrees with the law it claims: " + ", ".join(
        f"{row['name']} {row['value']:.3g}" for _, row in rows.iterrows()) + "."
            for run, rows in checks[wrong].groupby("run", sort=False)]
    flipped = checks[name.eq("redraw flips") & (value > 0) & ~wrong]
    if len(flipped):
        said.append(f"Some tokens flipped when rollouts were drawn again alone, in {len(flipped)} of "
                    f"{checks['run'].nunique()} runs (at most {flipped['value'].max():.2g} of the tokens).")
    return said


def of_slopes(slopes: Iterable[Mapping[str, Any]], told: str = "") -> list[str]:
    """Slope models that could not be fitted, whose fit is not certified, or whose slope is not identified."""
    said = []
    for row in slopes:
        name = f"{row['model']} ({row['variant']})" if "variant" in row else str(row["model"])
        if "failed" in row:
            said.append(f"The slope model {name} could not be fitted: {row['failed']}")
        if row.get("certified") is False:
            said.append(f"The fit of the slope model {name} is not certified as converged: do not lean on its numbers.")
        if row.get("identified") is False:
            why = str(row.get("verdict", ""))
            said.append(f"The slope model {name} does not identify a change of slope" + (
                "; the finding says why." if why and why in told else f". {why}".rstrip()))
        said += [f"The robust slope: {note}" for note in row.get("notes", ()) if row["model"] == "robust"]
    return said


def of_runs(said: Mapping[str, Sequence[str]]) -> list[str]:
    """What runs said of their models and prompts when they were drawn, each line once with its runs."""
    by_line: dict[str, list[str]] = {}
    for run, lines in said.items():
        for line in lines:
            by_line.setdefault(line, []).append(run)
    return [f"{line} ({_some(runs)})" for line, runs in by_line.items()]


def _some(names: Sequence[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def of_the_cap(panel: pd.DataFrame) -> list[str]:
    """Cells whose rollouts the length cap ended, and variants that it touches unequally."""
    said = []
    share = panel.groupby(_CELL, observed=True, sort=False)["truncation_rate"].mean()
    if len(over := share[share > CAPPED]):
        said.append(f"The length cap ended more than {CAPPED:.0%} of the rollouts in {_named(over, len(share))}. "
                    "Lengths, entropies and texts there are those of the capped law.")
    by_variant = panel.groupby("model_variant", observed=True, sort=False)["truncation_rate"].mean()
    if len(by_variant) > 1 and by_variant.max() - by_variant.min() > UNEVEN:
        listed = ", ".join(f"{value:.1%} of the {name} rollouts" for name, value in by_variant.items())
        said.append(f"The cap does not touch the variants alike: it ended {listed}.")
    return said


def of_texts(panel: pd.DataFrame) -> list[str]:
    """Cells whose texts are longer than the embedder reads, or empty."""
    said = []
    for column, what, so in (("embed_truncated_share", "longer than the embedder reads", "D sees only their beginning"),
                             ("empty_share", "empty", "all of them have one and the same embedding")):
        share = panel.groupby(_CELL, observed=True, sort=False)[column].mean() if column in panel else None
        if share is not None and len(over := share[share > UNREAD]):
            said.append(f"More than {UNREAD:.0%} of the texts are {what} in {_named(over, len(share))}; {so}.")
    return said


def of_drift(drift: Mapping[str, Mapping[str, Any] | None]) -> list[str]:
    """How many tokens flipped when some rollouts were drawn at other batch sizes."""
    redrawn = [part for stamp in drift.values() if stamp for part in stamp["redrawn"]]
    flips, tokens = (sum(int(part[name]) for part in redrawn) for name in ("flips", "tokens"))
    return [f"Rounding decides some tokens: {flips} of {tokens:,} flipped when rollouts were drawn at other batch "
            "sizes."] if flips else []


def _named(over: pd.Series, total: int, most: int = 4) -> str:
    """The cells of a series of shares, the highest first."""
    ranked = over.sort_values(ascending=False, kind="stable")
    listed = ", ".join(f"{' '.join(map(str, cell))} ({value:.0%})"  # type: ignore[call-overload]
                       for cell, value in ranked.head(most).items())
    more = f" and {len(ranked) - most} more" if len(ranked) > most else ""
    return f"{len(ranked)} of {total} cells: {listed}{more}"
