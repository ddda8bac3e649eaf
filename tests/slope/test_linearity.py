"""The moves of beta and eta against fits by formulas written out here, by statsmodels."""

from pathlib import Path

import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy import stats

from canopy_stats.slope.linearity import quadratic_check

PANEL = Path(__file__).parents[1] / "golden" / "panels" / "panel_a.csv.gz"


@pytest.mark.slow
def test_moves_are_those_of_statsmodels_fits():
    panel = pd.read_csv(PANEL)
    tuned = next(v for v in panel["model_variant"].unique() if v != "base")
    data = panel.assign(R_c=panel["R_bar"] - panel["R_bar"].mean(), tuned=(panel["model_variant"] == tuned) * 1.0)
    tail = " + N_bar + C(task) + C(model_name)"
    fits = [smf.mixedlm(f"D ~ {terms}{tail}", data, groups=data["prompt_uid"]).fit(reml=False)
            for terms in ("R_c*tuned", "(R_c + I(R_c**2))*tuned")]
    table = quadratic_check(panel).set_index("coefficient")
    for name, term in (("beta", "R_c"), ("eta", "R_c:tuned")):
        row = table.loc[name]
        moved = fits[1].params[term] - fits[0].params[term]
        assert row["linear"] == pytest.approx(fits[0].params[term], rel=1e-4)
        assert row["quadratic"] == pytest.approx(fits[1].params[term], rel=1e-4)
        assert row["linear_std_error"] == pytest.approx(fits[0].bse[term], rel=1e-3)
        assert row["moved_in_se"] == pytest.approx(moved / fits[0].bse[term], rel=1e-2, abs=1e-3)
    chi2 = 2 * (fits[1].llf - fits[0].llf)
    assert table["lrt_chi2"].to_numpy() == pytest.approx(chi2, abs=1e-3)
    assert table["lrt_p"].iloc[0] == pytest.approx(stats.chi2.sf(chi2, 2), rel=1e-2)
