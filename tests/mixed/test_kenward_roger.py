"""Kenward-Roger tests against R's pbkrtest (tests/golden/kenward_roger.R)."""

import json

import mixedlm
import numpy as np
import pytest
from r_references import GOLDEN
from scipy import stats

import canopy_stats as cs
from canopy_stats.mixed.inference.kenward_roger import kenward_roger, test_of
from canopy_stats.schema import UserError

test_of.__test__ = False  # no test of ours, whatever its name
CONTRASTS = {"slope": [[0, 1]], "unbalanced": [[0, 0, 1, 0], [0, 0, 0, 1]], "crossed": [[0, 1]]}


@pytest.fixture(scope="module")
def references():
    return {fit["name"]: fit for fit in json.loads((GOLDEN / "kenward_roger.json").read_text())["fits"]}


def data_of(name):
    data = mixedlm.load_sleepstudy()
    data = data.assign(half=np.where(data["Subject"].astype(int) % 2 == 0, "even", "odd"))
    return data if name == "slope" else data.drop(data.index[[2, 16, 17, 43, 89, 90, 91, 149]])


@pytest.mark.parametrize("name", CONTRASTS)
def test_agrees_with_pbkrtest(name, references):
    expected = references[name]
    fit = cs.lmm(expected["formula"], data_of(name))
    shared = kenward_roger(fit)
    np.testing.assert_allclose(shared.adjusted, expected["vcov"], rtol=1e-4)
    q, df, statistic = test_of(shared, fit.beta, np.array(CONTRASTS[name], dtype=float))
    assert q == expected["ndf"]
    assert (statistic, df) == pytest.approx((expected["statistic"], expected["ddf"]), rel=1e-4)
    assert np.log(stats.f.sf(statistic, q, df)) == pytest.approx(np.log(expected["p"]), abs=1e-3)
    each = [test_of(shared, fit.beta, row[None])[1] for row in np.eye(len(fit.beta))]
    np.testing.assert_allclose(each, expected["df"], rtol=1e-4)


def test_units_do_not_matter():
    data, text = data_of("slope"), "Reaction ~ Days + (Days|Subject)"
    other = data.assign(Days=1e4 * data["Days"] + 3e5, Reaction=1e-5 * data["Reaction"])
    row = np.array([[0.0, 1.0]])
    first, second = (test_of(kenward_roger(fit), fit.beta, row) for fit in (cs.lmm(text, data), cs.lmm(text, other)))
    assert second == pytest.approx(first, rel=1e-6)


def test_only_for_reml():
    with pytest.raises(UserError, match="fitted by REML"):
        kenward_roger(cs.lmm("Reaction ~ Days + (1|Subject)", data_of("slope"), reml=False))
