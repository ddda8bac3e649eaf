"""Levels left out one by one, against refits in R's lme4 (golden/influence.R)."""

import json

import numpy as np
import pandas as pd
import pytest
from r_references import GOLDEN

import canopy_stats as cs

REFERENCE = json.loads((GOLDEN / "influence.json").read_text())
FITS = {fit["name"]: fit for fit in REFERENCE["fits"]}


@pytest.fixture(scope="module")
def sleep():
    return pd.DataFrame(REFERENCE["sleep"])


@pytest.fixture(scope="module")
def binary():
    return pd.DataFrame(REFERENCE["binary"])


@pytest.fixture(scope="module")
def made(sleep, binary):
    flat = cs.lmm("Reaction ~ Days + (1 | Subject)", sleep, reml=False)
    herds = cs.glmm("cbind(incidence, size - incidence) ~ late + (1 | herd)", binary, family="binomial")
    return {"slopes": (cs.lmm("Reaction ~ Days + (Days | Subject)", sleep), "Subject"), "intercepts": (flat, "Subject"),
            "by day": (flat, "Days"), "binomial": (herds, "herd")}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(FITS))
def test_refits_are_those_of_lme4(made, name):
    fit, group = made[name]
    table, theirs = fit.influence(group), FITS[name]
    assert list(table["level"]) == [str(level) for level in theirs["levels"]]
    np.testing.assert_allclose(table["cooks_distance"], theirs["cook"], rtol=5e-3, atol=1e-5)
    np.testing.assert_allclose(table.filter(like="dfbetas"), theirs["dfbetas"], atol=2e-3)
    assert list(table.columns[3:]) == [f"dfbetas {term}" for term in fit.params.index]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "correlation"), [("slopes", 0.98), ("intercepts", 0.99), ("binomial", 0.98)])
def test_one_step_comes_near(made, name, correlation):
    fit, group = made[name]
    near, exact = fit.influence(group, refit=False), fit.influence(group)
    for column in near.columns[3:]:
        assert np.corrcoef(near[column], exact[column])[0, 1] > correlation
    assert near["cooks_distance"].idxmax() == exact["cooks_distance"].idxmax()


def test_a_level_that_was_pulled_stands_out(sleep):
    moved = sleep.assign(Reaction=sleep["Reaction"] + 25 * sleep["Days"] * (sleep["Subject"] == 333))
    fit = cs.lmm("Reaction ~ Days + (1 | Subject)", moved)
    table = fit.influence("Subject", refit=False)
    assert table.loc[table["cooks_distance"].idxmax(), "level"] == "333"
    assert table["dfbetas Days"].idxmax() == table["cooks_distance"].idxmax()
    axes = fit.plot_influence("Subject", refit=False).axes[0]
    assert axes.get_yticklabels()[0].get_text() == "333"


def test_what_cannot_be_left_out_is_nan_and_named(sleep):
    alone = sleep.assign(first=np.where(sleep["Subject"] == 308, "a", "b"))
    fit = cs.lmm("Reaction ~ Days + first + (1 | Subject)", alone)
    with pytest.warns(UserWarning, match="Without 308 there is no fit.*cannot be estimated without it"):
        table = fit.influence("Subject", refit=False).set_index("level")
    assert table.loc["308", table.columns[1:]].isna().all() and table.drop("308").notna().all().all()


@pytest.mark.parametrize(("group", "words"), [("Subj", "not among the fitted columns.*Did you mean Subject"),
                                              (["a", "b"] * 90, "at least three")])
def test_groups_that_cannot_be_left_out_are_refused(made, group, words):
    with pytest.raises(cs.UserError, match=words):
        made["intercepts"][0].influence(group)
