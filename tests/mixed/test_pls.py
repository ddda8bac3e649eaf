"""Penalised least squares against matrices of all rows and columns, with thin and with filled crossings."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from canopy_stats.mixed.algebra import blocks, layout
from canopy_stats.mixed.fitting import pls
from canopy_stats.mixed.formulas.formula import build_design

FORMULAS = ["y ~ x + (1 + x|g)", "y ~ x + (1 + x|g) + (1 + x|h)", "y ~ x + (x||g) + (1 + x|h) + (1|f)"]


def dense_columns(factor, template):
    columns = factor.columns @ template
    out = np.zeros((len(columns), len(factor.levels), columns.shape[1]))
    out[np.arange(len(columns)), factor.codes] = columns
    return out.reshape(len(columns), -1)


@pytest.fixture(params=[0, 10**9], ids=["thin", "dense"])
def made(request, monkeypatch):
    """Products, fixed columns and response of a formula, and a theta."""
    monkeypatch.setattr(layout, "SMALL_TAIL", 1)
    monkeypatch.setattr(layout, "THIN_FIXED", request.param)

    def make(formula):
        rng = np.random.default_rng(5)
        n = 120
        data = pd.DataFrame({"y": rng.normal(size=n), "x": rng.normal(size=n), "g": rng.integers(0, 25, n),
                             "h": rng.integers(0, 7, n), "f": rng.integers(0, 4, n)})
        design = build_design(formula, data)
        products = pls.make_products(design.factors, design.fixed.matrix, design.y)
        assert (products.layout.pattern is not None) == (request.param == 0 and products.layout.m > 0)
        return products, design.fixed.matrix, design.y, rng.normal(size=design.n_theta)

    return make


def dense(products, x, y, theta):
    """REML deviance at the best sigma, from V, and the inverse of H."""
    k = np.hstack([dense_columns(f, t) for f, t in zip(
        products.layout.factors, blocks.templates(products.layout.factors, theta), strict=True)])
    v = np.eye(len(y)) + k @ k.T
    projected = x.T @ np.linalg.solve(v, x)
    residual = y - x @ np.linalg.solve(projected, x.T @ np.linalg.solve(v, y))
    df = len(y) - x.shape[1]
    variance = residual @ np.linalg.solve(v, residual) / df
    deviance = (-2 * stats.multivariate_normal(cov=variance * v).logpdf(residual) - x.shape[1] * np.log(2 * np.pi)
                + np.linalg.slogdet(projected / variance)[1])
    return deviance, np.linalg.inv(np.eye(k.shape[1]) + k.T @ k)


@pytest.mark.parametrize("formula", FORMULAS)
def test_deviance_gradient_and_inverse_blocks(formula, made):
    products, x, y, theta = made(formula)
    found = pls.solve_theta(products, theta)
    deviance, inverse = dense(products, x, y, theta)
    assert pls.deviance(found, reml=True) == pytest.approx(deviance, rel=1e-10)
    moves = 1e-5 * np.eye(len(theta))
    slopes = [(dense(products, x, y, theta + move)[0] - dense(products, x, y, theta - move)[0]) / 2e-5
              for move in moves]
    np.testing.assert_allclose(pls.gradient(found, reml=True), slopes, rtol=1e-6, atol=1e-6)
    start = 0
    for factor, block in zip(products.layout.factors, found.inverse_blocks, strict=True):
        q = len(factor.terms)
        for level in range(len(factor.levels)):
            part = slice(start + level * q, start + level * q + q)
            np.testing.assert_allclose(block[level], inverse[part, part], atol=1e-10)
        start += len(factor.levels) * q
