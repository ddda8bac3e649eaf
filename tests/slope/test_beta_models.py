"""The paper's beta models by name: against glmmTMB's fit and against the formulas written out."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import canopy_stats as cs
from canopy_stats.schema import UserError
from canopy_stats.slope.models import TABLE

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def panel():
    return pd.read_csv(GOLDEN / "panels" / "panel_a.csv.gz")


@pytest.fixture(scope="module")
def glmmtmb():
    fits = json.loads((GOLDEN / "reference_fits.json").read_text())["fits"]
    return next(fit for fit in fits if fit["name"] == "a.beta_paper")["cond"]


@pytest.fixture(scope="module")
def headline(panel):
    return cs.slope_change(panel)


def test_headline_is_glmmtmbs(headline, glmmtmb):
    """glmmTMB 1.1.5 (tests/golden/reference_fits.R): base slope, difference and their errors."""
    base, change = glmmtmb["params"]["R_sc"], glmmtmb["params"]["R_sc:model_variantinstruct"]
    assert headline.model == "paper_beta"
    assert headline.base.estimate == pytest.approx(base, abs=2e-5)
    assert headline.difference.estimate == pytest.approx(change, abs=2e-5)
    assert headline.difference.se == pytest.approx(glmmtmb["bse"]["R_sc:model_variantinstruct"], rel=1e-3)
    assert headline.ratio.estimate == pytest.approx((base + change) / base, rel=1e-3)
    assert headline.unit.startswith("log-odds per SD of R (")


def test_response_scale_is_the_average_marginal_effect(headline, panel):
    """Average over all rows of mu(1 - mu) times the slope, by steps of the prediction."""
    step = 1e-4
    for name, variant in (("base", "base"), ("tuned", "instruct")):
        frame = headline.fit.design.data.assign(model_variant=variant)
        ahead, behind = (headline.fit.predict(frame.assign(R_sc=frame["R_sc"] + move), mode="population")
                         for move in (step, -step))
        assert headline.response[name].estimate == pytest.approx(np.mean(ahead - behind) / (2 * step), rel=1e-5)


@pytest.fixture(scope="module")
def judged(panel):
    """A panel with a Vendi score and an RSE that are made from D."""
    some = panel.groupby(["task", "model_name", "model_variant"]).head(30)
    share = some["D"] ** 1.2
    return some.assign(VS=1 + share * (some["M"] - 1), rse_m=20, RSE=share.clip(1e-3, 0.99) * np.log(20))


@pytest.mark.slow
@pytest.mark.parametrize(("model", "response"), [
    ("paper_vendi", lambda p: (p["VS"] - 1) / (p["M"] - 1)), ("paper_rse", lambda p: p["RSE"] / np.log(p["rse_m"]))])
def test_other_responses_are_the_formulas_written_out(judged, model, response):
    z = lambda x: (x - x.mean()) / x.std()  # noqa: E731
    data = judged.assign(y=response(judged), R_sc=z(judged["R_bar"]), invN_sc=z(1 / judged["N_bar"]))
    length = "ns(invN_sc, 4)*model_variant" if model == "paper_vendi" else "ns(invN_sc, 3)"
    mean = "y ~ R_sc*model_variant + ns(invN_sc, 4)*model_variant + task + (1|prompt_uid) + (1|model_name)"
    fit = cs.glmm(mean, data, dispersion=f"~ model_variant*task + {length} + R_sc*model_variant + model_name",
                  reference={"model_variant": "base"}, squeeze=1e-6)
    found = cs.slope_change(judged, model=model)
    assert found.base.estimate == pytest.approx(fit.params["R_sc"], abs=1e-9)
    assert found.difference.estimate == pytest.approx(fit.params["R_sc:model_variant[T.instruct]"], abs=1e-9)
    assert ("Vendi" if model == "paper_vendi" else "RSE") in found.estimand


def test_factors_with_one_level_are_left_out():
    both = frozenset({"task", "model_name"})
    assert TABLE["paper_beta"].formula(both) == "D ~ R_sc*model_variant + ns(invN_sc, 4)*model_variant + (1|prompt_uid)"
    assert TABLE["paper_beta"].dispersion_formula(both) == "~ model_variant + ns(invN_sc, 3) + R_sc*model_variant"


def test_exact_zeros_and_ones_are_squeezed_and_counted(panel):
    some = panel.groupby(["task", "model_name", "model_variant"]).head(30)
    extreme = some.assign(D=np.where(np.arange(len(some)) < 3, 0.0, some["D"]))
    assert any(note.startswith("3 of 720 responses") for note in cs.slope_change(extreme).notes)


@pytest.mark.parametrize(("model", "message"), [
    ("paper_vendi", "paper_vendi needs the column VS; make the panel with an embedder"),
    ("paper_rse", "paper_rse needs the columns RSE, rse_m; judge the runs first")])
def test_missing_responses(panel, model, message):
    with pytest.raises(UserError, match=message):
        cs.slope_change(panel, model=model)
