"""The paper's check of linearity: how far a parabola moves the base slope and its change, in standard errors."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from canopy_stats.mixed.formulas.frames import as_pandas
from canopy_stats.panel_rows import check_rows
from canopy_stats.slope.models import TABLE
from canopy_stats.slope.paper import fit_model, slope_from_fit
from canopy_stats.slope.prepare import prepare


def quadratic_check(panel: pd.DataFrame) -> pd.DataFrame:
    """beta (base slope) and eta (its change after tuning) in the interaction model and in the quadratic one at the mean
    rate, both by maximum likelihood: a row each.

    Columns: coefficient, ``linear`` with ``linear_std_error``, ``quadratic`` with ``quadratic_std_error``, ``moved`` =
    quadratic − linear, ``moved_in_se`` = moved / linear_std_error (the paper asks for at most one), and the
    likelihood-ratio test of both quadratic terms: ``lrt_chi2``, ``lrt_df``, ``lrt_p``. The two estimates come from the
    same rows, so a move of one standard error is more than chance makes of it: it measures, and tests nothing.
    """
    panel = as_pandas(panel)
    check_rows(panel)
    prepared = prepare(panel)
    models = TABLE["interaction"], TABLE["quadratic"]
    fits = [fit_model(prepared, model, reml=False) for model in models]
    linear, curved = (slope_from_fit(fit, prepared, model) for fit, model in zip(fits, models, strict=True))
    pairs = {"beta": (linear.base, curved.base), "eta": (linear.difference, curved.difference)}
    chi2 = 2 * (fits[1].llf - fits[0].llf)
    rows = [{"coefficient": name, "linear": one.estimate, "linear_std_error": one.se, "quadratic": other.estimate,
             "quadratic_std_error": other.se, "moved": other.estimate - one.estimate,
             "moved_in_se": (other.estimate - one.estimate) / one.se if one.se > 0 else np.nan,
             "lrt_chi2": chi2, "lrt_df": 2, "lrt_p": float(stats.chi2.sf(max(chi2, 0.0), 2))}
            for name, (one, other) in pairs.items()]
    table = pd.DataFrame(rows)
    table.attrs["notes"] = list(prepared.notes)
    return table
