"""Checkpoints: bits as transformers loads them, and one line for each that is not whole."""

import json
import os
import pickle
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertLMHeadModel,
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    Glm4MoeConfig,
    Glm4MoeForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
)

from canopy_stats.generation.checkpoint import UNREADABLE, cause
from canopy_stats.generation.loading import load
from canopy_stats.schema import ModelSource, UserError

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny_models import make_tokenizer, save_tiny_llama

pytestmark = pytest.mark.slow  # each test saves and loads models

IDS = torch.arange(1, 26)[None]
MOE = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 16,
       "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "n_routed_experts": 8, "n_group": 2,
       "topk_group": 1, "num_experts_per_tok": 2, "first_k_dense_replace": 1, "max_position_embeddings": 128,
       "eos_token_id": 2}
LATENT = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8}


def save_with_bias(folder: Path, net) -> Path:
    """A mixture of experts whose routing bias is not zero, so that rounding it would change what is routed where."""
    torch.manual_seed(1)
    for name, buffer in net.named_buffers():
        if "correction" in name:
            buffer.copy_(torch.randn_like(buffer))
    net.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    return {"llama": save_tiny_llama(folder / "llama"),
            "deepseek-v3": save_with_bias(folder / "dsv3", DeepseekV3ForCausalLM(DeepseekV3Config(**MOE, **LATENT))),
            "glm4-moe": save_with_bias(folder / "glm4", Glm4MoeForCausalLM(Glm4MoeConfig(**MOE, head_dim=16)))}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", ["llama", "deepseek-v3", "glm4-moe"])
@torch.no_grad()
def test_logits_are_those_of_transformers_own_load_bit_for_bit(checkpoints, name, dtype):
    own = AutoModelForCausalLM.from_pretrained(checkpoints[name], dtype=getattr(torch, dtype))
    ours = load(ModelSource(checkpoints[name], dtype=dtype)).model
    assert {n: b.dtype for n, b in ours.named_buffers()} == {n: b.dtype for n, b in own.named_buffers()}
    assert torch.equal(ours(IDS).logits, own(IDS).logits)


@pytest.mark.parametrize("name", ["llama", "deepseek-v3", "glm4-moe"])
@torch.no_grad()
def test_a_model_in_memory_is_cast_as_transformers_would_load_it(checkpoints, name):
    own = AutoModelForCausalLM.from_pretrained(checkpoints[name], dtype=torch.bfloat16)
    ours = load(ModelSource(AutoModelForCausalLM.from_pretrained(checkpoints[name]), dtype="bfloat16")).model
    assert ours.dtype == torch.bfloat16 and torch.equal(ours(IDS).logits, own(IDS).logits)


# --- what is not whole ------------------------------------------------------------------------------------------------


def config(**changes):
    def edit(folder):
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return edit


def without(*names):
    return tensors(lambda held: {name: t for name, t in held.items() if name not in names})


def with_one_more(name):
    return tensors(lambda held: {**held, name: torch.zeros(1, 32)})


def tensors(change):
    def edit(folder):
        path = folder / "model.safetensors"
        save_file(change(load_file(path)), path, metadata={"format": "pt"})
    return edit


def bytes_of(name, change):
    def edit(folder):
        path = folder / name
        path.write_bytes(change(path.read_bytes() if path.exists() else b""))
    return edit


def in_shards(and_then):
    def edit(folder):
        net = AutoModelForCausalLM.from_pretrained(folder)
        (folder / "model.safetensors").unlink()
        net.save_pretrained(folder, max_shard_size="20KB")
        and_then(folder)
    return edit


def shard(number: int, change):
    return in_shards(lambda folder: change(sorted(folder.glob("model-*.safetensors"))[number]))


def pointing_outside(folder):
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"] = dict.fromkeys(index["weight_map"], "../model.safetensors")
    path.write_text(json.dumps(index))


class _Runs:
    def __reduce__(self):
        return os.mkdir, ("was-run",)


def as_pickle(thing, cut: int | None = None):
    def edit(folder):
        held = load_file(folder / "model.safetensors") if thing is None else thing
        (folder / "model.safetensors").unlink()
        torch.save(held, folder / "pytorch_model.bin") if thing is None else \
            (folder / "pytorch_model.bin").write_bytes(pickle.dumps(held))
        bytes_of("pytorch_model.bin", lambda data: data[:cut])(folder)
    return edit


