"""Small frames with known numbers, shaped like a panel, a rollout table and a step table."""

import numpy as np
import pandas as pd
import pytest

TASKS, FAMILIES, VARIANTS = ("completion", "math"), ("alder", "birch", "cedar"), ("base", "instruct")


@pytest.fixture
def panel() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    index = pd.MultiIndex.from_product([TASKS, range(5), FAMILIES, VARIANTS],
                                       names=["task", "prompt_id", "model_name", "model_variant"])
    frame = index.to_frame(index=False).astype({"prompt_id": str})
    rate = rng.uniform(0.5, 2.0, len(frame)) * np.where(frame["model_variant"] == "base", 1.3, 1.0)
    length, cov = rng.uniform(20, 120, len(frame)), rng.normal(0, 2, len(frame))
    ce = length * rate + cov
    return frame.assign(
        prompt_uid=frame["task"] + "/" + frame["prompt_id"], D=0.2 + 0.2 * rate + rng.normal(0, 0.02, len(frame)),
        R_bar=rate, N_bar=length, cov_NR=cov, CE=ce, BF=np.exp(rate), GenPPL=np.exp(ce / length),
        truncation_rate=rng.integers(0, 5, len(frame)) / 10, M=10,
        **{f"rho_{kind}": rng.uniform(-0.9, 0.9, len(frame)) for kind in ("pearson", "spearman", "kendall")})


@pytest.fixture
def rollouts() -> pd.DataFrame:
    rng = np.random.default_rng(2)
    frames = []
    for task in TASKS:
        for variant, stop in zip(VARIANTS, (0.01, 0.05), strict=True):
            length = np.minimum(rng.geometric(stop, 200), 80)
            reason = np.where(length == 80, "length", "stop")
            frames.append(pd.DataFrame({"task": task, "model_name": "alder", "model_variant": variant,
                                        "length": length, "finish_reason": reason}))
    return pd.concat(frames, ignore_index=True)


@pytest.fixture
def steps(rollouts: pd.DataFrame) -> pd.DataFrame:
    rows = rollouts.loc[rollouts.index.repeat(rollouts["length"]), ["task", "model_name", "model_variant"]]
    step = np.concatenate([np.arange(n) for n in rollouts["length"]])
    return rows.assign(step=step, entropy=2.0 - 0.01 * step).reset_index(drop=True)
