"""Random models of a few thousand weights, one for each architecture that was tried, by transformers' model type.

Windows, chunks and the like are set below the length of the rollouts that the tests draw.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

SMALL = {
    "vocab_size": 320, "hidden_size": 32, "d_model": 32, "n_embd": 32, "dim": 32, "embedding_size": 32,
    "word_embed_proj_dim": 32, "intermediate_size": 48, "ffn_dim": 48, "n_inner": 48, "num_hidden_layers": 4,
    "n_layer": 4, "num_layers": 4, "n_layers": 4, "num_attention_heads": 4, "n_head": 4, "n_heads": 4, "num_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256, "n_positions": 256, "max_seq_len": 256,
    "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 7, "initializer_range": 0.25, "num_experts": 4,
    "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
    "sliding_window": 7, "q_lora_rank": 16, "kv_lora_rank": 16, "n_group": 1, "topk_group": 1, "n_shared_experts": 1,
    "first_k_dense_replace": 1, "tie_word_embeddings": False}
_LATENT = {"qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8, "head_dim": 4, "num_key_value_heads": 4}
_LONGROPE = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [4.0, 3.0, 2.0, 6.0],
             "original_max_position_embeddings": 16}
_MAMBA2 = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_expand": 2, "mamba_chunk_size": 8}

ARCHITECTURES: dict[str, dict[str, Any]] = {
    **{name: {} for name in (
        "afmoe", "apertus", "arcee", "aria_text", "bitnet", "bloom", "cohere", "cohere2", "cohere2_moe", "cwm",
        "diffllama", "doge", "dots1", "ernie4_5", "ernie4_5_moe", "exaone4", "exaone_moe", "falcon", "falcon_mamba",
        "flex_olmo", "gemma", "gemma2", "gemma3_text", "glm", "glm4", "glm4_moe", "gpt2", "gpt_bigcode", "gpt_neox",
        "gpt_neox_japanese", "gpt_oss", "granite", "granitemoe", "granitemoeshared", "helium", "hunyuan_v1_dense",
        "hunyuan_v1_moe", "jais2", "jetmoe", "lfm2", "llama", "mamba", "mellum", "minimax", "minimax_m2", "ministral",
        "ministral3", "mistral", "mixtral", "mpt", "nanochat", "nemotron", "olmo", "olmo2", "olmo3", "olmoe", "opt",
        "persimmon", "phi", "phi3", "phimoe", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "qwen3_next", "rwkv",
        "seed_oss", "smollm3", "stablelm", "starcoder2", "vaultgemma", "xglm")},
    "deepseek_v2": _LATENT, "deepseek_v3": _LATENT,
    "deepseek_v32": {**_LATENT, "index_topk": 8, "index_n_heads": 2, "index_head_dim": 8},
    "codegen": {"rotary_dim": 8}, "gptj": {"rotary_dim": 8},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "window_size": 6},
    "gemma4_text": {"vocab_size_per_layer_input": 320, "hidden_size_per_layer_input": 8, "global_head_dim": 16,
                    "num_kv_shared_layers": 0},
    "granitemoehybrid": {**_MAMBA2, "layer_types": ["mamba", "attention", "mamba", "attention"]},
    "bamba": {**_MAMBA2, "attn_layer_indices": [1, 3]},
    "falcon_h1": {**_MAMBA2, "mamba_d_ssm": 64},
    "mamba2": {"num_heads": 8, "expand": 2, "state_size": 8, "n_groups": 2, "chunk_size": 8},
    "recurrent_gemma": {"attention_window_size": 8, "lru_width": 32},
    "xlstm": {"num_blocks": 2, "chunk_size": 8},
}
LENGTH_DEPENDENT: dict[str, dict[str, Any]] = {
    "phi3": {"rope_parameters": _LONGROPE, "original_max_position_embeddings": 16},
    "llama": {"rope_parameters": _LONGROPE},
}


def build(model_type: str, **changes: Any) -> Any:
    """A random model of the architecture, with ``changes`` to its configuration."""
    kind = CONFIG_MAPPING[model_type]
    known = set(inspect.signature(kind.__init__).parameters)
    known |= {name for base in kind.__mro__ for name in getattr(base, "__annotations__", {})}
    small = {name: value for name, value in SMALL.items() if name in known - set(getattr(kind, "attribute_map", {}))}
    torch.manual_seed(1)
    net = AutoModelForCausalLM.from_config(kind(**{**small, **changes})).eval()
    net.generation_config.eos_token_id = list(range(7, 320, 20))
    return net
