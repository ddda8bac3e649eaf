from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from canopy_stats.mixed.formulas.fixed import AliasedWarning, NotEstimableWarning, encode_fixed, without_intercept
from canopy_stats.mixed.formulas.formula import build_design, offset_values
from canopy_stats.mixed.formulas.grouping import encode_groups
from canopy_stats.mixed.formulas.parse import parse
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
    ("y ~ -1 + x + (I(x^2) || factor(g))", "- 1 + x", [("I(x**2)", ("g",), False)]),
    ("y ~ x + (1|`my g`/h)", "x", [("1", ("my g",), True), ("1", ("my g", "h"), True)]),
    ("y ~ (x + w)^2 + I(x^2) + (0 + x|g:h)", "(x + w)^2 + I(x**2)", [("0 + x", ("g", "h"), True)]),
])
def test_parse(text, fixed, random):
    parsed = parse(text)
    assert parsed.fixed == fixed
    assert [(t.columns, t.groups, t.correlated) for t in parsed.random] == random


@pytest.mark.parametrize(("text", "message"), [
    ("y", "needs a response"), ("y ~ x + 1|g", "stands alone in brackets"), ("y ~ x + (1|g", "do not match"),
    ("y ~ x*(1|g)", "stands alone in brackets"), ("y ~ x - (1|g)", "Cannot read the random term"),
    ("y ~ x + (1|)", "names no grouping variable"), ("y ~ x + (1|g|h)", "Cannot read the random term"),
    ("y ~ x + (1|g*h)", r"as in \(1 \| a:b\)"), ("y ~ x - offset(w)", r"\+ offset\(-x\)"),
    ("y ~ x ~ w", "needs a response"),
    ("y ~ x*offset(w)", "stands alone in the formula of the mean"), ("cbind(a) ~ x", "needs two columns"),
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
    (lambda d: d, "y ~ y + (1|g)", "also a predictor"), (lambda d: d, "cbind(y, w) ~ x", "no whole number"),
    (lambda d: d, "y ~ foo(x) + (1|g)", "name 'foo' is not defined"),
    (lambda d: d.assign(t=pd.Timestamp("2025-01-01")), "y ~ t + (1|g)", "t holds dates or times"),
    (lambda d: d.assign(x=d["x"].map("{:.2f}".format)), "y ~ x + (1|g)", "x holds numbers stored as text"),
    (lambda d: bad("x", [3], np.nan)(bad("y", [3, 5], np.nan)(d)), "y ~ x + (1|g)",
     r"y is missing.*x is .*\(2 of 60\)"),
    (lambda d: d.iloc[:0], "y ~ x + (1|g)", "no rows"),
    (lambda d: d, "y ~ x + (1|g) + (1 + x|g)", "same random column twice"),
])
def test_bad_data(data, change, formula, message):
    with pytest.raises(UserError, match=message):
        build_design(formula, change(data))


def test_unknown_reference_level(data):
    with pytest.raises(UserError, match="'z' does not occur in f; its levels are: a, b, c"):
        build_design("y ~ f + (1|g)", data, reference={"f": "z"})


@pytest.mark.parametrize(("reference", "message"), [
    ({"w": 1}, "w enters as a number|does not occur"), ({"h": "p"}, "which the formula does not use"),
    ({"ff": "a"}, "Did you mean f?"), ({"g": 3}, r"write factor\(g\)"),
])
def test_references_that_would_be_ignored(data, reference, message):
    with pytest.raises(UserError, match=message):
        build_design("y ~ x + w + f + g", data, reference=reference)


def test_powers_are_rs(data):
    """I(x^2) is a square in fixed and random parts, (a + b)^2 the interaction of second order."""
    whole = data.assign(x=np.arange(60) * 10**6)
    design = build_design("y ~ x + I(x^2) + (0 + I(x^2)|g)", whole)
    np.testing.assert_array_equal(design.fixed.matrix[:, 2], np.arange(60.0) ** 2 * 1e12)
    np.testing.assert_array_equal(design.factors[0].columns[:, 0], design.fixed.matrix[:, 2])
    assert build_design("y ~ (x + w + f)^2", data).fixed.names == build_design("y ~ x*w + x*f + w*f", data).fixed.names


def test_whole_numbers_overflow_nowhere(data):
    large = data.assign(x=10**8 * np.arange(60))
    assert build_design("y ~ I(x^3)", large).fixed.matrix[-1, 1] == pytest.approx(59.0**3 * 1e24)


