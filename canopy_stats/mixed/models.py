"""The front door: a formula and data to a fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from canopy_stats.mixed.families import get_family
from canopy_stats.mixed.fit import Fit, make_fit, warned
from canopy_stats.mixed.fitting.generalised import Laplace
from canopy_stats.mixed.fitting.linear import NORMAL, Linear, LinearEngine
from canopy_stats.mixed.model_frame import make_frame
from canopy_stats.schema import UserError


def lmm(formula: str, data: Any, *, reml: bool = True, engine: LinearEngine = "newton", weights: Any = None,
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


def glmm(formula: str, data: Any, *, family: str = "beta", link: str | None = None, dispersion: str = "~ 1",
         zero_inflation: str | None = None, quadrature: int = 1, weights: Any = None, offset: Any = None,
         reference: Mapping[str, Any] | None = None, squeeze: float | None = None,
         certify: bool = False) -> Fit:
    """Fit a generalised linear mixed model by Laplace-approximate maximum likelihood.

    Parameters
    ----------
    formula, data, reference
        As for ``lmm``; a formula without random terms is allowed. Successes out of trials are
        ``cbind(successes, failures) ~ ...``, exposures ``offset(log(n))``.
    family : str
        beta (0 < y < 1), ordbeta (exact zeros and ones too), gaussian, binomial and betabinomial (0/1, successes out of
        trials), poisson, nbinom1 and nbinom2 (counts; variance mu (1 + phi) and mu + mu^2 / phi), hurdle_poisson and
        hurdle_nbinom2 (zero or not, and truncated counts), gamma and lognormal (y > 0), cumulative (ordered categories:
        whole numbers or an ordered Categorical; P(Y <= k) = F(threshold_k - eta)).
    link : str, optional
        logit (beta, binomial, betabinomial, cumulative), log (counts, gamma; lognormal, whose eta is the mean of log y)
        and identity (gaussian) are the usual ones; probit and cloglog for probabilities, identity or log elsewhere.
    dispersion : str
        Right-hand side for the log dispersion, on glmmTMB's scales: log phi (beta, ordbeta, betabinomial, nbinom1,
        nbinom2), log sigma^2 (gaussian, and of log y for lognormal), log shape (gamma).
    zero_inflation : str, optional
        Right-hand side for the logit of the probability of a structural zero, for counts; for a hurdle of any zero
        (its default is "~ 1").
    quadrature : int
        Adaptive Gauss-Hermite nodes for one grouping variable with one random column; 1 is Laplace's approximation.
    weights, offset : column name, Series with the index of the data, or array (n,), optional
        Prior weights (multiply a row's log-likelihood; numbers of trials where the response is a share of successes)
        and a known part of the linear predictor; ``offset(log(n))`` in the formula is added to it.
    squeeze : float, optional
        Move responses into [squeeze, 1 - squeeze] first; the number of moved rows is in ``fit.notes``.
    certify : bool
        Also fit from a second start and compare (about doubles the time).
    """
    chosen = get_family(family, link, zero_inflation=zero_inflation is not None)
    if not chosen.has_dispersion and dispersion.replace(" ", "") not in ("~1", "1"):
        raise UserError(f"family={family!r} has no dispersion to model; leave dispersion={dispersion!r} out.")
    frame = make_frame(
        formula, data, family=chosen, dispersion=dispersion if chosen.has_dispersion else None,
        zero_inflation=zero_inflation or ("~ 1" if chosen.zero else None), weights=weights, offset=offset,
        reference=reference, squeeze=squeeze)
    way = Laplace(frame, quadrature)
    return warned(make_fit(way, way.best_of_two() if certify else way.estimate()))
