"""Terms of one step against a second implementation in double precision, and the law of the draws."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from canopy_stats.generation import terms as terms_module
from canopy_stats.generation.ending import Endings
from canopy_stats.generation.plain_law import law_terms
from canopy_stats.generation.processors import Past, padded
from canopy_stats.generation.randomness import rollout_key
from canopy_stats.generation.terms import Draws, LawSums, Workspace, bad_logits, step_terms
from canopy_stats.schema import STEP_TERMS, RunKey, SamplingPolicy

RUN = RunKey(0, "f", "v")
LAWS = [SamplingPolicy(), SamplingPolicy(temperature=0.6), SamplingPolicy(top_k=40), SamplingPolicy(top_p=0.9),
        SamplingPolicy(min_p=0.02), SamplingPolicy(temperature=1.3, top_k=100, top_p=0.95, min_p=0.01)]
ENDS = torch.tensor([3, 400])


def draws(n: int) -> Draws:
    return Draws(torch.tensor([rollout_key(RUN, "p", r) for r in range(n)]), torch.zeros(n, dtype=torch.long))


def logits(rows: int, size: int = 5000, seed: int = 0, spread: float = 2.5) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).gumbel(0, spread, (rows, size)), dtype=torch.float32)


@pytest.mark.parametrize("policy", LAWS, ids=SamplingPolicy.label)
def test_terms_agree_with_double_precision(policy):
    x = logits(60)
    tokens, got = step_terms(x, policy, ENDS, draws=draws(60))
    want = law_terms(x.numpy(), tokens.numpy(), ENDS.tolist(), policy)
    assert want.near.sum() <= 2
    for i, name in enumerate(STEP_TERMS):
        np.testing.assert_allclose(got[~want.near, i], want.steps[name][~want.near], atol=5e-6, err_msg=name)


PIECES = [bytes(np.random.default_rng(i).choice(list(b"abcd"), 1 + i % 4).tolist()) for i in range(5000)]
PROCESSED = [{"repetition_penalty": 1.3}, {"repetition_penalty": 0.8}, {"min_new_tokens": 20},
             {"suppress_tokens": tuple(range(0, 900, 7))}, {"stop_token_ids": (5, 6, 7)},
             {"stop_strings": ("abcda", "ddd", "bab")},
             {"repetition_penalty": 1.05, "min_new_tokens": 20, "suppress_tokens": (1, 2), "stop_token_ids": (9,),
              "stop_strings": ("abcda",)}]


@pytest.mark.slow
@pytest.mark.parametrize("extra", PROCESSED, ids=lambda e: "+".join(e))
@pytest.mark.parametrize("policy", LAWS, ids=SamplingPolicy.label)
def test_laws_that_look_at_the_text_agree_with_double_precision(policy, extra):
    """One text of 60 steps after a prompt of 10; a millionth, relative where a term is above one."""
    policy = replace(policy, **extra)
    x, rng = logits(60, seed=1), np.random.default_rng(2)
    prompt, drawn = rng.integers(0, 5000, 10).tolist(), rng.integers(0, 5000, 60)
    endings = Endings({*ENDS.tolist(), *policy.stop_token_ids}, policy.stop_strings, PIECES)
    text = torch.tensor([*prompt, *drawn]).expand(60, -1)
    seen = torch.where(torch.arange(70) < 10 + torch.arange(60)[:, None], text, text[:, :1])
    completing = [endings.completing(endings.start([*prompt, *drawn[:t]])) for t in range(60)]
    past = Past(torch.arange(60), seen, padded(completing, x.device))
    _, got = step_terms(x, policy, torch.tensor(endings.ids), tokens=torch.tensor(drawn), past=past)
    want = law_terms(x.numpy(), drawn, ENDS.tolist(), policy, prompt_ids=prompt, pieces=PIECES)
    assert want.near.sum() <= 2
    for i, name in enumerate(STEP_TERMS):
        np.testing.assert_allclose(got[~want.near, i], want.steps[name][~want.near], atol=1e-6, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("policy", LAWS, ids=SamplingPolicy.label)
def test_chunking_changes_nothing(policy, monkeypatch):
    x, keyed = logits(17), draws(17)
    whole = step_terms(x, policy, ENDS, draws=keyed)
    monkeypatch.setitem(terms_module._CHUNK_BYTES, "cpu", 4 * 5000 * 3)
    parts = step_terms(x, policy, ENDS, draws=keyed)
    assert torch.equal(whole[0], parts[0])
    torch.testing.assert_close(whole[1], parts[1], atol=2e-6, rtol=0)


@pytest.mark.parametrize(("vocabulary", "device", "nbytes", "rows"), [
    (1000, "cpu", None, (3 << 20) // 4000), (1000, "meta", None, (256 << 20) // 4000), (10**7, "cpu", None, 1),
    (1000, "cpu", 3 * 4000 * 7 + 2, 7), (1000, "meta", 3 * 4000, 1)])
def test_work_arrays_hold_as_many_rows_as_suit_the_device_or_what_is_given(vocabulary, device, nbytes, rows):
    space = Workspace(vocabulary, torch.device(device), nbytes)
    assert space.rows == rows
    assert [tuple(x.shape) for x in space.first(rows)] == 3 * [(rows, vocabulary)]
    assert space.first(rows)[0].device.type == device


def test_a_given_workspace_is_used_row_by_row():
    x, keyed = logits(5, 200), draws(5)
    space = Workspace(200, x.device, 3 * 4 * 200 * 2)
    whole, parts = (step_terms(x, SamplingPolicy(), ENDS[:1], draws=keyed, space=s) for s in (None, space))
    assert torch.equal(whole[0], parts[0])
    torch.testing.assert_close(space.first(1)[0][0], x[4] - x[4].max())  # the last row, alone in the third piece


def test_probability_zero_is_legitimate():
    x = torch.tensor([[0.0, -torch.inf, 0.0, -torch.inf], [5.0, -torch.inf, -torch.inf, -torch.inf]])
    tokens, got = step_terms(x, SamplingPolicy(), torch.tensor([1]), draws=draws(2))
    entropy, logprob, stop = (got[:, STEP_TERMS.index(n)] for n in ("entropy", "logprob", "stop_probability"))
    torch.testing.assert_close(entropy, torch.tensor([np.log(2.0), 0.0]).float())
    torch.testing.assert_close(logprob, torch.tensor([-np.log(2.0), 0.0]).float())
    assert stop.tolist() == [0, 0] and tokens[0] in (0, 2) and tokens[1] == 0


def test_a_token_that_the_law_cannot_draw_scores_minus_infinity():
    x = torch.tensor([[3.0, 2.0, 1.0]])
    _, got = step_terms(x, SamplingPolicy(top_k=2), torch.tensor([0]), tokens=torch.tensor([2]))
    assert got[0, STEP_TERMS.index("logprob")] == -torch.inf
    assert got[0, STEP_TERMS.index("logprob_full_offpolicy")].isfinite()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_unusable_rows_are_marked_and_the_others_kept(bad):
    x = logits(3)
    x[1, 77] = bad
    _, got = step_terms(x, SamplingPolicy(), ENDS, draws=draws(3))
    assert got[1].isnan().all() and got[[0, 2]].isfinite().all()


def test_bfloat16_logits_are_reduced_in_float32():
    x = logits(4).bfloat16()
    tokens, got = step_terms(x, SamplingPolicy(), ENDS, draws=draws(4))
    want = law_terms(x.float().numpy(), tokens.numpy(), ENDS.tolist(), SamplingPolicy())
    np.testing.assert_allclose(got[:, 0], want.steps["entropy"], atol=5e-6)


def test_probability_of_stopping_is_that_of_the_ends_and_of_each_rows_own_tokens():
    """Token 0 may complete a stop string too; -1 stands for none."""
    weights = torch.tensor([[1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    law = LawSums.of(weights.log(), weights)
    completing = torch.tensor([[0, 2], [0, -1], [-1, -1]])
    got = law.stopping(weights, torch.tensor([3]), completing)
    torch.testing.assert_close(got, torch.tensor([0.8, 0.5, 0.25]))
    torch.testing.assert_close(law.stopping(weights, torch.tensor([1, 3]), None), torch.tensor([0.6, 0.4, 0.5]))


def test_variance_of_the_surprisal_by_hand():
    """Of minus log p: sum p (log p)^2 - (sum p log p)^2; entropy and log-probability beside it."""
    p = np.array([0.5, 0.25, 0.125, 0.125])
    _, got = step_terms(torch.tensor(np.log(p)[None], dtype=torch.float32), SamplingPolicy(), torch.tensor([0]),
                        tokens=torch.tensor([2]))
    entropy = -np.sum(p * np.log(p))
    expected = {"entropy": entropy, "surprisal_variance": np.sum(p * np.log(p) ** 2) - entropy**2,
                "logprob": np.log(0.125), "stop_probability": 0.5, "kept_mass": 1.0}
    for name, value in expected.items():
        assert got[0, STEP_TERMS.index(name)].item() == pytest.approx(value, abs=1e-6)


def test_broken_logits_are_told_with_what_may_mend_them():
    def said(dtype, step=3, **law):
        return str(bad_logits("p1", step, dtype, SamplingPolicy(**law)))

    assert said(torch.float16) == (
        "The model's logits are not numbers (NaN or infinite) at step 3 of prompt 'p1', in float16; float16 overflows "
        "above 65,504: load the model with dtype='bfloat16' or 'float32'.")
    assert said(torch.bfloat16).endswith("in bfloat16; try dtype='float32'; if it stays, the checkpoint's weights are "
                                         "damaged.")
    whole = "the checkpoint's weights are damaged, or the model does not suit this version of transformers."
    assert said(torch.float32).endswith(f"in float32; {whole}")
    barred = "or min_new_tokens and suppress_tokens leave no token that the model can draw; else "
    assert said(torch.float32, suppress_tokens=(1,)).endswith(f"; {barred}{whole}")
    assert said(torch.float32, min_new_tokens=4).endswith(f"; {barred}{whole}")
    assert said(torch.float32, min_new_tokens=3).endswith(f"in float32; {whole}")


@pytest.mark.slow
@pytest.mark.parametrize("policy", [SamplingPolicy(), SamplingPolicy(top_k=30), SamplingPolicy(top_p=0.8)],
                         ids=SamplingPolicy.label)
@pytest.mark.parametrize("size", [50, 128, 700])
def test_draws_follow_the_law(policy, size):
    """Chi-square of 20,000 draws against the exact law; one law, vocabularies within, of, and across blocks."""
    n, row = 20_000, logits(1, size, seed=size, spread=0.8)
    keyed = draws(n)
    tokens = torch.cat([step_terms(row.expand(2000, -1), policy, ENDS[:1], draws=Draws(keyed.keys[i:i + 2000],
                        keyed.steps[i:i + 2000]))[0] for i in range(0, n, 2000)])
    _, every = step_terms(row.expand(size, -1), policy, ENDS[:1], tokens=torch.arange(size))
    expected = n * every[:, STEP_TERMS.index("logprob")].double().exp().numpy()
    counts = np.bincount(tokens.numpy(), minlength=size)
    assert counts[expected == 0].sum() == 0
    common = expected >= 5
    seen = np.append(counts[common], counts[~common].sum())
    wanted = np.append(expected[common], expected[~common].sum())
    usable = wanted > 1
    assert stats.chisquare(seen[usable], wanted[usable] * seen[usable].sum() / wanted[usable].sum()).pvalue > 1e-3


def test_consecutive_steps_draw_independently():
    n, row = 20_000, torch.zeros(1, 4)
    key = torch.tensor([rollout_key(RUN, "p", 0)]).expand(n, 2)
    tokens, _ = step_terms(row.expand(n, -1), SamplingPolicy(), torch.tensor([0]), draws=Draws(key, torch.arange(n)))
    table = np.zeros((4, 4))
    np.add.at(table, (tokens[:-1].numpy(), tokens[1:].numpy()), 1)
    assert stats.chi2_contingency(table).pvalue > 1e-3
