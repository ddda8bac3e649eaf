"""The blocked algebra against dense matrices."""

import numpy as np
import pandas as pd
import pytest

from canopy_stats.mixed import blocks
from canopy_stats.mixed.formula import build_design

FORMULAS = ["y ~ 1 + (1|g)", "y ~ x + (1 + x|g) + (1|h)", "y ~ x + (x||g) + (1 + x|h) + (1|f)"]


def dense_columns(factor, template):
    columns = factor.columns @ template
    out = np.zeros((len(columns), len(factor.levels), columns.shape[1]))
    out[np.arange(len(columns)), factor.codes] = columns
    return out.reshape(len(columns), -1)


@pytest.mark.parametrize("formula", FORMULAS)
def test_solve_determinant_and_inverse_blocks(formula):
    rng = np.random.default_rng(3)
    n = 80
    data = pd.DataFrame({
        "y": rng.normal(size=n), "x": rng.normal(size=n), "g": rng.integers(0, 12, n), "h": rng.integers(0, 4, n),
        "f": rng.integers(0, 3, n),
    })
    design = build_design(formula, data)
    weights = rng.uniform(0.2, 2, n)
    layout = blocks.make_layout(design.factors)
    t = blocks.templates(design.factors, rng.normal(size=design.n_theta))
    a = [dense_columns(f, s) for f, s in zip(design.factors, t, strict=True)]
    stacked = np.hstack(a)
    h = stacked.T @ (weights[:, None] * stacked) + np.eye(stacked.shape[1])
    found = blocks.factorise(blocks.relative(layout, blocks.gram(layout, weights), t))
    assert found.logdet == pytest.approx(np.linalg.slogdet(h)[1])
    right = [rng.normal(size=(len(f.levels), len(f.terms), 2)) for f in design.factors]
    both = (blocks.solve(layout, found, right), right)
    solved, flat = ([np.concatenate([s.reshape(-1, 2) for s in values]) for values in both])
    np.testing.assert_allclose(solved, np.linalg.solve(h, flat), atol=1e-10)
    start, inverse = 0, np.linalg.inv(h)
    for factor, block in zip(design.factors, blocks.inverse_blocks(layout, found), strict=True):
        q = len(factor.terms)
        for level in range(len(factor.levels)):
            part = slice(start + level * q, start + level * q + q)
            np.testing.assert_allclose(block[level], inverse[part, part], atol=1e-10)
        start += len(factor.levels) * q


def test_indefinite_is_reported():
    assert blocks.factorise(blocks.Blocks(-np.ones((2, 1, 1)), np.zeros((0, 2, 1)), np.zeros((0, 0)))) is None
