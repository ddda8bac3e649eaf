"""Models from folders, adapters and memory; their provenance; and what can't be loaded."""

import shutil
import sys
from pathlib import Path

import pytest
import tiny
import torch

from canopy_stats.generation import loading, torch_engine
from canopy_stats.generation.provenance import files_sha256, tensors_sha256
from canopy_stats.schema import ModelSource, UserError

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny_models import save_tiny_llama


def load(model, **where) -> loading.Loaded:
    return loading.load(ModelSource(model, **where))


def load_engine(model, *, variant: str = "", **where) -> torch_engine.TorchEngine:
    return torch_engine.load_engine(ModelSource(model, **where), variant=variant)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def adapter(checkpoint, tmp_path_factory) -> Path:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    net = get_peft_model(load(checkpoint).model, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    folder = tmp_path_factory.mktemp("adapter") / "lora"
    net.save_pretrained(folder)
    return folder


def test_provenance_of_a_folder(checkpoint):
    said = load_engine(checkpoint, variant="instruct").describe()
    assert said["model"] == "tiny" and said["architecture"] == "LlamaForCausalLM"
    assert said["dtype"] == "float32" and said["device"] == "cpu" and said["threads"] == torch.get_num_threads()
    assert said["versions"]["torch"] == torch.__version__
    assert said["weights_sha256"] == files_sha256(checkpoint)
    assert said["chat"] is True and said["chat_template"].startswith("{{") and said["end_token_ids"] == [2]
    assert str(checkpoint.parent) not in str(said)


def test_chat_follows_the_variant_unless_said(checkpoint):
    assert load_engine(checkpoint, variant="base").describe()["chat"] is False
    assert load_engine(checkpoint, variant="base", chat=True).describe()["chat"] is True
    assert load_engine(checkpoint, variant="instruct", chat=False).describe()["chat"] is False


def test_hashes_name_the_weights(checkpoint, tmp_path):
    again = save_tiny_llama(tmp_path / "again")
    other = save_tiny_llama(tmp_path / "other", seed=1)
    assert files_sha256(again) == files_sha256(checkpoint) != files_sha256(other)
    assert tensors_sha256(tiny.model("llama")) == tensors_sha256(tiny.model("llama"))
    assert tensors_sha256(tiny.model("llama")) != tensors_sha256(tiny.model("llama", seed=2))


def test_an_adapter_is_merged(checkpoint, adapter):
    from peft import PeftModel

    plain, merged = load(checkpoint), load(checkpoint, adapter=adapter)
    wrapped = PeftModel.from_pretrained(load(checkpoint).model, adapter)
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        torch.testing.assert_close(merged.model(ids).logits, wrapped(ids).logits, atol=1e-5, rtol=0)
        assert (merged.model(ids).logits - plain.model(ids).logits).abs().max() > 1e-3
    assert merged.provenance["adapter"] == "lora" and len(merged.provenance["adapter_sha256"]) == 64


def test_dtypes(checkpoint):
    assert load(checkpoint, dtype="bfloat16").model.dtype == torch.bfloat16
    assert load(tiny.model("llama").bfloat16()).model.dtype == torch.bfloat16  # a loaded model stays as it is
    with pytest.raises(UserError, match="no dtype 'int8'; use 'auto'"):
        load(checkpoint, dtype="int8")


def test_missing_and_unreadable_models(tmp_path):
    with pytest.raises(UserError, match="There is no model at .*nowhere; give an existing folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="There is no model at m.gguf"):
        load("m.gguf")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="can't be loaded"):
        load(tmp_path / "empty")


def test_a_hub_name_that_does_not_resolve(monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("We couldn't connect to the hub\nand much more")

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", offline)
    with pytest.raises(UserError, match=r"The model some/model can't be loaded \(We couldn't connect to the hub\);"):
        load("some/model")


def test_code_of_a_checkpoint_is_never_run(checkpoint, monkeypatch):
    seen = {}

    def spy(*args, **kwargs):
        seen.update(kwargs)
        raise OSError("enough")

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", spy)
    with pytest.raises(UserError):
        load(checkpoint)
    assert seen["trust_remote_code"] is False


def test_devices(checkpoint):
    with pytest.raises(UserError, match="no device 'gpu7'; use 'auto'"):
        load(checkpoint, device="gpu7")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="torch sees no GPU; use device='cpu'"):
            load(checkpoint, device="cuda")


def test_adapters_that_do_not_fit(checkpoint, adapter, tmp_path):
    with pytest.raises(UserError, match="adapter .*nowhere can't be loaded"):
        load(checkpoint, adapter=tmp_path / "nowhere")
    with pytest.raises(UserError, match="together with a loaded model"):
        load(tiny.model("llama"), adapter=adapter)
    from peft import PeftModel

    with pytest.raises(UserError, match="wrapped by peft; call its merge_and_unload"):
        load(PeftModel.from_pretrained(load(checkpoint).model, adapter))


def test_not_a_model_and_no_tokenizer(checkpoint, tmp_path):
    with pytest.raises(UserError, match="not a transformers model"):
        load(torch.nn.Linear(2, 2))
    with pytest.raises(UserError, match="No tokenizer can be loaded from .*none"):
        load(checkpoint, tokenizer=str(tmp_path / "none"))
    bare = shutil.copytree(checkpoint, tmp_path / "bare")
    for file in bare.glob("token*"):
        file.unlink()
    with pytest.raises(UserError, match="No tokenizer can be loaded"):
        load(bare)
    assert load(bare, tokenizer=str(checkpoint)).tokenizer.chat_template


def test_no_chat_template(checkpoint, tmp_path):
    bare = shutil.copytree(checkpoint, tmp_path / "bare")
    (bare / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="tokenizer has none; set chat=False"):
        load_engine(bare, variant="instruct")
    assert load_engine(bare, variant="base").encode("the cat")


def test_text_has_no_special_tokens(checkpoint):
    engine = load_engine(checkpoint, variant="base")
    assert engine.decode([1, 6, 8, 4, 2]) == "the cat"
