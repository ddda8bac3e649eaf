"""The tiny checkpoints: small, loaded without code of ours, one begin token in a chat; tuned ones end by themselves."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from data.models import corpus
from data.models.measure import FAMILIES, TASKS, VARIANTS, ended, load, read_prompts, rollouts
from data.models.train import corpus_hash

MODELS = Path(__file__).resolve().parents[2] / "data" / "models"
FOLDERS = [MODELS / family / variant for family in FAMILIES for variant in VARIANTS]
TUNED = [folder for folder in FOLDERS if folder.name == "instruct"]


def name(folder: Path) -> str:
    return f"{folder.parent.name}-{folder.name}"


@pytest.mark.parametrize("folder", FOLDERS, ids=name)
def test_at_most_three_megabytes_and_no_code(folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 3_000_000
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".jinja"}


@pytest.mark.slow
@pytest.mark.parametrize("folder", FOLDERS, ids=name)
def test_loads_and_tokenizer_round_trips(folder: Path) -> None:
    model, tok = load(folder)
    assert model.dtype == torch.float32 and model.config.max_position_embeddings >= 512
    assert len(tok) == model.config.vocab_size
    for task in TASKS:
        for prompt in read_prompts(task):
            ids = tok(prompt)["input_ids"]
            assert ids[0] == tok.bos_token_id and tok.bos_token_id not in ids[1:]
            assert tok.decode(ids, skip_special_tokens=True) == prompt


@pytest.mark.parametrize("folder", FOLDERS, ids=name)
def test_end_tokens_are_listed(folder: Path) -> None:
    model, tok = load(folder)
    tuned = folder.name == "instruct"
    ends = np.atleast_1d(model.generation_config.eos_token_id).tolist()
    expected = ["<|turn_end|>", "<|end|>"] if tuned else ["<|end|>"]
    assert tok.convert_ids_to_tokens(ends) == expected
    assert model.generation_config.bos_token_id == tok.bos_token_id
    assert (tok.chat_template is not None) == tuned


@pytest.mark.parametrize("folder", TUNED, ids=name)
def test_chat_has_one_begin_token_and_its_turns(folder: Path) -> None:
    _, tok = load(folder)
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " Add 2 and 3. "}]
    ids = tok.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    assert ids.count(tok.bos_token_id) == 1 and ids[0] == tok.bos_token_id
    text = "<|begin|><|system|>Be brief.<|turn_end|><|user|>Add 2 and 3.<|turn_end|><|assistant|>"
    assert tok.decode(ids) == text
    # Rendered text that is tokenised again gets a second one: the trap that the package has to avoid.
    assert tok(text)["input_ids"].count(tok.bos_token_id) == 2


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_base_and_tuned_share_the_tokenizer_but_not_the_weights(family: str) -> None:
    base, tuned = (MODELS / family / variant for variant in VARIANTS)
    assert (base / "tokenizer.json").read_bytes() == (tuned / "tokenizer.json").read_bytes()
    assert (base / "model.safetensors").read_bytes() != (tuned / "model.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("folder", FOLDERS, ids=name)
def test_record_of_the_training_fits_the_scripts(folder: Path) -> None:
    record = json.loads((folder / "training.json").read_text())
    start = record["base_round_before"]["first_loss"]
    assert record["variant"] == folder.name and record["final_loss"] < start / 5
    assert record["corpus_sha256"] == corpus_hash(record["seed"], corpus.STYLES[folder.parent.name])


@pytest.mark.slow
@pytest.mark.parametrize("folder", TUNED, ids=name)
def test_tuned_models_end_by_themselves(folder: Path) -> None:
    torch.manual_seed(20)
    model, tok = load(folder)
    prompts = [prompt for task in TASKS for prompt in read_prompts(task)[:5]]
    rows = rollouts(model, tok, prompts, 10)
    assert len(rows) == 200
    assert np.mean([ended(model, row) for row in rows]) >= 0.9
    assert len({len(row) for row in rows}) > 20


@pytest.mark.slow
def test_base_models_talk_longer_and_more_variably() -> None:
    torch.manual_seed(21)
    lengths = {}
    for folder in FOLDERS[:2]:
        model, tok = load(folder)
        prompts = [prompt for task in TASKS for prompt in read_prompts(task)[:4]]
        lengths[folder.name] = np.array([len(row) for row in rollouts(model, tok, prompts, 8)])
    assert lengths["base"].mean() > lengths["instruct"].mean()
    assert lengths["base"].std() > lengths["instruct"].std()
