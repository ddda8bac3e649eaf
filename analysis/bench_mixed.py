"""Time the mixed models beside their peers, in turn in one run: medians, ratios, peak memory, growth with rows.

Usage: python analysis/bench_mixed.py [--repeats 3] [--no-r] [--large] [--out results.json]
glmmTMB (through Rscript) and statsmodels are skipped where they are absent. One thread throughout.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

import canopy_stats.mixed as cs

REFERENCE = {"task": "completion", "model_variant": "base"}
PAPER = ("D ~ R_sc*model_variant + ns(invN_sc, df=4)*model_variant + task + (1|prompt_uid) + (1|model_name)",
         "~ model_variant*task + ns(invN_sc, df=3) + R_sc*model_variant + model_name")
INTERACTION = "D ~ R_sc*model_variant + N_bar + task + model_name + (1|prompt_uid)"
CROSSED = "D ~ R_sc*model_variant + N_bar + task + (1|prompt_uid) + (1|model_name)"
R_SCRIPT = """
suppressMessages({library(glmmTMB); library(splines)})
args <- commandArgs(TRUE); d <- read.csv(args[1])
for (f in c("task", "model_variant", "model_name")) d[[f]] <- factor(d[[f]])
d$task <- relevel(d$task, ref = "completion")
t0 <- proc.time()[["elapsed"]]
f <- glmmTMB(%s, d, family = beta_family(), dispformula = %s)
cat(proc.time()[["elapsed"]] - t0, as.numeric(logLik(f)), "\\n")
"""


def simulate_panel(families: int, prompts: int, seed: int = 1) -> pd.DataFrame:
    """A panel of families x prompts (per task) x 4 tasks x 2 variants rows, beta distributed, with prompt effects."""
    rng = np.random.default_rng(seed)
    tasks, variants = np.array(["coding", "completion", "math", "stories"]), np.array(["base", "instruct"])
    index = np.indices((4, prompts, families, 2)).reshape(4, -1)
    task, prompt, family, tuned = index
    prompt_effect = 0.28 * rng.standard_normal((4, prompts))
    rate = np.exp(-0.3 - 0.7 * tuned + 0.2 * task + 0.35 * rng.standard_normal(tuned.size))
    length = np.exp(5.5 + 0.3 * task + 0.2 * tuned + 0.3 * rng.standard_normal(tuned.size))
    r_sc = (rate - rate.mean()) / rate.std(ddof=1)
    eta = -1.3 + 0.2 * r_sc + 0.37 * r_sc * tuned + prompt_effect[task, prompt]
    eta += 0.05 * rng.standard_normal(families)[family] + 0.1 * task
    mu, phi = 1 / (1 + np.exp(-eta)), np.exp(3.5 + 0.4 * tuned + 0.1 * task)
    uid = np.char.add(np.char.add(tasks[task], "/"), prompt.astype(str))
    inverse = 1 / length
    return pd.DataFrame({
        "task": tasks[task], "prompt_uid": uid, "model_name": np.char.add("family", family.astype(str)),
        "model_variant": variants[tuned], "D": np.clip(rng.beta(mu * phi, (1 - mu) * phi), 1e-6, 1 - 1e-6),
        "R_bar": rate, "N_bar": length, "R_sc": r_sc, "invN_sc": (inverse - inverse.mean()) / inverse.std(ddof=1),
    })


def reference_panel() -> pd.DataFrame:
    """The 2,400 rows that the tests hold to R; a simulated panel of that size where the tests are not at hand."""
    path = Path(__file__).parents[1] / "tests" / "golden" / "panels" / "panel_a.csv.gz"
    if not path.is_file():
        return simulate_panel(3, 100)
    data = pd.read_csv(path)
    inverse, rate = 1 / data["N_bar"], data["R_bar"]
    return data.assign(
        D=data["D"].clip(1e-6, 1 - 1e-6), R_sc=(rate - rate.mean()) / rate.std(),
        invN_sc=(inverse - inverse.mean()) / inverse.std(),
    )


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        value = call()
    return time.perf_counter() - start, value


def in_turn(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median seconds of each call, the calls taking turns."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            taken, value = timed(call)
            seconds[name].append(value if name == "glmmTMB" else taken)
    return {name: statistics.median(values) for name, values in seconds.items()}


def paper_fit(data: pd.DataFrame) -> Any:
    return cs.glmm(PAPER[0], data, dispersion=PAPER[1], reference=REFERENCE)


def glmmtmb(path: Path) -> float:
    """Seconds that glmmTMB itself takes, without starting R and reading the data."""
    script = path.with_suffix(".R")
    script.write_text(R_SCRIPT % PAPER)
    out = subprocess.run(["Rscript", str(script), str(path)], capture_output=True, text=True, check=True).stdout
    return float(out.split()[0])


def beta_benchmark(data: pd.DataFrame, repeats: int, use_r: bool) -> dict[str, float]:
    """The paper's beta model with standard errors: ours and, where R is there, glmmTMB."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "panel.csv"
        calls: dict[str, Callable[[], Any]] = {"ours": lambda: paper_fit(data)}
        if use_r:
            data.to_csv(path, index=False)
            calls["glmmTMB"] = lambda: glmmtmb(path)
        result = in_turn(calls, repeats)
    if use_r:
        result["times_faster"] = result["glmmTMB"] / result["ours"]
    return result | {"rows": len(data), "peak_MB": peak_megabytes()}


