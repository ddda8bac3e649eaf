"""Every public function that takes a table takes it from pandas, polars and pyarrow, and answers alike."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import canopy_stats as cs
from canopy_stats.metrics import pool, three_level

pl = pytest.importorskip("polars")
KINDS = {"polars": pl.from_pandas, "pyarrow": lambda frame: pa.Table.from_pandas(frame, preserve_index=False)}


@pytest.fixture(scope="module")
def panel():
    """Twelve prompts of three tasks, all families: 216 rows."""
    whole = cs.load_demo_panel()
    whole = whole[whole["task"] != "coding"]
    kept = whole.drop_duplicates("prompt_uid").groupby("task").head(12)["prompt_uid"]
    return whole[whole["prompt_uid"].isin(kept)].reset_index(drop=True)


@pytest.fixture(scope="module")
def scores():
    rng = np.random.default_rng(3)
    rows = [(m, f"i{i}", int(rng.random() < 0.4 + 0.2 * (m == "b"))) for m in "ab" for i in range(30)]
    return pd.DataFrame(rows, columns=["model", "item", "score"])


ON_PANELS = {
    "lmm": lambda p: cs.lmm("D ~ R_bar + (1|prompt_uid)", p).tidy(),
    "glmm": lambda p: cs.glmm("D ~ R_bar + (1|prompt_uid)", p, family="gaussian").tidy(),
    "slope_change": lambda p: cs.slope_change(p, model="interaction").to_frame(),
    "slope_table": cs.slope_table,
    "slope_scrutiny": lambda p: cs.slope_scrutiny(p, paper="interaction").claims,
    "slope_contrasts": lambda p: cs.slope_contrasts(p, model="interaction"),
    "slope_rivals": lambda p: cs.slope_rivals(p, folds=2).table,
    "slope_power": lambda p: cs.slope_power(p, effect=0.3, prompts=[10], rollouts=[5], model="interaction",
                                            method="closed", replicates=2).table.drop(columns="seconds"),
    "specification_curve": lambda p: cs.specification_curve(p, choices={
        "model": ["linear"], "slopes": ["same"], "response": ["D"], "length": ["none"], "rate": ["straight"]},
    ).table.drop(columns="seconds"),
    "rho_change": lambda p: cs.rho_change(p).table,
    "paired_bootstrap": lambda p: cs.paired_bootstrap(p, replicates=100),
    "pool": lambda p: pd.DataFrame([pool(p, np.full(len(p["M"]), 24))]),
    "three_level": lambda p: pd.DataFrame([three_level(p)]),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ON_PANELS)
def test_panels(name, kind, panel):
    want, got = (ON_PANELS[name](table) for table in (panel, KINDS[kind](panel)))
    pd.testing.assert_frame_equal(got, want)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_scores(kind, scores):
    want, got = (cs.compare(table, "model").table for table in (scores, KINDS[kind](scores)))
    pd.testing.assert_frame_equal(got, want)


@pytest.mark.parametrize("kind", KINDS)
def test_new_rows_and_written_panels(kind, panel, tmp_path):
    from canopy_stats.panels import read_panel, write_panel

    fit = cs.lmm("D ~ R_bar + (1|prompt_uid)", panel)
    np.testing.assert_array_equal(fit.predict(KINDS[kind](panel)), fit.predict(panel))
    whole = cs.load_demo_panel()
    pd.testing.assert_frame_equal(read_panel(write_panel(KINDS[kind](whole), tmp_path / "p.parquet")),
                                  read_panel(write_panel(whole, tmp_path / "q.parquet")))


def test_every_public_function_of_a_table_is_tried():
    """A new public function whose first argument is a panel or a table has a row above."""
    import inspect

    tried = {*ON_PANELS, "compare"}
    for name in cs.__all__:
        value = getattr(cs, name)
        if inspect.isfunction(value) and (first := next(iter(inspect.signature(value).parameters), "")) in (
                "panel", "data", "scores", "runs_or_panel"):
            assert name in tried | APART, (name, first)


APART = {"template_factorial", "add_rse"}
"""They convert as the others do, and need four arms, or runs beside the panel."""
