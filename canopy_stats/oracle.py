"""Models whose answers are known exactly, to hold the whole chain against.

Importing this module needs no torch; using :class:`MarkovLM` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from canopy_stats.generation.oracle import MarkovConfig, MarkovLM

__all__ = ["MarkovConfig", "MarkovLM"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from canopy_stats.generation import oracle  # UserError without torch, with what to install

    return getattr(oracle, name)
