"""People's verdicts on pairs of rollouts, and what they say of a judge: agreement, and an RSE with its error."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from canopy_stats.metrics.judge import JudgeLike, judged_by
from canopy_stats.metrics.judging.comparisons import MISSING, SAME, draw_comparisons
from canopy_stats.metrics.misclassified import Errors, corrected_entropy
from canopy_stats.metrics.rse import clusters
from canopy_stats.schema import UserError
from canopy_stats.seeds import seed_sequence

if TYPE_CHECKING:
    from canopy_stats.store import Run

PAIR = ("model_name", "model_variant", "prompt_uid", "rollout_a", "rollout_b")
"""What names a pair of rollouts in a file of people's verdicts."""
_WORDS = {"same": True, "true": True, "1": True, "yes": True, "different": False, "false": False, "0": False,
          "no": False}


@dataclass(frozen=True, slots=True)
class Agreement:
    """A judge against people on ``pairs`` pairs: Cohen's ``kappa`` with its standard error, the shares of both kinds of
    error as :class:`Errors`, and among people ``kappa_people`` over the pairs that two or more of them judged (NaN
    where there are none). ``undecided`` pairs, on which people were split in halves, are left out."""

    pairs: int
    kappa: float
    kappa_se: float
    errors: Errors
    undecided: int = 0
    kappa_people: float = float("nan")

    def as_frame(self) -> pd.DataFrame:
        """One row: pairs, kappa, kappa_se, sensitivity, specificity, undecided, kappa_people."""
        return pd.DataFrame([{"pairs": self.pairs, "kappa": self.kappa, "kappa_se": self.kappa_se,
                              "sensitivity": self.errors.sensitivity, "specificity": self.errors.specificity,
                              "undecided": self.undecided, "kappa_people": self.kappa_people}])

    def __str__(self) -> str:
        among = "" if np.isnan(self.kappa_people) else f", among people {self.kappa_people:.2f}"
        return (f"On {self.pairs} pairs that people judged the judge has a kappa of {self.kappa:.2f} (standard error "
                f"{self.kappa_se:.2f}{among}), a sensitivity of {self.errors.sensitivity:.1%} and a specificity of "
                f"{self.errors.specificity:.1%}; {self.undecided} undecided pairs are left out.")


@dataclass(frozen=True)
class Corrected:
    """The agreement, and a row for each run and prompt: ``RSE`` as the judge has it, ``RSE_corrected``, and
    ``se_judge``, its error from the judge's mistakes."""

    agreement: Agreement
    table: pd.DataFrame


