"""Rival explanations of diversity: rate, length, total entropy, or rate and length together, in base and tuned at once.

Each explanation is a fractional logit (Papke & Wooldridge 1996) of D on a level for every family × task and smooth
terms; without terms of the variant it is one law for both. They are compared by their errors on prompts that they were
not fitted to. Where one shared law of total entropy predicts as well as any, a change of slope has a simpler reading.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit

from canopy_stats.mixed.formulas.formula import build_design
from canopy_stats.mixed.formulas.frames import as_pandas
from canopy_stats.notebook import Shown
from canopy_stats.schema import UserError
from canopy_stats.seeds import generator
from canopy_stats.slope.cells import SURFACE
from canopy_stats.slope.prepare import prepare

Array = np.ndarray
FOLDS = 10
EXPLANATIONS: Mapping[str, tuple[str, ...]] = {
    "levels alone": (),
    "length": ("ns(log_N, 4)",),
    "rate": ("ns(log_R, 4)",),
    "total entropy": ("ns(log_H, 4)",),
    "rate and length": ("ns(log_R, 4)", "ns(log_N, 4)"),
    "smooth of both": ("ns(log_R, 4)", "ns(log_N, 4)", SURFACE),
}
"""Smooth terms by name, from the simplest on; H = R · N is a prompt's total entropy."""
VARIANTS: Mapping[str, tuple[str, ...]] = {
    "one law": (), "own levels": ("cell:tun",), "own levels and slopes": ("cell:tun", "R_tuned")}
"""What the fine-tuned variant has of its own."""
SIMPLER = ("length", "rate", "total entropy")


@dataclass(frozen=True)
class SlopeRivals(Shown):
    """Explanations by their error on held-out prompts.

    ``table``, a row for each explanation and what the variant has of its own: explanation, variant, parameters, rmse
    (of D), r_squared (share of the variance left by family × task levels that is predicted), estimate and std_error of
    the mean squared error above the best one's (prompts are clusters), suffices (within one standard error of it).
    ``best`` is the row with the least error, ``simplest`` the one with the fewest parameters that suffices.
    """

    table: pd.DataFrame
    best: pd.Series
    simplest: pd.Series
    verdict: str

    def __str__(self) -> str:
        return self.verdict

    def _shown(self) -> tuple[str, list[Any]]:
        return "Rival laws of diversity, on held-out prompts", [self.verdict, self.table]


def slope_rivals(panel: pd.DataFrame, *, folds: int = FOLDS, seed: int = 0) -> SlopeRivals:
    """Which of rate, length, total entropy and their smooth explains D in base and tuned at once.

    ``folds`` parts of the prompts, drawn within tasks by ``seed``, are each predicted from the others. Rates and
    lengths are as observed. UserError for more folds than a task has prompts, or a rate of zero.
    """
    panel = as_pandas(panel)
    data = _with_terms(panel, folds)
    fold = _folds(data, folds, generator(seed))
    losses, sizes = {}, {}
    for name, smooth in EXPLANATIONS.items():
        for variant, own in VARIANTS.items():
            design = _design(data, ("0 + cell", *smooth, *own))
            losses[name, variant] = (data["D"].to_numpy() - _held_out(design, data["D"].to_numpy(), fold)) ** 2
            sizes[name, variant] = int(np.linalg.matrix_rank(design))
    table = _table(losses, sizes, data)
    best = table.iloc[int(table["rmse"].to_numpy().argmin())]
    simplest = table[table["suffices"]].sort_values(["parameters", "rmse"], kind="stable").iloc[0]
    return SlopeRivals(table, best, simplest, _verdict(table, best, simplest))


def _with_terms(panel: pd.DataFrame, folds: int) -> pd.DataFrame:
    data = prepare(panel).data.reset_index(drop=True)
    if (data["R_bar"] <= 0).any():
        raise UserError(f"{int((data['R_bar'] <= 0).sum())} rows have an entropy rate of zero, whose logarithm the "
                        "explanations need; leave these prompts out by name.")
    least = data.groupby("task", observed=True)["prompt_uid"].nunique().min()
    if folds < 2 or least < folds:
        raise UserError(f"folds is {folds} and a task has {least} prompts; give at least 2 folds, and no more than "
                        "each task has prompts.")
    log_r, log_n = np.log(data["R_bar"]), np.log(data["N_bar"])
    cell = data["task"].astype(str) + " / " + data["model_name"].astype(str)
    return data.assign(cell=cell, log_R=log_r, log_N=log_n, log_H=log_r + log_n)


