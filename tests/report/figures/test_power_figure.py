"""Power as drawn: every simulated size, the smooth curve, the level."""

import numpy as np
import pandas as pd
import pytest

from canopy_stats.report.figures import power_figure, save
from canopy_stats.schema import UserError
from canopy_stats.slope.split import power_curve


def made(effects=(0.2,), families=(3,)):
    sizes = [(p, m, f, e) for p in (10, 20, 40) for m in (5, 20) for f in families for e in effects]
    table = pd.DataFrame(sizes, columns=["prompts", "rollouts", "families", "effect"])
    z = np.sqrt(table["prompts"]) * table["effect"] * (1 - 1 / table["rollouts"]) * table["families"] / 2
    null = pd.DataFrame([(40, 20, f, 0.0) for f in families], columns=table.columns)
    return pd.concat([table.assign(mean_z=z, sd_z=1.0, power=0.5), null.assign(mean_z=0.0, sd_z=1.0, power=0.06)],
                     ignore_index=True).assign(mc_error=0.02, failed=0, replicates=100)


def test_a_line_for_each_number_of_rollouts():
    table = made()
    figure = power_figure(table)
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["5 rollouts", "20 rollouts",
                                                                    "no effect (level 5%)"]
    ax = figure.axes[0]
    lines = {line.get_label(): line for line in ax.lines}
    x, y = lines["20 rollouts"].get_data()
    assert (x[0], x[-1]) == pytest.approx((10, 40))
    assert y == pytest.approx(power_curve(table, 0.2)(x, np.full(len(x), 20.0), np.full(len(x), 3.0)))
    points = [tuple(line.get_xdata()) for line in ax.lines if line.get_linestyle() == "None" and len(line.get_xdata())]
    assert points.count((10, 20, 40)) == 2 and (40,) in points
    assert [t.get_text() for t in ax.get_xticklabels()] == ["10", "20", "40"]


@pytest.mark.slow
def test_a_facet_for_each_effect_and_number_of_families(tmp_path):
    figure = power_figure(made((0.2, 0.4), (3, 6)))
    shown = [ax.get_title() for ax in figure.axes if ax.get_visible()]
    assert shown == ["difference 0.2, 3 families", "difference 0.4, 3 families", "difference 0.2, 6 families",
                     "difference 0.4, 6 families"]
    save(figure, tmp_path / "power")
    assert (tmp_path / "power.png").exists() and (tmp_path / "power.svg").exists()


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(UserError, match="needs the column mc_error"):
        power_figure(made().drop(columns="mc_error"))
    with pytest.raises(UserError, match="effect other than zero"):
        power_figure(made()[lambda t: t["effect"] == 0])
