"""The check holds for honest runs, and fails for each way to claim another law than the tokens were drawn from."""

import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_engine import END, TABLE, FakeEngine
from revouch import revouch

import canopy_stats as cs
from canopy_stats import open_run
from canopy_stats.checks import check
from canopy_stats.generation.plain_law import law_terms
from canopy_stats.runs import generate
from canopy_stats.schema import SamplingPolicy, UserError

PROMPTS = [[i] for i in range(5)]
TEXTS = ["the cat sat", "a dog", "the red bird flew over", "it was", "then a hill"]


def found(report):
    """Names of what disagrees."""
    return {f.name for f in report.findings if f.ok is False}


def value(report, name):
    return next(f.value for f in report.findings if f.name == name)


def falsify(run, out, **changes):
    """A copy of a run whose manifest claims another configuration, with everything that vouches for it renewed."""
    import shutil

    shutil.copytree(run.path, out)
    manifest = json.loads((out / "manifest.json").read_text())
    for field, new in changes.items():
        part = manifest["config"]
        for key in field.split("__")[:-1]:
            part = part[key]
        part[field.split("__")[-1]] = new
    (out / "manifest.json").write_text(json.dumps(manifest))
    revouch(out)
    return open_run(out)


def alter_steps(run, out, change):
    """A copy of a run whose first shard of steps is changed, with its hash renewed."""
    copy = falsify(run, out)
    path = out / "steps" / "shard-00000.parquet"
    steps = change(pq.read_table(path))
    pq.write_table(steps, path)
    rows = pq.read_table(out / "rollouts" / path.name)
    tokens = pa.ListArray.from_arrays(rows["token_ids"].combine_chunks().offsets, steps["token_id"].combine_chunks())
    at = rows.column_names.index("token_ids")
    pq.write_table(rows.set_column(at, rows.schema.field(at).name, tokens), out / "rollouts" / path.name)
    revouch(out)
    return open_run(copy.path)


# --------------------------------------------------------------------------------------------------- martingales alone


def draw_fake(out, **lie):
    return generate(None, PROMPTS, out, family="f", variant="base", task="t", n_rollouts=200, drift_tokens=0,
                    policy=SamplingPolicy(max_new_tokens=12), engine=FakeEngine(**lie), progress=False)


@pytest.mark.slow
def test_honest_run_without_its_model(tmp_path):
    report = check(draw_fake(tmp_path / "run"))
    assert report.ok and "drawn from a model object; pass it as model=" in report.verdict


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.8, 1.3])
def test_tokens_drawn_at_another_temperature_than_the_terms_say(tmp_path, temperature):
    report = check(draw_fake(tmp_path / "run", drawn_at=temperature))
    assert "z of S - H" in found(report) and not report.ok
    assert "does not agree with the law it claims" in report.verdict


@pytest.mark.slow
def test_lengths_beyond_the_cap(tmp_path):
    run = falsify(draw_fake(tmp_path / "run"), tmp_path / "false", policy__max_new_tokens=11)
    assert found(check(run)) == {"lengths against the cap"}


def test_z_scores_are_standard_normal_over_honest_runs():
    from canopy_stats.checks import _z_finding

    rng = np.random.default_rng(0)
    z = [_z_finding("z", rng.normal(0, 2, 300), 4.0 * 300, np.full(300, 9.0), "nats").value for _ in range(400)]
    assert abs(np.mean(z)) < 0.2 and 0.9 < np.std(z) < 1.1


def test_rare_ends_that_never_came_are_no_evidence():
    from canopy_stats.checks import _z_finding

    # 150 rollouts, nearly certain to end where they do: most runs see no exception, and no spread at all.
    p, rng = np.linspace(0.995, 0.999, 150), np.random.default_rng(1)
    excess = [(rng.random(150) < p) - p for _ in range(400)]
    z = np.array([_z_finding("z", x, (p * (1 - p)).sum(), np.ones(150), "stops").value for x in excess])
    assert np.mean(np.abs(z) > 4) < 0.01
    by_spread = np.array([x.mean() / (x.std(ddof=1) / np.sqrt(150)) for x in excess])
    assert np.mean(np.abs(by_spread) > 4) > 0.4