def _folds(data: pd.DataFrame, folds: int, rng: np.random.Generator) -> Array:
    """The fold (n,) of each row's prompt, tasks divided evenly."""
    out = np.empty(len(data), dtype=int)
    for _, rows in data.groupby("task", observed=True).indices.items():
        codes, names = pd.factorize(data["prompt_uid"].to_numpy()[rows])
        out[rows] = rng.permutation(np.arange(len(names)) % folds)[codes]
    return out


def _design(data: pd.DataFrame, terms: tuple[str, ...]) -> Array:
    """The columns (n, p) of some terms."""
    return np.asarray(build_design(f"D ~ {' + '.join(terms)}", data).fixed.matrix, dtype=float)


def _held_out(design: Array, y: Array, fold: Array) -> Array:
    """Each row's mean (n,) predicted from the other folds."""
    out = np.empty(len(y))
    for k in range(fold.max() + 1):
        out[fold == k] = expit(design[fold == k] @ _fractional_logit(design[fold != k], y[fold != k]))
    return out


def _fractional_logit(x: Array, y: Array) -> Array:
    """Coefficients (p,) that maximise the Bernoulli quasi-likelihood of shares y (n,), by iterated least squares."""
    eta = np.log((y + 0.1) / (1.1 - y))
    beta = np.zeros(x.shape[1])
    for _ in range(50):
        mu = expit(eta)
        weight = np.maximum(mu * (1 - mu), 1e-8)
        root = np.sqrt(weight)
        new: Array = np.linalg.lstsq(x * root[:, None], root * (eta + (y - mu) / weight), rcond=1e-10)[0]
        eta = np.clip(x @ new, -30, 30)
        if np.max(np.abs(new - beta)) < 1e-8 * (1 + np.max(np.abs(new))):
            return new
        beta = new
    return beta


def _table(losses: Mapping[tuple[str, str], Array], sizes: Mapping[tuple[str, str], int],
           data: pd.DataFrame) -> pd.DataFrame:
    least = min(losses, key=lambda name: float(losses[name].mean()))
    levels = float(losses["levels alone", "one law"].mean())
    rows = []
    for (name, variant), loss in losses.items():
        above, error = _clustered(loss - losses[least], data["prompt_uid"])
        rows.append({"explanation": name, "variant": variant, "parameters": sizes[name, variant],
                     "rmse": float(np.sqrt(loss.mean())), "r_squared": 1 - float(loss.mean()) / levels,
                     "estimate": above, "std_error": error, "suffices": bool(above <= error)})
    return pd.DataFrame(rows)


def _clustered(values: Array, prompt: pd.Series) -> tuple[float, float]:
    """Mean of values (n,) and its standard error with prompts as clusters."""
    sums = pd.Series(values - values.mean()).groupby(prompt.to_numpy()).sum().to_numpy()
    return float(values.mean()), float(np.sqrt(np.sum(sums**2) * len(sums) / max(len(sums) - 1, 1)) / len(values))


def _verdict(table: pd.DataFrame, best: pd.Series, simplest: pd.Series) -> str:
    text = (f"On held-out prompts D is predicted best by {_name(best)} ({best['r_squared']:.0%} of the variance within "
            f"families and tasks); the simplest explanation that does as well is {_name(simplest)} "
            f"({simplest['r_squared']:.0%}).")
    shared = table[table["variant"] == "one law"].set_index("explanation")
    shares = shared["r_squared"].astype(float).to_dict()
    alone = ", ".join(f"{name} {shares[name]:.0%}" for name in [*SIMPLER, "smooth of both"])
    text += f" As one law for base and tuned: {alone}."
    if simplest["variant"] == "one law" and simplest["explanation"] == "total entropy":
        return (f"{text} One shared law of total entropy explains base and tuned: a change of the slope on the rate "
                "then has a simpler reading, other lengths.")
    if simplest["variant"] != "own levels and slopes":
        return f"{text} No slope of the tuned variant's own is needed to predict D."
    return f"{text} A slope of the tuned variant's own improves the prediction."


def _name(row: pd.Series) -> str:
    own = {"one law": "one law for both variants", "own levels": "the tuned variant with levels of its own",
           "own levels and slopes": "the tuned variant with levels and a slope of its own"}[str(row["variant"])]
    return f"{row['explanation']}, {own}"
