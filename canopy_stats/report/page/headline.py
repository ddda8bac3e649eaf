"""What a page opens with: three numbers that answer the study's question, each with its interval and its meaning."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from canopy_stats.report.folder import Folder
from canopy_stats.report.printed import number, p_value


@dataclass(frozen=True, slots=True)
class Headline:
    """One number: what it is, its value and interval as text, and a sentence."""

    name: str
    value: str
    interval: str
    meaning: str


def headlines(folder: Folder) -> tuple[Headline, ...]:
    """The paper's slope, the robust one and the change of rho, for each tuned variant; none for a study of before."""
    several = len(folder.claims) > 1
    found: list[Headline] = []
    for variant, claims in folder.claims.items():
        name = f" ({variant})" if several else ""
        found += [_paper(claims, name), _robust(claims, name)]
        if (rho := folder.rho_changes.get(variant)) is not None:
            found.append(_rho(rho, name))
    return tuple(found)


def _paper(claims: pd.DataFrame, name: str) -> Headline:
    row = claims.iloc[0]
    return Headline(f"Change of slope, the paper's model{name}", signed(row["estimate"]), _interval(row),
                    "Straight lines, levels alike in all families, no correction of measurement error.")


def _robust(claims: pd.DataFrame, name: str) -> Headline:
    rows = claims[claims["model"] == "robust"]
    row = rows.iloc[0]
    title = f"Change of slope, robust{name}"
    if not math.isfinite(row["estimate"]):
        return Headline(title, "no answer", "", _first_sentence(str(row["meaning"])))
    bare = rows[~rows["corrected"].astype(bool) & (rows["claim"] == row["claim"])]
    without = "" if bare.empty or bare.index[0] == row.name else (
        f" Without the correction of measurement error {signed(bare['estimate'].iloc[0])} {_set(bare.iloc[0])}.")
    return Headline(title, signed(row["estimate"]), _interval(row),
                    f"At matched rates and lengths, over families and tasks.{without}")


def _rho(row: Mapping[str, Any], name: str) -> Headline:
    title = f"Change of ρ(N, r){name}"
    if "estimate" not in row or not isinstance(row["estimate"], int | float):
        return Headline(title, "no answer", "", _first_sentence(str(row.get("verdict", ""))))
    return Headline(title, signed(row["estimate"]), _interval(row),
                    f"Fisher's z, over {row['cells']} families × tasks. In another one between "
                    f"{signed(row['predict_low'])} and {signed(row['predict_high'])}.")


def signed(value: Any) -> str:
    """A number with two decimals and its sign, as print has it."""
    if not isinstance(value, int | float) or not math.isfinite(value):
        return "–"
    return number(float(value), "{:+.2f}").replace("-", "\N{MINUS SIGN}")


def _set(row: Mapping[Any, Any] | pd.Series) -> str:
    return f"[{signed(row['conf_low'])}, {signed(row['conf_high'])}]"


def _interval(row: Mapping[Any, Any] | pd.Series) -> str:
    p = p_value(float(row["p_value"]))
    return f"95% interval {_set(row)}, p {p if p.startswith('<') else f'= {p}'}"


def _first_sentence(text: str) -> str:
    """Up to its first bracket: what stands there is in the words below."""
    return text.split(". ")[0].split(" (")[0].rstrip(".") + "." if text else ""