def lmm_benchmark(data: pd.DataFrame, repeats: int) -> dict[str, float]:
    """Interaction model and crossed model: ours beside mixedlm called directly."""
    import mixedlm

    calls: dict[str, Callable[[], Any]] = {}
    for name, text in (("one", INTERACTION), ("crossed", CROSSED)):
        calls[f"ours {name}"] = partial(cs.lmm, text, data, reference=REFERENCE)
        calls[f"mixedlm {name}"] = partial(mixedlm.lmer, text, data)
    result = in_turn(calls, repeats)
    for name in ("one", "crossed"):
        result[f"ours/mixedlm {name}"] = result[f"ours {name}"] / result[f"mixedlm {name}"]
    return result | {"rows": len(data)}


def statsmodels_benchmark(data: pd.DataFrame) -> dict[str, float]:
    """Crossed random intercepts: ours beside statsmodels' variance components in one all-embracing group."""
    import statsmodels.formula.api as smf

    parts = {"prompt": "0 + C(prompt_uid)", "family": "0 + C(model_name)"}
    text = "D ~ R_sc*model_variant + N_bar + task"
    whole = data.assign(whole=1)
    model = lambda: smf.mixedlm(text, whole, groups="whole", vc_formula=parts, re_formula="0").fit()  # noqa: E731
    result = in_turn({"ours": lambda: cs.lmm(CROSSED, data), "statsmodels": model}, 1)
    return result | {"times_faster": result["statsmodels"] / result["ours"], "rows": len(data)}


def scaling(sizes: list[int], repeats: int) -> list[dict[str, float]]:
    """Seconds and seconds per thousand rows of the paper's beta model and the interaction LMM."""
    panels = {size: simulate_panel(6, max(1, size // 48)) for size in sizes}
    out = []
    for size, data in panels.items():
        found = in_turn({"beta": partial(paper_fit, data), "lmm": partial(cs.lmm, INTERACTION, data)}, repeats)
        per = {f"{name}_ms_per_1000_rows": 1e6 * value / len(data) for name, value in found.items()}
        out.append(found | per | {"rows": len(data), "asked": size, "peak_MB": peak_megabytes()})
    return out


def peak_megabytes() -> float:
    """Largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-r", action="store_true", help="leave glmmTMB out")
    parser.add_argument("--large", action="store_true", help="also 48,000 rows beside glmmTMB, and 240,000 rows alone")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    use_r = not args.no_r and shutil.which("Rscript") is not None
    small = reference_panel()
    results: dict[str, Any] = {"python": sys.version.split()[0], "numpy": np.__version__}
    results["beta 2,400"] = beta_benchmark(small, args.repeats, use_r)
    if args.large:
        results["beta 48,000"] = beta_benchmark(simulate_panel(6, 1000), 1, use_r)
    results["scaling"] = scaling([2400, 24_000, *([240_000] if args.large else [])], 1)
    results["lmm 48,000"] = lmm_benchmark(simulate_panel(6, 1000), args.repeats)
    results["crossed, statsmodels"] = statsmodels_benchmark(simulate_panel(6, 60))
    print(json.dumps(results, indent=2))
    if args.out:
        args.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    with threadpool_limits(1):
        main()
