"""The blocked algebra against dense matrices."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from canopy_stats.mixed.algebra import blocks
from canopy_stats.mixed.algebra.elimination import make_elimination
from canopy_stats.mixed.algebra.layout import pattern_of
from canopy_stats.mixed.algebra.tail import TailGram
from canopy_stats.mixed.formulas.formula import build_design
from canopy_stats.schema import UserError

FORMULAS = ["y ~ 1 + (1|g)", "y ~ x + (1 + x|g) + (1|h)", "y ~ x + (x||g) + (1 + x|h) + (1|f)"]


def dense_columns(factor, template):
    columns = factor.columns @ template
    out = np.zeros((len(columns), len(factor.levels), columns.shape[1]))
    out[np.arange(len(columns)), factor.codes] = columns
    return out.reshape(len(columns), -1)


@pytest.fixture(params=[False, True], ids=["dense", "thin"])
def problem(request):
    """A layout of a formula, weights, covariance factors, and the same H = Lambda' Z'WZ Lambda + I as one matrix."""

    def make(formula):
        rng = np.random.default_rng(3)
        n = 80
        data = pd.DataFrame({
            "y": rng.normal(size=n), "x": rng.normal(size=n), "g": rng.integers(0, 30, n), "h": rng.integers(0, 9, n),
            "f": rng.integers(0, 5, n),
        })
        design = build_design(formula, data)
        layout = blocks.make_layout(design.factors)
        if request.param and layout.m:
            layout = replace(layout, pattern=pattern_of(layout))
        weights = rng.uniform(0.2, 2, n)
        t = blocks.templates(design.factors, rng.normal(size=design.n_theta))
        z = np.hstack([dense_columns(f, np.eye(len(f.terms))) for f in design.factors])
        spread = [np.kron(np.eye(len(f.levels)), s) for f, s in zip(design.factors, t, strict=True)]
        stop = np.cumsum([len(s) for s in spread])
        lam = np.zeros((stop[-1], stop[-1]))
        for s, end in zip(spread, stop, strict=True):
            lam[end - len(s) : end, end - len(s) : end] = s
        return layout, weights, t, z.T @ (weights[:, None] * z), lam, rng

    return make


def flat(values):
    return np.concatenate([v.reshape(-1, v.shape[-1]) for v in values])


@pytest.mark.parametrize("formula", FORMULAS)
def test_solve_determinant_and_inverse_blocks(formula, problem):
    layout, weights, t, g, lam, rng = problem(formula)
    h = lam.T @ g @ lam + np.eye(len(g))
    found = blocks.factorise(blocks.relative(layout, blocks.gram(layout, weights), t))
    assert found.logdet == pytest.approx(np.linalg.slogdet(h)[1])
    right = [rng.normal(size=(len(f.levels), len(f.terms), 2)) for f in layout.factors]
    np.testing.assert_allclose(flat(blocks.solve(layout, found, right)), np.linalg.solve(h, flat(right)), atol=1e-10)
    start, inverse = 0, np.linalg.inv(h)
    for factor, block in zip(layout.factors, blocks.inverse_blocks(layout, found), strict=True):
        q = len(factor.terms)
        for level in range(len(factor.levels)):
            part = slice(start + level * q, start + level * q + q)
            np.testing.assert_allclose(block[level], inverse[part, part], atol=1e-10)
        start += len(factor.levels) * q


@pytest.mark.parametrize("formula", FORMULAS)
def test_multiply(formula, problem):
    layout, weights, t, g, lam, rng = problem(formula)
    parts = blocks.gram(layout, weights)
    right = [rng.normal(size=(len(f.levels), len(f.terms), 3)) for f in layout.factors]
    np.testing.assert_allclose(flat(blocks.multiply(layout, parts, right)), g @ flat(right), atol=1e-10)


@pytest.mark.parametrize("formula", FORMULAS)
def test_elimination_of_the_head_and_its_transpose(formula, problem):
    """Sums of B_l M_l B_l' and the pulls B_l' D B_l, kept whole and by pairs of links."""
    layout, weights, t, g, lam, rng = problem(formula)
    parts, head = blocks.gram(layout, weights), layout.factors[layout.head]
    levels, q = len(head.levels), len(head.terms)
    starts = np.cumsum([0, *(len(f.levels) * len(f.terms) for f in layout.factors)])
    own = np.arange(starts[layout.head], starts[layout.head + 1])
    tail = [place for k in layout.offsets for place in range(starts[k], starts[k + 1])]
    border = g[np.ix_(tail, own)].reshape(layout.m, levels, q)
    m, d = rng.normal(size=(levels, q, q)), rng.normal(size=(layout.m, layout.m))
    m, d = m + m.transpose(0, 2, 1), d + d.T
    links = make_elimination(parts.border, levels, q)
    np.testing.assert_allclose(links.sums(m), np.einsum("jla,lab,ilb->ji", border, m, border), atol=1e-10)
    np.testing.assert_allclose(links.pulled(d), np.einsum("jla,ji,ilb->lab", border, d, border), atol=1e-10)


@pytest.mark.parametrize("formula", FORMULAS)
def test_rows_of_the_inverse(formula, problem):
    """H^-1 a at the rows' own levels, for pairs of levels that occur and for pairs that do not."""
    layout, weights, t, g, lam, rng = problem(formula)
    h = np.linalg.inv(lam.T @ g @ lam + np.eye(len(g)))
    found = blocks.factorise(blocks.relative(layout, blocks.gram(layout, weights), t))
    codes = [rng.integers(0, len(f.levels), 40) for f in layout.factors]
    rows = [rng.normal(size=(40, len(f.terms))) for f in layout.factors]
    starts = np.cumsum([0, *(len(f.levels) * len(f.terms) for f in layout.factors)])
    places = [start + c[:, None] * r.shape[1] + np.arange(r.shape[1])
              for start, c, r in zip(starts, codes, rows, strict=False)]
    solved = blocks.solve_rows(layout, found, rows, codes)
    for i in range(40):
        a = np.zeros(len(h))
        for place, row in zip(places, rows, strict=True):
            a[place[i]] = row[i]
        for place, ours in zip(places, solved, strict=True):
            np.testing.assert_allclose(ours[i], (h @ a)[place[i]], atol=1e-10)


