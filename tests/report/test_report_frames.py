"""Table numbers equal direct calculations, and print like a paper's."""

import io

import numpy as np
import pandas as pd
import pytest

from canopy_stats.report import frames, printed, views
from canopy_stats.schema import UserError


def cell(panel, **wanted):
    keep = np.logical_and.reduce([panel[name] == value for name, value in wanted.items()])
    return panel[keep]


def test_base_tuned_pools_each_cell(panel):
    table = frames.base_tuned(panel)
    assert len(table) == 12
    assert list(table["model_variant"][:2]) == ["base", "instruct"]
    row = cell(table, model_name="birch", task="math", model_variant="instruct").iloc[0]
    own = cell(panel, model_name="birch", task="math", model_variant="instruct")
    assert row["CE"] == pytest.approx(own["CE"].mean())
    assert row["BF"] == pytest.approx(np.exp(own["R_bar"].mean()))
    assert row["GenPPL"] == pytest.approx(np.exp(own["CE"].mean() / own["N_bar"].mean()))
    assert row["rho_pearson"] == pytest.approx(np.tanh(np.arctanh(own["rho_pearson"]).mean()))
    assert row["rho_kendall"] == pytest.approx(own["rho_kendall"].mean())
    assert (row["D"], row["N_bar"], row["truncation_rate"]) == pytest.approx(
        (own["D"].mean(), own["N_bar"].mean(), own["truncation_rate"].mean()))
    assert row["prompts"] == 5


def test_semantic_entropy_stands_in_the_tables_of_a_judged_panel(panel):
    judged = panel.assign(RSE=panel["D"] * 2)
    row = cell(frames.base_tuned(judged), model_name="birch", task="math", model_variant="base").iloc[0]
    assert row["RSE"] == pytest.approx(2 * row["D"])
    assert frames.length_thirds(judged)["RSE"].notna().all() and "RSE" not in frames.base_tuned(panel)


def test_pooled_vendi_the_papers_covariance_and_saturation(panel):
    rng = np.random.default_rng(0)
    log_vs, m = rng.uniform(0.2, 2, len(panel)), rng.integers(5, 30, len(panel))
    full = rng.random(len(panel)) < 0.4
    rse = np.where(full, np.log(24), rng.uniform(0, 3, len(panel)))
    judged = panel.assign(log_VS=log_vs, M=m, RSE=np.where(rng.random(len(panel)) < 0.1, np.nan, rse), rse_m=24)
    table = frames.base_tuned(judged)
    row = cell(table, model_name="alder", task="math", model_variant="base").iloc[0]
    own = cell(judged, model_name="alder", task="math", model_variant="base")
    assert row["VS"] == pytest.approx(np.exp(own["log_VS"].mean()))
    sample = own["cov_NR"] * own["M"] / (own["M"] - 1)  # divisor M - 1
    assert row["cov_NR_paper"] == pytest.approx(np.average(sample, weights=own["M"] - 1))
    known = own["RSE"].dropna()
    assert row["saturated"] == pytest.approx(np.mean(np.isclose(known, np.log(24))))


def test_row_order_of_the_panel_changes_nothing(panel):
    shuffled = panel.sample(frac=1, random_state=3)
    pd.testing.assert_frame_equal(frames.base_tuned(shuffled), frames.base_tuned(panel))


def test_decomposition_terms_add_up_to_canopy_entropy(panel):
    table = frames.decomposition(panel)
    assert table["CE"].to_numpy() == pytest.approx(table[["product", "cov_within", "cov_between"]].sum(axis=1))
    own = cell(panel, model_name="alder", task="math", model_variant="base")
    row = cell(table, model_name="alder", task="math", model_variant="base").iloc[0]
    assert row["product"] == pytest.approx(own["N_bar"].mean() * own["R_bar"].mean())


@pytest.mark.parametrize(("column", "value", "shown"), [
    ("D", 0.12345, "0.123"), ("rho_pearson", 0.5, "+0.50"), ("rho_pearson", -0.001, "0.00"), ("CE", 151.26, "151.3"),
    ("truncation_rate", 0.0832, "8.3"), ("prompts", 12, "12"), ("other", 0.0001234, "0.000123"), ("D", np.nan, "–"),
    ("other", "text", "text"), ("other", True, "yes"), ("cov_NR", -3.456, "-3.46")])
def test_numbers_are_printed_as_their_column_asks(column, value, shown):
    assert printed.formatted(pd.DataFrame({column: [value]}))[column].tolist() == [shown]


@pytest.mark.parametrize(("p", "shown"), [(0.04321, "0.043"), (1e-9, "< 0.001"), (np.nan, "–")])
def test_p_values(p, shown):
    assert printed.p_value(p) == shown


def test_latex_has_booktabs_rules_and_escapes_text():
    table = pd.DataFrame({"task": ["a_b & 50%"], "cov_NR": [-1.5]})
    text = printed.latex(table, caption="Slopes_1")
    assert r"\toprule" in text and r"\midrule" in text and r"\bottomrule" in text
    assert r"a\_b \& 50\% & $-1.50$ \\" in text
    assert r"\begin{tabular}{lr}" in text and r"\caption{Slopes\_1}" in text


