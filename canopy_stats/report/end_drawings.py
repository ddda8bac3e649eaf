"""The maps of the end token, from a study's runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from canopy_stats import end_tokens
from canopy_stats.report.figures.end_maps import EndMap, end_logprob_map, end_top_k_map
from canopy_stats.report.source import Source, identity
from canopy_stats.schema import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 300
"""Rows of a map: more are thinner than a pixel."""


def logprobs(source: Source) -> Figure:
    """The end token's log-probability at each step."""
    maps = []
    for run in source.opened.values():
        pairs, lengths = end_tokens.by_length(run, MOST)
        maps.append(EndMap(**identity(run), values=end_tokens.logprob_matrix(run, pairs), lengths=lengths))
    return end_logprob_map(maps)


def membership(source: Source) -> Figure:
    """Whether the end token is among the k most likely, k that of the law or of what the runs' folders keep."""
    found = {name: end_tokens.kept_top_k(run) for name, run in source.opened.items()}
    ks = set(found.values())
    k = next(iter(ks))
    if len(ks) > 1 or k is None:
        lacking = next(name for name, own in found.items() if own is None or own != k)
        raise UserError(f"Whether an end token is among the k most likely is not stored of {lacking}, whose law is no "
                        "top-k alone: needs scoring again, by `canopy_stats.end_in_top_k(run, k)` for every run.")
    maps = []
    for run in source.opened.values():
        pairs, lengths = end_tokens.by_length(run, MOST)
        maps.append(EndMap(**identity(run), values=end_tokens.top_k_matrix(run, pairs, k), lengths=lengths))
    return end_top_k_map(maps, k)
