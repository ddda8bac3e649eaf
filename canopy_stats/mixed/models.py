"""The front door: a formula and data to a fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from canopy_stats.mixed.family import get_family
from canopy_stats.mixed.fit import Fit, make_fit, warned
from canopy_stats.mixed.generalised import Laplace
from canopy_stats.mixed.linear import NORMAL, Engine, Linear
from canopy_stats.mixed.model_frame import make_frame


def lmm(formula: str, data: Any, *, reml: bool = True, engine: Engine = "newton", weights: Any = None,
        offset: Any = None, reference: Mapping[str, Any] | None = None) -> Fit:
    """Fit a linear mixed model.

    Parameters
    ----------
    formula : str
        lme4's syntax, as in ``"D ~ R_bar * model_variant + (1 | prompt_uid)"``, ``^`` with R's meaning. ``log(x)``,
        ``I(x^2)`` and other calls are evaluated as Python code: run a stranger's formula only as you would their code.
    data : pandas, polars or pyarrow table, or dict of columns
        One row per observation; rows with missing or infinite values are refused by name.
    reml : bool
        Restricted maximum likelihood (default) or maximum likelihood.
    engine : {"newton", "mixedlm", "statsmodels"}
        What finds the variance parameters: our own search, or as a second opinion mixedlm's, or statsmodels' (one
        grouping variable).
    weights, offset : column name, array or Series (n,), optional
        Prior weights w (a row's residual variance is sigma^2 / w, as in lme4) and a known part of the mean.
    reference : mapping, optional
        Reference level by column; otherwise the first category, or the first in sorted order.
    """
    frame = make_frame(formula, data, family=NORMAL, weights=weights, offset=offset, reference=reference)
    way = Linear(frame, reml, engine)
    return warned(make_fit(way, way.estimate()))


def glmm(formula: str, data: Any, *, family: str = "beta", dispersion: str = "~ 1",
         weights: Any = None, offset: Any = None,
         reference: Mapping[str, Any] | None = None, squeeze: float | None = None, certify: bool = False) -> Fit:
    """Fit a mixed model with a dispersion model by Laplace-approximate maximum likelihood.

    Parameters
    ----------
    formula, data, reference
        As for ``lmm``; a formula without random terms is allowed.
    family : {"beta", "ordbeta", "gaussian"}
        beta for 0 < y < 1, ordbeta where exact zeros and ones occur (logit link both), gaussian for any response.
    dispersion : str
        Right-hand side for log phi (beta, ordbeta) or log sigma^2 (gaussian).
    weights, offset : column name, Series with the index of the data, or array (n,), optional
        Prior weights (multiply a row's log-likelihood) and a known part of the linear predictor; ``offset(log(n))``
        in the formula is added to it.
    squeeze : float, optional
        Move responses into [squeeze, 1 - squeeze] first; the number of moved rows is in ``fit.notes``.
    certify : bool
        Also fit from a second start and compare (about doubles the time).
    """
    frame = make_frame(formula, data, family=get_family(family), dispersion=dispersion, weights=weights, offset=offset,
                       reference=reference, squeeze=squeeze)
    way = Laplace(frame)
    return warned(make_fit(way, way.best_of_two() if certify else way.estimate()))
