import json

import mixedlm
import numpy as np
import pandas as pd
import pytest
from r_references import GOLDEN, PANELS, rename, with_scaled

from canopy_stats.mixed import glmm, lmm


@pytest.fixture(scope="session")
def golden():
    """Reference fits by name."""
    return {fit["name"]: fit for fit in json.loads((GOLDEN / "reference_fits.json").read_text())["fits"]}


@pytest.fixture(scope="session")
def classic():
    return {fit["name"]: fit for fit in json.loads((GOLDEN / "classic_fits.json").read_text())["fits"]}


@pytest.fixture(scope="session")
def panel():
    """panel('a') with the columns that the reference fits use; a fresh copy each time."""
    frames = {key: with_scaled(pd.read_csv(GOLDEN / "panels" / f"{name}.csv.gz")) for key, name in PANELS.items()}
    return lambda key: frames[key].copy()


@pytest.fixture(scope="session")
def named():
    """R's table of coefficients as a Series with our names."""
    return lambda table: pd.Series({rename(name): value for name, value in table.items()})


@pytest.fixture(scope="session")
def sleep():
    """lme4's sleepstudy with a slope that varies by subject."""
    return lmm("Reaction ~ Days + (1 + Days|Subject)", mixedlm.load_sleepstudy())


@pytest.fixture(scope="session")
def data():
    """Shares y in 30 groups of six, whose slope in x is .4 for f = a and .9 for f = b."""
    rng = np.random.default_rng(21)
    frame = pd.DataFrame({"g": np.repeat(np.arange(30), 6), "x": rng.normal(size=180), "f": np.tile(["a", "b"], 90)})
    slope = np.where(frame["f"] == "b", 0.9, 0.4)
    eta = -0.5 + slope * frame["x"] + 0.4 * rng.normal(size=30)[frame["g"]]
    mu = 1 / (1 + np.exp(-eta))
    return frame.assign(y=rng.beta(12 * mu, 12 * (1 - mu)))


@pytest.fixture(scope="session")
def beta(data):
    return glmm("y ~ x*f + (1|g)", data)