def test_a_certain_law_is_no_evidence(tmp_path):
    from canopy_stats.checks import _z_finding

    # Rounding of float32 terms: the same tiny error in each token, and no spread at all.
    length = np.full(50, 10.0)
    assert _z_finding("z", 1e-8 * length, 0.0, length, "nats").ok


# -------------------------------------------------------------------------------------------- against the model: oracle


@pytest.fixture(scope="module")
def oracle():
    return cs.oracle.MarkovLM(TABLE, end_state=END)


@pytest.fixture(scope="module", params=[{}, {"top_k": 3}, {"top_p": 0.8}, {"min_p": 0.3}, {"temperature": 0.7}],
                ids=lambda law: next(iter(law), "plain"))
def honest(request, oracle, tmp_path_factory):
    return generate(oracle, PROMPTS, tmp_path_factory.mktemp("h") / "run", family="f", variant="base", task="t",
                    n_rollouts=60, policy=SamplingPolicy(max_new_tokens=15, **request.param), progress=False, seed=4,
                    drift_tokens=0)


@pytest.mark.slow
def test_honest_runs_hold(honest, oracle):
    report = check(honest, model=oracle)
    assert report.ok, str(report)
    assert value(report, "entropy") < 1e-5 and value(report, "redraw flips") == 0


@pytest.mark.slow
def test_a_check_reads_each_thing_once(honest, oracle, monkeypatch):
    """A few columns of every rollout, and the rows of the sampled prompts, whatever the size of the run."""
    from canopy_stats.store import reading

    seen = []
    table, rollout = reading.read_table, reading.read_rollout
    monkeypatch.setattr(reading, "read_table", lambda path, shard, kind, columns, *more: seen.append(
        (kind, shard["number"], len(columns))) or table(path, shard, kind, columns, *more))
    monkeypatch.setattr(reading, "read_rollout", lambda path, shard, prompt, columns, wanted: seen.append(
        (prompt, shard["number"], len(columns))) or rollout(path, shard, prompt, columns, wanted))
    run = open_run(honest.path)
    assert check(run, model=oracle, n_sample=3).ok
    assert sorted(s for s in seen if s[0] == "rollouts") == [("rollouts", s["number"], 7) for s in run.shards]
    steps = [s for s in seen if s[0] != "rollouts"]
    assert len(steps) == len(set(steps)) <= 3 and not any(kind == "steps" for kind, *_ in steps)
    entry = run.shards[0]
    groups = {kind: pq.ParquetFile(run.path / entry[kind]["path"]).num_row_groups for kind in ("rollouts", "steps")}
    assert groups == {"rollouts": 1, "steps": len(entry["prompts"])}


@pytest.fixture(scope="module")
def plain_run(oracle, tmp_path_factory):
    return generate(oracle, PROMPTS, tmp_path_factory.mktemp("p") / "run", family="f", variant="base", task="t",
                    n_rollouts=60, policy=SamplingPolicy(max_new_tokens=15), progress=False, drift_tokens=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("claim", "seen"),
    [
        ({"policy__temperature": 1.1}, {"entropy", "logprob", "redraw flips"}),
        ({"policy__top_k": 4}, {"entropy", "logprob", "kept_mass", "redraw flips"}),
        ({"policy__top_p": 0.87}, {"entropy", "kept_mass", "redraw flips"}),
        ({"policy__min_p": 0.2}, {"entropy", "kept_mass", "redraw flips"}),
        ({"seed": 5}, {"redraw flips"}),
        ({"family": "other"}, {"redraw flips"}),
        ({"model__weights_sha256": "0"}, {"fields of the model that differ"}),
        ({"model__end_token_ids": [4, 5]}, {"fields of the model that differ"}),
    ],
    ids=lambda part: next(iter(part)) if isinstance(part, dict) else "",
)
def test_false_claims_are_seen(plain_run, oracle, tmp_path, claim, seen):
    report = check(falsify(plain_run, tmp_path / "false", **claim), model=oracle)
    assert seen <= found(report), str(report)


