"""canopy_stats: how much a language model can say, and how fine-tuning changes it.

Importing the package imports neither torch nor matplotlib; each public name is loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_EXPORTS = {
    "SamplingPolicy": "schema",
    "UserError": "schema",
    "generate": "runs",
    "rescore": "runs",
    "check": "checks",
    "open_run": "store",
    "embed": "metrics",
    "measure": "metrics",
    "paired_bootstrap": "metrics",
    "judge": "metrics.judge",
    "add_rse": "metrics.judge",
    "EmbeddingJudge": "metrics.judge",
    "OpenAIJudge": "metrics.judge",
    "reward": "metrics.reward",
    "keep_best": "metrics.reward",
    "best_rollouts": "metrics.reward",
    "rho": "metrics",
    "panel": "panel",
    "load_demo_panel": "panel",
    "lmm": "mixed",
    "glmm": "mixed",
    "anova": "mixed",
    "profile": "mixed",
    "bootstrap": "mixed",
    "slopes": "mixed",
    "means": "mixed",
    "variance_shares": "mixed",
    "quantile_residuals": "mixed",
    "load_fit": "mixed",
    "slope_change": "slope",
    "slope_table": "slope",
    "specification_curve": "slope",
    "slope_power": "slope",
    "slope_contrasts": "slope.contrasts",
    "template_factorial": "slope.factorial",
    "slope_scrutiny": "slope",
    "simulate_panel": "slope",
    "Scenario": "slope",
    "read_study": "study",
    "run_study": "study",
}
_MODULES = ("metrics", "mixed", "slope", "report")

__all__ = ["__version__", *_EXPORTS, "metrics", "oracle"]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        value = getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    elif name == "oracle":
        value = import_module(f"{__name__}.generation.oracle")
    elif name in _MODULES:
        value = import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
