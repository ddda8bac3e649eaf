"""Fits as other packages want them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from canopy_stats.mixed.fit import Fit
from canopy_stats.mixed.formulas.expressions import formula_variables
from canopy_stats.mixed.formulas.frames import with_columns
from canopy_stats.mixed.formulas.levels import is_categorical
from canopy_stats.mixed.results.predict import Scale, check_choice, encode, to_scale
from canopy_stats.schema import UserError

Array = np.ndarray


def to_marginaleffects(fit: Fit, *, scale: Scale = "response") -> Any:
    """The fit as a model of the Python package marginaleffects: its predictions, comparisons, slopes, hypotheses.

    Predictions are means at random effects of zero on ``scale``, uncertainty that of the coefficients of the mean;
    tests are z tests. Needs ``pip install 'canopy-stats[effects]'``.
    """
    check_choice("scale", scale, ("response", "link"))
    if len(fit.design.fixed.aliased):
        lost = ", ".join(fit.design.fixed.aliased)
        raise UserError(f"marginaleffects needs every coefficient; these have none: {lost}.")
    try:
        import polars
        from marginaleffects.classes import ModelAbstract, ModelVault
    except ImportError as error:
        raise UserError("marginaleffects is not installed; run: pip install 'canopy-stats[effects]'.") from error

    class FitModel(ModelAbstract):
        """Our encoding and our means behind marginaleffects' interface."""

        def get_exog(self, newdata: Any) -> Array:
            return _encoded(fit, newdata.to_pandas())

        def get_predict(self, params: Array, newdata: Any) -> Any:
            rows = newdata if isinstance(newdata, np.ndarray) else self.get_exog(newdata)
            values = _predicted(fit, np.asarray(params, dtype=float), rows, scale)
            return polars.DataFrame({"rowid": np.arange(len(values), dtype=np.int32), "estimate": values})

    vault = ModelVault(
        coef=fit.beta, coefnames=np.array(fit.design.fixed.names), vcov=fit.cov_params().to_numpy(),
        formula=f"{fit.design.response} ~ {fit.design.fixed.formula}", modeldata=polars.from_pandas(_model_data(fit)),
        package="canopy_stats", variable_names=[fit.design.response, *formula_variables(fit.design.fixed.formula)],
    )
    return FitModel(fit, vault)


def _model_data(fit: Fit) -> pd.DataFrame:
    """The fitted columns, factors as categories with their reference first."""
    data, levels = fit.design.data.reset_index(drop=True), fit.design.fixed.levels
    return with_columns(data, {
        name: pd.Categorical(data[name].astype(str), list(levels[name]) if name in levels else None)
        for name in data.columns if is_categorical(data[name]) or name in levels
    })


def _encoded(fit: Fit, data: pd.DataFrame) -> Array:
    """Rows to predict for as one matrix: columns of the mean (p), dispersion (d) and zero part (g), and the offset."""
    rows = encode(fit, data, "population")
    return np.column_stack([rows.x, rows.w, rows.g, rows.offset])


def _predicted(fit: Fit, beta: Array, encoded: Array, scale: Scale) -> Array:
    x, w, g, offset = np.split(encoded, np.cumsum([len(fit.beta), len(fit.delta), len(fit.zero)]), axis=1)
    rows = replace(encode(fit, None, "population"), x=x, w=w, g=g, offset=offset[:, 0], trials=np.ones(len(x)))
    return np.asarray(to_scale(fit, rows, rows.x @ beta + rows.offset, scale))