@pytest.mark.slow
def test_other_model_is_seen(plain_run):
    other = cs.oracle.MarkovLM(np.roll(TABLE, 1, axis=1) * 0.5 + TABLE * 0.5, end_state=END)
    assert {"fields of the model that differ", "entropy", "logprob"} <= found(check(plain_run, model=other))


@pytest.mark.slow
def test_other_tokens_are_seen(plain_run, oracle, tmp_path):
    def swap(steps):
        tokens = steps["token_id"].to_numpy().copy()
        tokens[tokens < 2] ^= 1
        return steps.set_column(steps.column_names.index("token_id"), steps.schema.field("token_id"), [tokens])

    report = check(alter_steps(plain_run, tmp_path / "false", swap), model=oracle, n_sample=100)
    assert {"logprob", "redraw flips"} <= found(report)


@pytest.mark.slow
def test_sample_and_seed_choose_the_rollouts(plain_run, oracle):
    def scored(**options):
        report = check(plain_run, model=oracle, **options)
        return next(f.detail for f in report.findings if f.name == "redraw flips")

    assert scored(n_sample=3) == scored(n_sample=3) != scored(n_sample=30)
    assert scored(n_sample=3, seed=1) != scored(n_sample=3, seed=2)
    with pytest.raises(UserError, match="n_sample is 0"):
        check(plain_run, model=oracle, n_sample=0)


@pytest.mark.slow
def test_report_reads_as_a_table(plain_run, oracle):
    report = check(plain_run, model=oracle)
    frame, text = report.to_frame(), str(report)
    assert list(frame.columns) == ["name", "value", "limit", "ok", "detail"] and len(frame) == len(report.findings)
    assert re.search(r"z of S - H +-?[\d.e-]+ +\(at most 4\) +ok +mean", text)
    assert text.startswith(f"check of {plain_run.path} (f/base/t, T=1 cap=15)")
    assert "nothing speaks against the law it claims" in text


# ------------------------------------------------------------------------------ against the model: prompts and template


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    from tiny_models import save_tiny_llama

    return save_tiny_llama(tmp_path_factory.mktemp("m") / "tiny")


def draw_tiny(out, model, **options):
    return generate(model, TEXTS, out, family="t", task="t", policy=SamplingPolicy(max_new_tokens=10), progress=False,
                    drift_tokens=0, **{"variant": "base", "n_rollouts": 8, **options})


@pytest.fixture(scope="module", params=["base", "instruct"])
def tiny_run(request, tiny, tmp_path_factory):
    return draw_tiny(tmp_path_factory.mktemp("r") / "run", tiny, variant=request.param)


@pytest.mark.slow
def test_model_is_found_where_the_run_found_it(tiny_run):
    report = check(open_run(tiny_run.path))
    assert report.ok, str(report)
    assert value(report, "logprob") < 1e-4 and value(report, "prompts rebuilt") == 0


@pytest.mark.slow
def test_sixteen_bits_are_judged_by_the_median(tiny, tmp_path):
    run = draw_tiny(tmp_path / "run", tiny, dtype="bfloat16", n_rollouts=16)
    report = check(run)
    assert report.ok, str(report)
    assert "median difference in 16 bits" in str(report)
    assert 0 < value(report, "drift from float32") < 0.01 and "entropy within" in str(report)
    hotter = check(falsify(run, tmp_path / "false", policy__temperature=1.5))
    assert {"entropy", "redraw flips"} <= found(hotter), str(hotter)


