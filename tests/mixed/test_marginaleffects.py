"""Our fits in marginaleffects, against our own verbs."""

import numpy as np
import pandas as pd
import pytest
from r_references import GOLDEN

from canopy_stats.mixed import AliasedWarning, glmm, lmm, slopes
from canopy_stats.mixed.effects.adapters import to_marginaleffects
from canopy_stats.schema import UserError

marginaleffects = pytest.importorskip("marginaleffects")


@pytest.fixture(scope="module")
def data():
    table = pd.read_csv(GOLDEN / "panels" / "families.csv.gz")
    return table.assign(p=1 / (1 + table["latency"]))


@pytest.fixture(scope="module")
def linear(data):
    return lmm("y ~ variant * x + task + (1 | item)", data)


@pytest.fixture(scope="module")
def share(data):
    return glmm("p ~ variant * x + task + (1 | item)", data)


@pytest.mark.slow
def test_average_slopes_are_ours(linear, share):
    for fit, scale in ((linear, "link"), (share, "link"), (share, "response")):
        theirs = marginaleffects.avg_slopes(to_marginaleffects(fit, scale=scale), variables="x")
        ours = slopes(fit, "x", scale=scale).iloc[0]
        assert theirs["estimate"][0] == pytest.approx(ours["estimate"], rel=1e-4)
        assert theirs["std_error"][0] == pytest.approx(ours["std_error"], rel=1e-3)


@pytest.mark.slow
def test_predictions_are_ours(share, data):
    theirs = marginaleffects.predictions(to_marginaleffects(share))
    ours = share.predict(mode="population", se=True)
    np.testing.assert_allclose(theirs["estimate"].to_numpy(), ours["mean"])
    np.testing.assert_allclose(theirs["std_error"].to_numpy(), ours["se"], rtol=1e-3)


def test_comparisons_are_differences_of_our_predictions(share, data):
    theirs = marginaleffects.avg_comparisons(to_marginaleffects(share), variables="variant")
    base, tuned = (share.predict(data.assign(variant=v), mode="population").mean() for v in ("base", "tuned"))
    assert theirs["estimate"][0] == pytest.approx(tuned - base, rel=1e-6)


def test_what_marginaleffects_cannot_take(data):
    with pytest.warns(AliasedWarning):
        fit = lmm("y ~ x + z + (1|item)", data.assign(z=2 * data["x"]))
    with pytest.raises(UserError, match="needs every coefficient; these have none: z"):
        to_marginaleffects(fit)
