"""Frozen records and every stored column, declared once.

This folder imports nothing from the package and nothing heavy: every other module may import it.
"""

from canopy_stats.schema.columns import (
    BOUND_COLUMNS,
    ENTROPY_COLUMNS,
    EXACT,
    INTERVAL,
    MISSING,
    PANEL_COLUMNS,
    PANELS_OF,
    PROMPT_COLUMNS,
    ROLLOUT_COLUMNS,
    ROLLOUTS_OF,
    STEP_COLUMNS,
    STEP_TERMS,
    STEPS_OF,
    TERMS,
    UNITS,
    Column,
    names,
)
from canopy_stats.schema.policy import SamplingPolicy
from canopy_stats.schema.problems import Caution, UserError, printable
from canopy_stats.schema.records import (
    IMPORTED,
    LENGTH,
    SCHEMA_VERSION,
    STOP,
    Engine,
    Prompt,
    Rollout,
    RunConfig,
    RunKey,
)
from canopy_stats.schema.source import RENDERED_TEXT, ModelSource

__all__ = [
    "BOUND_COLUMNS",
    "ENTROPY_COLUMNS",
    "EXACT",
    "IMPORTED",
    "INTERVAL",
    "LENGTH",
    "MISSING",
    "PANELS_OF",
    "PANEL_COLUMNS",
    "PROMPT_COLUMNS",
    "RENDERED_TEXT",
    "ROLLOUTS_OF",
    "ROLLOUT_COLUMNS",
    "SCHEMA_VERSION",
    "STEPS_OF",
    "STEP_COLUMNS",
    "STEP_TERMS",
    "STOP",
    "TERMS",
    "UNITS",
    "Caution",
    "Column",
    "Engine",
    "ModelSource",
    "Prompt",
    "Rollout",
    "RunConfig",
    "RunKey",
    "SamplingPolicy",
    "UserError",
    "names",
    "printable",
]
