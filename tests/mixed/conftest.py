import json

import pandas as pd
import pytest
from r_references import GOLDEN, PANELS, rename, with_scaled


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
