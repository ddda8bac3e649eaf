"""Specification curve (Simonsohn, Simmons & Nelson 2020): the slope's change under every defensible specification."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from canopy_stats.mixed import Fit, glmm, lmm
from canopy_stats.mixed.formulas.frames import as_pandas
from canopy_stats.mixed.inference.parallel import fork_map
from canopy_stats.notebook import Shown
from canopy_stats.panel_rows import check_rows
from canopy_stats.schema import UserError
from canopy_stats.slope.coefficients import covariance, degrees_of_freedom, names
from canopy_stats.slope.columns import BASE
from canopy_stats.slope.prepare import SQUEEZE
from canopy_stats.slope.specifications import (
    DIMENSIONS,
    Choices,
    EmbeddedPanel,
    Grid,
    Specification,
    is_paper,
    make_grid,
)

SCALE = "SD of the response per SD of the rate"
LOGIT, LINEAR = "logit per SD of the rate", "response per SD of the rate"
NEAR = 0.01
"""Fits this close to their optimum, in standard errors, are used even where the stricter certificate is withheld."""
_FAILURES = (ValueError, ArithmeticError, np.linalg.LinAlgError, RuntimeError)


@dataclass(frozen=True)
class SpecificationCurve(Shown):
    """Estimates of the slope's change, tuned minus base, under every specification of a grid.

    ``table`` has one row per specification, in the order of the grid: its number ``spec``, a column for each choice,
    ``estimate``, ``std_error``, ``conf_low``, ``conf_high`` on a common scale (standard deviations of the response per
    standard deviation of the rate), ``df``, ``statistic`` (estimate over error) and ``p_value``, ``native`` and
    ``native_std_error`` on the model's own ``native_scale``, ``usable``, ``reason`` (why not), ``converged``,
    ``distance`` to the optimum in standard errors, ``singular``, ``certificate``, ``n`` rows, ``squeezed`` responses,
    ``paper`` (the paper's own model), ``formula``, ``dispersion`` and ``seconds``. Usable are the certified fits and
    those within a hundredth of a standard error of their optimum. Intervals and p-values are Student's, with
    Satterthwaite's degrees of freedom.

    Slopes of beta models are converted to the response by its mean y(1 - y). That makes models comparable; it does not
    make one estimand of two: on the logit scale a difference of slopes depends on where base and tuned stand.
    """

    table: pd.DataFrame
    options: Mapping[str, tuple[str, ...]]
    left_out: tuple[str, ...]
    level: float
    grid: Grid = field(repr=False)

    @property
    def agreement(self) -> pd.DataFrame:
        """How many specifications agree in sign and in significance, over all and by choice (see ``agreement``)."""
        return agreement(self.table, self.level)

    def _shown(self) -> tuple[str, list[Any]]:
        return f"Specification curve, {len(self.table)} specifications", [self.words, self.agreement]

    @property
    def words(self) -> str:
        """The curve in a paragraph."""
        return describe(self)

    def fit(self, spec: int) -> Fit:
        """The fitted model of one specification, for a closer look; raises what made it fail."""
        return fit_specification(self.grid, self.grid.specifications[spec])


def specification_curve(panel: pd.DataFrame | Mapping[str, pd.DataFrame], *, choices: Choices | None = None,
                        level: float = 0.95, workers: int = 1) -> SpecificationCurve:
    """Fit every combination of the modelling choices that apply to a panel.

    Parameters
    ----------
    panel : DataFrame, or mapping embedder -> DataFrame
        Panels of the same runs under several embedders make the embedder a choice.
    choices : mapping, optional
        For some dimensions (response, model, rate, length, task, family, slopes, support) the options to keep, by
        name, or a mapping from your own names to formula terms (response: to a function of the panel), such as
        ``{"length": {"none": "", "linear": "N_bar"}, "model": ["beta"]}``. The others keep all their options.
    workers : int
        Processes; the answer does not depend on their number.
    """
    panels = _panels(panel)
    if not panels:
        raise UserError("specification_curve() needs at least one panel.")
    for one in panels.values():
        check_rows(one)
    grid = make_grid(panels, choices)
    rows = fork_map(lambda i: _row(grid, i, level), len(grid.specifications), workers)
    return SpecificationCurve(pd.DataFrame(rows), grid.options, grid.left_out, level, grid)


def _panels(given: Any) -> dict[str, pd.DataFrame]:
    """One table under its embedder's name, or a mapping of tables as it is."""
    if isinstance(given, Mapping):
        return {str(name): as_pandas(one) for name, one in given.items()}
    panel = as_pandas(given)
    return {_embedder(panel): panel}


def _embedder(panel: pd.DataFrame) -> str:
    if "embedder" not in panel or panel["embedder"].nunique() != 1:
        return "panel"
    return str(panel["embedder"].iloc[0])


# --- one specification ------------------------------------------------------------------------------------------


def fit_specification(grid: Grid, spec: Specification) -> Fit:
    """Fit one specification to its rows."""
    rows = specification_rows(grid.sources[spec.choices["embedder"]], spec)
    if spec.dispersion is None:
        return lmm(spec.formula, rows, reference={"model_variant": BASE})
    family = spec.choices["model"]
    return glmm(spec.formula, rows, family=family, dispersion=spec.dispersion, reference={"model_variant": BASE},
                squeeze=SQUEEZE if family == "beta" else None)


def specification_rows(source: EmbeddedPanel, spec: Specification) -> pd.DataFrame:
    """The rows that a specification is fitted to, with its response as ``y``. UserError where the response is NaN."""
    data = source.data.assign(y=source.responses[spec.choices["response"]])
    return data[data["shared"]] if spec.choices["support"] == "shared" else data


def _row(grid: Grid, number: int, level: float) -> dict[str, Any]:
    """One row of the table; what made a fit fail is its ``reason``."""
    spec = grid.specifications[number]
    source = grid.sources[spec.choices["embedder"]]
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = _found(fit_specification(grid, spec), source, spec, level)
        except _FAILURES as error:
            found = {**_NOTHING, "n": len(specification_rows(source, spec)), "reason": " ".join(str(error).split())}
    return {"spec": number, **spec.choices, **found, "paper": is_paper(spec.choices), "formula": spec.formula,
            "dispersion": spec.dispersion or "", "seconds": time.perf_counter() - started}


_NAN = float("nan")
_NOTHING: dict[str, Any] = {
    **dict.fromkeys(["estimate", "std_error", "df", "statistic", "p_value", "conf_low", "conf_high", "native",
                     "native_std_error"], _NAN), "native_scale": "",
    "usable": False, "reason": "", "converged": False, "distance": _NAN, "singular": False, "certificate": "",
    "n": 0, "squeezed": 0}


def _found(fit: Fit, source: EmbeddedPanel, spec: Specification, level: float) -> dict[str, Any]:
    """What one fit says of the slope's change."""
    value, error, df = slope_difference(fit, source.tuned)
    y = source.responses[spec.choices["response"]]
    factor = common_factor(y, linear=spec.dispersion is None)
    half = float(stats.t.ppf((1 + level) / 2, df)) * error
    certificate = str(fit.certificate).splitlines()[0]
    reason = _reason(fit, error, certificate)
    squeezed = int(((y[fit.design.data.index] - fit.design.y).abs() > 0).sum())
    return {
        "estimate": factor * value, "std_error": factor * error, "df": df,
        "statistic": value / error if error > 0 else _NAN,
        "p_value": float(2 * stats.t.sf(abs(value / error), df)) if error > 0 else _NAN,
        "conf_low": factor * (value - half), "conf_high": factor * (value + half),
        "native": value, "native_std_error": error,
        "native_scale": LINEAR if spec.dispersion is None else LOGIT, "usable": not reason, "reason": reason,
        "converged": fit.converged, "distance": fit.certificate.distance, "singular": fit.singular,
        "certificate": certificate, "n": fit.nobs, "squeezed": squeezed,
    }


def _reason(fit: Fit, error: float, certificate: str) -> str:
    """Why a fit is not used; empty where it is."""
    if not error > 0:
        return "the interaction has no standard error: it cannot be told from the other terms on these rows"
    near = fit.certificate.hessian_positive and fit.certificate.distance < NEAR
    inside = all(derivative <= 0 for derivative in fit.certificate.boundary.values())
    return "" if near and inside else f"not certified: {certificate}"


def slope_difference(fit: Fit, tuned: str) -> tuple[float, float, float]:
    """Coefficient of R_sc x variant, its standard error and degrees of freedom; NaN where it is aliased."""
    known, name = names(fit), f"R_sc:model_variant[T.{tuned}]"
    if name not in known:
        return _NAN, _NAN, _NAN
    row = np.eye(len(known))[[known.index(name)]]
    error = float(np.sqrt((row @ covariance(fit) @ row.T)[0, 0]))
    df = float(degrees_of_freedom(fit, row)[0]) if error > 0 else _NAN
    return float((row @ fit.beta)[0]), error, df


def common_factor(y: pd.Series, *, linear: bool) -> float:
    """From a model's own scale to standard deviations of the response y; a logit counts y(1 - y), averaged."""
    return (1.0 if linear else float((y * (1 - y)).mean())) / float(y.std())


# --- what they say together -------------------------------------------------------------------------------------


def agreement(table: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """Counts over all specifications (``choice`` 'all') and by option of each choice that has several.

    Columns: choice, option, n, usable, positive, negative, significant_positive, significant_negative,
    not_significant, agree (share of the usable ones with the sign of the overall median), and median, lowest and
    highest estimate.
    """
    sign = _sign(table)
    several = [name for name in DIMENSIONS if name in table and table[name].nunique() > 1]
    parts = [("all", "all", table)]
    parts += [(name, str(option), rows) for name in several for option, rows in table.groupby(name, sort=False)]
    return pd.DataFrame([{"choice": choice, "option": option, **_counts(rows, sign, level)}
                         for choice, option, rows in parts])


def _sign(table: pd.DataFrame) -> float:
    usable = table.loc[table["usable"], "estimate"]
    return float(np.sign(usable.median())) if len(usable) else _NAN


def _counts(rows: pd.DataFrame, sign: float, level: float) -> dict[str, Any]:
    good = rows[rows["usable"]]
    estimate, clear = good["estimate"], good["p_value"] < 1 - level
    return {
        "n": len(rows), "usable": len(good), "positive": int((estimate > 0).sum()),
        "negative": int((estimate < 0).sum()), "significant_positive": int(((estimate > 0) & clear).sum()),
        "significant_negative": int(((estimate < 0) & clear).sum()), "not_significant": int((~clear).sum()),
        "agree": float((np.sign(estimate) == sign).mean()) if len(good) else _NAN,
        "median": float(estimate.median()), "lowest": float(estimate.min()), "highest": float(estimate.max()),
    }


def describe(curve: SpecificationCurve) -> str:
    """The curve in a paragraph: counts, range, what it hangs on, failures, and what was left out."""
    counts = agreement(curve.table, curve.level)
    whole = counts.iloc[0]
    if not whole["usable"]:
        reason = curve.table["reason"].iloc[0]
        return f"None of the {whole['n']} specifications could be used. The first one's reason: {reason}"
    more = whole["positive"] >= whole["negative"]
    word, agree = ("larger", whole["positive"]) if more else ("smaller", whole["negative"])
    clear = whole["significant_positive" if more else "significant_negative"]
    against = whole["significant_negative" if more else "significant_positive"]
    sentences = [
        f"In {agree} of {whole['usable']} specifications the slope is {word} after fine-tuning, in {clear} of them"
        f" significantly (p < {1 - curve.level:.2g}); {against} say the opposite significantly and"
        f" {whole['not_significant']} are not significant.",
        f"The difference is {whole['median']:.2f} {SCALE} in the median, from {whole['lowest']:.2f} to"
        f" {whole['highest']:.2f}.", *_paper(curve.table), *_movers(counts), *_failed(curve.table),
        "The specifications share their data: the counts describe how much hangs on the choices, they are no test. None"
        " of them frees levels and slopes in every family and task at once, as the robust slope does.",
    ]
    left_out = f"Left out: {' '.join(curve.left_out)}" if curve.left_out else ""
    return " ".join(filter(None, [*sentences, left_out]))


def _paper(table: pd.DataFrame) -> list[str]:
    rows = table[table["paper"] & table["usable"]]
    ranks = table.loc[table["usable"], "estimate"].rank(method="min", ascending=False)
    told = [f"{row['estimate']:.2f} ({row['response']}; the {_ordinal(int(ranks[i]))} largest)"
            for i, row in rows.iterrows()]
    return [f"The paper's own choices give {', '.join(told)}."] if told else []


def _ordinal(n: int) -> str:
    end = "th" if n % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{end}"


def _movers(counts: pd.DataFrame) -> list[str]:
    """The choice whose options differ most in their median estimate, and in their share of significant results."""
    by = counts[(counts["choice"] != "all") & (counts["usable"] > 0)]
    if by.empty:
        return []
    clear = 1 - by["not_significant"] / by["usable"]
    size = _most(by, by["median"], "{:.2f} with {}")
    share = _most(by, 100 * clear, "{:.0f}% with {}")
    return [f"The size hangs most on the choice of {size[0]} (median {size[1]}), significance on that of {share[0]}"
            f" (significant: {share[1]})."]


def _most(by: pd.DataFrame, values: pd.Series, form: str) -> tuple[str, str]:
    """The choice whose options' values spread most, and its options in words."""
    spread = values.groupby(by["choice"], sort=False).agg(lambda v: v.max() - v.min())
    choice = str(spread.idxmax())
    here = by["choice"] == choice
    return choice, ", ".join(form.format(v, o) for v, o in zip(values[here], by.loc[here, "option"], strict=True))


def _failed(table: pd.DataFrame) -> list[str]:
    bad = table[~table["usable"]]
    if bad.empty:
        return []
    reason = bad["reason"].value_counts()
    return [f"{len(bad)} of {len(table)} could not be used (most often: {reason.index[0]})."]
