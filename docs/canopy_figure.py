"""The picture on the first page: rollouts of one prompt as a tree, from a small model that comes with the project.

    python docs/canopy_figure.py        writes docs/_static/canopy.svg
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import canopy_stats as cs
from canopy_stats.figure_style import styled

HERE = Path(__file__).parent
PROMPT, ROLLOUTS, CAP, SEED = "Tell me about the harbour.", 7, 26, 3


def rollouts() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rollouts and their steps."""
    with tempfile.TemporaryDirectory() as folder:
        run = cs.generate(HERE.parent / "data/models/alder/instruct", [PROMPT], Path(folder) / "run", family="alder",
                          variant="instruct", task="stories", n_rollouts=ROLLOUTS, seed=SEED, progress=False,
                          policy=cs.SamplingPolicy(max_new_tokens=CAP))
        return run.rollouts().to_pandas(), run.steps().to_pandas()


def heights(ids: list[tuple[int, ...]]) -> dict[tuple[int, ...], float]:
    """Each prefix's height: the mean rank of the rollouts that begin with it."""
    below = defaultdict(list)
    for rank, one in enumerate(sorted(ids)):
        for end in range(len(one) + 1):
            below[one[:end]].append(rank)
    return {prefix: float(np.mean(ranks)) for prefix, ranks in below.items()}


def draw(table: pd.DataFrame, steps: pd.DataFrame) -> plt.Figure:
    ids = {row.rollout: tuple(row.token_ids) for row in table.itertuples()}
    height = heights(list(ids.values()))
    figure, axes = plt.subplots(figsize=(7.6, 3.1))
    x, y, entropy = [], [], []
    for rollout, one in ids.items():
        path = [height[one[:end]] for end in range(len(one) + 1)]
        axes.plot(range(len(path)), path, color="0.75", linewidth=1, zorder=1)
        x += range(len(one))
        y += path[:-1]
        entropy += list(steps[steps.rollout == rollout].sort_values("step").entropy)
    points = axes.scatter(x, y, c=entropy, cmap="viridis_r", s=26, zorder=2)
    for row in table.itertuples():
        cut = " (cut)" if row.finish_reason == "length" else ""
        axes.annotate(f"N = {row.length}{cut}, r = {row.entropy_rate:.2f}", (row.length, height[ids[row.rollout]]),
                      xytext=(8, 0), textcoords="offset points", va="center", fontsize=8)
    figure.colorbar(points, ax=axes, label="entropy of the next token (nats)", pad=0.02)
    ce, n, r = table.entropy_sum.mean(), table.length.mean(), table.entropy_rate.mean()
    sign = "+" if ce >= n * r else "\N{MINUS SIGN}"
    axes.set_title("CE* = mean(N) · mean(r) + Cov(N, r) = "
                   f"{n:.2f} × {r:.2f} {sign} {abs(ce - n * r):.2f} = {ce:.2f} nats", fontsize=9, loc="left")
    axes.set(xlabel="step", yticks=[], xlim=(-0.5, CAP + 12), xticks=range(0, CAP + 1, 5))
    axes.spines["left"].set_visible(False)
    return figure


if __name__ == "__main__":
    with styled():
        picture = draw(*rollouts())
        picture.savefig(HERE / "_static" / "canopy.svg", bbox_inches="tight", metadata={"Date": None})

