"""The figure of rho draws each estimate and interval where its row says."""

import numpy as np
import pandas as pd
import pytest

from canopy_stats.report.figures import rho_figure
from canopy_stats.report.figures.style import save
from canopy_stats.schema import UserError


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    rows = [{"task": task, "model_name": family, "model_variant": variant, "coefficient": c, "quantity": q}
            for task in ("math",) for family in ("birch", "alder") for variant in ("instruct", "base")
            for c in ("rho_pearson", "rho_kendall") for q in ("raw", "position", "excess", "adjusted")]
    frame = pd.DataFrame(rows).assign(estimate=rng.uniform(-0.5, 0.5, len(rows)))
    return frame.assign(low=frame["estimate"] - 0.1, high=frame["estimate"] + 0.2)


@pytest.mark.slow
def test_estimates_and_intervals_by_family_and_variant(table, tmp_path):
    figure = rho_figure(table)
    first, second = figure.axes
    assert [t.get_text() for t in first.get_yticklabels()] == ["birch base", "birch instruct", "alder base",
                                                               "alder instruct"]
    assert "Pearson" in first.get_title() and "Kendall" in second.get_title()
    excess = next(line for line in second.lines if line.get_label().startswith("excess"))
    own = table[(table["coefficient"] == "rho_kendall") & (table["quantity"] == "excess")].reset_index()
    np.testing.assert_allclose(excess.get_xdata(), own["estimate"])
    np.testing.assert_allclose(excess.get_ydata(), np.array([1, 0, 3, 2]) + 0.25)
    segments = np.array(second.collections[2].get_segments())
    np.testing.assert_allclose(segments[:, :, 0], own[["low", "high"]])
    np.testing.assert_allclose(segments[:, :, 1], np.array([[1.25] * 2, [0.25] * 2, [3.25] * 2, [2.25] * 2]))
    assert len(figure.legends[0].get_texts()) == 3
    assert all(path.stat().st_size > 1000 for path in save(figure, tmp_path / "rho"))


def test_tasks_are_named_when_there_are_several(table):
    both = pd.concat([table, table.assign(task="coding")])
    names = [t.get_text() for t in rho_figure(both, quantities=["adjusted"]).axes[0].get_yticklabels()]
    assert len(names) == 8 and "alder base (coding)" in names and "alder base (math)" in names


@pytest.mark.parametrize("change", [lambda t: t.drop(columns="low"), lambda t: t.iloc[:0]])
def test_a_frame_that_lacks_something(table, change):
    with pytest.raises(UserError, match="rho_figure needs"):
        rho_figure(change(table))
