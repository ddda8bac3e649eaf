"""The prompts that rho is taken of, from a run or a frame of steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from canopy_stats.metrics.profile import PromptSteps
from canopy_stats.metrics.rollouts import entropy_of_prompts
from canopy_stats.schema import UserError

if TYPE_CHECKING:
    from canopy_stats.store import Run

Floats = NDArray[np.float64]
STEP_NEEDS = ("prompt_id", "rollout", "step", "entropy")


@dataclass(frozen=True, slots=True)
class PromptEntropies:
    """A prompt's step entropies one after another, and its rollouts' lengths; padded only while it is worked on."""

    name: str
    entropy: Floats
    length: NDArray[np.intp]

    def steps(self, origin: str) -> PromptSteps:
        """With positions counted from the "start" or from the "end"."""
        forward = PromptSteps.of(self.entropy, self.length)
        return forward.reversed() if origin == "end" else forward

    @property
    def mean_rate(self) -> float:
        start = np.cumsum(self.length) - self.length
        return float(np.mean(np.add.reduceat(self.entropy, start) / self.length))


@dataclass(frozen=True, slots=True)
class Said:
    """What the tables say of a prompt beside its coefficients."""

    name: str
    rollouts: int
    mean_length: float
    mean_rate: float

    @classmethod
    def of(cls, prompt: PromptEntropies) -> Said:
        return cls(prompt.name, len(prompt.length), float(prompt.length.mean()), prompt.mean_rate)


def prompts_of(source: Run | pd.DataFrame) -> tuple[int, Callable[[], Iterable[PromptEntropies]]]:
    """How many prompts there are, and a function that gives one after the other, as often as it is called; of a run
    one part is in memory at a time."""
    if isinstance(source, pd.DataFrame):
        listed = _from_frame(source)
        return len(listed), lambda: listed
    return source.prompts_held, lambda: (PromptEntropies(*values) for values in entropy_of_prompts(source))


def _from_frame(frame: pd.DataFrame) -> list[PromptEntropies]:
    missing = [c for c in STEP_NEEDS if c not in frame]
    if missing or frame.empty:
        raise UserError(f"A frame of steps needs rows with {', '.join(STEP_NEEDS)}; "
                        f"{'it lacks ' + ', '.join(missing) if missing else 'it is empty'}. run.steps() has them.")
    ordered = frame.sort_values(["prompt_id", "rollout", "step"], kind="stable")
    counted = ordered.groupby(["prompt_id", "rollout"], sort=False, observed=True).cumcount()
    broken = ordered["step"].to_numpy() != counted.to_numpy()
    if broken.any():
        prompt, rollout = ordered.loc[broken, ["prompt_id", "rollout"]].iloc[0]
        raise UserError(f"The steps of prompt {prompt}, rollout {rollout} are not 0, 1, 2, ... once each: give all "
                        "steps of one run, and one run at a time.")
    return [PromptEntropies(str(name), rows["entropy"].to_numpy(np.float64),
                            rows.groupby("rollout", sort=False, observed=True).size().to_numpy().astype(np.intp))
            for name, rows in ordered.groupby("prompt_id", sort=False, observed=True)]
