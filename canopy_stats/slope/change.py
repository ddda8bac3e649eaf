"""The front door: the change of the slope by any of the models."""

from __future__ import annotations

from typing import Literal, get_args

import pandas as pd

from canopy_stats.schema import UserError
from canopy_stats.slope.estimates import SlopeChange
from canopy_stats.slope.paper import paper_change
from canopy_stats.slope.robust import robust_change

AnyModel = Literal["main", "interaction", "quadratic", "paper_beta", "paper_vendi", "paper_rse", "robust"]
MODELS: tuple[AnyModel, ...] = get_args(AnyModel)


def slope_change(panel: pd.DataFrame, *, model: AnyModel = "paper_beta", correct: bool | None = None,
                 bootstrap: int = 0, seed: int | None = None, workers: int = 1) -> SlopeChange:
    """How fine-tuning changes the slope of semantic diversity on entropy rate.

    Parameters
    ----------
    panel : one row per task, prompt, family and variant; variants are ``base`` and one other
    model : one of the paper's (main, interaction, quadratic, paper_beta, paper_vendi, paper_rse) or ``robust``, see
        :mod:`canopy_stats.slope.robust`
    correct : robust only: correct for measurement error of rate and length. None: where the panel has the jackknife
        columns se_R, se_N, cov_DR, cov_DN and cov_RN
    bootstrap : replicates of a bootstrap over whole prompts (needs ``seed``): percentile intervals, and the ratio's set
        by inverting tuned - ratio · base. It holds these families and tasks fixed
    workers : processes of the bootstrap; the answer does not depend on their number
    """
    if model not in MODELS:
        raise UserError(f"model is {model!r}; choose one of {', '.join(MODELS)}.")
    if correct is not None and model != "robust":
        raise UserError(f"correct= belongs to model='robust'; {model} does not correct for measurement error.")

    def estimate(data: pd.DataFrame) -> SlopeChange:
        return robust_change(data, correct=correct) if model == "robust" else paper_change(data, model)

    found = estimate(panel)
    if not bootstrap:
        return found
    from canopy_stats.slope.resample import with_bootstrap

    return with_bootstrap(found, panel, estimate, bootstrap, seed, workers)
