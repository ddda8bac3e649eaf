import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from canopy_stats.mixed import glmm
from canopy_stats.mixed.formulas.formula import build_design
from canopy_stats.mixed.formulas.frames import as_pandas, row_vector
from canopy_stats.schema import UserError

pl = pytest.importorskip("polars")


@pytest.fixture
def data():
    rng = np.random.default_rng(4)
    y, x = rng.normal(size=(2, 24))
    return pd.DataFrame({"y": y, "x": x, "f": list("abc") * 8, "g": [*range(6)] * 4})


KINDS = {
    "polars": pl.from_pandas, "lazy polars": lambda d: pl.from_pandas(d).lazy(), "pyarrow": pa.Table.from_pandas,
    "dict": lambda d: {name: list(d[name]) for name in d}, "nullable pandas": lambda d: d.convert_dtypes(),
    "pyarrow-backed pandas": lambda d: d.convert_dtypes(dtype_backend="pyarrow"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_any_table_gives_the_same_design(data, kind):
    want, got = (build_design("y ~ x*f + (x|g)", table) for table in (data, KINDS[kind](data)))
    np.testing.assert_array_equal(got.fixed.matrix, want.fixed.matrix)
    np.testing.assert_array_equal(got.y, want.y)
    assert got.fixed.names == want.fixed.names and got.factors[0].levels == want.factors[0].levels
    assert isinstance(got.data, pd.DataFrame)


@pytest.mark.parametrize("kind", ["polars", "dict"])
def test_any_table_is_predicted_for(data, kind):
    fit = glmm("y ~ x*f + (1|g)", data, family="gaussian")
    np.testing.assert_array_equal(fit.predict(KINDS[kind](data)), fit.predict(data))


def test_what_is_no_table(data):
    with pytest.raises(UserError, match="arguments are swapped"):
        build_design(data, "y ~ x + (1|g)")
    for value in ([1, 2], None, "data.csv"):
        with pytest.raises(UserError, match="pass a pandas, polars or pyarrow table"):
            as_pandas(value)
    with pytest.raises(UserError, match="of one length"):
        as_pandas({"a": [1, 2], "b": [1]})
    with pytest.raises(UserError, match="several columns called x"):
        as_pandas(pd.DataFrame(np.zeros((2, 2)), columns=["x", "x"]))


def test_names_of_columns_become_text():
    assert list(as_pandas(pd.DataFrame(np.zeros((2, 2)))).columns) == ["0", "1"]


def test_series_are_aligned_by_their_index(data):
    shuffled = data["x"].abs().sample(frac=1, random_state=1)
    np.testing.assert_array_equal(row_vector(shuffled, data, "weights"), data["x"].abs())
    np.testing.assert_array_equal(row_vector("x", data, "offset"), data["x"])
    np.testing.assert_array_equal(row_vector(list(range(24)), data, "offset"), np.arange(24.0))
    assert row_vector(None, data, "weights") is None


@pytest.mark.parametrize(("value", "message"), [
    (pd.Series(np.ones(24), index=range(1, 25)), "index of weights is not the index of the data"),
    (pd.Series(np.ones(23)), r"\(23 and 24 rows\)"), (np.ones(5), "24 positive numbers"),
    (np.zeros(24), "24 positive numbers"), (["a"] * 24, "24 positive numbers"), ("xx", "weights uses xx"),
])
def test_vectors_that_do_not_fit(data, value, message):
    with pytest.raises(UserError, match=message):
        row_vector(value, data, "weights", positive=True)