def test_factor_makes_levels_of_numbers(data):
    part = build_design("y ~ factor(g) + (1|factor(h))", data, reference={"g": 3}).fixed
    assert part.names[:3] == ("Intercept", "factor(g)[T.0]", "factor(g)[T.1]") and part.levels["g"][0] == "3"
    np.testing.assert_array_equal(part.matrix[:, 1], data["g"] == 0)
    with pytest.raises(UserError, match="levels the fit has not seen: 99"):
        encode_fixed(part, data.assign(g=99))
    both = build_design("y ~ g + factor(g):x", data).fixed
    assert both.names[:3] == ("Intercept", "g", "factor(g)[0]:x") and "g" not in both.levels
    with pytest.raises(UserError, match="Cannot encode the new data"):
        encode_fixed(both, data.assign(g=99))


def test_offsets_are_summed_and_made_for_new_data(data):
    design = build_design("y ~ x + offset(log(w)) + offset(2*x) + (1|g)", data)
    np.testing.assert_allclose(design.offset, np.log(data["w"]) + 2 * data["x"])
    assert design.fixed.names == ("Intercept", "x")
    np.testing.assert_allclose(offset_values(design.offsets, data.iloc[:3]), design.offset[:3])
    with pytest.raises(UserError, match="not one finite number a row"):
        build_design("y ~ x + offset(log(x))", data)


def test_successes_and_failures(data):
    counts = data.assign(k=np.arange(60) % 4, n=5)
    design = build_design("cbind(k, n - k) ~ x + (1|g)", counts)
    np.testing.assert_array_equal(design.y, counts["k"])
    np.testing.assert_array_equal(design.trials, np.full(60, 5.0))
    with pytest.raises(UserError, match="no trials in rows 0, 4"):
        build_design("cbind(k, k) ~ x", counts)


def test_ordered_responses(data):
    scale = ["none", "low", "mid", "high"]
    rated = data.assign(r=pd.Categorical(np.tile(["low", "high", "mid"], 20), scale, ordered=True))
    design = build_design("r ~ x + (1|g)", rated)
    assert design.categories == ("low", "mid", "high") and design.y[:3].tolist() == [1, 3, 2]


def test_dot_is_every_other_column(data):
    design = build_design("y ~ . - h + (1|g)", data.assign(**{"my w": data["w"] ** 2}), other_columns=["w"])
    assert design.fixed.names == ("Intercept", "x", "f[T.b]", "f[T.c]", "my w")
    again = build_design(design.formula, design.data.assign(more=1.0))
    assert again.fixed.names == design.fixed.names
    with pytest.raises(UserError, match="the data have none"):
        build_design("y ~ . + (1|g)", data[["y", "g"]])


@pytest.mark.parametrize(("short", "long"), [
    (".^2", "(x + w + h)^2"), ("(. - h)^2", "(x + w)^2"), (".*f", "(x + w + h)*f"), (".:f", "x:f + w:f + h:f"),
    ("I(x^2) + .", "I(x^2) + w + h"), ("w %in% f", "w:f"), ("x*w %in% f", "x*(w:f)"),
])
def test_dots_and_nesting_within_larger_terms(short, long):
    """As in R's model.matrix; '.' leaves out what the rest of the formula uses."""
    rng = np.random.default_rng(0)
    data = pd.DataFrame(rng.normal(size=(40, 4)), columns=["y", "x", "w", "h"]).assign(g=np.arange(40) % 8)
    if "f" in short:
        data["f"] = np.where(np.arange(40) % 3, "a", "b")
    ours, theirs = (build_design(f"y ~ {text} + (1|g)", data).fixed for text in (short, long))
    assert sorted(ours.names) == sorted(theirs.names)
    if "." in short:
        assert "." not in build_design(f"y ~ {short} + (1|g)", data).formula


@pytest.mark.parametrize("text", ["y ~ log(.) + (1|g)", "y ~ x + (.|g)", "y ~ x + (1 + .|g)"])
def test_a_dot_is_a_term_of_the_mean(text):
    with pytest.raises(UserError, match="name the columns inside a function or a random term"):
        build_design(text, pd.DataFrame({"y": [1.0, 2], "x": [1.0, 2], "g": [1, 2]}))


@pytest.mark.parametrize("kept", [lambda c: c.astype(object), lambda c: c.map(Decimal), lambda c: c.astype("Float64")])
def test_numbers_are_numbers_whatever_holds_them(kept):
    rng = np.random.default_rng(0)
    data = pd.DataFrame({"y": rng.normal(size=30), "x": rng.integers(1, 4, 30) + 0.5, "g": np.arange(30) % 6})
    first = build_design("y ~ x + (1 + x|g)", data)
    second = build_design("y ~ x + (1 + x|g)", data.assign(x=kept(data["x"]), y=kept(data["y"])))
    np.testing.assert_array_equal(first.fixed.matrix, second.fixed.matrix)
    np.testing.assert_array_equal(first.y, second.y)
    assert pd.api.types.is_numeric_dtype(second.data["x"])