@pytest.mark.slow
def test_a_mistake_of_the_loader_does_not_repeat_itself(tiny, tmp_path, monkeypatch):
    """The run and the engine of the check have the same wrong weights; the reference is loaded another way."""
    from canopy_stats.generation import torch_engine

    honest = torch_engine.load

    def careless(source):
        loaded = honest(source)
        loaded.model.get_output_embeddings().weight.data.mul_(1.1)
        return loaded

    monkeypatch.setattr(torch_engine, "load", careless)
    report = check(draw_tiny(tmp_path / "run", tiny))
    assert {"entropy", "logprob"} <= found(report) and value(report, "redraw flips") == 0


@pytest.mark.slow
def test_moved_model_is_given(tiny_run, tiny, tmp_path):
    import shutil

    assert check(tiny_run, model=shutil.copytree(tiny, tmp_path / "tiny")).ok


@pytest.mark.slow
def test_wrong_template_is_seen(tiny_run, tmp_path):
    chat = tiny_run.config.model["chat"]
    report = check(falsify(tiny_run, tmp_path / "false", model__chat=not chat))
    assert {"prompts rebuilt", "entropy"} <= found(report)
    assert "template, BOS" in report.verdict


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["base", "instruct"])
def test_second_bos_is_seen(tiny, tmp_path, monkeypatch, variant):
    from canopy_stats.generation.torch_engine import TorchEngine

    honest = TorchEngine.encode
    with monkeypatch.context() as patch:
        patch.setattr(TorchEngine, "encode", lambda self, source: (1, *honest(self, source)))
        run = draw_tiny(tmp_path / "run", tiny, variant=variant)
    assert "prompts rebuilt" in found(check(run))


@pytest.mark.slow
def test_changed_template_of_the_tokenizer_is_seen(tiny, tmp_path):
    import shutil

    run = draw_tiny(tmp_path / "run", tiny, variant="instruct")
    changed = shutil.copytree(tiny, tmp_path / "tiny")
    path = changed / "chat_template.jinja"
    path.write_text(path.read_text().replace("<a>", "<u>"))
    assert {"prompts rebuilt", "fields of the model that differ"} <= found(check(run, model=changed))


# ------------------------------------------------------------------------------------------------ the law, once more

LOGITS = np.log(np.array([[0.4, 0.3, 0.2, 0.1], [0.25, 0.25, 0.25, 0.25]]))


@pytest.mark.parametrize(
    ("policy", "kept", "near"),
    [
        ({}, [[0.4, 0.3, 0.2, 0.1], [0.25] * 4], [False, False]),
        ({"temperature": 0.5}, [[16 / 30, 9 / 30, 4 / 30, 1 / 30], [0.25] * 4], [False, False]),
        ({"top_k": 2}, [[4 / 7, 3 / 7, 0, 0], [0.25] * 4], [False, True]),
        ({"top_p": 0.65}, [[4 / 7, 3 / 7, 0, 0], [0.25] * 4], [False, True]),
        ({"top_p": 0.7}, [None, None], [True, True]),
        ({"min_p": 0.6}, [[4 / 7, 3 / 7, 0, 0], [0.25] * 4], [False, False]),
        ({"min_p": 0.75}, [None, [0.25] * 4], [True, False]),
        ({"top_k": 3, "top_p": 0.7}, [[4 / 7, 3 / 7, 0, 0], [0.25] * 4], [False, True]),
        ({"top_k": 9}, [[0.4, 0.3, 0.2, 0.1], [0.25] * 4], [False, False]),
    ],
)
def test_law_by_hand(policy, kept, near):
    terms = law_terms(LOGITS, [1, 3], {3}, SamplingPolicy(**policy))
    assert terms.near.tolist() == near
    for row, law in enumerate(kept):
        if law is not None:
            p = np.array(law)
            entropy = -np.sum(p[p > 0] * np.log(p[p > 0]))
            assert terms.steps["entropy"][row] == pytest.approx(entropy, abs=1e-12)
            assert np.exp(terms.steps["logprob"][row]) == pytest.approx(p[[1, 3][row]], abs=1e-12)
            assert terms.steps["stop_probability"][row] == pytest.approx(p[3], abs=1e-12)
