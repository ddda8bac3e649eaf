"""The audit finds what logged numbers are: planted mistakes made from transformers' own logits, and none invented."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import canopy_stats as cs
from canopy_stats.doors.audit import audit
from canopy_stats.schema import SamplingPolicy, UserError

ALDER = Path(__file__).parents[2] / "data" / "models" / "alder"
PROMPTS = ["Tell me about the sea.", "Write a sentence with a cat and a dog."]


class Logits:
    """Log-probabilities (N, V) before each token of some texts, by plain transformers."""

    def __init__(self, name="instruct", chat=True, twice=False):
        self.model = AutoModelForCausalLM.from_pretrained(ALDER / name, dtype=torch.float32)
        self.words = AutoTokenizer.from_pretrained(ALDER / "instruct")
        self.chat, self.twice = chat, twice

    def prompt(self, text):
        message = [{"role": "user", "content": text}]
        ids = self.words.apply_chat_template(message, add_generation_prompt=True, return_dict=True)["input_ids"]
        ids = ids if self.chat else self.words(text)["input_ids"]
        return [self.words.bos_token_id, *ids] if self.twice else ids

    @torch.inference_mode()
    def law(self, text, ids, temperature=1.0):
        prompt = self.prompt(text)
        logits = self.model(torch.tensor([[*prompt, *ids[:-1]]])).logits[0, -len(ids):]
        return torch.log_softmax(logits.double() / temperature, -1).numpy()


@pytest.fixture(scope="module")
def plain():
    return Logits()


@pytest.fixture(scope="module")
def drawn(plain):
    """(prompt, token ids) of ten rollouts, drawn by transformers' generate."""
    found = []
    torch.manual_seed(3)
    for text in PROMPTS:
        ids = torch.tensor([plain.prompt(text)])
        out = plain.model.generate(ids, do_sample=True, top_k=0, max_new_tokens=24, num_return_sequences=5,
                                   pad_token_id=0)
        ends = plain.model.generation_config.eos_token_id
        for row in out[:, ids.shape[1]:].tolist():
            stop = next((i for i, t in enumerate(row) if t in ends), len(row) - 1)
            found.append((text, row[:stop + 1]))
    return found


def entropy(law):
    return -np.sum(np.where(np.exp(law) > 0, np.exp(law) * law, 0.0), axis=1)


def own(law, ids):
    return law[np.arange(len(ids)), ids]


def filtered(law, kept):
    """The law renormalised over the tokens that are kept (N, V)."""
    law = np.where(kept, law, -np.inf)
    return law - np.log(np.exp(law).sum(1, keepdims=True))


def top_k(law, k):
    return filtered(law, law >= np.sort(law, axis=1)[:, [-k]])


def top_p(law, p):
    order = np.argsort(-law, axis=1)
    mass = np.cumsum(np.take_along_axis(np.exp(law), order, 1), 1)
    kept = np.zeros(law.shape, bool)
    np.put_along_axis(kept, order, mass - np.take_along_axis(np.exp(law), order, 1) < p, 1)
    return filtered(law, kept)


def finite_entropy(law):
    return entropy(np.where(np.isfinite(law), law, -1e9))


def log(drawn, source, numbers, field, path):
    rows = [{"prompt": text, "token_ids": ids, field: numbers(source.law(text, ids), ids)} for text, ids in drawn]
    path.write_text("".join(json.dumps(row, default=lambda x: np.asarray(x).tolist()) + "\n" for row in rows))
    return path


def held(path, plain, **options):
    return audit(path, plain.model, tokenizer=plain.words, chat=True, max_tokens=60, **options)


PLANTED = {
    "surprisal": ("entropy", lambda law, ids: -own(law, ids), "surprisal in nats of the full law"),
    "temperature": ("entropy", lambda law, ids: entropy(_log_softmax(law / 0.7)), "temperature 0.7, each"),
    "odd temperature": ("entropy", lambda law, ids: entropy(_log_softmax(law / 1.35)), "temperature 1.35, each"),
    "top-k": ("entropy", lambda law, ids: finite_entropy(top_k(law, 20)), "top-k 20, each"),
    "top-p": ("entropy", lambda law, ids: finite_entropy(top_p(law, 0.9)), "top-p 0.9, each"),
    "bits": ("entropy", lambda law, ids: entropy(law) / np.log(2), "entropy in bits of the full law"),
    "means": ("entropy", lambda law, ids: float(entropy(law).mean()), "the full law, mean of a completion"),
    "late": ("entropy", lambda law, ids: np.roll(entropy(law), 1), "one step late"),
    "bits of the token": ("logprobs", lambda law, ids: own(law, ids) / np.log(2), "log-probability in bits"),
    "probability": ("logprobs", lambda law, ids: np.exp(own(law, ids)), "probability of the full law"),
    "its sign": ("logprobs", lambda law, ids: -own(law, ids), "surprisal in nats"),
    "mean of the token": ("logprobs", lambda law, ids: float(own(law, ids).mean()), "mean of a completion"),
}


