"""What tables and figures are made from: a panel, and where there are any the runs, checks and ablations behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from canopy_stats.schema import UserError

if TYPE_CHECKING:
    from canopy_stats.slope import Scrutiny, SlopeChange
    from canopy_stats.store import Run

BASE = "base"
IDENTITY = ("task", "model_name", "model_variant")
"""What names a run in frames of rollouts and steps."""


@dataclass(frozen=True, eq=False)
class Material:
    """A panel, with its runs by name, one row of findings for each run, and further panels by ablation.

    Fits and frames that several tables need are made once and kept; ``known`` may hold slope changes made elsewhere,
    by (model, tuned variant).
    """

    panel: pd.DataFrame = field(repr=False)
    runs: Mapping[str, Run] | None = field(default=None, repr=False)
    checks: pd.DataFrame | None = field(default=None, repr=False)
    ablations: Mapping[str, pd.DataFrame] | None = field(default=None, repr=False)
    known: dict[tuple[str, str], SlopeChange] = field(default_factory=dict, repr=False)

    @cached_property
    def tuned(self) -> tuple[str, ...]:
        """The fine-tuned variants, in the order in which they appear."""
        return tuple(v for v in dict.fromkeys(self.panel["model_variant"].astype(str)) if v != BASE)

    @property
    def first_tuned(self) -> str:
        """The first fine-tuned variant; UserError when the panel has none."""
        if not self.tuned:
            raise UserError("The panel has base rows only: this needs a fine-tuned variant beside them.")
        return self.tuned[0]

    def pair(self, tuned: str) -> pd.DataFrame:
        """The panel's rows of the base and one tuned variant."""
        return self.panel[self.panel["model_variant"].astype(str).isin([BASE, tuned])].reset_index(drop=True)

    def change(self, model: Any, tuned: str | None = None) -> SlopeChange:
        """A model's slope change between the base and a tuned variant (None: the first); fitted once."""
        from canopy_stats.slope import slope_change

        variant = self.first_tuned if tuned is None else tuned
        key = (model, variant)
        if key not in self.known:
            self.known[key] = slope_change(self.pair(variant), model=model)
        return self.known[key]

    def scrutiny(self, tuned: str) -> Scrutiny:
        """The paper's headline slope and the robust one for a tuned variant; both become known."""
        from canopy_stats.slope import slope_scrutiny

        found = slope_scrutiny(self.pair(tuned))
        for change in (found.paper, found.robust):
            self.known.setdefault((change.model, tuned), change)
        return found

    @cached_property
    def rollouts(self) -> pd.DataFrame:
        """All runs' rollouts: task, family, variant, prompt, length, rate and finish reason."""
        return self.rows("rollouts", ["prompt_uid", "length", "entropy_rate", "finish_reason"])

    @cached_property
    def steps(self) -> pd.DataFrame:
        """All runs' steps: task, family, variant, position, entropy, stop probability, and the rollout's length."""
        steps = self.rows("steps", ["step", "entropy", "stop_probability"])
        rollout = steps["step"].eq(0).cumsum().to_numpy() - 1  # stored rollout by rollout, each from step 0
        return steps.assign(length=np.bincount(rollout)[rollout])

    @cached_property
    def paired(self) -> pd.DataFrame:
        """The paired bootstrap of the panel."""
        from canopy_stats.metrics import paired_bootstrap

        return paired_bootstrap(self.panel)

    def rows(self, kind: Literal["rollouts", "steps"], columns: list[str]) -> pd.DataFrame:
        """Some columns of all runs' rollouts or steps, with task, family and variant as categories."""
        parts = [getattr(run, kind)(columns).to_pandas().assign(**identity(run)) for run in self.opened.values()]
        return pd.concat(parts, ignore_index=True).astype(dict.fromkeys(IDENTITY, "category"))

    @property
    def opened(self) -> Mapping[str, Run]:
        """The runs; UserError when there are none."""
        if not self.runs:
            raise UserError("This needs rollouts, and a panel alone has none: name a study folder with --study, such "
                            "as the one that `canopy-stats demo --out FOLDER` makes.")
        return self.runs


def identity(run: Run) -> dict[str, str]:
    """A run's task, family and variant under the panel's names."""
    return dict(zip(IDENTITY, (run.config.task, run.config.family, run.config.variant), strict=True))


def open_study(folder: str | Path) -> Material:
    """What a finished study left in its folder: panel.parquet, runs/, checks.csv, and panels/ of its ablations."""
    from canopy_stats.panel import read_panel
    from canopy_stats.store import open_run

    root = Path(folder)
    if not (root / "panel.parquet").is_file():
        raise UserError(f"{root} is not a finished study: it has no panel.parquet. Make one with "
                        f"`canopy-stats demo --out {root}`, or finish the study there.")
    runs = {path.parent.name: open_run(path.parent) for path in sorted(root.glob("runs/*/manifest.json"))}
    ablations = {path.stem: read_panel(path) for path in sorted(root.glob("panels/*.parquet"))}
    return Material(read_panel(root / "panel.parquet"), runs or None, _checks(root / "checks.csv"), ablations or None)


def _checks(path: Path) -> pd.DataFrame | None:
    from canopy_stats.study.chain import one_row_each

    return one_row_each(pd.read_csv(path)) if path.is_file() else None
