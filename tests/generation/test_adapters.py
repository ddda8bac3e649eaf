"""Adapters: merged as peft merges, every tensor used, what lies beside them adopted; and what does not fit."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from peft import (
    AdaLoraConfig,
    IA3Config,
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    OFTConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    VeraConfig,
    get_peft_model,
)
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from canopy_stats.generation.adapters import _in_float32
from canopy_stats.generation.loading import load
from canopy_stats.generation.torch_engine import load_engine
from canopy_stats.schema import ModelSource, UserError

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny_models import make_tokenizer, save_tiny_llama

pytestmark = pytest.mark.slow  # each test saves and loads models

IDS = torch.arange(1, 26)[None]
TWO = ["q_proj", "v_proj"]
KINDS = {"lora": LoraConfig(r=2, target_modules=TWO), "dora": LoraConfig(r=2, target_modules=TWO, use_dora=True),
         "every layer": LoraConfig(r=2, target_modules="all-linear", use_rslora=True),
         "ranks": LoraConfig(r=2, target_modules=TWO, rank_pattern={"q_proj": 3}),
         "whole heads": LoraConfig(r=2, target_modules=TWO, modules_to_save=["lm_head", "embed_tokens"]),
         "some tokens": LoraConfig(r=2, target_modules=TWO, trainable_token_indices=[3, 4]),
         "ia3": IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
         "loha": LoHaConfig(r=2, target_modules=TWO), "lokr": LoKrConfig(r=2, target_modules=TWO),
         "oft": OFTConfig(r=4, oft_block_size=0, target_modules=TWO),
         "vera": VeraConfig(r=2, target_modules=["q_proj"]),
         "adalora": AdaLoraConfig(r=2, target_modules=TWO, total_step=10)}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("model") / "birch")


def trained(folder: Path, base: Path, settings, dtype=torch.float32) -> Path:
    """An adapter with random weights instead of trained ones."""
    net = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=dtype), settings)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    net.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def plain(base, tmp_path_factory) -> Path:
    return trained(tmp_path_factory.mktemp("adapter") / "lora", base, LoraConfig(r=2, target_modules=TWO))


def logits(net) -> torch.Tensor:
    with torch.no_grad():
        return net(IDS).logits


@pytest.mark.parametrize("kind", KINDS)
def test_bits_are_those_of_pefts_own_merge(base, tmp_path, kind):
    folder = trained(tmp_path / "adapter", base, KINDS[kind])
    own = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    before = logits(own)
    own = PeftModel.from_pretrained(own, folder).merge_and_unload()
    ours = load(ModelSource(base, adapter=folder, dtype="bfloat16")).model
    assert {p.dtype for p in ours.parameters()} == {torch.bfloat16}
    assert torch.equal(logits(ours), logits(own)) and not torch.equal(logits(ours), before)
    wide = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder).eval()
    torch.testing.assert_close(logits(load(ModelSource(base, adapter=folder)).model), logits(wide), atol=1e-4, rtol=0)


def test_the_sum_is_rounded_once(base, tmp_path):
    """Where peft rounds the addend before it adds (embeddings), the merge here still is the float32 one."""
    folder = trained(tmp_path / "adapter", base, LoraConfig(r=2, target_modules=["embed_tokens"]), torch.bfloat16)
    net = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    wide = PeftModel.from_pretrained(net.float(), folder).merge_and_unload()
    ours = load(ModelSource(base, adapter=folder, dtype="bfloat16")).model
    assert torch.equal(ours.model.embed_tokens.weight, wide.model.embed_tokens.weight.bfloat16())


def test_only_16_bit_parameters_are_widened_and_only_for_a_while():
    layer = torch.nn.Linear(2, 2, dtype=torch.bfloat16)
    layer.bias.data = layer.bias.data.double()
    with _in_float32(layer):
        assert (layer.weight.dtype, layer.bias.dtype) == (torch.float32, torch.float64)
    assert (layer.weight.dtype, layer.bias.dtype) == (torch.bfloat16, torch.float64)


# --- what does not fit ------------------------------------------------------------------------------------------------


def weights(change):
    def edit(folder):
        path = folder / "adapter_model.safetensors"
        save_file(change(load_file(path)), path)
    return edit


def renamed(old, new):
    return weights(lambda held: {name.replace(old, new): tensor for name, tensor in held.items()})


def settings(**changes):
    def edit(folder):
        path = folder / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return edit


def several(folder):
    for name in ("calm", "bold"):
        shutil.copytree(folder, folder / name, ignore=lambda *_: ["calm", "bold"])
    (folder / "adapter_config.json").unlink()


def file(name, data: bytes | None):
    return lambda folder: (folder / name).unlink() if data is None else (folder / name).write_bytes(data)


MISFITS = {
    "a renamed prefix": (renamed("model.layers", "model.text.layers"),
                         r"8 of its tensors match nothing in it: base_model\.model\.model\.text\.layers\.0\."),
    "another adapter's name": (renamed(".weight", ".other.weight"), r"match nothing in it: .*lora_A\.other\.weight"),
    "one tensor too many": (weights(lambda held: {**held, "base_model.model.lm_head.lora_A.weight": torch.ones(2, 32)}),
                            r"1 of its tensors match nothing in it: base_model\.model\.lm_head"),
    "half of the tensors": (weights(lambda held: {n: t for n, t in held.items() if "lora_A" in n}),
                            r"incomplete: it brings nothing for 4 places .*lora_B"),
    "another rank": (settings(r=5), r"size mismatch for .*shape torch\.Size\(\[2, 32\]\) .*shapes than the model's"),
    "more targets than trained": (settings(target_modules=[*TWO, "k_proj"]), "incomplete.*k_proj"),
    "fewer targets than trained": (settings(target_modules=["q_proj"]), "match nothing in it: .*v_proj"),
    "other layers": (settings(layers_to_transform=[0]), r"match nothing in it: .*layers\.1"),
    "targets that are not there": (settings(target_modules=["nope"]), "Target modules .*nope.* not found"),
    "a head that it should bring": (settings(modules_to_save=["lm_head"]), r"no 'base_model\.model\.lm_head\.weight'"),
    "weights cut off": (lambda folder: file("adapter_model.safetensors", b"1234")(folder), "can't be loaded"),
    "no weights": (file("adapter_model.safetensors", None), "neither adapter_model.safetensors nor"),
    "no settings": (file("adapter_config.json", None), r"can't be loaded \(no adapter_config.json\)"),
    "settings cut off": (file("adapter_config.json", b"{"), "can't be loaded"),
    "settings of another type": (file("adapter_config.json", b"[]"), "can't be loaded"),
    "a kind of another version": (settings(peft_type="NONESUCH"), "can't be loaded .*NONESUCH"),
    "a rank in words": (settings(r="two"), "can't be loaded"),
    "several in one folder": (several, "it holds several, in bold, calm: name one"),
    "values that are not numbers": (weights(lambda held: {n: t * float("nan") for n, t in held.items()}),
                                    "weights that are not numbers"),
    "end tokens in words": (file("generation_config.json", b'{"eos_token_id": "a"}'), "whole numbers as eos_token_id"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_what_does_not_fit_is_refused_in_one_line(base, plain, tmp_path, case):
    edit, message = MISFITS[case]
    folder = shutil.copytree(plain, tmp_path / "adapter")
    edit(folder)
    with pytest.raises(UserError, match=message) as refused:
        load(ModelSource(base, adapter=folder))
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 900


@pytest.mark.parametrize("kind", [PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2),
                                  PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)],
                         ids=lambda settings: settings.peft_type.value)
def test_adapters_without_a_merge_are_refused_by_kind(base, tmp_path, kind):
    folder = trained(tmp_path / "adapter", base, kind)
    with pytest.raises(UserError, match=f"of the kind {kind.peft_type.value}, which adds to the model's input"):
        load(ModelSource(base, adapter=folder))


def test_an_adapter_whose_product_is_zero_is_the_base(base, plain, tmp_path):
    folder = shutil.copytree(plain, tmp_path / "adapter")
    weights(lambda held: {n: t * ("lora_A" in n) for n, t in held.items()})(folder)
    assert torch.equal(logits(load(ModelSource(base, adapter=folder)).model), logits(load(ModelSource(base)).model))


# --- what is said, and what lies beside -------------------------------------------------------------------------------


def test_another_base_is_said(base, plain, tmp_path):
    assert load(ModelSource(base, adapter=plain)).cautions == ()
    folder = shutil.copytree(plain, tmp_path / "lora")
    settings(base_model_name_or_path="org/oak")(folder)
    said = f"The adapter lora says that it was trained on org/oak, and is merged into {base}."
    assert load(ModelSource(base, adapter=folder)).cautions == (said,)
    assert load_engine(ModelSource(base, adapter=folder)).describe()["cautions"] == [said]


def chatty_tokenizer():
    """As training libraries save it: with a chat template of its own, and another end token than the base's."""
    words = make_tokenizer()
    words.eos_token = "<a>"
    words.chat_template = "{% for m in messages %}<u> {{ m['content'] }} </u>{% endfor %}"
    return words


