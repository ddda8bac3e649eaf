"""The columns that slope models share: centred and standardised rates and lengths, and the variant as a number."""

from __future__ import annotations

import numpy as np
import pandas as pd

BASE = "base"


def standardised(values: pd.Series) -> pd.Series:
    """(x - mean) / sd (R's scale(): divisor n - 1); zero where nothing varies."""
    spread = values.std()
    return (values - values.mean()) / (spread if spread > 0 else 1.0)


def with_columns(panel: pd.DataFrame) -> pd.DataFrame:
    """The panel with every column that a formula of this package may name beside the panel's own.

    R_c, R_c2: centred rate (nats per token) and its square. R_sc, invN_sc, logN_sc: rate, 1/length and log length in
    standard deviations over the panel. tun: 1 in fine-tuned rows, else 0; R_tuned: R_sc there, else 0.
    """
    rate, scaled = panel["R_bar"] - panel["R_bar"].mean(), standardised(panel["R_bar"])
    tuned = (panel["model_variant"].astype(str) != BASE).astype(float)
    return panel.assign(R_c=rate, R_c2=rate**2, R_sc=scaled, R_tuned=scaled * tuned, tun=tuned,
                        invN_sc=standardised(1 / panel["N_bar"]), logN_sc=standardised(np.log(panel["N_bar"])))
