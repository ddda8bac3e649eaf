"""Adjusted p-values against statsmodels."""

from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from canopy_stats.multiplicity import adjusted_p

P = st.lists(st.floats(0, 1) | st.sampled_from([0.01, 0.04]), min_size=1, max_size=8)


@pytest.mark.parametrize("method", ["holm", "bonferroni", "fdr_bh", "sidak"])
@given(p=P)
def test_values_are_statsmodels(p, method):
    with patch("gc.collect"):  # statsmodels calls it every time, a second each in a full session
        expected = multipletests(p, method=method)[1]
    np.testing.assert_allclose(adjusted_p(p, method), expected, rtol=1e-12, atol=1e-300)


@pytest.mark.parametrize("method", ["holm", "bonferroni", "fdr_bh", "sidak"])
def test_missing_ones_are_not_counted(method):
    with_gap, without = adjusted_p([0.01, np.nan, 0.03], method), adjusted_p([0.01, 0.03], method)
    assert np.isnan(with_gap[1]) and with_gap[[0, 2]].tolist() == without.tolist()
    assert np.isnan(adjusted_p([np.nan], method)).all()


def test_none_changes_nothing():
    assert adjusted_p([0.2, 0.1], "none").tolist() == [0.2, 0.1]
