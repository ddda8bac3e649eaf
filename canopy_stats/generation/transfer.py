"""Between host and device without waiting: what goes out is pinned first, what comes back is read later.

A plain copy from the host to a GPU, and every copy from it, stops the host until the GPU has done all that it was told
before. On a CPU nothing of this costs anything, and the same code runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch


def to_device(numbers: Sequence[int], device: torch.device) -> torch.Tensor:
    """Whole numbers as an int64 tensor there."""
    here = torch.tensor(numbers, dtype=torch.long)
    if device.type != "cuda":
        return here.to(device)
    # The allocator of pinned memory keeps what is freed here until the copy has read it.
    return here.pin_memory().to(device, non_blocking=True)


class Returning:
    """A tensor on its way to the host. ``read`` waits for it alone, not for what was launched after it."""

    def __init__(self, sent: torch.Tensor):
        self._arrived: Any = None
        if not sent.is_cuda:
            self._here = sent.cpu()
            return
        self._here = torch.empty(sent.shape, dtype=sent.dtype, pin_memory=True)
        self._here.copy_(sent, non_blocking=True)
        self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._arrived.record()

    def read(self) -> np.ndarray:
        """The values, once they are there; not a view of pinned memory, which is scarce."""
        if self._arrived is None:
            return self._here.numpy()
        self._arrived.synchronize()
        return self._here.numpy().copy()