def _log_softmax(x):
    return x - np.log(np.exp(x).sum(1, keepdims=True))


@pytest.mark.slow
@pytest.mark.parametrize("mistake", PLANTED)
def test_planted_mistakes_are_named(mistake, plain, drawn, tmp_path):
    field, numbers, name = PLANTED[mistake]
    report = held(log(drawn, plain, numbers, field, tmp_path / "log.jsonl"), plain)
    assert not report.ok and name in str(report), str(report)


@pytest.mark.slow
@pytest.mark.parametrize(("source", "options", "name"), [
    ({"twice": True}, {}, "the full law with a doubled BOS"),
    ({"chat": False}, {}, "the full law with the plain prompt without a chat template"),
    ({"name": "base"}, {"others": {"base": str(ALDER / "base")}}, "the full law of base"),
], ids=["doubled BOS", "no template", "another checkpoint"])
def test_another_prompt_or_model_is_named(source, options, name, plain, drawn, tmp_path):
    path = log(drawn, Logits(**source), lambda law, ids: entropy(law), "entropy", tmp_path / "log.jsonl")
    report = held(path, plain, **options)
    assert not report.ok and name in str(report), str(report)


@pytest.mark.slow
def test_a_checkpoint_that_is_no_candidate_is_not_called_something_else(plain, drawn, tmp_path):
    path = log(drawn, Logits("base"), lambda law, ids: entropy(law), "entropy", tmp_path / "log.jsonl")
    report = held(path, plain)
    assert not report.ok and "no candidate fits" in str(report)


@pytest.mark.slow
@pytest.mark.parametrize(("field", "numbers"), [
    ("entropy", lambda law, ids: entropy(law)), ("logprobs", own), ("entropy", lambda law, ids: entropy(law).sum()),
    ("logprobs", lambda law, ids: np.round(own(law, ids), 2)), ("entropy", lambda law, ids: entropy(law) + 0.004)],
    ids=["entropies", "log-probabilities", "sums", "two digits", "rounded up"])
def test_nothing_is_invented_on_a_clean_log(field, numbers, plain, drawn, tmp_path):
    report = held(log(drawn, plain, numbers, field, tmp_path / "log.jsonl"), plain)
    assert report.ok, str(report)


@pytest.mark.slow
def test_the_stated_law_is_what_numbers_are_held_against(plain, drawn, tmp_path):
    path = log(drawn, plain, lambda law, ids: finite_entropy(top_k(law, 20)), "entropy", tmp_path / "log.jsonl")
    law = SamplingPolicy(top_k=20)
    assert held(path, plain, policy=law).ok
    path = log(drawn, plain, lambda law, ids: entropy(law), "entropy", tmp_path / "full.jsonl")
    report = held(path, plain, policy=law)
    assert not report.ok and "but the entropy in nats of the full law" in str(report)


def test_a_report_is_a_table_too(plain, drawn, tmp_path):
    path = log(drawn, plain, lambda law, ids: entropy(law) / np.log(2), "entropy", tmp_path / "log.jsonl")
    table = held(path, plain).to_frame()
    assert list(table.columns) == ["column", "reading", "distance", "claimed"]
    assert table["distance"].is_monotonic_increasing and table["distance"].iloc[0] < 1e-5
    assert table["claimed"].sum() == 1


@pytest.mark.parametrize(("row", "message"), [
    ({}, "neither logprobs nor entropy"),
    ({"entropy": [1.0]}, "3 tokens and 1 numbers called entropy"),
    ({"entropy": [1.0, float("nan"), 1.0]}, "numbers that are not finite"),
])
def test_logs_without_usable_numbers_are_refused(row, message):
    rows = [{"prompt": [1, 5], "token_ids": [7, 8, 9], **row}]
    with pytest.raises(UserError, match=message):
        cs.audit(rows, str(ALDER / "base"))