@pytest.mark.parametrize(("x", "words"), [
    (lambda n: np.arange(n) + 1j, "x holds complex numbers"), (lambda n: [[1, 2]] * n, "x holds values of type list"),
    (lambda n: pd.to_timedelta(np.arange(n), unit="h"), "x holds dates or times"),
    (lambda n: pd.period_range("2020", periods=n, freq="D"), "x holds dates or times"),
])
def test_values_that_are_neither_numbers_nor_levels(x, words):
    with pytest.raises(UserError, match=words):
        build_design("y ~ x + (1|g)", pd.DataFrame({"y": np.arange(9.0), "x": x(9), "g": np.arange(9) % 3}))


def test_code_sees_columns_as_they_are(data):
    stamped = data.assign(t=pd.date_range("2024-01-01", periods=60), ok=data["x"] > 0)
    part = build_design("y ~ I(t.dt.month) + I(ok*2.0)", stamped).fixed
    np.testing.assert_array_equal(part.matrix[:, 1], stamped["t"].dt.month)
    np.testing.assert_array_equal(part.matrix[:, 2], 2 * stamped["ok"])


def test_nested_labels_that_read_alike_are_told_apart():
    pairs = pd.DataFrame({"a": ["m:x", "m", "m:x", "m"] * 4, "b": ["y", "x:y", "y", "x:y"] * 4, "y": np.arange(16.0)})
    factor = build_design("y ~ 1 + (1|a:b)", pairs).factors[0]
    assert factor.levels == ("m:'x:y'", "'m:x':y")
    codes, _ = encode_groups(factor, pd.DataFrame({"a": ["m", "m:x", "m", "q"], "b": ["x:y", "y", "y", "y"]}))
    assert codes.tolist() == [0, 1, -1, -1]


def test_an_empty_cell_is_not_a_number(data):
    rows = data[~((data["f"] == "b") & (data["h"] == "q"))]
    with pytest.warns(AliasedWarning, match="f\\[T.b\\]:h\\[T.q\\]"):
        part = build_design("y ~ f*h + x + (1|g)", rows).fixed
    np.testing.assert_allclose(encode_fixed(part, rows), part.matrix, atol=1e-12)
    with pytest.warns(NotEstimableWarning, match="f=b, h=q"):
        new = encode_fixed(part, data)
    lost = ~data.index.isin(rows.index)
    assert np.isnan(new[lost]).all() and np.isfinite(new[~lost]).all()


def test_aliased_columns_that_keep_their_relation_are_estimable(data):
    twice = data.assign(v=2 * data["x"] - data["w"])
    with pytest.warns(AliasedWarning):
        part = build_design("y ~ x + w + v", twice).fixed
    moved = twice.assign(x=twice["x"] + 5, v=twice["v"] + 10)
    assert np.isfinite(encode_fixed(part, moved)).all()
    with pytest.warns(NotEstimableWarning):
        assert np.isnan(encode_fixed(part, twice.assign(v=0.0))).all()


def test_without_an_intercept_factors_keep_their_reference(data):
    part = build_design("y ~ f*x", data).fixed
    left = without_intercept(part)
    assert left.names == part.names[1:] and without_intercept(left) is left
    np.testing.assert_array_equal(encode_fixed(left, data), part.matrix[:, 1:])
    constant = without_intercept(build_design("y ~ 1", data).fixed)
    assert constant.matrix.shape == (60, 0) and encode_fixed(constant, data).shape == (60, 0)


FUNCTION_NAMES = ["c", "C", "I", "Q", "ns", "bs", "cs", "cc", "cr", "poly", "log", "exp", "scale", "center", "lag",
                  "np", "contr", "factor", "pi", "TRUE", "self", "data", "max", "offset"]


@pytest.mark.slow
@pytest.mark.parametrize("name", FUNCTION_NAMES)
@pytest.mark.parametrize("role", ["y", "x", "g", "o"])
def test_a_column_may_be_called_like_a_function(name, role):
    rng = np.random.default_rng(3)
    data = pd.DataFrame({"y": rng.normal(size=60), "x": rng.normal(size=60), "g": np.arange(60) % 7,
                         "o": rng.normal(size=60)})
    plain = build_design("y ~ x + offset(o) + (x|g)", data)
    names = {key: name if key == role else key for key in "yxgo"}
    called = build_design("{y} ~ {x} + offset({o}) + ({x}|{g})".format(**names), data.rename(columns={role: name}))
    np.testing.assert_array_equal(called.y, plain.y)
    np.testing.assert_array_equal(called.fixed.matrix, plain.fixed.matrix)
    np.testing.assert_array_equal(called.factors[0].codes, plain.factors[0].codes)


def test_a_function_reads_a_column_that_another_function_is_called_like():
    data = pd.DataFrame({"y": np.arange(1.0, 9.0), "scale": np.arange(2.0, 10.0), "g": np.arange(8) % 3})
    np.testing.assert_allclose(build_design("log(y) ~ log(scale) + (1|g)", data).fixed.matrix[:, 1],
                               np.log(data["scale"]))
