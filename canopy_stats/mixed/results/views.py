"""Fits and their evidence as HTML for notebooks."""

from __future__ import annotations

from html import escape

import numpy as np
import pandas as pd

from canopy_stats.mixed.certificate import Certificate


def table_html(table: pd.DataFrame, *, index: bool = False) -> str:
    """A table of results with four significant digits; whatever stands in it is escaped."""
    return str(table.to_html(index=index, border=0, na_rep="", float_format=lambda v: f"{v:.4g}", escape=True))


def fit_html(title: str, facts: dict[str, str], random: pd.DataFrame, coefficients: pd.DataFrame,
             notes: tuple[str, ...], certificate: Certificate) -> str:
    """A fit: what was fitted, coefficients by component, random effects, notes, certificate."""
    shown = "; ".join(f"{escape(name)}: {escape(value)}" for name, value in facts.items())
    parts = [f"<h4>{escape(title)}</h4>", f"<p>{shown}</p>"]
    for component, part in coefficients.groupby("component", sort=False):
        parts += [f"<h5>Coefficients ({escape(str(component))})</h5>", table_html(_finite(part))]
    if len(random):
        parts += ["<h5>Random effects</h5>", table_html(random)]
    parts += [f"<p>{escape(note)}</p>" for note in notes]
    return "\n".join([*parts, certificate._repr_html_()])


def _finite(part: pd.DataFrame) -> pd.DataFrame:
    """Without the component, and without degrees of freedom where all are infinite."""
    lost = ["component"] + (["df"] if not np.isfinite(part["df"]).any() else [])
    return part.drop(columns=lost)
