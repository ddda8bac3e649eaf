"""What the robust slope says of panels that lie where the demo panel lies: its rates, lengths and errors of both,
hardly any lengths in common.

Usage: python analysis/demo_design_study.py [--panels 100] [--only NAME ...] [--workers 1] [--seed 20261130]
                                            [--out analysis/results/demo_design_study.json]
Panels are added to what the output holds, five at a time and each from its own random stream.

A cell's true log rates and lengths are normal with the demo's means and with its variances times their reliabilities;
errors are those of 24 rollouts with each row's jackknife covariance. Diversity follows one law for both variants,
fitted to the demo panel: a smooth surface of rate and length, or a curve of total entropy with levels; to it a change
of the slope is added. Rates of rejection and coverage come with 95% intervals (Clopper and Pearson), for each claim.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from typing import cast
from zlib import crc32

import numpy as np
import pandas as pd
from scipy import stats
from scipy.special import expit
from threadpoolctl import threadpool_limits

import canopy_stats as cs
from canopy_stats.mixed.formulas.fixed import encode_fixed
from canopy_stats.mixed.inference.parallel import fork_map
from canopy_stats.slope.cells import SURFACE
from canopy_stats.slope.prepare import prepare
from canopy_stats.slope.reliability import CELL, calibrated

RESULTS = Path(__file__).parent / "results" / "demo_design_study.json"
BATCH = 5
ROLLOUTS = 24
PRECISION = 300.0
LAWS = {"smooth": f"0 + cell + cell:tun + ns(log_R, 5) + ns(log_N, 3) + {SURFACE}",
        "total entropy": "0 + cell + cell:tun + ns(log_H, 4)"}
SCENARIOS = {"smooth, no change": ("smooth", 0.0), "total entropy, no change": ("total entropy", 0.0),
             "smooth, change of 0.4": ("smooth", 0.4)}
COLUMNS = ("claim", "corrected", "estimate", "std_error", "p_value", "conf_low", "conf_high")
DIVERSITY = (0.02, 0.98)
"""True diversities are held within; errors of D keep them inside (0, 1)."""


class Design:
    """The demo panel's places, errors and laws."""

    def __init__(self) -> None:
        self.panel = cs.load_demo_panel()
        prepared = prepare(self.panel)
        found = calibrated(prepared.data)
        self.scale, self.centre = prepared.rate_sd, float(self.panel["R_bar"].mean())
        self.data = self._placed(found.data, found.data[["log_R", "log_N"]].to_numpy())
        self.where, self.spread = self._truths(found.table)
        self.root = _roots(self.panel)
        self.fits = {name: cs.glmm(f"D_cal ~ {law} + (1|prompt_uid)", self.data, family="beta",
                                   dispersion="~ tun*task", squeeze=1e-6) for name, law in LAWS.items()}

    def _placed(self, data: pd.DataFrame, w: np.ndarray) -> pd.DataFrame:
        cell = data["task"].astype(str) + " / " + data["model_name"].astype(str)
        return data.assign(cell=cell, log_R=w[:, 0], log_N=w[:, 1], log_H=w.sum(axis=1))

    def _truths(self, table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Means (n, 2) of each row's cell and roots (n, 2, 2) of the truth's covariance there."""
        observed = np.log(self.panel[["R_bar", "N_bar"]].to_numpy())
        keys = ["task", *CELL]
        shares = {tuple(map(str, row[:3])): np.array(row[3:], dtype=float)
                  for row in table[[*keys, "reliability_R", "reliability_N"]].itertuples(index=False, name=None)}
        where, spread = np.empty((len(observed), 2)), np.empty((len(observed), 2, 2))
        for key, rows in self.panel.groupby(keys, observed=True).indices.items():
            share = shares[tuple(map(str, cast(tuple[object, ...], key)))]
            sd = np.sqrt(observed[rows].var(axis=0) * share)
            r = np.corrcoef(self.data[["log_R", "log_N"]].to_numpy()[rows].T)[0, 1]
            where[rows] = observed[rows].mean(axis=0)
            spread[rows] = np.linalg.cholesky(np.outer(sd, sd) * np.array([[1, 0.9 * r], [0.9 * r, 1]]))
        return where, spread

    def draw(self, law: str, change: float, rng: np.random.Generator) -> pd.DataFrame:
        """One panel."""
        fit, n = self.fits[law], len(self.panel)
        truth = self._placed(self.data, self.where + np.einsum("nij,nj->ni", self.spread, rng.standard_normal((n, 2))))
        rate, length = np.exp(truth[["log_R", "log_N"]].to_numpy()).T
        code, names = pd.factorize(self.panel["prompt_uid"])
        prompt = float(fit.varcorr()["sd_or_corr"].iloc[0]) * rng.standard_normal(len(names))[code]
        moved = change * (rate - self.centre) / self.scale * truth["tun"].to_numpy()
        mean = expit(encode_fixed(fit.design.fixed, truth) @ fit.beta + prompt + moved)
        d = np.clip(rng.beta(mean * PRECISION, (1 - mean) * PRECISION), *DIVERSITY)
        return self._observed(np.column_stack([d, rate, length]), rng)

    def _observed(self, truth: np.ndarray, rng: np.random.Generator) -> pd.DataFrame:
        """Means over rollouts with the jackknife columns, from the truth (n, 3)."""
        draws = np.sqrt(ROLLOUTS) * np.einsum("nij,nmj->nmi", self.root, rng.standard_normal(
            (len(truth), ROLLOUTS, 3)))
        error = draws.mean(axis=1)
        centred = draws - error[:, None]
        cov = np.einsum("nmi,nmj->nij", centred, centred) / (ROLLOUTS * (ROLLOUTS - 1))
        d, rate, length = np.maximum(truth + error, 0.1 * truth).T
        return self.panel.assign(
            D=np.minimum(d, 0.99), R_bar=rate, N_bar=length, se_D=np.sqrt(cov[:, 0, 0]), se_R=np.sqrt(cov[:, 1, 1]),
            se_N=np.sqrt(cov[:, 2, 2]), cov_DR=cov[:, 0, 1], cov_DN=cov[:, 0, 2], cov_RN=cov[:, 1, 2])


def _roots(panel: pd.DataFrame) -> np.ndarray:
    """Roots (n, 3, 3) of the rows' error covariances of D, R and N."""
    cov = panel[["se_D", "cov_DR", "cov_DN", "cov_DR", "se_R", "cov_RN", "cov_DN", "cov_RN", "se_N"]].to_numpy(float)
    cov[:, [0, 4, 8]] **= 2
    values, vectors = np.linalg.eigh(cov.reshape(-1, 3, 3))
    roots: np.ndarray = vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :]
    return roots