def test_the_tokenizer_beside_an_adapter_is_used(base, plain, tmp_path):
    folder = shutil.copytree(plain, tmp_path / "adapter")
    chatty_tokenizer().save_pretrained(folder)
    engine, own = (load_engine(ModelSource(base, adapter=a), variant="tuned") for a in (folder, plain))
    assert engine.describe()["chat_template"] == chatty_tokenizer().chat_template != own.describe()["chat_template"]
    assert (engine.end_ids, own.end_ids) == ((2, 5), (2,))
    assert engine.encode("the cat") == (3, 6, 8, 4) != own.encode("the cat")
    assert engine.describe()["tokenizer_sha256"] != own.describe()["tokenizer_sha256"]
    given = load_engine(ModelSource(base, str(base), folder), variant="tuned")
    assert given.encode("the cat") == own.encode("the cat") and given.end_ids == (2,)


def test_template_and_end_tokens_beside_an_adapter_are_used(base, plain, tmp_path):
    folder = shutil.copytree(plain, tmp_path / "adapter")
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    (folder / "generation_config.json").write_text('{"eos_token_id": [4, 5]}')
    engine = load_engine(ModelSource(base, adapter=folder), variant="tuned")
    assert engine.encode("the cat") == (6, 8) and engine.end_ids == (2, 4, 5)


def test_resized_embeddings_are_said_with_the_whole_cause(base, tmp_path):
    words = make_tokenizer()
    words.add_tokens(["<|im_start|>", "<|im_end|>"])
    net = AutoModelForCausalLM.from_pretrained(base)
    net.resize_token_embeddings(len(words))
    get_peft_model(net, LoraConfig(r=2, target_modules=TWO)).save_pretrained(tmp_path / "adapter")
    with pytest.raises(UserError, match=r"embed_tokens\.weight.*\[29, 32\].*\[27, 32\].*resize the base"):
        load(ModelSource(base, adapter=tmp_path / "adapter"))
