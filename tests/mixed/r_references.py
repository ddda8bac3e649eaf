"""Where the reference values lie, and how R's names and columns become ours."""

import re
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parents[1] / "golden"
REFERENCE = {"task": "completion", "model_variant": "base"}
PANELS = {"a": "panel_a", "b": "panel_b_with_zeros_and_ones", "c": "panel_c_random_slopes"}


def with_scaled(data):
    scaled = lambda x: (x - x.mean()) / x.std()  # noqa: E731
    rate = scaled(data["R_bar"])
    return data.assign(
        R_sc=rate, invN_sc=scaled(1 / data["N_bar"]), R_ft=rate * (data["model_variant"] == "instruct"),
        D_beta=np.clip(data["D"], 1e-6, 1 - 1e-6),
    )


def rename(name):
    """R's coefficient name in formulaic's style."""
    parts = [re.sub(r"^(model_name|model_variant|task)(.+)$", r"\1[T.\2]", part) for part in name.split(":")]
    parts = [re.sub(r"^(ns\(.*\))(\d)$", r"\1[\2]", part) for part in parts]
    return ":".join(parts).replace("(Intercept)", "Intercept").replace(", df = ", ", df=")
