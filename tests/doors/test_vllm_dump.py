"""What vLLM drew (tests/golden/vllm_dump.py) holds under its law, and another law is named."""

from pathlib import Path

import numpy as np
import pytest

from canopy_stats.checks import check
from canopy_stats.doors.importing import import_rollouts
from canopy_stats.schema import SamplingPolicy

ROOT = Path(__file__).parents[2]
DUMP, BIRCH = ROOT / "tests" / "golden" / "vllm_dump.jsonl", str(ROOT / "data" / "models" / "birch" / "instruct")
pytestmark = pytest.mark.filterwarnings("ignore::canopy_stats.schema.Caution")


def imported(out, **options):
    return import_rollouts(DUMP, out, family="birch", variant="instruct", task="few", progress=False, **options)


def test_vllms_rollouts_hold_under_their_law(tmp_path):
    law = SamplingPolicy(temperature=0.8, top_k=30, max_new_tokens=20)
    run = imported(tmp_path / "run", model=BIRCH, policy=law)
    assert run.counts == [40, 40] and check(run, n_sample=8).ok, str(check(run))


@pytest.mark.slow
def test_another_law_is_named(tmp_path):
    report = check(imported(tmp_path / "run", model=BIRCH, policy=SamplingPolicy(temperature=1.6, max_new_tokens=20)))
    assert not report.ok and "temperature 0." in report.suspicion, str(report)


def test_its_three_likeliest_tokens_bound_the_full_laws_entropy(tmp_path):
    exact = imported(tmp_path / "exact", model=BIRCH, policy=SamplingPolicy(max_new_tokens=20)).rollouts().to_pandas()
    log = imported(tmp_path / "log", tokenizer=BIRCH).rollouts().to_pandas()
    slack = 1e-5 * log["length"]
    assert (log["entropy_sum_low"] <= exact["entropy_sum"] + slack).all()
    assert (exact["entropy_sum"] <= log["entropy_sum_high"] + slack).all()
    np.testing.assert_allclose(log["surprisal_sum"], exact["surprisal_sum"], atol=2e-3)