@pytest.mark.parametrize("formula", FORMULAS)
def test_sums_by_group_and_contributions_of_effects_to_rows(formula, problem):
    """Z'v for one and for several right sides, and Z b."""
    factors = problem(formula)[0].factors
    rng = np.random.default_rng(1)
    for f in factors:
        z, v, b = dense_columns(f, np.eye(len(f.terms))), rng.normal(size=(80, 2)), rng.normal(
            size=(len(f.levels), len(f.terms)))
        np.testing.assert_allclose(blocks.sum_by_group(f, v), (z.T @ v).reshape(*b.shape, 2), atol=1e-12)
        np.testing.assert_allclose(blocks.sum_by_group(f, v[:, 0]), (z.T @ v[:, 0]).reshape(b.shape), atol=1e-12)
        np.testing.assert_allclose(blocks.rows_of(f, b), z @ b.ravel(), atol=1e-12)
        assert blocks.sum_by_group(f, v[:, :0]).shape == (*b.shape, 0)


def test_indefinite_is_reported():
    assert blocks.factorise(blocks.Blocks(-np.ones((2, 1, 1)), None, TailGram({}, {}))) is None


def crossed(first, second, cells, seed=0):
    rng = np.random.default_rng(seed)
    data = pd.DataFrame({"y": rng.normal(size=cells), "g": rng.integers(0, first, cells),
                         "h": rng.integers(0, second, cells)})
    return build_design("y ~ 1 + (1|g) + (1|h)", data).factors


def test_thin_crossings_are_kept_thin():
    assert blocks.make_layout(crossed(800, 300, 3000)).pattern is not None
    assert blocks.make_layout(crossed(200, 70, 20_000)).pattern is None


def test_too_large_is_refused_with_names():
    with pytest.raises(UserError, match=r"h \(1[0-9]{4} levels\) beside g \(.* levels\) ask for more memory"):
        blocks.make_layout(crossed(30_000, 14_000, 40_000))
