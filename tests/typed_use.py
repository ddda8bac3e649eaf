"""Read by mypy --strict alone, never run: the public names have real types, so a wrong call does not pass.

mypy reports an ``ignore`` that ignores nothing, so each of them is a test that the error is still there.
"""

from __future__ import annotations

import pandas as pd

import canopy_stats as cs


def mixed(data: pd.DataFrame) -> float:
    fit = cs.lmm("y ~ x + (1|g)", data)
    cs.lmm(1, 2, three=3)  # type: ignore[arg-type, call-arg]
    cs.glmm("y ~ x + (1|g)", data, famly="beta")  # type: ignore[call-arg]
    fit.no_such_estimate  # type: ignore[attr-defined]  # noqa: B018
    return fit.llf


def rollouts() -> cs.SamplingPolicy:
    cs.generate("model", ["prompt"], "out", family="f", variant="base", task="t", rollout=3)  # type: ignore[call-arg]
    cs.no_such_name  # type: ignore[attr-defined]  # noqa: B018
    return cs.SamplingPolicy(top_k=100)
