"""Coefficient tables: every number of several models, long. The module ``views`` prints them side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from canopy_stats.schema import UserError

if TYPE_CHECKING:
    from canopy_stats.mixed import Fit
    from canopy_stats.slope import Estimate, SlopeChange

PARTS = ("mean", "dispersion", "random", "slope", "response", "fit")
"""The blocks of a coefficient table, from top to bottom."""
ESTIMATE = ("estimate", "std_error", "df", "statistic", "p_value", "conf_low", "conf_high")
"""What every table calls an estimate and what goes with it."""


def coefficients(changes: Mapping[str, SlopeChange]) -> pd.DataFrame:
    """Every number of a coefficient table, long: a row per model, part and term.

    Columns: model, part, term, those of :data:`ESTIMATE`, kind and unit. Parts are 'mean' and 'dispersion'
    (coefficients), 'random' (standard deviations, correlations), 'slope' (base, tuned, difference, ratio with
    Fieller's set, whose ``kind`` says how to read it), 'response' (the slopes on the response scale, where that is
    another) and 'fit' (rows, groups, log-likelihood; AIC by maximum likelihood only: restricted likelihoods of
    different mean models cannot be compared).
    """
    if not changes:
        raise UserError("There is no model to tabulate: name at least one.")
    rows = [{"model": name, **row} for name, change in changes.items() for row in _rows(change)]
    table = pd.DataFrame(rows, columns=["model", "part", "term", *ESTIMATE, "kind", "unit"])
    table.attrs["notes"] = [*_by_models({name: (change.unit + ".",) for name, change in changes.items()}, "Slopes of "),
                            *_by_models({name: change.notes for name, change in changes.items()})]
    return table


def _by_models(texts: Mapping[str, tuple[str, ...]], start: str = "") -> list[str]:
    """Each distinct text once, behind the names of the models that it belongs to."""
    names: dict[str, list[str]] = {}
    for name, own in texts.items():
        for text in own:
            names.setdefault(" ".join(text.split()), []).append(name)
    return [f"{start}{', '.join(found)}: {text}" for text, found in names.items()]


def _rows(change: SlopeChange) -> Iterator[dict[str, Any]]:
    if change.fit is not None:
        yield from _coefficient_rows(change.fit)
        yield from _random_rows(change.fit)
    for name in ("base", "tuned", "difference", "ratio"):
        yield {"part": "slope", "term": name, "unit": "" if name == "ratio" else change.unit,
               **_estimate(getattr(change, name))}
    for name, one in change.response.items():
        yield {"part": "response", "term": name, **_estimate(one)}
    if change.fit is not None:
        yield from _fit_rows(change.fit)


def _estimate(one: Estimate) -> dict[str, Any]:
    return {**one.row(), "kind": one.kind}


def _coefficient_rows(fit: Fit) -> Iterator[dict[str, Any]]:
    for row in fit.tidy().to_dict("records"):
        yield {"part": row["component"], "term": row["term"], **{name: row[name] for name in ESTIMATE}}


def _random_rows(fit: Fit) -> Iterator[dict[str, Any]]:
    for row in fit.varcorr().to_dict("records"):
        names = [str(row["term1"])] + ([str(row["term2"])] if isinstance(row["term2"], str) else [])
        shown = [name for name in names if name not in ("", "(Intercept)", "Intercept", "1")]
        yield {"part": "random", "term": ": ".join([str(row["group"]), *([", ".join(shown)] if shown else [])]),
               "estimate": row["sd_or_corr"]}


def _fit_rows(fit: Fit) -> Iterator[dict[str, Any]]:
    sizes = {"rows": fit.nobs, **{f"groups of {name}": size for name, size in fit.ngroups.items()}}
    measures = {"log-likelihood (REML)": fit.llf} if fit.reml else {"log-likelihood (ML)": fit.llf, "AIC": fit.aic}
    for name, value in (sizes | measures).items():
        yield {"part": "fit", "term": name, "estimate": float(value)}
