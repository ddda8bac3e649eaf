"""Models compared on the same items: paired differences, and the mixed model that treats items as a sample."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import stats

from canopy_stats.doors.arguments import check_level
from canopy_stats.mixed import Fit, glmm, lmm, means
from canopy_stats.mixed.formulas.frames import as_pandas
from canopy_stats.multiplicity import METHODS, adjusted_p
from canopy_stats.notebook import Shown
from canopy_stats.schema import UserError

ScoreFamily = Literal["binomial", "cumulative", "beta", "ordbeta", "gaussian"]
MOST_CATEGORIES = 10
POWER, POINTS = 0.8, 0.02


@dataclass(frozen=True)
class ScoreComparison(Shown):
    """Paired differences of levels on the same items beside a crossed mixed model.

    ``table``, a row a pair: contrast ('a - b'), items (that both answered), estimate, std_error, df, statistic,
    p_value, conf_low, conf_high of the paired mean difference, ``p_adjusted``, and of the model ``model_estimate``,
    ``model_std_error``, ``model_p_adjusted`` (difference of means over all items, on the score's scale), ``agree``, and
    ``items_for_2_points``: how many items show a difference of .02 of the score's range with a power of 80%.
    ``means``: each level's mean score with the model's interval. ``family`` is the model's.
    """

    table: pd.DataFrame
    means: pd.DataFrame
    family: str
    verdict: str
    notes: tuple[str, ...]
    fit: Fit = field(repr=False)

    def _shown(self) -> tuple[str, list[Any]]:
        return "Comparison on the same items", [self.verdict, self.means, self.table, *self.notes]


def compare(scores: Any, by: str = "model", *, score: str = "score", item: str = "item", cluster: str | None = None,
            reference: str | None = None, family: ScoreFamily | None = None, adjust: str = "holm",
            level: float = 0.95) -> ScoreComparison:
    """Which levels of ``by`` score higher on the same items.

    Two analyses of one question. The paired difference: mean over items of the difference of the two levels' mean
    scores (over epochs), with a t interval whose error counts ``cluster`` as the unit (items by default). The mixed
    model: items as random effects (and item × level where items were answered more than once), family by the kind of
    score, differences of means averaged over the items.

    Parameters
    ----------
    scores : table
        One row an answer: ``by``, ``score``, ``item``; a ``task`` column makes items distinct and is a fixed effect.
        What :func:`canopy_stats.read_inspect` and :func:`canopy_stats.read_lm_eval` give, or your own.
    cluster : str, optional
        A column whose levels hold items that hang together, such as the passage that questions are about.
    reference : str, optional
        Compare each level with this one; None compares all pairs.
    family : str, optional
        None looks at the scores: 0/1 binomial; whole numbers, at most ten, cumulative; within (0, 1) beta, with zeros
        or ones ordbeta; else gaussian.
    adjust : {"holm", "bonferroni", "fdr_bh", "none"}
        Of both columns of p-values.

    Raises
    ------
    UserError
        A column that is missing, scores that are missing or no numbers, several metrics at once, fewer than two levels
        or three items in common.
    """
    check_level(level)
    data, metric = _prepared(as_pandas(scores), by, score, item, cluster)
    pairs = _pairs(data, by, reference)
    kind = family or _kind(data["score"])
    fit = _fitted(data, kind)
    found = pd.DataFrame([_paired(data, a, b, level) for a, b in pairs])
    modelled = _modelled(fit, pairs)
    table = pd.concat([found, modelled], axis=1)
    table.insert(list(table.columns).index("conf_low"), "p_adjusted", _adjusted(table["p_value"], adjust))
    table["model_p_adjusted"] = _adjusted(table.pop("model_p_value"), adjust)
    table["agree"] = _agree(table, 1 - level)
    table["items_for_2_points"] = table.pop("needed")
    average = means(fit, "level", marginal=kind != "gaussian").rename(columns={"level": by})
    return ScoreComparison(table, average, kind, _verdict(table, by, metric, level), _notes(data, table, kind), fit)


# --- the data ---------------------------------------------------------------------------------------------------


def _prepared(data: pd.DataFrame, by: str, score: str, item: str, cluster: str | None) -> tuple[pd.DataFrame, str]:
    """level, item, task, cluster, score: checked; and the metric's name."""
    wanted = [by, score, item, *([cluster] if cluster else [])]
    if missing := [name for name in wanted if name not in data]:
        known = ", ".join(map(str, data.columns))
        raise UserError(f"The scores have no column {missing[0]!r}; their columns are {known}.")
    if "metric" in data and data["metric"].nunique() > 1:
        raise UserError(f"The scores hold several metrics ({', '.join(sorted(map(str, data['metric'].unique())))}); "
                        "keep one: scores[scores.metric == '...'].")
    if "filter" in data and data["filter"].nunique() > 1:
        filters = ", ".join(sorted(map(str, data["filter"].unique())))
        raise UserError(f"The scores hold several filters ({filters}); keep one.")
    if data[wanted].isna().any().any():
        worst = data[wanted].isna().sum().idxmax()
        raise UserError(f"{int(data[worst].isna().sum())} rows have no {worst}; drop them, or fill them in, knowingly.")
    if data[score].dtype.kind in "cmM":
        raise UserError(f"The scores are of the type {data[score].dtype}; give real numbers.")
    numbers = pd.to_numeric(data[score], errors="coerce").astype(float)
    if not np.isfinite(numbers).all():
        first = data[score].tolist()[int(np.argmin(np.isfinite(numbers)))]
        raise UserError(f"The score {first!r} is no number. Turn grades into numbers first (C and I of inspect_ai are "
                        "1 and 0).")
    task = data["task"].astype(str) if "task" in data and item != "task" else pd.Series("", index=data.index)
    items = task + "/" + data[item].astype(str)
    kept = pd.DataFrame({"level": data[by].astype(str), "item": items, "task": task, "score": numbers,
                         "cluster": task + "/" + data[cluster].astype(str) if cluster else items})
    metric = str(data["metric"].iloc[0]) if "metric" in data and len(data) else score
    return kept.reset_index(drop=True), metric


def _pairs(data: pd.DataFrame, by: str, reference: str | None) -> list[tuple[str, str]]:
    """Levels to compare, first minus second."""
    levels = list(dict.fromkeys(data["level"]))
    if len(levels) < 2:
        raise UserError(f"{by} has {'one level, ' + levels[0] if levels else 'no level'}; a comparison needs two.")
    if reference is not None and reference not in levels:
        raise UserError(f"reference is {reference!r}; the levels of {by} are {', '.join(levels)}.")
    if reference is not None:
        return [(other, reference) for other in levels if other != reference]
    return [(b, a) for a, b in combinations(levels, 2)]


def _kind(score: pd.Series) -> ScoreFamily:
    """The family that fits the scores' kind."""
    values = np.unique(score.to_numpy())
    if set(values) <= {0.0, 1.0}:
        return "binomial"
    if np.all(values == np.round(values)) and len(values) <= MOST_CATEGORIES:
        return "cumulative"
    if values.min() >= 0 and values.max() <= 1:
        return "ordbeta" if values.min() == 0 or values.max() == 1 else "beta"
    return "gaussian"


# --- two analyses -----------------------------------------------------------------------------------------------


def _paired(data: pd.DataFrame, a: str, b: str, level: float) -> dict[str, Any]:
    """Mean of the items' differences, with the error of a mean of clusters (ratio of sums)."""
    wide = data[data["level"].isin([a, b])].pivot_table(index=["cluster", "item"], columns="level", values="score")
    both = (wide[a] - wide[b]).dropna()
    if len(both) < 3:
        raise UserError(f"{a} and {b} have {len(both)} items in common; a paired comparison needs three and more. Are "
                        "items named alike?")
    estimate = both.mean()
    sums = (both - estimate).groupby(level="cluster").sum()
    clusters = len(sums)
    if clusters < 3:
        raise UserError(f"{a} and {b} have {clusters} clusters in common; an error needs three and more.")
    error = float(np.sqrt(clusters / (clusters - 1) * (sums**2).sum()) / len(both))
    df = clusters - 1
    statistic = estimate / error if error else np.copysign(np.inf, estimate) if estimate else 0.0
    half = stats.t.ppf((1 + level) / 2, df) * error
    needed = _items_needed(error * np.sqrt(len(both)), data["score"])
    return {"contrast": f"{a} - {b}", "items": len(both), "estimate": estimate, "std_error": error, "df": df,
            "statistic": statistic, "p_value": 2 * stats.t.sf(abs(statistic), df), "conf_low": estimate - half,
            "conf_high": estimate + half, "needed": needed}


def _items_needed(spread: float, score: pd.Series) -> float:
    """Items that show a difference of two hundredths of the range, two-sided 5%, power 80%, by the normal law."""
    width = 1.0 if score.between(0, 1).all() else float(score.max() - score.min())
    both = stats.norm.ppf(0.975) + stats.norm.ppf(POWER)
    return float(np.ceil((both * spread / (POINTS * width)) ** 2))


def _fitted(data: pd.DataFrame, kind: ScoreFamily) -> Fit:
    """score ~ level + task + (1|item), and item × level where answers repeat."""
    task = " + task" if data["task"].nunique() > 1 else ""
    again = " + (1|item:level)" if data.duplicated(["level", "item"]).any() else ""
    formula = f"score ~ level{task} + (1|item){again}"
    if kind == "gaussian":
        return lmm(formula, data)
    return glmm(formula, data.astype({"score": int}) if kind == "cumulative" else data, family=kind)


def _modelled(fit: Fit, pairs: list[tuple[str, str]]) -> pd.DataFrame:
    """The model's differences of means over all items."""
    levels = list(means(fit, "level")["level"])
    weights = {f"{a} - {b}": [float(x == a) - float(x == b) for x in levels] for a, b in pairs}
    found = means(fit, "level", contrasts=weights, adjust="none", marginal=True)
    return pd.DataFrame({"model_estimate": found["estimate"], "model_std_error": found["std_error"],
                         "model_p_value": found["p_value"]})


def _adjusted(p: pd.Series, adjust: str) -> np.ndarray:
    if adjust not in METHODS:
        raise UserError(f"adjust is {adjust!r}; choose 'holm', 'bonferroni', 'fdr_bh' or 'none'.")
    return adjusted_p(p, adjust)


# --- words ------------------------------------------------------------------------------------------------------


def _agree(table: pd.DataFrame, alpha: float) -> pd.Series:
    """Whether both analyses find a difference of the same sign, or neither finds one."""
    first, second = table["p_adjusted"] < alpha, table["model_p_adjusted"] < alpha
    same = np.sign(table["estimate"]) == np.sign(table["model_estimate"])
    agree: pd.Series = (first == second) & (same | ~first)
    return agree


def _verdict(table: pd.DataFrame, by: str, metric: str, level: float) -> str:
    clear = table[(table["p_adjusted"] < 1 - level) & table["agree"]]
    found = "; ".join(f"{row.contrast}: {row.estimate:+.3g} [{row.conf_low:.3g}, {row.conf_high:.3g}]"
                      for row in clear.itertuples())
    split = table[~table["agree"]]["contrast"]
    first = f"both analyses find {found}." if found else "no difference that both analyses find."
    words = [f"{metric} by {by}: {first}"]
    if len(split):
        words.append(f"They disagree on {', '.join(split)}: quote neither alone.")
    return " ".join(words)


def _notes(data: pd.DataFrame, table: pd.DataFrame, kind: str) -> tuple[str, ...]:
    worst = table.iloc[int(table["items_for_2_points"].to_numpy().argmax())]
    notes = [f"To see 2 points at 80% you need about {table['items_for_2_points'].max():,.0f} items "
             f"({worst['contrast']}); there are {worst['items']:,}.",
             f"The model is {kind} with random items; its differences are of means over all items."]
    counts = data.groupby("level")["item"].nunique()
    if counts.nunique() > 1:
        notes.append("Levels answered different numbers of items: " + ", ".join(
            f"{name} {count:,}" for name, count in counts.items()) + ". The paired difference uses the common ones.")
    return tuple(notes)
