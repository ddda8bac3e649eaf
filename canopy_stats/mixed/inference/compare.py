"""Tests of the terms of one fit, and likelihood-ratio tests between nested fits."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from canopy_stats.mixed.fit import Fit
from canopy_stats.mixed.formulas.terms import type_three, type_two
from canopy_stats.mixed.inference.nested import check_comparable
from canopy_stats.mixed.inference.wald import DDF, joint_test, kenward_roger_test
from canopy_stats.schema import UserError

Array = np.ndarray


def anova(*fits: Fit, type: int | str = 3, ddf: str = "satterthwaite") -> pd.DataFrame:
    """Tests of every term of one fit, or likelihood-ratio tests between nested fits.

    One fit: ``type`` 3 (default; each term in the presence of all others, with the contrasts of SAS and lmerTest
    whatever those of the fit) or 2 (each after all that do not contain it). Linear models: F with Satterthwaite's or
    Kenward and Roger's degrees of freedom (``ddf="kenward-roger"``; R's lmerTest and pbkrtest). Others: Wald
    chi-square, ``den_df`` infinite (R's car::Anova). Columns: term, num_df, den_df, statistic, p_value.

    Two fits or more, smallest first whatever their order: columns formula, df_model, llf, aic, bic, chi2, df, p_value,
    each row against the one before. REML fits whose fixed parts differ are refitted by maximum likelihood, which
    ``attrs['notes']`` says. As in R, tests of a variance of zero are conservative. Raises UserError, with the reason,
    for fits of different rows, responses, families, weights or offsets, and for those that are not nested.
    """
    for fit in fits:
        if not isinstance(fit, Fit):
            raise UserError(f"anova() takes fits of lmm() or glmm(), not a {fit.__class__.__name__}.")
    if not fits:
        raise UserError("anova() tests the terms of one fit or compares several; pass it a fit.")
    return _of_terms(fits[0], str(type), ddf) if len(fits) == 1 else _of_fits(fits)


def _of_terms(fit: Fit, kind: str, ddf: str) -> pd.DataFrame:
    if ddf not in DDF:
        raise UserError(f"ddf is {ddf!r}; choose one of {', '.join(DDF)}.")
    test = kenward_roger_test(fit) if ddf == "kenward-roger" else partial(joint_test, fit)
    rows = [{"term": name, **vars(test(contrasts))} for name, contrasts in _contrasts(fit, kind)]
    table = pd.DataFrame(rows, columns=["term", "num_df", "den_df", "statistic", "p_value"])
    table.attrs["type"], table.attrs["ddf"] = kind, ddf
    table.attrs["statistic"] = "chi2" if np.isinf(table["den_df"]).all() else "F"
    return table


def _contrasts(fit: Fit, kind: str) -> list[tuple[str, Array]]:
    """Contrasts of each term in the order of the formula."""
    fixed = fit.design.fixed
    if kind in ("3", "III"):
        return list(type_three(fixed, fit.design.data).items())
    if kind not in ("2", "II"):
        raise UserError(f"type is {kind!r}; choose 2 or 3.")
    # Linear models as lmerTest, from the design; others as car, from the information about the coefficients.
    p = len(fit.beta)
    linear = fit.profiled_sigma
    information = fixed.matrix.T @ fixed.matrix if linear else np.linalg.pinv(fit.covariance[:p, :p])
    return list(type_two(fixed, information).items())


def _of_fits(fits: Sequence[Fit]) -> pd.DataFrame:
    ordered = sorted(fits, key=lambda fit: fit.df_model)
    check_comparable(ordered)
    used, notes = _by_likelihood(ordered)
    table = pd.DataFrame([_row(fit) for fit in used])
    table["chi2"] = 2 * table["llf"].diff().clip(lower=0)
    table["df"] = table["df_model"].diff()
    table["p_value"] = np.where(table["df"] > 0, stats.chi2.sf(table["chi2"], table["df"]), np.nan)
    table.attrs["notes"] = notes
    return table


def _by_likelihood(fits: list[Fit]) -> tuple[list[Fit], list[str]]:
    """The fits as they may be compared, with a note where REML had to give way."""
    parts = {fit.design.fixed.names for fit in fits}
    if len(parts) == 1 and len({fit.reml for fit in fits}) == 1 or not any(fit.reml for fit in fits):
        return fits, []
    refitted = [fit.by_likelihood() if fit.reml else fit for fit in fits]
    return refitted, ["REML fits with different fixed parts were refitted by maximum likelihood."]


def _row(fit: Fit) -> dict[str, Any]:
    return {"formula": fit.formula, "df_model": fit.df_model, "llf": fit.llf, "aic": fit.aic, "bic": fit.bic}
