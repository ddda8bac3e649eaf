"""What disturbs vLLM changes no token: preemption, prompts in parts, cached prefixes, other processes and runners."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import apart
import birch
import pytest

pytest.importorskip("vllm.v1", reason="vLLM is not installed: make test-vllm has an environment for it")

from canopy_stats.generation.torch_engine import load_engine as load_torch
from canopy_stats.schema import ModelSource, SamplingPolicy
from canopy_stats.store import open_run

HERE = Path(__file__).parent
CAP = 100
LAW = {"temperature": 0.9, "top_k": 200, "top_p": 0.98, "max_new_tokens": CAP, "repetition_penalty": 1.1,
       "stop_strings": ["\n\n"], "min_new_tokens": 40}
CROWDED = {"block_size": 32, "num_gpu_blocks_override": 24, "max_num_batched_tokens": 48, "max_num_seqs": 12,
           "enable_chunked_prefill": True}
"""Room for a third of the texts that run at once, and prompts longer than one step may read."""


def run(script: list[str], **environment: str) -> subprocess.CompletedProcess:
    where = {**os.environ, "PYTHONPATH": os.pathsep.join([str(birch.ROOT), str(HERE)]), "OMP_NUM_THREADS": "1",
             "HF_HUB_OFFLINE": "1", **environment}
    return subprocess.run([sys.executable, *script], env=where, capture_output=True, text=True, timeout=800)


def drawn(out: Path, environment: dict | None = None, **asked):
    """Rollouts of another process, and what it tells of vLLM."""
    asked = {"model": str(birch.BASE), "law": LAW, "rollouts": 6, "batch": 12, "out": str(out), **asked}
    done = run([str(HERE / "apart.py"), json.dumps(asked)], **(environment or {}))
    told = [line for line in done.stdout.splitlines() if line.startswith("TOLD ")]
    assert told, done.stdout[-2000:] + done.stderr[-4000:]
    return apart.unpacked(out), json.loads(told[0].removeprefix("TOLD "))


def by_torch(rollouts: int = 6, source: ModelSource | None = None, law: dict | None = None):
    engine = load_torch(source or ModelSource(birch.BASE), variant="base")
    return engine, birch.by_pair(engine.sample(apart.long_prompts(engine), apart.pairs(rollouts),
                                               SamplingPolicy(**(law or LAW)), apart.KEY, 32))


@pytest.fixture(scope="module")
def reference():
    return by_torch()[1]


def agree(ours, theirs, limit: float = 1e-4) -> None:
    assert birch.flips(ours, theirs) == 0
    assert birch.apart(ours, theirs) < limit


def test_preempted_chunked_and_cached_in_runner_v1(reference, tmp_path):
    ours, told = drawn(tmp_path / "v1.npz", options=CROWDED)
    assert told["vllm"]["runner"] == "V1"
    assert told["preemptions"] > 0 and told["hits"] > 0 and told["kv_blocks"] == 24
    agree(ours, reference)


def test_preempted_chunked_and_cached_in_runner_v2(reference, tmp_path):
    # Fewer rollouts, since its kernels run in Python; and less room, so that they crowd each other all the same.
    ours, told = drawn(tmp_path / "v2.npz", {"TRITON_INTERPRET": "1", "VLLM_USE_V2_MODEL_RUNNER": "1"},
                       options={**CROWDED, "num_gpu_blocks_override": 10}, interpret=True, rollouts=4)
    assert told["vllm"]["runner"] == "V2"
    assert told["preemptions"] > 0 and told["hits"] > 0
    agree(ours, {pair: r for pair, r in reference.items() if pair[1] < 4})


def test_two_workers_of_another_process(reference, tmp_path):
    """Tensor parallel, and the engine's core in a process of its own."""
    ours, told = drawn(tmp_path / "tp.npz", {"VLLM_ENABLE_V1_MULTIPROCESSING": "1"},
                       options={"tensor_parallel_size": 2})
    assert told["vllm"]["tensor_parallel_size"] == 2
    agree(ours, reference)


def lora(folder: Path) -> Path:
    """A LoRA adapter for birch with weights that change every law."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(4)
    net = AutoModelForCausalLM.from_pretrained(birch.BASE, dtype=torch.float32)
    wrapped = get_peft_model(net, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"]))
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    wrapped.save_pretrained(folder)
    return folder


def test_a_merged_adapter(reference, tmp_path):
    adapter = lora(tmp_path / "lora")
    ours, told = drawn(tmp_path / "lora.npz", adapter=str(adapter), rollouts=3)
    theirs = by_torch(3, ModelSource(birch.BASE, adapter=adapter))[1]
    agree(ours, theirs)
    assert birch.flips(ours, {pair: reference[pair] for pair in ours}) > len(ours) / 2


def test_bfloat16_is_that_of_transformers_up_to_its_rounding(tmp_path):
    """Each step's entropy against the law of the same weights in bfloat16: three digits of a logit."""
    law = {"max_new_tokens": CAP}
    ours, told = drawn(tmp_path / "bf16.npz", dtype="bfloat16", rollouts=3, law=law)
    assert told["dtype"] == "bfloat16"
    engine = load_torch(ModelSource(birch.BASE, dtype="bfloat16"), variant="base")
    worst, _, steps = birch.from_transformers(engine.model, apart.long_prompts(engine), ours, engine.end_ids,
                                              SamplingPolicy(**law))
    assert steps > 300 and 1e-6 < worst < 0.5


GENERATE = """
import sys
from canopy_stats.runs import generate
from canopy_stats.schema import SamplingPolicy
generate(sys.argv[1], [[5, 9, 14 + i] for i in range(32)], sys.argv[2], family="birch", variant="base", task="t",
         n_rollouts=16, policy=SamplingPolicy(top_k=100, max_new_tokens=20), engine="vllm",
         engine_options={"enforce_eager": True}, drift_tokens=0, progress=False)
"""


def test_a_killed_run_resumes_to_the_same_content(tmp_path):
    """SIGKILL once a shard is stored; the same call ends with the content of a run that nothing stopped."""
    where = {**os.environ, "PYTHONPATH": str(birch.ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    killed = subprocess.Popen([sys.executable, "-c", GENERATE, str(birch.BASE), str(tmp_path / "killed")], env=where,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    log = tmp_path / "killed" / "shards.jsonl"
    began = time.monotonic()
    while killed.poll() is None and time.monotonic() - began < 600:
        if log.exists() and len(log.read_bytes().splitlines()) >= 1:
            break
        time.sleep(0.05)
    assert killed.poll() is None, "it ended before it could be killed"
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    partial = open_run(tmp_path / "killed", allow_partial=True)
    assert not partial.complete and len(partial.shards) >= 1
    for name in ("killed", "whole"):
        done = run(["-c", GENERATE, str(birch.BASE), str(tmp_path / name)])
        assert done.returncode == 0, done.stderr[-3000:]
    assert open_run(tmp_path / "killed").content_hash == open_run(tmp_path / "whole").content_hash
