"""Runs of tokens that are bytes, pieces of characters and markup, with the tokenizer of their model in a folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from canopy_stats.schema import LENGTH, STEP_TERMS, STOP, Prompt, Rollout, RunConfig, RunKey, SamplingPolicy
from canopy_stats.store import RunWriter, prompts_hash

# byte-level names: Ã© are the two bytes of é, Ġ a space, Ċ a newline
VOCABULARY = ("Ã", "©", "Ġcat", "<script>window.hacked=1</script>", "Ċ", "Ġsat", "ðŁ", "İī", "<|end|>")
END = len(VOCABULARY) - 1


def tokenizer():
    """A tokenizer that can decode these tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models

    made = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(VOCABULARY)}, merges=[]))
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken("<|end|>", special=True)])
    return made


def tokenizer_folder(folder: Path) -> Path:
    """A model's folder, as far as its tokenizer goes."""
    folder.mkdir(parents=True)
    tokenizer().save(str(folder / "tokenizer.json"))
    return folder


class ByteEngine:
    """Draws tokens evenly, except that é and the emoji mostly come whole."""

    name = "bytes"

    def __init__(self):
        self._tokenizer = tokenizer()

    def describe(self):
        return {"model": "tiny", "weights_sha256": "ab" * 32, "end_token_ids": [END], "tokenizer": "Tokenizer",
                "dtype": "float32", "device": "cpu", "threads": 1, "chat": False}

    def encode(self, source):
        return (1,)

    def decode(self, ids):
        return self._tokenizer.decode([int(i) for i in ids if i != END], skip_special_tokens=True)

    def sample(self, prompts, rollouts, policy, key, batch_size):
        for index, rollout in rollouts:
            rng = np.random.default_rng([key.seed, len(key.variant), index, rollout])
            tokens = []
            while len(tokens) < policy.max_new_tokens and END not in tokens:
                follows = {0: 1, 6: 7}.get(tokens[-1] if tokens else -1)
                whole = follows is not None and rng.random() < 0.7
                tokens.append(follows if whole else int(rng.integers(0, len(VOCABULARY))))
            n = len(tokens)
            steps = {name: rng.random(n).astype(np.float32) for name in STEP_TERMS} | {
                "logprob": -rng.exponential(1, n).astype(np.float32)}
            yield Rollout(index, rollout, np.array(tokens, np.int32), STOP if tokens[-1] == END else LENGTH, steps)


class StateEngine(ByteEngine):
    """The same for a model that has no tokenizer: its texts are its states."""

    def describe(self):
        return {**super().describe(), "tokenizer": None}

    def decode(self, ids):
        return " ".join(str(i) for i in ids if i != END)


def draw(path: Path, model: Path, *, family: str, task: str, variant: str, seed: int, engine: ByteEngine | None = None):
    """A run of 5 prompts with 4 rollouts, said to come from the model in a folder."""
    engine = engine or ByteEngine()
    prompts = [Prompt(f"p{i}", f"{i:064x}", f"prompt {i} <b>", (1,)) for i in range(5)]
    config = RunConfig(family=family, variant=variant, task=task, n_rollouts=4, seed=seed,
                       policy=SamplingPolicy(max_new_tokens=9), engine=engine.name, batch_size=8,
                       prompts_hash=prompts_hash(prompts), model=json.loads(json.dumps(engine.describe())))
    origin = {"model": str(model), "tokenizer": None, "adapter": None, "revision": None}
    with RunWriter(path, config, prompts, versions={"python": "3"}, origin=origin) as writer:
        for shard in writer.missing:
            part = writer.shard_prompts(shard)
            writer.write_shard(shard, engine.sample(part, shard.pairs, config.policy, RunKey(seed, family, variant), 8),
                               engine.decode, batch_size=8)
        writer.finish(None)
        return writer.run()
