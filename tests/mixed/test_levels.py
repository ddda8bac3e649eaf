import pandas as pd
import pytest

from canopy_stats.mixed.formulas.levels import check_reference, level_codes, sorted_levels
from canopy_stats.schema import UserError


def test_levels_are_sorted_by_value_or_by_category():
    assert sorted_levels(pd.Series([10, 9, 2.0])) == ("2", "9", "10")
    assert sorted_levels(pd.Series(pd.Categorical(["b", "a"], ["b", "a", "c"]))) == ("b", "a")


def test_levels_that_cannot_be_told_apart():
    with pytest.raises(UserError, match="mixes values of type int and str"):
        sorted_levels(pd.Series([1, "a"], name="g"))
    with pytest.raises(UserError, match=r"read alike as text \('1'\)"):
        sorted_levels(pd.Series(pd.Categorical([1, "1"], [1, "1"]), name="g"))


def test_codes_of_unknown_and_missing_values():
    assert level_codes(pd.Series(["b", None, "z"]), ("a", "b")).tolist() == [1, -1, -1]


def test_reference_levels_of_any_type_are_compared_as_text():
    data = pd.DataFrame({"h": [0, 1, 3], "f": ["u", "v", "w"], "b": [True, False, True]})
    assert check_reference(data, {"h": 3, "f": "v", "b": True}) == {"h": "3", "f": "v", "b": "True"}


@pytest.mark.parametrize(("reference", "message"), [
    ({"hh": 3}, "column hh, which the data do not have. Did you mean h?"), ({"h": 7}, "'7' does not occur in h"),
    ({"model_variant": "Base"}, "'Base' does not occur .* Did you mean base?"), (["h"], "must be a mapping"),
])
def test_wrong_references(reference, message):
    data = pd.DataFrame({"h": [0, 1, 3], "model_variant": ["base", "tuned", "base"]})
    with pytest.raises(UserError, match=message):
        check_reference(data, reference)
