"""Likelihood-ratio tests between fits of the same response."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from canopy_stats.mixed.estimates import Estimates
from canopy_stats.mixed.fit import Fit
from canopy_stats.schema import UserError


def anova(*fits: Fit) -> pd.DataFrame:
    """Likelihood-ratio tests of nested fits, smallest first: each row against the one before.

    REML fits whose fixed parts differ are refitted by maximum likelihood first; ``attrs['notes']`` says so. Columns:
    formula, df_model, llf, aic, bic, chi2, df, p_value. As in R, tests of a variance of zero are conservative.
    """
    if len(fits) < 2:
        raise UserError("anova() compares two or more fits; pass them one by one, anova(first, second).")
    _check_comparable(fits)
    used, notes = _by_likelihood(sorted(fits, key=lambda fit: fit.df_model))
    table = pd.DataFrame([_row(fit) for fit in used])
    table["chi2"] = 2 * table["llf"].diff().clip(lower=0)
    table["df"] = table["df_model"].diff()
    table["p_value"] = np.where(table["df"] > 0, stats.chi2.sf(table["chi2"], table["df"]), np.nan)
    table.attrs["notes"] = notes
    return table


def _check_comparable(fits: tuple[Fit, ...]) -> None:
    first = fits[0]
    for fit in fits[1:]:
        if fit.nobs != first.nobs or not np.array_equal(fit.design.y, first.design.y):
            raise UserError(
                f"The fits have different responses ({first.nobs} and {fit.nobs} rows); fit both to the same rows."
            )


def _by_likelihood(fits: list[Fit]) -> tuple[Sequence[Estimates], list[str]]:
    """The fits as they may be compared, with a note where REML had to give way."""
    parts = {fit.design.fixed.names for fit in fits}
    if len(parts) == 1 and len({fit.reml for fit in fits}) == 1 or not any(fit.reml for fit in fits):
        return fits, []
    refitted = [fit.by_likelihood() if fit.reml else fit for fit in fits]
    return refitted, ["REML fits with different fixed parts were refitted by maximum likelihood."]


def _row(fit: Estimates) -> dict[str, float | str]:
    return {"formula": fit.formula, "df_model": fit.df_model, "llf": fit.llf, "aic": fit.aic, "bic": fit.bic}