def one_panel(design: Design, scenario: str, stream: np.random.SeedSequence) -> list[list[object]]:
    """The :data:`COLUMNS` of each claim, corrected and not."""
    panel = design.draw(*SCENARIOS[scenario], np.random.default_rng(stream))
    rows: list[list[object]] = []
    for correct in (True, False):
        claims = cs.slope_change(panel, model="robust", correct=correct).claims
        for row in [] if claims is None else claims.assign(corrected=correct)[list(COLUMNS)].to_numpy().tolist():
            rows.append([round(v, 5) if isinstance(v, float) else v for v in row])
    return rows


def summary(panels: list[list[list[object]]], true: float) -> list[dict[str, object]]:
    """Mean, spread, rejection and coverage of each claim."""
    table = pd.DataFrame([row for rows in panels for row in rows], columns=list(COLUMNS))
    found = []
    for (claim, corrected), part in table.groupby(["claim", "corrected"], sort=False):
        line: dict[str, object] = {"claim": claim, "corrected": corrected, "panels": len(part)}
        line |= {"mean": part["estimate"].mean(), "sd": part["estimate"].std(), "se": part["std_error"].mean(),
                 "half_width": (part["conf_high"] - part["conf_low"]).mean() / 2}
        for name, hits in (("rejects", part["p_value"] < 0.05),
                           ("covers", part["conf_low"].le(true) & part["conf_high"].ge(true))):
            ends = stats.binomtest(int(hits.sum()), len(hits)).proportion_ci(method="exact")
            line |= {name: hits.mean(), f"{name}_low": ends.low, f"{name}_high": ends.high}
        found.append({key: round(float(v), 4) if isinstance(v, float) else v for key, v in line.items()})
    return found


def extended(design: Design, name: str, rows: list[list[list[object]]], panels: int, seed: int,
             workers: int) -> list[list[list[object]]]:
    """The panels with up to five more."""
    streams = np.random.SeedSequence([seed, crc32(name.encode())]).spawn(panels)[len(rows) : len(rows) + BATCH]

    def task(i: int) -> list[list[object]]:
        with warnings.catch_warnings(), threadpool_limits(1):
            warnings.simplefilter("ignore")
            return one_panel(design, name, streams[i])

    more: list[list[list[object]]] = fork_map(task, len(streams), workers)
    return rows + more


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--panels", type=int, default=100)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="scenarios whose name contains one of these")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=20261130)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    kept = json.loads(args.out.read_text()) if args.out.is_file() else {}
    results = kept.get("rows", {}) if kept.get("seed") == args.seed else {}
    wanted = [name for name in SCENARIOS if not args.only or any(word in name for word in args.only)]
    design = Design()
    while todo := [name for name in wanted if len(results.get(name, [])) < args.panels]:
        name = min(todo, key=lambda n: len(results.get(n, [])))
        results[name] = extended(design, name, results.get(name, []), args.panels, args.seed, args.workers)
        found = {one: summary(rows, SCENARIOS[one][1]) for one, rows in results.items()}
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps({"seed": args.seed, "canopy_stats": cs.__version__, "columns": COLUMNS,
                                        "rows": results, "summary": found}) + "\n")
        print(name, len(results[name]), flush=True)
    print("\n" + pd.concat([pd.DataFrame(summary(rows, SCENARIOS[n][1])).assign(scenario=n)
                            for n, rows in results.items()]).to_string(index=False))


if __name__ == "__main__":
    main()
