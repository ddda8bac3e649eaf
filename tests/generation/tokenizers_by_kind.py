"""Small tokenizers of each kind that writes its tokens in another way, trained on a few lines with rare characters."""

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

LINES = ["the cat sat on the mat.\n\nThen it ran: stop!", "naïve café – “quoted” text, 3.14 and 日本語 too",
         "the topper stopped; stop, stopping, unstoppable\nQ: who? A: me\n\n",
         "emoji 😀 and 🇫🇷, and\ttabs", "abcdef"] * 4
SPECIAL = ["<unk>", "<s>", "</s>", "<|im_end|>"]


def byte_level() -> Tokenizer:
    """GPT-2, Llama 3, Qwen: every byte is a character of the vocabulary."""
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    words.train_from_iterator(LINES, trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL,
                                                         initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return words


def byte_fallback() -> Tokenizer:
    """Llama 2, Gemma: spaces as U+2581, unknown characters as bytes."""
    words = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    words.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    words.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                       decoders.Strip(" ", 1, 0)])
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    words.train_from_iterator(["▁" + line.replace(" ", "▁") for line in LINES if line.isascii()],
                              trainers.BpeTrainer(vocab_size=420, special_tokens=[*SPECIAL, *bytes_]))
    return words


def word_piece() -> Tokenizer:
    """BERT: a piece that continues a word begins with ##."""
    words = Tokenizer(models.WordPiece(unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words.decoder = decoders.WordPiece(cleanup=False)
    words.train_from_iterator(LINES, trainers.WordPieceTrainer(vocab_size=200, special_tokens=SPECIAL))
    return words


def unigram() -> Tokenizer:
    """T5, XGLM."""
    words = Tokenizer(models.Unigram())
    words.pre_tokenizer = pre_tokenizers.Metaspace()
    words.decoder = decoders.Metaspace()
    words.train_from_iterator(LINES, trainers.UnigramTrainer(vocab_size=150, special_tokens=SPECIAL, unk_token="<unk>"))
    return words


KINDS = {"byte level": byte_level, "byte fallback": byte_fallback, "word piece": word_piece, "unigram": unigram}


def tokenizer(kind: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=KINDS[kind](), bos_token="<s>", eos_token="</s>", unk_token="<unk>",
                                   additional_special_tokens=["<|im_end|>"])
