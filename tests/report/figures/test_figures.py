"""Every figure draws what it was given, says what its axes are, and saves as SVG and PNG."""

from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from canopy_stats.report import figures, frames
from canopy_stats.schema import UserError


class LinearFit:
    """Stands in for a fitted interaction model: D = 0.1 + slope · R, the slope by variant."""

    slopes = {"base": 0.1, "instruct": 0.3}

    def predict(self, frame: pd.DataFrame) -> np.ndarray:
        return 0.1 + frame["model_variant"].map(self.slopes).to_numpy(float) * frame["R_bar"].to_numpy()


SLOPES = pd.DataFrame([{"model": "interaction", "base": 0.1, "base_low": 0.05, "base_high": 0.15, "tuned": 0.3,
                        "tuned_low": 0.2, "tuned_high": 0.4, "difference": 0.2, "difference_low": 0.1,
                        "difference_high": 0.3, "ratio": 3.0}])


def titles(figure):
    return [ax.get_title() for ax in figure.axes if ax.get_visible() and ax.get_title()]


def legend_texts(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.slow
def test_diversity_cloud_has_every_prompt_both_lines_and_the_shared_rates(panel):
    figure = figures.diversity_against_rate(panel, LinearFit())
    assert titles(figure) == ["alder", "birch", "cedar"]
    ax = figure.axes[0]
    points = np.concatenate([np.asarray(c.get_offsets()) for c in ax.collections])
    alder = panel[panel["model_name"] == "alder"]
    assert sorted(points[:, 0]) == pytest.approx(sorted(alder["R_bar"]))
    slopes = [float(np.ptp(line.get_ydata()) / np.ptp(line.get_xdata())) for line in ax.lines]
    assert slopes == pytest.approx([0.1, 0.3])
    low, high = figures.common_support(alder)
    shade = ax.patches[0]
    assert (shade.get_x(), shade.get_x() + shade.get_width()) == pytest.approx((low, high))
    assert legend_texts(figure) == ["shared rates", "base", "instruct", "base, fitted", "instruct, fitted"]
    assert "nats/token" in ax.get_xlabel() and "1 - cosine" in ax.get_ylabel()


def test_curves_of_several_models_are_told_apart_by_their_dash(panel):
    lines = pd.concat([figures.fitted_line(LinearFit(), rows, 3).assign(model=model, task=task, model_variant=variant)
                       for model in ("one", "two")
                       for (task, variant), rows in panel.groupby(["task", "model_variant"])])
    figure = figures.diversity_against_rate(panel, by="task", curves=lines)
    assert [line.get_linestyle() for line in figure.axes[0].lines] == ["-", "-", "--", "--"]
    assert legend_texts(figure)[3:] == ["base, one", "instruct, one", "base, two", "instruct, two"]
    assert "average" not in figure.get_suptitle()


def test_fitted_line_averages_over_the_rows_own_lengths():
    class Fit:
        def predict(self, frame):
            return frame["R_bar"] + 10 * frame["N_bar"]

    line = figures.fitted_line(Fit(), pd.DataFrame({"R_bar": [1.0, 2.0], "N_bar": [1.0, 3.0]}), points=2)
    assert list(line["D"]) == [21.0, 22.0]


def test_no_shared_rates_are_not_shaded():
    rows = pd.DataFrame({"model_variant": ["base", "base", "instruct"], "R_bar": [2.0, 3.0, 1.0]})
    assert figures.common_support(rows) is None
    assert figures.common_support(rows.iloc[:2]) is None


@pytest.mark.slow
def test_decomposition_bars_add_up_to_canopy_entropy(panel):
    levels = frames.decomposition(panel)
    figure = figures.decomposition_bars(levels)
    assert titles(figure) == ["completion", "math"]
    heights = np.sum([[bar.get_height() for bar in container] for container in figure.axes[0].containers], axis=0)
    marks = figure.axes[0].lines[0].get_ydata()
    assert heights == pytest.approx(marks)
    assert [t.get_text() for t in figure.axes[2].get_xticklabels()][:2] == ["alder base", "alder instruct"]
    below = [bar.get_height() for container in figure.axes[2].containers for bar in container]
    first = levels[levels["task"] == "completion"]
    assert below == pytest.approx([*first["cov_within"], *first["cov_between"]])


def test_negative_terms_hang_below_zero():
    levels = pd.DataFrame([{"task": "math", "model_name": "alder", "model_variant": "base", "CE": 7.0, "product": 10.0,
                            "cov_within": -4.0, "cov_between": 1.0}])
    bars = [container[0] for container in figures.decomposition_bars(levels).axes[0].containers]
    assert [bar.get_y() for bar in bars] == [0.0, 0.0, 10.0]
    assert [bar.get_height() for bar in bars] == [10.0, -4.0, 1.0]


def test_length_histograms_count_every_rollout_and_tell_the_share_at_the_cap(rollouts):
    figure = figures.length_histograms(rollouts)
    ax = figure.axes[0]
    assert sum(bar.get_height() for bar in ax.containers[0]) == pytest.approx(1.0)
    own = rollouts[(rollouts["task"] == "completion")]
    cut = own.groupby("model_variant")["finish_reason"].agg(lambda s: 100 * (s == "length").mean())
    assert ax.texts[0].get_text() == f"cap: base {cut['base']:.0f}%, instruct {cut['instruct']:.0f}%"


@pytest.mark.parametrize("lengths", [[1], [1, 2, 3], [5, 160], list(range(1, 1000))])
def test_length_bins_hold_all_lengths_and_end_at_the_longest(lengths):
    edges = figures.length_edges(np.array(lengths), 30)
    assert np.histogram(lengths, edges)[0].sum() == len(lengths)
    assert edges[-1] == max(lengths) + 0.5 and len(edges) <= 31


def test_entropy_profile_is_the_mean_over_running_rollouts(steps):
    figure = figures.entropy_profile(steps, by="task")
    above, below = figure.axes[0], figure.axes[2]
    line = above.lines[0]
    assert line.get_ydata() == pytest.approx(2.0 - 0.01 * line.get_xdata())
    assert below.lines[0].get_ydata()[0] == 200
    assert below.get_xlabel() == "position (tokens)"
    top = max(line.get_ydata().max() for ax in figure.axes[:2] for line in ax.lines)
    assert figure.axes[1].get_ylim()[0] == 0 and figure.axes[1].get_ylim()[1] > top
    active = figures.active_profile(steps, ["task", "model_variant"])
    shown = active[(active["task"] == "completion") & (active["model_variant"] == "instruct")]
    assert len(above.lines[1].get_xdata()) == (shown["active"] >= 20).sum()


def test_cap_curves_draw_a_line_for_each_checkpoint():
    caps = [10, 20, 40]
    curves = pd.DataFrame([{"model_name": m, "model_variant": v, "cap": c, "CE": c * 2.0, "N_bar": c, "R_bar": 2.0,
                            "truncation_rate": 0.5} for m in ("alder", "birch") for v in ("base", "instruct")
                           for c in caps[::-1]])
    figure = figures.cap_curves(curves)
    assert len(figure.axes[0].lines) == 4
    assert list(figure.axes[0].lines[0].get_xdata()) == caps
    assert figure.axes[0].get_ylabel() == "nats" and figure.axes[2].get_ylabel() == "nats/token"
    assert legend_texts(figure)[0] == "alder base"


@pytest.mark.parametrize(("caps", "ticks"), [
    ([5, 10, 20, 40, 80, 160], [5, 10, 20, 40, 80, 160]), ([10, 20, 40, 80, 120, 160], [10, 20, 40, 80, 160]),
    ([4000 // 2**k for k in range(10)], [15, 62, 250, 1000, 4000]), ([64], [64])])
def test_cap_ticks_leave_room_for_their_labels(caps, ticks):
    assert figures.cap_ticks(caps) == ticks


def test_forest_shows_three_estimates_with_their_intervals():
    figure = figures.slope_forest(SLOPES)
    ax = figure.axes[0]
    spans = [tuple(line.get_xdata()) for line in ax.lines[:6:2]]
    assert spans == [(0.05, 0.15), (0.2, 0.4), (0.1, 0.3)]
    assert [line.get_xdata()[0] for line in ax.lines[1:6:2]] == [0.1, 0.3, 0.2]
    assert "ratio 3.00" in ax.get_yticklabels()[0].get_text()
    assert legend_texts(figure) == ["base slope", "tuned slope", "difference"]


def test_a_model_with_one_slope_for_both_variants_is_drawn_as_such():
    one = SLOPES.assign(**{name: np.nan for name in SLOPES if name.startswith(("tuned", "difference", "ratio"))})
    figure = figures.slope_forest(pd.concat([one, SLOPES], ignore_index=True))
    assert legend_texts(figure) == ["one slope for both", "base slope", "tuned slope", "difference"]
    assert list(figure.axes[0].lines[1].get_ydata()) == [0.0]


def test_variants_other_than_base_and_instruct_keep_base_blue(panel):
    renamed = panel.assign(model_variant=panel["model_variant"].replace({"instruct": "adapter"}))
    figure = figures.diversity_against_rate(renamed)
    assert legend_texts(figure) == ["shared rates", "base", "adapter"]


def test_a_single_family_fits_a_column(panel):
    alder = panel[panel["model_name"] == "alder"]
    figure = figures.diversity_against_rate(alder, LinearFit())
    figure.canvas.draw()
    inside = figure.bbox
    parts = [figure.legends[0], figure._suptitle]
    assert all(inside.x0 <= part.get_window_extent().x0 and part.get_window_extent().x1 <= inside.x1 for part in parts)
    bars = figures.decomposition_bars(frames.decomposition(alder))
    assert [t.get_text() for t in bars.axes[2].get_xticklabels()] == ["base", "instruct"]
    assert bars.get_suptitle().endswith("alder")


@pytest.mark.slow
def test_save_writes_both_kinds_and_the_same_bytes_twice(panel, tmp_path):
    paths = figures.save(figures.diversity_against_rate(panel), tmp_path / "deep" / "cloud")
    assert [p.name for p in paths] == ["cloud.svg", "cloud.png"]
    assert ElementTree.parse(paths[0]).getroot().tag.endswith("svg")
    assert paths[1].read_bytes().startswith(b"\x89PNG\r\n")
    again = figures.save(figures.diversity_against_rate(panel), tmp_path / "again")
    assert [p.read_bytes() for p in again] == [p.read_bytes() for p in paths]


def test_drawing_leaves_matplotlib_as_it_was(panel):
    before = dict(mpl.rcParams)
    figures.diversity_against_rate(panel)
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize(("draw", "missing"), [
    (figures.diversity_against_rate, "R_bar"), (figures.decomposition_bars, "cov_within"),
    (figures.length_histograms, "finish_reason"), (figures.entropy_profile, "step"),
    (figures.cap_curves, "cap"), (figures.slope_forest, "tuned_low")])
def test_a_missing_column_is_named(draw, missing):
    with pytest.raises(UserError, match=missing):
        draw(pd.DataFrame({"something": [1.0]}))


def test_a_frame_without_rows_is_refused(panel):
    with pytest.raises(UserError, match="no rows"):
        figures.diversity_against_rate(panel.iloc[:0])
