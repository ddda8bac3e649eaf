"""Reading stored fits: the design is built again from the fitted columns, estimates are taken as stored."""

from __future__ import annotations

import json
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from canopy_stats import files
from canopy_stats.mixed.certificate import Certificate
from canopy_stats.mixed.families import Family, get_family
from canopy_stats.mixed.fit import Fit, make_fit
from canopy_stats.mixed.fitting.generalised import Laplace
from canopy_stats.mixed.fitting.linear import NORMAL, Linear
from canopy_stats.mixed.formulas.formula import build_design
from canopy_stats.mixed.model_frame import DISPERSION, ZERO, ModelFrame, right_part, trials_of, with_thresholds
from canopy_stats.mixed.results.archive import FORMAT, unpack
from canopy_stats.schema import UserError

SAME = 1e-3
"""Log-likelihoods that differ by less are those of one fit, whatever machine computed them."""


def load_fit(path: str | Path) -> Fit:
    """Read a fit that ``Fit.save`` wrote.

    The log-likelihood is computed anew; UserError where it is not the stored one, since then data or estimates were
    changed after the fit.
    """
    place = files.place(path)
    if not place.is_file():
        raise UserError(f"There is no file {path}; fits are written by fit.save(path).")
    try:
        meta, arrays = _read(place)
        return _proved(_restore(meta, arrays), meta["llf"], path)
    except UserError:
        raise
    except _DAMAGED as error:
        raise UserError(f"{path} is not a fit written by fit.save(path), or is damaged ({type(error).__name__}); fit "
                        "and save again.") from None


_DAMAGED = (OSError, EOFError, zipfile.BadZipFile, zlib.error, ValueError, LookupError, TypeError, AttributeError,
            ArithmeticError, RecursionError, NotImplementedError)
"""What numpy and the model's own parts raise at archives that hold something else than a fit."""


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The archive's description and arrays."""
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    meta = json.loads(str(arrays["meta"]))
    if meta["format"] != FORMAT:
        raise UserError(f"{path} has format {meta['format']}, this version reads {FORMAT}; fit and save again.")
    return meta, arrays


def _proved(fit: Fit, stored: float, path: str | Path) -> Fit:
    if not abs(fit.llf - stored) <= SAME + 1e-7 * abs(stored):
        raise UserError(
            f"{path} does not hold what was fitted: its data and estimates have log-likelihood {fit.llf:.6g}, stored is"
            f" {stored:.6g}. The file was changed, or made by another version; fit and save again."
        )
    return fit


def _restore(meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> Fit:
    """The fit at the stored estimates, its random effects computed anew."""
    frame = _frame(meta, arrays)
    certificate = Certificate.from_dict(meta["certificate"])
    if meta["family"] == NORMAL.name:
        way = Linear(frame, meta["reml"], meta["engine"])
        found = way.at_theta(arrays["theta"], certificate)
        return make_fit(way, found)
    laplace = Laplace(frame, meta.get("nodes", 1))
    # Files from before modes were stored have none.
    modes = [arrays[f"modes{k}"] for k in range(len(frame.factors)) if f"modes{k}" in arrays]
    return make_fit(laplace, laplace.at_omega(arrays["omega"], arrays["full_covariance"], certificate, modes))


def _frame(meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> ModelFrame:
    data = pd.DataFrame({
        name: unpack(arrays[f"column{i}"], how) for i, (name, how) in enumerate(meta["columns"].items())
    })
    # The dispersion formula may use columns that the mean's does not: all of them are the fit's data.
    design = replace(build_design(meta["formula"], data, reference=meta["reference"],
                                  other_columns=list(data.columns)), y=arrays["y"], data=data)
    texts = [(meta["dispersion"], DISPERSION), (meta.get("zero_inflation"), ZERO)]
    part, zero = (None if text is None else right_part(text, what, data, meta["reference"]) for text, what in texts)
    return with_thresholds(ModelFrame(
        _family(meta).for_response(design.y, tuple(meta.get("labels", ()))), design,
        arrays.get("trials", trials_of(design)), part, zero, arrays.get("weights"), arrays.get("offset"),
        meta["offset_name"], tuple(meta["notes"]),
    ))


def _family(meta: dict[str, Any]) -> Family:
    """The stored family; files from before links were stored have the usual one."""
    if meta["family"] == NORMAL.name:
        return NORMAL
    return get_family(meta["family"], meta.get("link"), zero_inflation=meta.get("zero_inflation") is not None)
