"""A random Llama of a few thousand weights with its own tokenizer, chat template and BOS, saved as a checkpoint."""

from __future__ import annotations

from pathlib import Path

WORDS = ("the", "a", "cat", "dog", "bird", "sat", "ran", "flew", "on", "under", "over", "mat", "tree", "hill", "and",
         "then", "it", "was", "red", "blue", "small")
TEMPLATE = (
    "{{ '<s>' }}{% for m in messages %}{{ '<u>' + m['content'] + '</u>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<a>' }}{% endif %}"
)


def make_tokenizer():
    """Words to ids; <s> is put before plain text, as Llama's tokenizer does; the template writes it itself."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<unk>", "<s>", "</s>", "<u>", "</u>", "<a>"]
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate([*special, *WORDS])}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.add_special_tokens(special)
    words.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>", unk_token="<unk>",
                                   additional_special_tokens=["<u>", "</u>", "<a>"], chat_template=TEMPLATE)


def save_tiny_llama(folder: Path, seed: int = 0) -> Path:
    """Write the checkpoint; its end token is drawn in about one of ten steps."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    tokenizer = make_tokenizer()
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128, bos_token_id=1,
                         eos_token_id=2, initializer_range=0.4)
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
