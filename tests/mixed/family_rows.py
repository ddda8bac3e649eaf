"""Rows drawn from each family, and the fit of the model that they are from."""

import numpy as np
import pandas as pd

from canopy_stats.mixed import glmm
from canopy_stats.mixed.families import FAMILIES, get_family, others

NAMES = [*FAMILIES, "inflated poisson", "inflated nbinom1", "inflated nbinom2"]
CUTS = {"ordbeta": np.array([-1.5, np.log(3.0)]), "cumulative": np.array([-1.0, 0.1, 0.2])}
KAPPA = {"gaussian": -1.0, "lognormal": -1.0, "nbinom2": 0.5, "hurdle_nbinom2": 0.5, "inflated nbinom2": 0.5}


def family_of(name):
    family = get_family(name.split()[-1], zero_inflation=name.startswith("inflated"))
    return family.for_response(np.arange(1.0, 5.0)) if name == "cumulative" else family


def simulated(name, seed, groups=24, each=12):
    """Rows of a family with a slope of a half, random intercepts, and trials where it has them."""
    rng, n = np.random.default_rng(seed), groups * each
    data = pd.DataFrame({"g": np.repeat(np.arange(groups), each), "x": rng.normal(size=n)})
    family = family_of(name)
    eta = 0.4 + 0.5 * data["x"].to_numpy() + 0.6 * rng.normal(size=groups)[data["g"]]
    trials = rng.integers(2, 9, n).astype(float) if family.trials else np.ones(n)
    rest = others(n, kappa=np.full(n, KAPPA.get(name, 1.0)), zeta=np.full(n, -1.0), cut=CUTS.get(name, np.zeros(0)),
                  trials=trials)
    y = family.draw(eta, rest, rng)
    return data.assign(y=y, missed=trials - y)


def fitted(name, data, formula="x + (1|g)", **options):
    family = family_of(name)
    response = "cbind(y, missed)" if family.trials else "y"
    zero = {"zero_inflation": "~ x"} if family.zero else {}
    return glmm(f"{response} ~ {formula}", data, family=name.split()[-1], **zero, **options)
