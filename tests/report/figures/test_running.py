"""The running rate is what a loop over the rollouts finds; the maps show what they were given."""

import numpy as np
import pandas as pd
import pytest

from canopy_stats.report import figures
from canopy_stats.report.figures.end_maps import active
from canopy_stats.report.figures.running import trimmed_at
from canopy_stats.report.figures.shares import percent
from canopy_stats.schema import UserError


@pytest.fixture
def two_families(rollouts):
    """Steps of two families with random entropies, and the rollouts that they belong to."""
    whole = pd.concat([rollouts, rollouts.assign(model_name="birch", length=rollouts["length"].clip(upper=37))],
                      ignore_index=True)
    rows = whole.loc[whole.index.repeat(whole["length"])].rename_axis("rollout").reset_index()
    step = np.concatenate([np.arange(n) for n in whole["length"]])
    return rows.assign(step=step, entropy=np.random.default_rng(4).gamma(2, 0.5, len(rows)).astype("float32"))


@pytest.mark.slow
def test_running_rate_is_the_mean_of_what_rollouts_have_so_far(two_families):
    found = figures.running_rates(two_families, ["task", "model_variant"])
    for (task, variant), own in two_families.groupby(["task", "model_variant"]):
        table = found[(found["task"] == task) & (found["model_variant"] == variant)].set_index("t")
        entropies = [rows["entropy"].to_numpy(float) for _, rows in own.groupby("rollout")]
        for t in (5, 20, 35):
            reached = [h[:t].sum() / t for h in entropies if len(h) >= t]
            assert table.loc[t, "rate"] == pytest.approx(np.mean(reached))
            assert table.loc[t, "active"] == len(reached)
        assert (table.index % 5 == 0).all() and table.index.max() == own["length"].max() // 5 * 5


def test_facets_end_where_one_line_has_too_few_rollouts(two_families):
    figure = figures.running_rate(two_families, fewest=30)
    own = two_families[two_families["task"] == "completion"]
    counts = own.groupby(["model_name", "model_variant", "rollout"]).size()
    reached = [min(int((counts[family, variant] >= t).sum())
                   for family in ("alder", "birch") for variant in ("base", "instruct")) for t in range(5, 81, 5)]
    last = max(5 * (i + 1) for i, n in enumerate(reached) if n >= 30)
    lines = figure.axes[0].lines
    assert len(lines) == 2 * 3 and {line.get_xdata()[-1] for line in lines} == {last}
    assert [t.get_text() for t in figure.legends[0].get_texts()] == [
        "base, each family", "base, all families", "instruct, each family", "instruct, all families"]


def test_trimming_is_by_the_shortest_line():
    rates = pd.DataFrame({"line": list("aaabb"), "t": [5, 10, 15, 5, 10], "active": [9, 8, 3, 9, 4]})
    assert [trimmed_at(rates, ["line"], fewest) for fewest in (3, 4, 5, 9, 10)] == [10, 10, 5, 5, 0]


# --- maps of the end token --------------------------------------------------------------------------------------


def a_map(variant="base", task="walk"):
    lengths = np.array([3, 1, 2])
    values = np.array([[-3, np.nan, np.nan], [-1, -2, np.nan], [-9, -5, 0]], np.float32)
    return figures.EndMap(task, "oak", variant, values, lengths)


def test_a_map_has_a_row_a_rollout_and_counts_below():
    figure = figures.end_logprob_map([a_map(), a_map("tuned")])
    above, below, counts = figure.axes[:3]
    assert np.ma.filled(above.images[0].get_array(), np.nan) == pytest.approx(a_map().values, nan_ok=True)
    assert below.images and [t.get_text() for t in figure.legends[0].get_texts()] == ["base", "tuned"]
    assert list(counts.lines[0].get_xdata()) == [1, 2, 3] and list(counts.lines[0].get_ydata()) == [3, 2, 1]
    assert "every rollout" in figure.get_suptitle()


def test_membership_names_its_k():
    one = a_map()
    values = np.where(np.isnan(one.values), np.nan, one.values > -4)
    inside = figures.EndMap(one.task, "oak", "base", values, one.lengths)
    figure = figures.end_top_k_map([inside], 100)
    assert "100 most likely" in figure.get_suptitle().replace("\n", " ")
    assert figure.axes[0].images[0].get_clim() == (0, 1)
    with pytest.raises(UserError, match="no rollouts"):
        figures.end_top_k_map([], 5)


def test_active_counts_rollouts_with_a_token_there():
    lengths = np.array([1, 1, 4, 7])
    expected = [sum(n > t for n in lengths) for t in range(8)]
    assert active(lengths, np.arange(8)).tolist() == expected


# --- shares -----------------------------------------------------------------------------------------------------


def test_signed_shares_add_up_to_one_and_hang_left_where_negative(panel):
    from canopy_stats.report import frames

    table = frames.decomposition(panel)
    which = "task == 'math' and model_name == 'birch' and model_variant == 'base'"
    own, row = panel.query(which), table.query(which).iloc[0]
    ce, product = own["CE"].mean(), own["N_bar"].mean() * own["R_bar"].mean()
    assert row["share_cov_paper"] == pytest.approx((ce - product) / ce)
    assert row["share_cov_within"] == pytest.approx(own["cov_NR"].mean() / ce)
    assert table[["share_product", "share_cov_within", "share_cov_between"]].sum(axis=1).to_numpy() == pytest.approx(1)
    figure = figures.share_bars(table)
    bars = [bar for container in figure.axes[1].containers for bar in container]
    drawn = np.array([(min(b.get_x(), b.get_x() + b.get_width()), b.get_width()) for b in bars])
    # alder, birch, cedar by base, instruct: six bars a term
    assert drawn[:6, 1] == pytest.approx(table[table["task"] == "math"]["share_product"].to_numpy())
    assert (drawn[drawn[:, 1] < 0, 0] < 0).all()
    assert f"{row['share_cov_paper']:+.1%}" in [t.get_text() for t in figure.axes[1].texts]
    assert [percent(x) for x in (-0.0001, 0.0004, 0.1234, -0.02)] == ["0.0%", "0.0%", "+12.3%", "-2.0%"]
