"""Questions to fits of several families and designs: numbers, or one line that says why there are none."""

import warnings

import numpy as np
import pytest
from family_rows import family_of, simulated

from canopy_stats.mixed import bootstrap, glmm, hypothesis, lmm, means, profile, slopes
from canopy_stats.schema import UserError

DESIGNS = {"crossed": "(1|g) + (1|h)", "nested": "(1|g/s)", "slopes": "(1 + x|g)", "boundary": "(1|flat)"}
VERBS = {
    "profile": lambda fit, group: profile(fit, ["x", f"sd Intercept | {group}"]),
    "bootstrap": lambda fit, group: bootstrap(fit, 3, seed=1).estimates,
    "means": lambda fit, group: means(fit, "f", contrasts="pairwise"),
    "marginal means": lambda fit, group: means(fit, "f", marginal=True),
    "slopes": lambda fit, group: slopes(fit, "x", "f", scale="response"),
    "hypothesis": lambda fit, group: hypothesis(fit, "x = 0.3"),
    "influence": lambda fit, group: fit.influence(group, refit=False),
}


@pytest.mark.slow
@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("name", ["lmm", "binomial", "cumulative", "hurdle_nbinom2"])
def test_numbers_or_one_line(name, design):
    family = family_of("gaussian" if name == "lmm" else name)
    rows = simulated(family.name, 8, groups=14, each=9)
    rng, n = np.random.default_rng(2), len(rows)
    rows = rows.assign(f=rng.choice(["a", "b"], n), h=rng.integers(0, 6, n), s=rng.integers(0, 3, n),
                       flat=np.arange(n) % 9)
    formula = f"{'cbind(y, missed)' if family.trials else 'y'} ~ x*f + {DESIGNS[design]}"
    group = "flat" if design == "boundary" else "g"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = lmm(formula, rows) if name == "lmm" else glmm(formula, rows, family=name)
        for verb, ask in VERBS.items():
            try:
                table = ask(fit, group)
            except UserError as refusal:
                assert "\n" not in str(refusal), verb
            else:
                assert not table.select_dtypes("number").isna().any(axis=None), verb
