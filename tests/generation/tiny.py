"""Random models of a few thousand weights, one per family of attention, and helpers to draw from them."""

import numpy as np
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from canopy_stats.generation.torch_engine import load_engine
from canopy_stats.schema import ModelSource, Prompt, RunKey

KEY = RunKey(seed=5, family="tiny", variant="base")
VOCABULARY = 320  # two whole blocks of the draw and half a one
COMMON = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4,
          "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256,
          "bos_token_id": 0, "pad_token_id": 1, "tie_word_embeddings": False, "initializer_range": 0.25}
WINDOW = 7
ENDS = tuple(range(7, VOCABULARY, 20))
HYBRID = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"] * 2}


def _gpt2() -> GPT2LMHeadModel:
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=256,
                                      initializer_range=0.25))


def _mamba() -> MambaForCausalLM:
    return MambaForCausalLM(MambaConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, state_size=4))


BUILDERS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**COMMON)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**COMMON)),
    "qwen3-sliding": lambda: Qwen3ForCausalLM(Qwen3Config(**COMMON, **HYBRID, use_sliding_window=True)),
    "gemma3": lambda: Gemma3ForCausalLM(Gemma3TextConfig(**COMMON, **HYBRID, query_pre_attn_scalar=8)),
    "gemma2-eager": lambda: Gemma2ForCausalLM(Gemma2Config(**COMMON, **HYBRID, query_pre_attn_scalar=8,
                                                           attn_implementation="eager")),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**COMMON, sliding_window=WINDOW)),
    "gpt2": _gpt2,
    "mamba": _mamba,
}


def model(name: str, *, ends: tuple[int, ...] = ENDS, seed: int = 1):
    """A random model whose logits are spread like those of a language model; ~1 of 20 steps draws an end token."""
    torch.manual_seed(seed)
    net = BUILDERS[name]().eval()
    net.generation_config.eos_token_id = list(ends)
    net.config.eos_token_id = ends[0]
    return net


def engine(name: str, **options):
    return load_engine(ModelSource(model(name, **options)), variant="base")


def prompts(eng, lengths: tuple[int, ...]) -> list[Prompt]:
    """One random prompt of each length, in token ids."""
    rng = np.random.default_rng(3)
    sources = [rng.integers(10, eng.model.config.vocab_size, n).tolist() for n in lengths]
    return [Prompt(str(i), f"hash {i}", s, eng.encode(s)) for i, s in enumerate(sources)]


def draw(eng, asked, pairs, policy, batch_size, key=KEY) -> dict:
    """Rollouts by (prompt index, rollout)."""
    return {(r.prompt_index, r.rollout): r for r in eng.sample(asked, pairs, policy, key, batch_size)}


def pairs(n_prompts: int, n_rollouts: int) -> list[tuple[int, int]]:
    return [(p, r) for p in range(n_prompts) for r in range(n_rollouts)]
