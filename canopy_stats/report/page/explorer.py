"""The rollouts that a page carries for its explorer, as small as they can be and still be read token by token.

Each cell (one task, family and variant) is a gzipped block of its own, which the page unpacks when it is chosen::

    uint32               bytes of the header, little-endian
    header               JSON, padded with spaces to a multiple of 4
    uint32 or uint16     (T,) index of each token in the header's ``pieces``
    uint16               (T,) surprisal; see :func:`squeezed`
    uint8                (T,) entropy, (T,) stop probability
"""

from __future__ import annotations

import base64
import gzip
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

AnyFloats = NDArray[np.floating[Any]]
_TYPES: Mapping[str, Any] = {"surprisal": np.dtype("<u2"), "entropy": np.dtype("u1"), "stop": np.dtype("u1")}
"""How each term is stored, in this order. Surprisals are summed along a path, hence the finer steps."""


@dataclass(frozen=True, slots=True)
class ShownPrompt:
    """One prompt of a cell: its id, its text, how many rollouts follow, and what was measured, in words."""

    prompt_id: str
    text: str
    rollouts: int
    measured: str = ""


@dataclass(frozen=True, slots=True)
class ShownRollouts:
    """The rollouts of one task, family and variant: R rollouts of T tokens in all, in the prompts' order.

    ``pieces`` holds the distinct tokens' texts and ``token`` (T,) indices into it: equal indices, equal tokens;
    ``special`` are the indices of tokens that are no text (end tokens). ``length`` and ``stopped`` (R,); ``entropy``,
    ``logprob`` and ``stop_probability`` (T,). ``texts`` (R) are given where tokens have no text of their own.
    """

    task: str
    family: str
    variant: str
    prompts: tuple[ShownPrompt, ...]
    pieces: tuple[str, ...]
    special: tuple[int, ...]
    token: NDArray[np.integer[Any]] = field(repr=False)
    length: NDArray[np.integer[Any]] = field(repr=False)
    stopped: NDArray[np.bool_] = field(repr=False)
    entropy: AnyFloats = field(repr=False)
    logprob: AnyFloats = field(repr=False)
    stop_probability: AnyFloats = field(repr=False)
    texts: tuple[str, ...] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Explorer:
    """The cells, and what the reader should know of them: ``note`` says which prompts were left out, if any."""

    cells: tuple[ShownRollouts, ...]
    note: str = ""


def index(explorer: Explorer) -> dict[str, Any]:
    """What the page needs before a cell is unpacked: the cells' names, and the entropy of the darkest shade."""
    return {"cells": [{"task": c.task, "family": c.family, "variant": c.variant} for c in explorer.cells],
            "shade": shade_limit([c.entropy for c in explorer.cells])}


def shade_limit(entropies: Sequence[AnyFloats]) -> float:
    """Nats at which the shading ends: what 99% of all tokens stay below, to the next half nat."""
    every = np.concatenate([np.asarray(e, np.float64) for e in entropies]) if entropies else np.zeros(0)
    return float(max(0.5, np.ceil(2 * np.quantile(every, 0.99)) / 2)) if len(every) else 0.5


def packed(cell: ShownRollouts) -> str:
    """The cell as base64; the same cell gives the same text."""
    wide = len(cell.pieces) > np.iinfo(np.uint16).max
    terms = {"surprisal": -np.asarray(cell.logprob), "entropy": cell.entropy, "stop": cell.stop_probability}
    tops = {name: float(np.float32(np.max(values, initial=0.0))) for name, values in terms.items()}
    header = safe_json(_header(cell, wide, tops)).encode()
    header += b" " * (-len(header) % 4)
    body = [struct.pack("<I", len(header)), header,
            np.asarray(cell.token).astype("<u4" if wide else "<u2").tobytes(),
            *(squeezed(values, tops[name], _TYPES[name]).tobytes() for name, values in terms.items())]
    return base64.b64encode(gzip.compress(b"".join(body), 9, mtime=0)).decode()


def _header(cell: ShownRollouts, wide: bool, tops: Mapping[str, float]) -> dict[str, Any]:
    prompts = [{"id": p.prompt_id, "text": p.text, "rollouts": p.rollouts, "measured": p.measured}
               for p in cell.prompts]
    return {"prompts": prompts, "pieces": cell.pieces, "special": cell.special, "wide": wide, "tops": tops,
            "length": np.asarray(cell.length).tolist(), "stopped": np.asarray(cell.stopped).astype(int).tolist(),
            "texts": cell.texts}


def squeezed(values: AnyFloats, top: float, kind: Any = _TYPES["entropy"]) -> NDArray[Any]:
    """Values in [0, top] as whole numbers q up to the ``kind``'s largest, to be read as top (q/largest)^2: the steps
    are finest where the values are small."""
    share = np.clip(np.asarray(values, np.float64) / top if top > 0 else np.zeros(len(values)), 0, 1)
    whole: NDArray[Any] = np.rint(np.iinfo(kind).max * np.sqrt(share)).astype(kind)
    return whole


def safe_json(value: Any) -> str:
    """JSON in ASCII that may stand inside a script element: no character of it can end the element."""
    plain = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return plain.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
