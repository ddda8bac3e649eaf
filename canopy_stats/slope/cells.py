"""The joint model behind the robust slope, and each cell's slopes with their covariance.

A mixed model of diversity in which base and tuned share one smooth surface over the log rate and the log length,
additive curves and their interaction; every family × task cell has its own level and its own straight-line deviation in
the rate for each variant. The surface can bend in any way that both variants share, so that neither curvature nor a law
of rate and length together (total entropy, their product, is one) looks like a change of slope, while the difference of
slopes is free in every cell. Where a cell's variants share no lengths, its slope may change with the length in a way of
its own. Beta, or ordered beta (Kubinec 2023) where diversity is exactly 0 or 1.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.special import expit

from canopy_stats.mixed import AliasedWarning, Fit, glmm
from canopy_stats.mixed.formulas.fixed import encode_fixed
from canopy_stats.slope.clusters import Influence, influence
from canopy_stats.slope.coefficients import covariance
from canopy_stats.slope.prepare import SQUEEZE

Array = np.ndarray
LENGTH_DF = 3
SURFACE = "ns(log_R, 2):ns(log_N, 2)"
"""Interaction of rate and length, the smallest that keeps the level under several laws (analysis/rival_study.py);
three degrees in the rate widen intervals by a fifth where the rates of base and tuned lie far apart."""
OWN = "cell:x_own"
"""Where a cell's variants share no lengths, what the rate does at another length is the cell's own to say: the shared
surface would bridge the gap by what other cells do, with an error that no interval counts."""
STEP = 1e-4
PARTS = ("base", "tuned", "difference")


@dataclass(frozen=True)
class CellSlopes:
    """Slopes of K cells: ``values`` (2K,), base's then tuned's, and their sampling covariance (2K, 2K).

    ``names`` has task, model_name and the number of rows within the shared rates; ``influence`` what each prompt adds
    to the errors of the values, from which slopes of different families err together where prompts do.
    """

    names: pd.DataFrame
    values: Array
    covariance: Array
    influence: Influence

    def plus(self, error: Array) -> CellSlopes:
        """The slopes with further independent errors of these standard deviations (2K,)."""
        return replace(self, covariance=self.covariance + np.diag(error**2))

    def part(self, which: str) -> tuple[Array, Array]:
        """Values (K,) of 'base', 'tuned' or 'difference' and their covariance (K, K), prompts taken as clusters."""
        rows = self._rows(which)
        return rows @ self.values, self.influence.clustered(rows, rows @ self.covariance @ rows.T)

    def sampling_df(self, which: str, kept: Array | slice = slice(None)) -> Callable[[Array], float]:
        """Degrees of freedom, given weights, of the sampling variance of a mean of the cells ``kept``."""
        return self.influence.sampling_df(self._rows(which)[kept])

    def _rows(self, which: str) -> Array:
        k = len(self.names)
        eye, none = np.eye(k), np.zeros((k, k))
        return np.hstack({"base": (eye, none), "tuned": (none, eye), "difference": (-eye, eye)}[which])


def curve_df(tasks: int) -> int:
    """Degrees of freedom of the shared curve: two for each task, four to eight."""
    return int(np.clip(2 * tasks, 4, 8))


def with_terms(data: pd.DataFrame, centre: float, scale: float, apart: Array | None = None) -> pd.DataFrame:
    """Columns of the joint model beside ``tun``: cell, x (the rate in SDs of the observed one), x_tun; and N_apart and
    x_own, the centred log length and its product with the centred rate in the rows ``apart`` (n,), zero elsewhere."""
    x = (data["R_cal"] - centre) / scale
    cell = data["task"].astype(str) + " / " + data["model_name"].astype(str)
    there = np.zeros(len(data)) if apart is None else apart.astype(float)
    found = data.assign(cell=cell, x_mid=x.groupby(cell).transform("mean"),
                        N_apart=there * (data["log_N"] - data["log_N"].mean()))
    return _with_rate(found, x)


def _with_rate(data: pd.DataFrame, x: pd.Series) -> pd.DataFrame:
    """The columns that follow from the rate."""
    return data.assign(x=x, x_tun=x * data["tun"], x_own=(x - data["x_mid"]) * data["N_apart"])


def fit_cells(data: pd.DataFrame) -> Fit:
    """The joint model on rows with the columns of :func:`with_terms`, log_R, log_N and D_cal."""
    mean = ["0 + cell", "cell:tun", f"ns(log_R, {curve_df(data['task'].nunique())})", "cell:x", "cell:x_tun",
            f"ns(log_N, {LENGTH_DF})", f"ns(log_N, {LENGTH_DF}):tun", SURFACE,
            *([OWN] if (data["N_apart"] != 0).any() else [])]
    dispersion = "~ tun*task" if data["task"].nunique() > 1 else "~ tun"
    dispersion += " + model_name" * (data["model_name"].nunique() > 1) + " + x + x_tun"
    extreme = bool(((data["D_cal"] <= 0) | (data["D_cal"] >= 1)).any())
    family, squeeze = ("ordbeta", None) if extreme else ("beta", SQUEEZE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AliasedWarning)
        return glmm(f"D_cal ~ {' + '.join(mean)} + (1|prompt_uid)", data, family=family, dispersion=dispersion,
                    squeeze=squeeze)


def own_interactions(fit: Fit, cells: pd.Series) -> Array:
    """What each of K cells has of its own in the slope's change with the log length (K,); zero where it has nothing."""
    return np.nan_to_num([float(fit.params.get(f"cell[{cell}]:x_own", 0.0)) for cell in cells])


