"""The front door: the change of the slope by any of the models."""

from __future__ import annotations

import pandas as pd

from canopy_stats.mixed.formulas.frames import as_pandas
from canopy_stats.panel_rows import check_rows
from canopy_stats.schema import UserError
from canopy_stats.slope.change import SlopeChange
from canopy_stats.slope.models import PAPER_MODELS, AnyModel, check_model
from canopy_stats.slope.paper import paper_change
from canopy_stats.slope.resample import with_bootstrap
from canopy_stats.slope.robust import robust_change


def slope_change(panel: pd.DataFrame, *, model: AnyModel = "paper_beta", correct: bool | None = None,
                 bootstrap: int = 0, seed: int | None = None, workers: int = 1) -> SlopeChange:
    """How fine-tuning changes the slope of semantic diversity on entropy rate.

    Parameters
    ----------
    panel : one row per task, prompt, family and variant; variants are ``base`` and one other
    model : one of :data:`canopy_stats.slope.models.MODELS`
    correct : robust only: correct for measurement error of rate and length. None: where the panel has the jackknife
        columns se_R, se_N, cov_DR, cov_DN and cov_RN
    bootstrap : replicates of a bootstrap over whole prompts (needs ``seed``): percentile intervals, and the ratio's set
        by inverting tuned - ratio · base. It holds these families and tasks fixed
    workers : processes of the bootstrap; the answer does not depend on their number
    """
    panel = as_pandas(panel)
    check_model(model)
    if correct is not None and model != "robust":
        raise UserError(f"correct= belongs to model='robust'; {model} does not correct for measurement error.")

    def answer(data: pd.DataFrame) -> SlopeChange:
        return paper_change(data, model) if model in PAPER_MODELS else robust_change(data, correct=correct)

    check_rows(panel)
    found = answer(panel)
    return with_bootstrap(found, panel, answer, bootstrap, seed, workers) if bootstrap else found
