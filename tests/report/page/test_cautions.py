"""A caution appears from its threshold on, names the cells it is about, and not before."""

import numpy as np
import pandas as pd
import pytest

from canopy_stats.report.page.cautions import cautions, of_checks, of_drift, of_runs, of_slopes, of_texts, of_the_cap


def panel(**shares):
    """Two cells of 10 prompts, base and tuned."""
    made = pd.DataFrame({"task": "t", "model_name": "oak", "model_variant": ["base"] * 10 + ["tuned"] * 10,
                         "truncation_rate": 0.0, "embed_truncated_share": 0.0, "empty_share": 0.0})
    return made.assign(**{name: np.repeat(values, 10) for name, values in shares.items()})


def checks(*rows):
    return pd.DataFrame([{"run": run, "name": name, "value": value, "ok": ok} for run, name, value, ok in rows])


FINE = checks(("a", "z of S - H", -3.9, True), ("a", "redraw flips", 0.0, True), ("a", "steps", 3.0, None))


def test_a_study_without_faults_has_none():
    slopes = [{"model": "main", "identified": True, "certified": True}]
    assert cautions(panel(truncation_rate=(0.1, 0.06)), FINE, slopes, {"a": None}) == []


@pytest.mark.parametrize(("shares", "words"), [
    ((0.11, 0.10), ["more than 10% of the rollouts in 1 of 2 cells: t oak base (11%)."]),
    ((0.25, 0.30), ["2 of 2 cells: t oak tuned (30%), t oak base (25%)."]),
    ((0.08, 0.01), ["does not touch the variants alike: it ended 8.0% of the base rollouts, 1.0% of the tuned"]),
    ((0.10, 0.06), [])])
def test_the_cap(shares, words):
    said = of_the_cap(panel(truncation_rate=shares))
    assert len([s for s in said if any(w in s for w in words)]) == len(words)
    assert bool(said) == bool(words)


def test_many_cells_are_counted_and_the_worst_named():
    cells = pd.concat([panel(truncation_rate=(0.2 + i / 100, 0.5)).assign(task=f"t{i}") for i in range(4)])
    (first, *_) = of_the_cap(cells)
    assert "8 of 8 cells" in first and first.count("(50%)") == 4 and "and 4 more." in first


@pytest.mark.parametrize("column", ["embed_truncated_share", "empty_share"])
def test_texts(column):
    assert of_texts(panel(**{column: (0.01, 0.0)})) == []
    (said,) = of_texts(panel(**{column: (0.0, 0.02)}))
    assert "1 of 2 cells: t oak tuned (2%)" in said
    assert of_texts(panel().drop(columns=column)) == []


@pytest.mark.parametrize(("row", "words"), [
    (("b", "z of S - H", 4.1, True), "The check of b disagrees with the law it claims: z of S - H 4.1."),
    (("b", "z of stops - A", -7.0, False), "z of stops - A -7."),
    (("b", "entropy", 0.3, False), "The check of b disagrees with the law it claims: entropy 0.3."),
    (("b", "redraw flips", 0.0005, True), "flipped when rollouts were drawn again alone, in 1 of 2 runs")])
def test_checks(row, words):
    (said,) = of_checks(pd.concat([FINE, checks(row)]))
    assert words in said


def test_checks_read_from_a_file_count_the_same(tmp_path):
    pd.concat([FINE, checks(("b", "entropy", 0.3, False))]).to_csv(tmp_path / "c.csv", index=False)
    assert len(of_checks(pd.read_csv(tmp_path / "c.csv"))) == 1
    assert "not checked" in of_checks(None)[0]


@pytest.mark.parametrize(("entry", "words"), [
    ({"model": "robust", "variant": "tuned", "identified": False, "verdict": "No overlap."},
     "The slope model robust (tuned) does not identify a change of slope. No overlap."),
    ({"model": "paper_beta", "certified": False, "identified": True}, "paper_beta is not certified"),
    ({"model": "paper_rse", "variant": "tuned", "failed": "No RSE."}, "could not be fitted: No RSE.")])
def test_slopes(entry, words):
    (said,) = of_slopes([entry])
    assert words in said


def test_what_the_finding_tells_is_not_said_twice():
    entry = {"model": "robust", "identified": False, "verdict": "No overlap."}
    (said,) = of_slopes([entry], told="The robust slope: No overlap. So be it.")
    assert said == "The slope model robust does not identify a change of slope; the finding says why."


def test_drift():
    stamp = {"redrawn": [{"flips": 0, "tokens": 900}, {"flips": 2, "tokens": 1100}]}
    assert of_drift({"a": None, "b": {"redrawn": []}}) == []
    assert "2 of 2,000 flipped" in of_drift({"a": stamp, "b": None})[0]


def test_what_runs_said_stands_once_with_their_names():
    said = {f"r{i}": ["A second BOS.", *(["Another base."] if i == 2 else [])] for i in range(6)}
    assert of_runs(said) == ["A second BOS. (r0, r1, r2, r3 and 2 more)", "Another base. (r2)"]
    assert of_runs(said)[0] in cautions(panel(truncation_rate=(0.1, 0.06)), FINE, said=said)
