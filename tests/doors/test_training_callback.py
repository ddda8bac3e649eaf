"""A Trainer of two steps whose logs have canopy entropy, and whose weights do not know that anything was drawn."""

import sys
from pathlib import Path

import pytest

import canopy_stats as cs
from canopy_stats.schema import UserError

sys.path.insert(0, str(Path(__file__).parents[1]))  # tiny_models
pytestmark = pytest.mark.slow
LAW = cs.SamplingPolicy(max_new_tokens=8)
PROMPTS = ["the cat sat", "a red dog", "on the hill"]
NAMES = {"CE", "N", "r", "rho", "truncation_rate"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    from tiny_models import save_tiny_llama

    return save_tiny_llama(tmp_path_factory.mktemp("model") / "ash")


def train(checkpoint, folder, make=None, attach=False):
    """(trainer after two steps with an evaluation each, its weights)."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments, default_data_collator

    net = AutoModelForCausalLM.from_pretrained(checkpoint, attention_dropout=0.3)
    rows = [{"input_ids": [1, 6 + i % 20, 7, 8, 2], "labels": [1, 6 + i % 20, 7, 8, 2]} for i in range(8)]
    arguments = TrainingArguments(folder / "trainer", max_steps=2, per_device_train_batch_size=4, eval_strategy="steps",
                                  eval_steps=1, report_to=[], logging_steps=1, save_strategy="no", use_cpu=True,
                                  learning_rate=0.05, seed=3, disable_tqdm=True)
    callback = make(folder / "runs") if make else None
    trainer = Trainer(net, arguments, train_dataset=rows, eval_dataset=rows[:2],
                      data_collator=default_data_collator, processing_class=AutoTokenizer.from_pretrained(checkpoint),
                      callbacks=[callback] if callback else None)
    if attach:
        callback.trainer = trainer
    trainer.train()
    return trainer, {k: v.clone() for k, v in net.state_dict().items()}


@pytest.fixture(scope="module")
def trained(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    return *train(checkpoint, folder, lambda out: cs.training_callback(
        PROMPTS, out, n_rollouts=4, policy=LAW, embedder="tfidf", seed=5)), folder / "runs"


def test_logs_hold_what_the_stored_runs_measure(trained):
    trainer, _, folder = trained
    logged = [line for line in trainer.state.log_history if "eval_canopy_CE" in line]
    assert [line["step"] for line in logged] == [1, 2]
    for line in logged:
        run = cs.open_run(folder / f"step-{line['step']}")
        measured = cs.measure(run, embedder="tfidf")
        assert {k.removeprefix("eval_canopy_") for k in line if "canopy" in k} == NAMES | {"D"}
        for name, column in {"CE": "CE", "N": "N_bar", "r": "R_bar", "D": "D"}.items():
            assert line[f"eval_canopy_{name}"] == pytest.approx(measured[column].mean())


def test_training_is_as_without_the_callback(checkpoint, trained, tmp_path):
    import torch

    _, weights = train(checkpoint, tmp_path)
    assert all(torch.equal(weights[name], value) for name, value in trained[1].items())


def test_the_runs_are_a_trajectory_of_different_weights(trained):
    runs = [cs.open_run(trained[2] / f"step-{s}") for s in (1, 2)]
    assert runs[0].config.model["weights_sha256"] != runs[1].config.model["weights_sha256"]
    found = cs.trajectory(runs, measures=["CE", "N_bar"])
    assert found.means["step"].tolist() == [1, 2] and found.shape == "linear"


def test_the_last_step_is_drawn_from_the_trained_weights(trained, tmp_path):
    """The plain function, on the model as training left it, draws the same rollouts into another folder."""
    from canopy_stats.doors.training import draw_checkpoint

    trainer, _, folder = trained
    found = draw_checkpoint(trainer.model.eval(), trainer.processing_class, PROMPTS, tmp_path, 2, family="training",
                            task="watch", n_rollouts=4, policy=LAW, seed=5)
    again, stored = cs.open_run(tmp_path / "step-2"), cs.open_run(folder / "step-2")
    assert again.content_hash == stored.content_hash and set(found) == NAMES


def test_a_trainer_that_is_attached_logs_to_its_integrations(checkpoint, tmp_path):
    trainer, _ = train(checkpoint, tmp_path, lambda out: cs.training_callback(PROMPTS, out, n_rollouts=2, policy=LAW),
                       attach=True)
    logged = [line for line in trainer.state.log_history if "eval_canopy_CE" in line]
    assert [line["step"] for line in logged] == [1, 2] and "eval_canopy_D" not in logged[0]


def test_an_adapter_in_training_is_drawn_as_its_merged_model(checkpoint, tmp_path):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from canopy_stats.doors.training import draw_checkpoint

    torch.manual_seed(0)
    settings = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    wrapped = get_peft_model(AutoModelForCausalLM.from_pretrained(checkpoint), settings).eval()
    words = AutoTokenizer.from_pretrained(checkpoint)
    told = {"family": "f", "task": "t", "n_rollouts": 4, "policy": LAW}
    plain = AutoModelForCausalLM.from_pretrained(checkpoint).eval()
    models = {"wrapped": wrapped, "plain": plain, "merged": None}
    tables = {}
    for name, net in models.items():
        net = wrapped.merge_and_unload() if net is None else net
        draw_checkpoint(net, words, PROMPTS, tmp_path / name, 1, **told)
        tables[name] = cs.open_run(tmp_path / name / "step-1").rollouts()
    assert tables["wrapped"]["token_ids"] == tables["merged"]["token_ids"] != tables["plain"]["token_ids"]
    assert tables["wrapped"]["entropy_sum"].to_pylist() == pytest.approx(tables["merged"]["entropy_sum"].to_pylist())


def test_modes_and_random_numbers_come_back():
    import torch

    from canopy_stats.generation.callback import undisturbed

    net = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(2, 2))
    net.config, net[1].training = None, False
    torch.manual_seed(1)
    wanted = torch.rand(3)
    torch.manual_seed(1)
    with undisturbed(net):
        torch.rand(100)
        assert not net.training and not net[0].training
    assert torch.equal(torch.rand(3), wanted)
    assert net.training and net[0].training and not net[1].training


def test_too_few_rollouts_are_refused_before_training(tmp_path):
    with pytest.raises(UserError, match="n_rollouts is 1"):
        cs.training_callback(PROMPTS, tmp_path, n_rollouts=1)