BROKEN = {
    "a tensor is missing": (without("model.layers.0.mlp.down_proj.weight"),
                            r"lacks 1 tensor that LlamaForCausalLM needs: model\.layers\.0\.mlp\.down_proj\.weight\. "
                            "Nothing is drawn from random weights"),
    "the head is missing": (without("lm_head.weight"), r"lacks 1 tensor .*: lm_head\.weight"),
    "more layers than stored": (config(num_hidden_layers=3), r"lacks 9 tensors .* and 6 more"),
    "fewer layers than stored": (config(num_hidden_layers=1), r"holds 9 tensors for which .* model\.layers\.1"),
    "a bias without a place": (with_one_more("model.layers.0.self_attn.q_proj.bias"),
                               r"holds 1 tensor for which .*q_proj\.bias"),
    "a smaller vocabulary": (config(vocab_size=20), r"another shape .*lm_head\.weight \(27 x 32 stored, 20 x 32 by"),
    "a wider layer": (config(intermediate_size=65), r"6 tensors of another shape .*mlp\.down_proj"),
    "empty weights": (bytes_of("model.safetensors", lambda data: b""), "file model.safetensors is empty, cut off"),
    "weights cut off": (bytes_of("model.safetensors", lambda data: data[:-500]), "model.safetensors is empty, cut off"),
    "a pointer of git-lfs": (bytes_of("model.safetensors", lambda data: b"version https://git-lfs.github.com/spec/v1"),
                             "model.safetensors is empty, cut off"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "no file named model.safetensors"),
    "a shard is missing": (shard(0, Path.unlink), "model-00001-of-00005.safetensors"),
    "a shard is empty": (shard(1, lambda path: path.write_bytes(b"")), "model-00002-of-00005.safetensors is empty"),
    "an index without a map": (in_shards(bytes_of("model.safetensors.index.json", lambda data: b"{}")), "weight_map"),
    "an index that leaves": (in_shards(pointing_outside), r"outside its folder \(\.\./model\.safetensors\)"),
    "a program in a pickle": (as_pickle(_Runs()), "pytorch_model.bin is cut off, or pickled with more than tensors"),
    "a pickle cut off": (as_pickle(None, 3000), "pytorch_model.bin is cut off, or pickled"),
    "an empty pickle": (as_pickle(None, 0), "pytorch_model.bin is cut off, or pickled"),
    "no configuration": (lambda folder: (folder / "config.json").unlink(), "can't be loaded .*model_type"),
    "a configuration cut off": (bytes_of("config.json", lambda data: data[:40]), "can't be loaded .*not a valid JSON"),
    "a configuration of another type": (bytes_of("config.json", lambda data: b"[]"), "can't be loaded"),
    "a size in words": (config(hidden_size="big"), "can't be loaded .*hidden_size.*expected int, got str"),
    "heads that do not divide": (config(num_attention_heads=5), "can't be loaded .*multiple of the number of"),
    "no heads": (config(num_attention_heads=0), "can't be loaded"),
    "an unknown model type": (config(model_type="nonesuch"), "can't be loaded .*nonesuch"),
    "end tokens cut off": (bytes_of("generation_config.json", lambda data: data[:5]), "end tokens may stand in it"),
    "a tokenizer cut off": (bytes_of("tokenizer.json", lambda data: data[:50]), "No tokenizer can be loaded from"),
    "a quantised format without its package": (config(quantization_config={"quant_method": "gptq", "bits": 4}),
                                               r"is quantised \(gptq\), and that can't be loaded"),
    "an unknown quantised format": (config(quantization_config={"quant_method": "nonesuch"}), r"not know \(nonesuch\)"),
    "a quantised format without a name": (config(quantization_config={"bits": 4}), "an unnamed format"),
    "an adapter within": (bytes_of("adapter_config.json", lambda data: b"{}"), "holds an adapter"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_not_whole_is_refused_in_one_line(checkpoints, tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    edit, message = BROKEN[case]
    folder = shutil.copytree(checkpoints["llama"], tmp_path / "broken")
    edit(folder)
    with pytest.raises(UserError, match=message) as refused:
        load(ModelSource(folder))
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 900
    assert not (tmp_path / "was-run").exists()


@pytest.mark.parametrize("edit", [with_one_more("score.weight"), with_one_more("v_head.summary.weight"),
                                  in_shards(lambda folder: None),
                                  with_one_more("model.layers.0.self_attn.rotary_emb.inv_freq"), as_pickle(None),
                                  without()],
                         ids=["one head", "another", "shards", "old buffer", "pickled", "unchanged"])
@torch.no_grad()
def test_heads_old_buffers_shards_and_pickled_tensors_are_fine(checkpoints, tmp_path, edit):
    folder = shutil.copytree(checkpoints["llama"], tmp_path / "fine")
    edit(folder)
    same = load(ModelSource(checkpoints["llama"])).model(IDS).logits
    assert torch.equal(load(ModelSource(folder)).model(IDS).logits, same)


def test_masks_that_older_versions_stored_are_fine(tmp_path):
    net = GPT2LMHeadModel(GPT2Config(vocab_size=27, n_embd=32, n_layer=2, n_head=4, n_positions=64, eos_token_id=2))
    net.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    tensors(lambda held: {**held, "transformer.h.0.attn.bias": torch.ones(1, 1, 64, 64),
                          "transformer.h.0.attn.masked_bias": torch.tensor(-1e4)})(tmp_path)
    assert load(ModelSource(tmp_path)).provenance["architecture"] == "GPT2LMHeadModel"


def test_a_model_that_reads_ahead_is_no_causal_one(tmp_path):
    sizes = {"vocab_size": 27, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
             "intermediate_size": 48, "initializer_range": 0.3}
    with pytest.raises(UserError, match="BertLMHeadModel reads ahead"):
        load(ModelSource(BertLMHeadModel(BertConfig(**sizes))))
    load(ModelSource(BertLMHeadModel(BertConfig(**sizes, is_decoder=True))))


@pytest.mark.parametrize("data", [b"", b"GGUF", b"GGUF" + bytes(range(200)), b"nothing"], ids=len)
def test_gguf_files_that_are_none(tmp_path, data):
    (tmp_path / "m.gguf").write_bytes(data)
    with pytest.raises(UserError, match=r"m\.gguf can't be loaded"):
        load(ModelSource(tmp_path / "m.gguf"))


def test_other_files_are_no_model(checkpoints):
    with pytest.raises(UserError, match="give the folder that it lies in"):
        load(ModelSource(checkpoints["llama"] / "model.safetensors"))


def test_a_larger_tokenizer_is_another_models(checkpoints, tmp_path):
    words = make_tokenizer()
    words.add_tokens(["<|im_end|>"])
    with pytest.raises(UserError, match=r"1 tokens beyond the model's vocabulary of 27 \(such as '<|im_end|>'\)"):
        load(ModelSource(checkpoints["llama"], words))
    padded = make_tokenizer()
    padded.add_special_tokens({"pad_token": "<pad>"})
    assert load(ModelSource(checkpoints["llama"], padded)).tokenizer is padded


def quantise(weight: torch.Tensor, block: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(float8 weights, scale of each block)."""
    rows, columns = weight.shape
    blocks = weight.reshape(rows // block, block, columns // block, block)
    scale = blocks.abs().amax(dim=(1, 3)) / 448
    return (blocks / scale[:, None, :, None]).reshape(rows, columns).to(torch.float8_e4m3fn), scale


def in_float8(folder: Path, block: int = 16) -> dict[str, torch.Tensor]:
    """Quantise a checkpoint's projections as DeepSeek's are; the weights that it then stands for."""
    path = folder / "model.safetensors"
    held = {name: tensor.bfloat16() for name, tensor in load_file(path).items()}
    stands_for = {}
    for name in [n for n in held if n.endswith("_proj.weight")]:
        held[name], scale = quantise(held[name].float(), block)
        held[f"{name}_scale_inv"] = scale
        stands_for[name] = held[name].float() * scale.repeat_interleave(block, 0).repeat_interleave(block, 1)
    save_file(held, path, metadata={"format": "pt"})
    config(quantization_config={"quant_method": "fp8", "weight_block_size": [block, block],
                                "activation_scheme": "dynamic"}, dtype="bfloat16")(folder)
    return stands_for


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU the layers stay in float8")
def test_float8_layers_keep_their_scale(checkpoints, tmp_path):
    folder = shutil.copytree(checkpoints["llama"], tmp_path / "fp8")
    stands_for = in_float8(folder)
    loaded = load(ModelSource(folder))
    assert loaded.provenance["quantisation"] == "fp8" and loaded.provenance["dtype"] == "bfloat16"
    for name, weight in stands_for.items():
        torch.testing.assert_close(loaded.model.get_parameter(name).float(), weight, rtol=2**-8, atol=0)
    with pytest.raises(UserError, match=r"quantised \(fp8\), and that can't be loaded here as asked .*dtype='auto'"):
        load(ModelSource(folder, dtype="float32"))


@pytest.mark.parametrize(("error", "said"), [
    (ValueError("first\nsecond"), "first"), (RuntimeError("Errors:\n\ta b\n\t c"), "Errors: a b c"),
    (KeyError("name"), "no 'name'"), (ValueError(""), "ValueError"), (ValueError("\x1b[31mred\x1b[0m\x07."), "red"),
    (ValueError("x" * 500), "x" * 396 + " ...")], ids=lambda case: repr(case)[:20])
def test_causes_are_one_line(error, said):
    assert cause(error) == said and isinstance(error, UNREADABLE)
