import numpy as np
import pandas as pd
import pytest

from canopy_stats.mixed.formula import AliasedWarning, build_design, encode_fixed, encode_groups
from canopy_stats.mixed.parse import parse
from canopy_stats.schema import UserError


@pytest.fixture
def data():
    rng = np.random.default_rng(1)
    n = 60
    return pd.DataFrame({
        "y": rng.normal(size=n), "x": rng.normal(size=n), "w": rng.uniform(1, 2, n),
        "f": np.tile(["c", "a", "b"], n // 3), "g": np.repeat(np.arange(12), 5), "h": np.tile(list("pqrs"), n // 4),
    })


@pytest.mark.parametrize(("text", "fixed", "random"), [
    ("y ~ x + (1|g)", "x", [("1", ("g",), True)]),
    ("y ~ x*f + (1 + x|g) + (1|h)", "x*f", [("1 + x", ("g",), True), ("1", ("h",), True)]),
    ("y ~ 0 + x + (x||g)", "0 + x", [("x", ("g",), False)]),
    ("y ~ x - 1 + (1|g/h)", "x - 1", [("1", ("g",), True), ("1", ("g", "h"), True)]),
    ("y ~ (1|g)", "1", [("1", ("g",), True)]),
    ("y ~ (x + w)^2 + I(x**2) + (0 + x|g:h)", "(x + w)^2 + I(x**2)", [("0 + x", ("g", "h"), True)]),
])
def test_parse(text, fixed, random):
    parsed = parse(text)
    assert parsed.fixed == fixed
    assert [(t.columns, t.groups, t.correlated) for t in parsed.random] == random


@pytest.mark.parametrize(("text", "message"), [
    ("y", "needs a response"), ("y ~ x + 1|g", "stands alone in brackets"), ("y ~ x + (1|g", "do not match"),
    ("y ~ x*(1|g)", "stands alone in brackets"), ("y ~ x - (1|g)", "Cannot read the random term"),
    ("y ~ x + (1|)", "names no grouping variable"), ("y ~ x + (1|g|h)", "Cannot read the random term"),
])
def test_unreadable_formulas(text, message):
    with pytest.raises(UserError, match=message):
        parse(text)


@pytest.mark.parametrize(("fixed", "names"), [
    ("x*f", ["Intercept", "x", "f[T.b]", "f[T.c]", "x:f[T.b]", "x:f[T.c]"]),
    ("C(f, contr.treatment(base='b'))", ["Intercept", "C(f, contr.treatment(base='b'))[T.a]",
                                         "C(f, contr.treatment(base='b'))[T.c]"]),
    ("ns(x, df=2) + scale(w)", ["Intercept", "ns(x, df=2)[1]", "ns(x, df=2)[2]", "scale(w)"]),
    ("poly(x, 2) - 1", ["poly(x, 2)[1]", "poly(x, 2)[2]"]),
])
def test_columns(data, fixed, names):
    assert list(build_design(f"y ~ {fixed} + (1|g)", data).fixed.names) == names


def test_reference_by_argument_and_by_category(data):
    first = build_design("y ~ f + (1|g)", data, reference={"f": "b"}).fixed
    ordered = data.assign(f=pd.Categorical(data["f"], ["b", "a", "c", "unused"]))
    assert first.names == build_design("y ~ f + (1|g)", ordered).fixed.names == ("Intercept", "f[T.a]", "f[T.c]")
    np.testing.assert_array_equal(first.matrix[:, 1], data["f"] == "a")


def test_new_data_are_encoded_as_the_fitted_ones(data):
    design = build_design("y ~ ns(x, df=3)*f + scale(w) + poly(w**2, 1) + (1 + x|g) + (1|g:h)", data)
    rows = [7, 3, 3, 41]
    np.testing.assert_allclose(encode_fixed(design.fixed, data.iloc[rows]), design.fixed.matrix[rows], atol=1e-12)
    for factor in design.factors:
        codes, columns = encode_groups(factor, data.iloc[rows])
        np.testing.assert_array_equal(codes, factor.codes[rows])
        np.testing.assert_allclose(columns, factor.columns[rows])


def test_constant_design_encodes_any_number_of_rows(data):
    design = build_design("y ~ 1 + (1|g)", data)
    np.testing.assert_array_equal(encode_fixed(design.fixed, data.iloc[:7]), np.ones((7, 1)))


def test_unknown_levels(data):
    design = build_design("y ~ f + (1|g)", data)
    with pytest.raises(UserError, match="f has levels the fit has not seen: z"):
        encode_fixed(design.fixed, data.assign(f="z"))
    assert np.all(encode_groups(design.factors[0], data.assign(g=99))[0] == -1)


def test_terms_of_one_factor_are_joined_and_nested_ones_numbered(data):
    design = build_design("y ~ x + (1|g) + (1|h) + (0 + x|g)", data)
    assert [f.name for f in design.factors] == ["g", "h"]
    np.testing.assert_array_equal(design.factors[0].pattern, [[0, -1], [-1, 1]])
    np.testing.assert_array_equal(design.factors[1].pattern, [[2]])
    correlated = build_design("y ~ x + (1 + x|g)", data).factors[0]
    np.testing.assert_array_equal(correlated.pattern, [[0, -1], [1, 2]])
    nested = build_design("y ~ x + (1|f/h)", data).factors
    assert [f.name for f in nested] == ["f", "f:h"] and nested[1].levels[:2] == ("a:p", "a:q")


def test_aliased_columns_are_named(data):
    with pytest.warns(AliasedWarning, match=r"get NaN: twice\."):
        part = build_design("y ~ x + twice + w + (1|g)", data.assign(twice=2 * data["x"])).fixed
    assert part.names == ("Intercept", "x", "w") and part.aliased == ("twice",)


def bad(name, rows, value):
    return lambda d: d.assign(**{name: np.where(np.isin(d.index, rows), value, d[name])})


@pytest.mark.parametrize(("change", "formula", "message"), [
    (bad("x", [3, 8], np.nan), "y ~ x + (1|g)", r"x is missing \(NaN\) in rows 3 and 8"),
    (bad("y", range(9), np.nan), "y ~ x + (1|g)", "in rows 0, 1, 2, 3, 4 and 4 more"),
    (bad("w", [5], np.inf), "y ~ w + (1|g)", "w is infinite in row 5"),
    (lambda d: d, "y ~ xx + (1|g)", "uses xx, which the data do not have. Did you mean x?"),
    (lambda d: d, "y ~ x + (1|group)", "uses group, which the data do not have"),
    (lambda d: d.assign(f="a"), "y ~ f + (1|g)", "factor f has one level only"),
    (lambda d: d.assign(g=1), "y ~ x + (1|g)", "grouping variable g has one level only"),
    (lambda d: d.assign(g=range(60)), "y ~ x + (1|g)", r"g has as many levels as there are rows \(60\)"),
    (lambda d: d, "y ~ log(x) + (1|g)", r"log\(x\) is not finite in every row"),
    (lambda d: d, "f ~ x + (1|g)", "response f is not numeric"),
    (lambda d: d.iloc[:0], "y ~ x + (1|g)", "no rows"),
    (lambda d: d, "y ~ x + (1|g) + (1 + x|g)", "same random column twice"),
])
def test_bad_data(data, change, formula, message):
    with pytest.raises(UserError, match=message):
        build_design(formula, change(data))


def test_unknown_reference_level(data):
    with pytest.raises(UserError, match="'z' does not occur in f; its levels are: a, b, c"):
        build_design("y ~ f + (1|g)", data, reference={"f": "z"})
