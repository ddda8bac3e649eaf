"""What a finished study lacks, and why, in words: each reason once."""

from __future__ import annotations

import pandas as pd

from canopy_stats.report.catalogue import HOW
from canopy_stats.report.folder import Folder
from canopy_stats.report.frames import NO_CELLS

CAPPED = 0.5
"""Share of the rollouts ended by the length cap from which it explains why models with a length cannot be fitted."""
NOT_ASKED = ("needs the columns RSE", "needs scoring again", "needs the study's check of prompts",
             *(f"needs {how}" for needs, how in HOW.items() if needs != "panel"))
"""Reasons of what was never asked for."""
ANSWERED = (NO_CELLS,)
"""Reasons that are an answer: what the robust slope says of a panel that it cannot tell of."""
_OF = {"fit": "the slope model", "tables": "the table", "figures": "the figure"}


def missing(folder: Folder, kinds: tuple[str, ...] = ("fit", "tables", "figures")) -> list[str]:
    """One line for each reason: what is missing for it. Empty for a study that has everything it asked for."""
    reasons: dict[str, list[str]] = {}
    for kind in kinds:
        for name, why in _left_out(folder, kind).items():
            reasons.setdefault(_cause(folder, why), []).append(f"{_OF[kind]} {name}")
    return [f"{_listed(names)}: {why}" for why, names in reasons.items()]


def _left_out(folder: Folder, kind: str) -> dict[str, str]:
    """What a stage left out, and its reason."""
    if kind == "fit":
        found = {f"{e['model']} ({e['variant']})": str(e["failed"]) for e in folder.entries if "failed" in e}
    else:
        found = _read(folder, kind)
    told = {name: " ".join(why.split()) for name, why in found.items()}
    return {name: why for name, why in told.items() if not any(part in why for part in (*NOT_ASKED, *ANSWERED))}


def _read(folder: Folder, kind: str) -> dict[str, str]:
    path = folder.root / kind / "left_out.txt"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    parts = [line.removeprefix("left out: ").partition(": ") for line in lines]
    return {name: why for name, _, why in parts}


def _cause(folder: Folder, why: str) -> str:
    """A reason in words; a table's that only repeats a model's is that model's."""
    known = [" ".join(str(e["failed"]).split()) for e in folder.entries if "failed" in e]
    return next((reason for reason in known if reason in why), cause(folder.panel, why)).rstrip(".")


def cause(panel: pd.DataFrame, why: str) -> str:
    """The length cap, where it explains that a model finds no lengths to tell apart; else the reason as it is."""
    if "ns(" in why or "N_bar is constant" in why:
        share = float(panel["truncation_rate"].mean()) if "truncation_rate" in panel else 0.0
        if share >= CAPPED:
            return (f"the length cap ended {share:.0%} of the rollouts, so their lengths hardly differ and cannot be "
                    "told apart from the rates. Draw with a larger law.max_new_tokens.")
    return why


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
