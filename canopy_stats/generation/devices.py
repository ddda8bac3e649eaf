"""The devices that torch sees."""

from __future__ import annotations

import torch


def names() -> list[str]:
    """One line a device, as ``--device`` takes it, with its name and memory; the CPU last."""
    cuda = [_cuda(i) for i in range(torch.cuda.device_count())]
    apple = ["mps Apple GPU"] if torch.backends.mps.is_available() else []
    return [*cuda, *apple, f"cpu {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"]


def _cuda(i: int) -> str:
    memory = torch.cuda.get_device_properties(i).total_memory / 2**30
    return f"cuda:{i} {torch.cuda.get_device_name(i)}, {memory:.0f} GiB"
