"""Fits as files: one .npz archive of plain arrays and JSON text, without pickle.

The fitted columns are stored and the design is built from them again, so that levels, knots and scales are learnt as
they were; estimates are stored, random effects recomputed at them.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from canopy_stats.mixed.certificate import Certificate
from canopy_stats.mixed.fit import Fit
from canopy_stats.mixed.formula import build_design
from canopy_stats.mixed.glmm import dispersion_part, restore
from canopy_stats.mixed.lmm import Search, package
from canopy_stats.schema import UserError

FORMAT = 1
ARRAYS = ("omega", "theta", "full_covariance")
OPTIONAL = ("weights", "offset")


def save(fit: Fit, path: str | Path) -> Path:
    """Write a fit to ``path`` (the suffix .npz is added where missing)."""
    path = Path(path).with_suffix(".npz")
    arrays: dict[str, Any] = {name: getattr(fit, name) for name in ARRAYS}
    arrays |= {name: getattr(fit, name) for name in OPTIONAL if getattr(fit, name) is not None}
    columns = {}
    for place, name in enumerate(fit.design.data.columns):
        arrays[f"column{place}"], columns[str(name)] = _pack(fit.design.data[name])
    arrays["y"], arrays["meta"] = fit.design.y, np.array(json.dumps(_meta(fit, columns)))
    np.savez_compressed(path, **arrays)
    return path


def _meta(fit: Fit, columns: dict[str, Any]) -> dict[str, Any]:
    return {
        "format": FORMAT, "family": fit.family, "formula": fit.formula, "reference": dict(fit.design.reference),
        "dispersion": None if fit.dispersion is None else fit.dispersion.formula, "reml": fit.reml,
        "engine": fit.engine, "sigma": fit.sigma, "llf": fit.llf, "notes": list(fit.notes),
        "offset_name": fit.offset_name, "columns": columns, "certificate": asdict(fit.certificate),
    }


def _pack(column: pd.Series) -> tuple[np.ndarray, dict[str, Any]]:
    """A column as numbers, and how to read them: plain, or codes into categories."""
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        return column.to_numpy(), {"kind": "number"}
    ordered = isinstance(column.dtype, pd.CategoricalDtype)
    values = column if ordered else column.astype(str)
    codes = pd.Categorical(values)
    kind = "category" if ordered else "bool" if pd.api.types.is_bool_dtype(column) else "text"
    return codes.codes.astype(np.int32), {"kind": kind, "levels": [str(level) for level in codes.categories]}


def _unpack(values: np.ndarray, how: dict[str, Any]) -> Any:
    if how["kind"] == "number":
        return values
    categories = pd.Categorical.from_codes(values.tolist(), dtype=pd.CategoricalDtype(how["levels"]))
    # Text comes back as categories, in the same order: what the fit took as labels may look like numbers.
    return np.asarray(how["levels"], dtype=object)[values] == "True" if how["kind"] == "bool" else categories


def load_fit(path: str | Path) -> Fit:
    """Read a fit that ``Fit.save`` wrote."""
    if not Path(path).is_file():
        raise UserError(f"There is no file {path}; fits are written by fit.save(path).")
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    if "meta" not in arrays:
        raise UserError(f"{path} is not a fit written by fit.save(path).")
    meta = json.loads(str(arrays["meta"]))
    if meta["format"] != FORMAT:
        raise UserError(f"{path} has format {meta['format']}, this version reads {FORMAT}; fit and save again.")
    return _restore(meta, arrays)


def _restore(meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> Fit:
    """The fit at the stored estimates, its random effects computed anew."""
    data = pd.DataFrame({
        name: _unpack(arrays[f"column{i}"], how) for i, (name, how) in enumerate(meta["columns"].items())
    })
    # The dispersion formula may use columns that the mean's does not: all of them are the fit's data.
    design = replace(build_design(meta["formula"], data, reference=meta["reference"],
                                  other_columns=list(data.columns)), y=arrays["y"], data=data)
    certificate = Certificate(**(meta["certificate"] | {"culprits": tuple(meta["certificate"]["culprits"])}))
    if meta["family"] == "lmm":
        search = Search(None, certificate.returned, certificate.evaluations)
        return package(design, arrays["theta"], reml=meta["reml"], engine=meta["engine"], state=search)
    dispersion = dispersion_part(meta["dispersion"], data, meta["reference"])
    return restore(
        design, dispersion, meta["family"], arrays["omega"], arrays["full_covariance"], certificate,
        weights=arrays.get("weights"), offset=arrays.get("offset"), offset_name=meta["offset_name"],
        notes=tuple(meta["notes"]),
    )