def test_html_is_escaped():
    assert "<script>" not in printed.html(pd.DataFrame({"task": ["<script>alert(1)</script>"]}))


def test_console_prints_a_repeated_family_once(panel):
    text = printed.console(frames.base_tuned(panel))
    assert text.count("alder") == 1 and text.count("birch") == 1
    assert text.splitlines()[0].split()[:3] == ["family", "task", "variant"]


def test_markdown_aligns_numbers_to_the_right(panel):
    lines = printed.markdown(frames.base_tuned(panel)).splitlines()
    assert lines[1].startswith("|:--") and lines[1].rstrip().endswith(":|")


def test_write_gives_five_forms_and_csv_keeps_full_numbers(panel, tmp_path):
    table = frames.base_tuned(panel)
    paths = printed.write(table, tmp_path / "tables" / "summary", caption="Base against tuned")
    assert [p.suffix for p in paths] == [".csv", ".tex", ".html", ".md", ".txt"]
    back = pd.read_csv(io.StringIO(paths[0].read_text()))
    pd.testing.assert_frame_equal(back, table, check_exact=False, rtol=1e-12)


def test_an_empty_panel_is_refused(panel):
    with pytest.raises(UserError, match="no rows"):
        frames.base_tuned(panel.iloc[:0])


# --- changes on the same prompts ---------------------------------------------------------------------------------


@pytest.fixture
def bootstrapped(panel):
    from canopy_stats.metrics import paired_bootstrap

    return paired_bootstrap(panel, replicates=100)


def test_paired_table_prints_the_bootstraps_numbers(bootstrapped):
    shown = views.paired(bootstrapped)
    assert len(shown) == 3 * 2 * 7
    row, numbers = shown.iloc[2], bootstrapped.iloc[2]
    assert row["measure"] == "CE*"
    assert float(row["base"]) == pytest.approx(numbers["base"], abs=0.005)
    assert row["95% interval"] == f"[{numbers['conf_low']:.2f}, {numbers['conf_high']:.2f}]"
    assert row["change in %"] == f"{numbers['percent']:.1f}"
    assert shown[shown["measure"] == "Kendall"]["change in %"].eq("–").all()
    assert "false-discovery" in printed.console(shown)


def test_paired_table_names_the_variant_when_there_are_several(panel):
    from canopy_stats.metrics import paired_bootstrap

    more = pd.concat([panel, panel[panel["model_variant"] == "instruct"].assign(model_variant="rl")])
    shown = views.paired(paired_bootstrap(more, replicates=100))
    assert list(shown.columns[:4]) == ["family", "task", "tuned", "measure"]
    assert set(shown["tuned"]) == {"instruct", "rl"}


# --- slopes of several panels -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_changes_are_those_of_the_slope_table():
    import canopy_stats as cs

    panel = cs.load_demo_panel().query("task != 'math'")
    table = frames.changes([({"panel": "all", "rows": len(panel)}, cs.slope_change(panel, model="interaction"))])
    expected = cs.slope_table(panel).set_index("model").loc["interaction"]
    for name in ("base_slope", "tuned_std_error", "p_value", "ratio", "ratio_conf_low", "ratio_conf_high"):
        assert table[name].item() == pytest.approx(expected[name])
    shown = views.printed_changes(table).iloc[0]
    assert list(shown.index[:3]) == ["panel", "rows", "model"]
    assert shown["base slope"] == f"{expected['base_slope']:.3f} ({expected['base_std_error']:.3f})"


# --- lengths ----------------------------------------------------------------------------------------------------


def test_thirds_are_formed_within_each_run(panel):
    panel = panel.assign(log_VS=1.0)
    table = frames.length_thirds(panel)
    assert list(table["third"][:4]) == ["all", "shortest", "middle", "longest"]
    own = cell(panel, task="math", model_variant="base")
    # five prompts a family: thirds of 2, 2 and 1
    short = pd.concat([rows.sort_values("N_bar").head(2) for _, rows in own.groupby("model_name")])
    row = cell(table, task="math", model_variant="base", third="shortest").iloc[0]
    assert (row["rows"], row["N_bar"], row["D"], row["N_longest"]) == pytest.approx(
        (6, short["N_bar"].mean(), short["D"].mean(), short["N_bar"].max()))
    assert row["N_sd"] == pytest.approx(short["N_bar"].std())
    for _, rows in table.groupby(["task", "model_variant"]):
        whole, parts = rows[rows["third"] == "all"].iloc[0], rows[rows["third"] != "all"]
        assert whole["rows"] == parts["rows"].sum()
        assert whole["D"] == pytest.approx(np.average(parts["D"], weights=parts["rows"]))


def test_thirds_do_not_depend_on_the_order_of_rows(panel):
    tied = panel.assign(N_bar=panel["N_bar"].round(-2))
    pd.testing.assert_frame_equal(frames.length_thirds(tied.sample(frac=1, random_state=1)), frames.length_thirds(tied))
    labels_alike = tied.set_axis([0] * len(tied))
    pd.testing.assert_frame_equal(frames.length_thirds(labels_alike), frames.length_thirds(tied))