def read_people(path: str | Path) -> pd.DataFrame:
    """People's verdicts from a CSV with the columns of :data:`PAIR`, ``same`` (same/different, true/false, yes/no,
    1/0) and perhaps ``rater``; ``same`` comes back as booleans."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise UserError(f"People's verdicts in {path} cannot be read ({error}). Give a CSV file.") from None
    return _checked(table, str(path))


def _checked(table: pd.DataFrame, where: str) -> pd.DataFrame:
    if lacking := [name for name in (*PAIR, "same") if name not in table]:
        raise UserError(f"{where} lacks the column(s) {', '.join(lacking)}: each row names a pair of rollouts and says "
                        "whether they mean the same.")
    said = table["same"].astype(str).str.strip().str.casefold().map(_WORDS)
    if said.isna().any():
        raise UserError(f"{where}, line {int(np.flatnonzero(said.isna())[0]) + 2}: same is "
                        f"{table['same'][said.isna()].iloc[0]!r}; write same or different.")
    try:
        pairs = {name: table[name].astype("int64") for name in ("rollout_a", "rollout_b")}
    except ValueError:
        raise UserError(f"{where}: rollout_a and rollout_b are the rollouts' numbers, from 0.") from None
    if (pairs["rollout_a"] == pairs["rollout_b"]).any():
        raise UserError(f"{where} holds a pair of a rollout with itself; leave such rows out.")
    swapped = pairs["rollout_a"] > pairs["rollout_b"]
    low, high = (np.where(swapped, pairs[a], pairs[b]) for a, b in (("rollout_b", "rollout_a"),
                                                                   ("rollout_a", "rollout_b")))
    return table.assign(rollout_a=low, rollout_b=high, same=said.astype(bool))


def correct_judge(runs: Iterable[Run] | Run, judge: JudgeLike | Mapping[str, Any], people: pd.DataFrame | str | Path, *,
                  draws: int = 200, seed: int = 0) -> Corrected:
    """How a judge agrees with people, and each prompt's RSE corrected for its mistakes.

    ``judge`` is what :func:`canopy_stats.judge` takes, or a mapping as a study file has it; its verdicts are read from
    the runs' folders where they are kept. ``people`` are verdicts as :func:`read_people` gives them, or their file.
    Their pairs should be drawn without a look at the judge's verdicts, or sensitivity and specificity are those of the
    choice. Pairs with equal or empty texts are no evidence on the judge, who is not asked about them. ``draws``
    clusterings are drawn for each prompt (:mod:`canopy_stats.metrics.misclassified`); one with failed verdicts has no
    corrected RSE.
    """
    from canopy_stats.store import Run as StoredRun

    listed = [runs] if isinstance(runs, StoredRun) else list(runs)
    verdicts = _checked(people, "people") if isinstance(people, pd.DataFrame) else read_people(people)
    judged = [one for run in listed for one in _prompts(run, judge)]
    agreement = _agreement(judged, verdicts)
    streams = seed_sequence(seed).spawn(len(judged))
    rows = [one.row(agreement.errors, draws, np.random.default_rng(stream))
            for one, stream in zip(judged, streams, strict=True)]
    return Corrected(agreement, pd.DataFrame(rows))


# --- one prompt -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _JudgedPrompt:
    """A prompt's verdicts: mutual ones between k distinct texts (k, k), each judged rollout's text (m,; −1: empty)."""

    model_name: str
    model_variant: str
    prompt_uid: str
    rse: float
    same: np.ndarray
    text: np.ndarray
    rollouts: np.ndarray
    whole: bool

    def row(self, errors: Errors, draws: int, rng: np.random.Generator) -> dict[str, Any]:
        value, error = self._corrected(errors, draws, rng) if self.whole else (float("nan"), float("nan"))
        return {"model_name": self.model_name, "model_variant": self.model_variant, "prompt_uid": self.prompt_uid,
                "RSE": self.rse, "RSE_corrected": value, "se_judge": error}

    def _corrected(self, errors: Errors, draws: int, rng: np.random.Generator) -> tuple[float, float]:
        """All empty texts are one cluster, of which there is no doubt: their part of the entropy is added."""
        written = self.text[self.text >= 0]
        if not len(written):
            return 0.0, 0.0
        value, error = corrected_entropy(self.same, np.bincount(written), errors, clusters(self.same), draws=draws,
                                         rng=rng)
        share = len(written) / len(self.text)
        between = -sum(p * np.log(p) for p in (share, 1 - share) if p > 0)
        return share * value + between, share * error


def _prompts(run: Run, judge: JudgeLike | Mapping[str, Any]) -> list[_JudgedPrompt]:
    table = judged_by(run, judge)
    options = judge if isinstance(judge, Mapping) else {}
    m = int(table["rse_m"][0].as_py())
    drawn = draw_comparisons(run, m, int(options.get("seed", 0)), str(options.get("think", "keep")))
    out = []
    for row, one in zip(table.to_pylist(), drawn, strict=True):
        verdicts = np.array(row["verdicts"], np.int8).reshape(m, m)
        first = [int(np.flatnonzero(one.code == text)[0]) for text in range(len(one.distinct))]
        among = verdicts[np.ix_(first, first)]
        same = (among == SAME) & (among.T == SAME)
        out.append(_JudgedPrompt(run.config.family, run.config.variant, one.prompt_uid, float(row["RSE"]), same,
                                 one.code, one.rollouts, not bool((verdicts == MISSING).any())))
    return out


# --- agreement --------------------------------------------------------------------------------------------------


def _agreement(judged: list[_JudgedPrompt], people: pd.DataFrame) -> Agreement:
    """The judge's verdicts against the majority of people on each pair that both judged."""
    from statsmodels.stats.inter_rater import cohens_kappa

    share = people.groupby(list(PAIR), sort=False)["same"].mean()
    undecided = int((share == 0.5).sum())
    called_same = _called(judged)
    decided = share[share != 0.5] > 0.5
    found = [(said, called_same[key]) for key, said in zip(decided.index.tolist(), decided, strict=True)
             if key in called_same]
    if not found:
        raise UserError("People and judge have no pair in common: people's pairs are of the rollouts that the judge "
                        f"read, with different texts, named by {', '.join(PAIR)}.")
    said, called = np.array(found, np.bool_).T
    errors = Errors(*(int(n) for n in ((said & called).sum(), (said & ~called).sum(), (~said & ~called).sum(),
                                       (~said & called).sum())))
    kappa = cohens_kappa(np.array([[errors.hit, errors.miss], [errors.false, errors.right]]))
    return Agreement(len(found), float(kappa.kappa), float(kappa.std_kappa), errors, undecided, _among(people))


def _called(judged: list[_JudgedPrompt]) -> dict[tuple[Any, ...], bool]:
    """The judge's mutual verdict on every pair of rollouts with different texts that are not empty."""
    found = {}
    for one in judged:
        for j in range(len(one.rollouts)):
            for i in range(j):
                a, b = int(one.text[i]), int(one.text[j])
                if one.whole and a >= 0 and b >= 0 and a != b:
                    pair = int(one.rollouts[i]), int(one.rollouts[j])
                    key = (one.model_name, one.model_variant, one.prompt_uid, *pair)
                    found[key] = bool(one.same[a, b])
    return found


def _among(people: pd.DataFrame) -> float:
    """Kappa among people: Fleiss', over the pairs that the most common number of raters (two or more) judged."""
    from statsmodels.stats.inter_rater import fleiss_kappa

    counts = people.groupby(list(PAIR), sort=False)["same"].agg(["sum", "size"])
    several = counts[counts["size"] > 1]
    if several.empty:
        return float("nan")
    same_size = several[several["size"] == several["size"].mode().iloc[0]]
    return float(fleiss_kappa(np.column_stack([same_size["sum"], same_size["size"] - same_size["sum"]])))