def cell_slopes(fit: Fit, rows: pd.DataFrame, centre: float, scale: float) -> tuple[CellSlopes, CellSlopes]:
    """Average derivative in x of the linear predictor, and of the mean, over ``rows``, by cell, for each variant.

    Every row is taken once as base and once as tuned, so that both are averaged over the same rates and lengths.
    """
    names = rows.groupby(["task", "model_name"], observed=True).size().reset_index(name="rows")
    code = rows.groupby(["task", "model_name"], observed=True).ngroup().to_numpy()
    average = np.equal.outer(np.arange(len(names)), code) / names["rows"].to_numpy()[:, None]
    designs = _designs(fit, rows, centre, scale)
    names, prompts = names.astype({"task": str, "model_name": str}), influence(fit)
    link, response = (_averaged(fit, names, average, designs, prompts, on_response) for on_response in (False, True))
    return link, response


def _designs(fit: Fit, rows: pd.DataFrame, centre: float, scale: float) -> list[tuple[Array, Array]]:
    """Design (n, p) of the rows as base and as tuned, each with its derivative in x; all are encoded at once, since
    most of the time goes into the formula and not into its rows."""
    moved = [_as_variant(rows, tun, centre, scale, move) for tun in (0.0, 1.0) for move in (0.0, STEP, -STEP)]
    whole = encode_fixed(fit.design.fixed, pd.concat(moved, ignore_index=True))
    parts = whole.reshape(2, 3, len(rows), -1)
    return [(here, (ahead - behind) / (2 * STEP)) for here, ahead, behind in parts]


def _averaged(fit: Fit, names: pd.DataFrame, average: Array, designs: list[tuple[Array, Array]],
              prompts: Array, response: bool) -> CellSlopes:
    """Cell averages of the rows' derivatives, with their covariance by the delta method; ``prompts`` (P, p) are the
    prompts' influences on the coefficients."""
    cutpoints = fit.thresholds.to_numpy(dtype=float)
    parts = [_derivative(x, dx, fit.beta, cutpoints, response) for x, dx in designs]
    jacobian = np.vstack([average @ gradient for _, gradient in parts])
    values = np.concatenate([average @ value for value, _ in parts])
    return CellSlopes(names, values, jacobian @ covariance(fit) @ jacobian.T,
                      Influence(prompts @ jacobian.T, names["task"].to_numpy()))


def _as_variant(rows: pd.DataFrame, tun: float, centre: float, scale: float, move: float) -> pd.DataFrame:
    """The rows as base (0) or tuned (1), their rates moved by ``move`` standard deviations."""
    rate = rows["R_cal"] + move * scale
    log_r = rows["log_R"] + np.log(rate / rows["R_cal"])
    return _with_rate(rows.assign(tun=tun, log_R=log_r), (rate - centre) / scale)


def _derivative(x: Array, dx: Array, beta: Array, cutpoints: Array, response: bool) -> tuple[Array, Array]:
    """Derivative (n,) of each row's linear predictor or mean in the rate, and its gradient (n, p) in beta."""
    slope = dx @ beta
    if not response:
        return slope, dx
    first, second = _mean_derivatives(x @ beta, cutpoints)
    return first * slope, first[:, None] * dx + (second * slope)[:, None] * x


def _mean_derivatives(eta: Array, cutpoints: Array) -> tuple[Array, Array]:
    """First and second derivative (n,) of the mean response in eta, by differences exact to 1e-6."""
    ahead, here, behind = (_mean(eta + move, cutpoints) for move in (1e-3, 0.0, -1e-3))
    return (ahead - behind) / 2e-3, (ahead - 2 * here + behind) / 1e-6


def _mean(eta: Array, cutpoints: Array) -> Array:
    """Mean of beta, or of ordered beta: P(1) + P(neither) · expit(eta)."""
    if not len(cutpoints):
        return np.asarray(expit(eta))
    none, one = expit(cutpoints[0] - eta), expit(eta - cutpoints[1])
    return np.asarray(one + (1 - none - one) * expit(eta))
