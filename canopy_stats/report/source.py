"""What tables and figures are made from: a panel, and where there are any the runs, checks and ablations behind it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import pandas as pd

from canopy_stats.report.folder import Folder
from canopy_stats.schema import UserError

if TYPE_CHECKING:
    from canopy_stats.slope import Scrutiny, SlopeChange
    from canopy_stats.store import Run

BASE = "base"
IDENTITY = ("task", "model_name", "model_variant")
"""What names a run in frames of rollouts and steps."""


class Fitter(Protocol):
    """Who fits what a source lacks: the module :mod:`canopy_stats.slope` does. Nothing here fits by itself."""

    def slope_change(self, panel: pd.DataFrame, *, model: Any) -> SlopeChange: ...

    def slope_scrutiny(self, panel: pd.DataFrame) -> Scrutiny: ...

    def slope_table(self, panel: pd.DataFrame) -> pd.DataFrame: ...

    def quadratic_check(self, panel: pd.DataFrame) -> pd.DataFrame: ...


@dataclass(frozen=True)
class Found:
    """Slope changes by name, and what was refused, in words."""

    changes: dict[str, SlopeChange]
    refused: list[str]


@dataclass(frozen=True, eq=False)
class Source:
    """A panel, with its runs by name, one row of findings for each run, and further panels by ablation.

    Frames that several tables need are made once and kept, and so are slope changes: ``known`` holds those made
    elsewhere, by (model, tuned variant), ``stated`` every version of the change by tuned variant, and ``fitter`` makes
    the others.
    """

    panel: pd.DataFrame = field(repr=False)
    fitter: Fitter = field(repr=False)
    runs: Mapping[str, Run] | None = field(default=None, repr=False)
    checks: pd.DataFrame | None = field(default=None, repr=False)
    ablations: Mapping[str, pd.DataFrame] | None = field(default=None, repr=False)
    known: dict[tuple[str, str], SlopeChange] = field(default_factory=dict, repr=False)
    findings: pd.DataFrame | None = field(default=None, repr=False)
    agreement: pd.DataFrame | None = field(default=None, repr=False)
    stated: Mapping[str, pd.DataFrame] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, folder: Folder, fitter: Fitter, ablations: Iterable[str] | None = None) -> Source:
        """What a study left in its folder, with the panels of some of its ablations (None: of all)."""
        further = folder.ablations(folder.ablation_names if ablations is None else ablations)
        return cls(folder.panel, fitter, folder.runs or None, folder.checks, further or None, dict(folder.changes),
                   folder.findings, folder.agreement, folder.claims)

    def of_panel(self, panel: pd.DataFrame, known: Mapping[tuple[str, str], SlopeChange] | None = None) -> Source:
        """Another panel alone, with the same fitter."""
        return Source(panel, self.fitter, known=dict(known or {}))

    # --- variants and slopes ------------------------------------------------------------------------------------

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

    @property
    def variants(self) -> tuple[str, ...]:
        """The fine-tuned variants; UserError when there is none."""
        return self.tuned or (self.first_tuned,)

    def pair(self, tuned: str) -> pd.DataFrame:
        """The panel's rows of the base and one tuned variant."""
        return self.panel[self.panel["model_variant"].astype(str).isin([BASE, tuned])].reset_index(drop=True)

    def change(self, model: Any, tuned: str | None = None) -> SlopeChange:
        """A model's slope change between the base and a tuned variant (None: the first); fitted once."""
        variant = self.first_tuned if tuned is None else tuned
        key = (model, variant)
        if key not in self.known:
            self.known[key] = self.fitter.slope_change(self.pair(variant), model=model)
        return self.known[key]

    def scrutiny(self, tuned: str) -> Scrutiny:
        """The paper's headline slope and the robust one for a tuned variant; both become known."""
        found = self.fitter.slope_scrutiny(self.pair(tuned))
        for change in (found.paper, found.robust):
            self.known.setdefault((change.model, tuned), change)
        return found

    def claims(self, tuned: str) -> pd.DataFrame:
        """Every version of a tuned variant's change of slope, as :attr:`slope.Scrutiny.claims` has them."""
        return self.stated[tuned] if tuned in self.stated else self.scrutiny(tuned).claims

    def rho_row(self, tuned: str) -> pd.Series | None:
        """The change of rho(N, r), Pearson's, over families and tasks; None where the panel does not suffice."""
        from canopy_stats.metrics.rho_change import rho_change

        try:
            table = rho_change(self.pair(tuned)).table
        except UserError:
            return None
        return table[table["primary"].astype(bool)].iloc[0]

    def slope_changes(self, models: Sequence[str], variants: Sequence[str] | None = None, *,
                      strict: bool = True) -> Found:
        """Slope changes by model, or by model and tuned variant where the panel has several (None: all of them).

        What the panel does not suffice for is told apart; if ``strict``, UserError when it suffices for none.
        """
        found = Found({}, [])
        for variant in variants or self.variants:
            for model in models:
                name = f"{model}, {variant}" if len(self.tuned) > 1 else model
                try:
                    found.changes[name] = self.change(model, variant)
                except UserError as error:
                    found.refused.append(f"No {name}: {error}")
        if strict and not found.changes:
            raise UserError(" ".join(found.refused))
        return found

    # --- rollouts -----------------------------------------------------------------------------------------------

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
        rows: pd.DataFrame = pd.concat(parts, ignore_index=True).astype(dict.fromkeys(IDENTITY, "category"))
        return rows

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
