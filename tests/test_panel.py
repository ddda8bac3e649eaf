"""The panel: strict about rows, names, laws and embedders; the same after a file."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parent / "metrics"))
from markov_runs import store_run

import canopy_stats as cs
from canopy_stats import panels as module
from canopy_stats.schema import PANEL_COLUMNS, UserError, names


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("panel")
    return [store_run(folder / f"{family}-{variant}", prompts=3, m=8, cap=20, seed=seed, family=family, variant=variant)
            for seed, (family, variant) in enumerate([("oak", "base"), ("oak", "tuned"), ("elm", "base")])]


@pytest.fixture(scope="module")
def frame(runs):
    return cs.panel(runs, embedder="tfidf")


def changed(frame, column, value, row=0):
    other = frame.copy()
    other.loc[row, column] = value
    return other


# ----------------------------------------------------------------------------------------------------------- rows


def test_one_row_per_prompt_and_checkpoint_in_the_declared_columns(frame):
    assert list(frame.columns) == names(PANEL_COLUMNS)
    assert len(frame) == 9 and not frame.duplicated(module.KEY).any()
    assert frame["M"].dtype == "int64" and frame["D"].dtype == "float64" and pd.api.types.is_string_dtype(frame["task"])
    assert frame.groupby("prompt_uid").size().eq(3).all()


def test_rows_are_those_of_each_run_alone(runs, frame):
    alone = cs.panel(runs[1], embedder="tfidf")
    np.testing.assert_array_equal(frame[frame["model_variant"] == "tuned"][["D", "CE", "CE_cv", "se_D"]],
                                  alone[["D", "CE", "CE_cv", "se_D"]])


def test_paths_do_as_well_as_runs(runs, frame):
    assert cs.panel([run.path for run in runs], embedder="tfidf").equals(frame)
    assert len(cs.panel(str(runs[0].path), embedder="tfidf")) == 3


def test_kept_embeddings_are_the_default(tmp_path):
    run = store_run(tmp_path / "run", prompts=2, m=6)
    with pytest.raises(UserError, match=r"D missing in 2 row\(s\) of the panel: oak/base/walk/p00, oak/base/walk/p01. "
                                        "Name an embedder"):
        cs.panel([run])
    cs.embed(run, "tfidf")
    assert cs.panel([run])["embedder"].eq("tfidf@hashed-1").all()


# ------------------------------------------------------------------------------------------------------ strictness


@pytest.mark.parametrize("column, value, message", [
    ("D", np.nan, r"D missing in 1 row\(s\) of the panel: oak/base/walk/p00\. Name an embedder"),
    ("N_bar", np.inf, r"N_bar missing in 1 row\(s\) of the panel: oak/base/walk/p00\. Measure these again"),
    ("prompt_hash", "other", r"1 prompt\(s\) carry one name but different texts .*walk/p00\. Generate all runs"),
    ("model_variant", "tuned", r"1 row\(s\) repeat the same task, prompt, family and variant: oak/tuned/walk/p00"),
    ("embedder", "minilm@1", r"differ in embedder: minilm@1 \(oak/base/walk\), tfidf@hashed-1 \(oak/base/walk\)"),
    ("law", "T=0.7 cap=20", r"differ in law: T=0.7 cap=20 .* allow_mixed_laws=True"),
])
def test_what_is_refused(frame, column, value, message):
    with pytest.raises(UserError, match=message):
        module.validate(changed(frame, column, value))


def test_differing_laws_can_be_allowed(frame):
    mixed = changed(frame, "law", "T=0.7 cap=20")
    assert module.validate(mixed, allow_mixed_laws=True)["law"].nunique() == 2


def test_runs_under_different_caps_are_refused(runs, tmp_path):
    other = store_run(tmp_path / "short", prompts=3, m=8, cap=10, family="fir")
    with pytest.raises(UserError, match=r"differ in law: T=1 cap=20 \(oak/base/walk\), T=1 cap=10 \(fir/base/walk\)"):
        cs.panel([runs[0], other], embedder="tfidf")
    assert len(cs.panel([runs[0], other], embedder="tfidf", allow_mixed_laws=True)) == 6


def test_other_prompts_under_the_same_names_are_refused(runs, tmp_path):
    other = store_run(tmp_path / "salted", prompts=3, m=8, cap=20, family="fir", salt="other")
    with pytest.raises(UserError, match="different texts in different runs: walk/p00, walk/p01, walk/p02"):
        cs.panel([runs[0], other], embedder="tfidf")


def test_a_run_given_twice_is_refused(runs):
    with pytest.raises(UserError, match=r"3 row\(s\) repeat"):
        cs.panel([runs[0], runs[0]], embedder="tfidf")


def test_missing_columns_rows_and_types(frame):
    with pytest.raises(UserError, match=r"lacks the column\(s\) se_D, seed"):
        module.validate(frame.drop(columns=["seed", "se_D"]))
    with pytest.raises(UserError, match="no rows"):
        module.validate(frame.iloc[:0])
    with pytest.raises(UserError, match="wrong type"):
        module.validate(frame.astype({"D": object}).pipe(changed, "D", "much"))


def test_own_columns_follow_unchanged(frame):
    extra = module.validate(frame.assign(size=1.5)[["size", *frame.columns]])
    assert list(extra.columns) == [*names(PANEL_COLUMNS), "size"]


# ----------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_a_file_gives_back_the_same_panel(frame, tmp_path, suffix):
    odd = changed(changed(frame, "prompt_id", "NA"), "rho_pearson", np.nan, row=1)
    path = module.write_panel(odd, tmp_path / f"panel{suffix}", {"command": "made by hand", "n": 3})
    back = module.read_panel(path)
    assert back.attrs["provenance"] == {"command": "made by hand", "n": 3}
    assert back.dtypes.equals(odd.dtypes)
    assert back.equals(odd)


def test_units_and_meanings_are_inside_the_file(frame, tmp_path):
    import pyarrow.parquet as pq

    schema = pq.read_schema(module.write_panel(frame, tmp_path / "p.parquet"))
    assert schema.field("R_bar").metadata[b"unit"] == b"nats/token"
    assert schema.field("D").metadata[b"meaning"].startswith(b"semantic diversity")


def test_csv_keeps_its_provenance_beside_it(frame, tmp_path):
    path = module.write_panel(frame, tmp_path / "p.csv", {"a": 1})
    assert json.loads((tmp_path / "p.csv.json").read_text()) == {"a": 1}
    (tmp_path / "p.csv.json").unlink()
    assert module.read_panel(path).attrs["provenance"] == {}


def test_an_invalid_panel_is_not_written(frame, tmp_path):
    with pytest.raises(UserError, match="D missing"):
        module.write_panel(changed(frame, "D", np.nan), tmp_path / "p.parquet")
    assert not list(tmp_path.iterdir())


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="There is no panel file"):
        module.read_panel(tmp_path / "none.parquet")
    with pytest.raises(UserError, match="neither .parquet nor .csv"):
        module.read_panel(tmp_path / "panel.xlsx")
    (tmp_path / "broken.parquet").write_bytes(b"not parquet")
    with pytest.raises(UserError, match="not a readable Parquet file"):
        module.read_panel(tmp_path / "broken.parquet")


def test_the_demo_panel_is_found_or_its_absence_explained(frame, tmp_path, monkeypatch):
    module.write_panel(frame, tmp_path / "demo.parquet")
    monkeypatch.setattr(module.resources, "files", lambda package: tmp_path)
    assert cs.load_demo_panel().equals(frame)
    monkeypatch.setattr(module, "_DEMO", "absent.parquet")
    with pytest.raises(UserError, match="The demo panel is not installed"):
        cs.load_demo_panel()


# ------------------------------------------------------------------------------------------------- the demo panel


def test_demo_panel_is_the_full_run():
    frame = cs.load_demo_panel()
    cells = frame.groupby(["model_name", "model_variant", "task"]).size()
    assert len(cells) == 24 and (cells == 100).all() and (frame["M"] == 24).all()
    assert frame.attrs["provenance"]["study"]["n_rollouts"] == 24
    np.testing.assert_allclose(frame["CE"], frame["N_bar"] * frame["R_bar"] + frame["cov_NR"], rtol=1e-9)
