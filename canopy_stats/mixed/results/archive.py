"""Estimates as files: one .npz archive of plain arrays and JSON text, without pickle.

The fitted columns are stored and the design is built from them again, so that levels, knots and scales are learnt as
they were; estimates are stored, random effects recomputed at them from the stored ones.
"""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from canopy_stats import files
from canopy_stats.mixed.certificate import Certificate
from canopy_stats.mixed.estimates import Estimates
from canopy_stats.schema import UserError

FORMAT = 1
ARRAYS = ("omega", "theta", "full_covariance")
OPTIONAL = ("weights", "offset")


def save(fit: Estimates, certificate: Certificate, path: str | Path) -> Path:
    """Write estimates to ``path``; .npz is added where the name does not end in it."""
    path = files.place(path)
    if not path.name:
        raise UserError(f"{path} is a folder; give the name of a file in it.")
    path = path if path.suffix == ".npz" else path.with_name(path.name + ".npz")
    arrays: dict[str, Any] = {name: getattr(fit, name) for name in ARRAYS}
    arrays |= {name: getattr(fit.frame, name) for name in OPTIONAL if getattr(fit.frame, name) is not None}
    if fit.engine == "laplace":
        arrays |= {f"modes{k}": modes for k, modes in enumerate(fit.modes)}
    columns = {}
    for i, name in enumerate(fit.design.data.columns):
        arrays[f"column{i}"], columns[str(name)] = pack(fit.design.data[name])
    if np.any(fit.frame.trials != 1):
        arrays["trials"] = fit.frame.trials
    arrays["y"], arrays["meta"] = fit.design.y, np.array(json.dumps(_meta(fit, certificate, columns)))
    archive = io.BytesIO()
    np.savez_compressed(archive, **arrays)
    files.write_atomic(path, archive.getvalue())
    return path


def _meta(fit: Estimates, certificate: Certificate, columns: dict[str, Any]) -> dict[str, Any]:
    return {
        "format": FORMAT, "family": fit.family, "formula": fit.formula, "reference": dict(fit.design.reference),
        "dispersion": None if fit.dispersion is None else fit.dispersion.formula, "reml": fit.reml,
        "link": fit.frame.family.link, "labels": list(fit.frame.family.labels), "nodes": fit.nodes,
        "zero_inflation": None if fit.frame.zero_inflation is None else fit.frame.zero_inflation.formula,
        "engine": fit.engine, "sigma": fit.sigma, "llf": fit.llf, "notes": list(fit.frame.notes),
        "offset_name": fit.frame.offset_name, "columns": columns, "certificate": asdict(certificate),
    }


def pack(column: pd.Series) -> tuple[np.ndarray, dict[str, Any]]:
    """A column as numbers, and how to read them: plain, or codes into categories."""
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        return column.to_numpy(), {"kind": "number"}
    ordered = isinstance(column.dtype, pd.CategoricalDtype)
    values = column if ordered else column.astype(str)
    codes = pd.Categorical(values)
    kind = "category" if ordered else "bool" if pd.api.types.is_bool_dtype(column) else "text"
    levels = [str(level) for level in codes.categories]
    return codes.codes.astype(np.int32), {"kind": kind, "levels": levels, "ordered": bool(codes.ordered)}


def unpack(values: np.ndarray, how: dict[str, Any]) -> Any:
    if how["kind"] == "number":
        return values
    kind = pd.CategoricalDtype(how["levels"], how.get("ordered", False))
    categories = pd.Categorical.from_codes(values.tolist(), dtype=kind)
    # Text comes back as categories, in the same order: what the fit took as labels may look like numbers.
    return np.asarray(how["levels"], dtype=object)[values] == "True" if how["kind"] == "bool" else categories
