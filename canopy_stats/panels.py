"""Runs to one strict table for the slope models, and that table to and from files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from canopy_stats import files
from canopy_stats.metrics import measure
from canopy_stats.metrics.embed import the_kept_embedding
from canopy_stats.metrics.embedding.embedders import EmbedderLike
from canopy_stats.metrics.measures import STANDARD_ERRORS
from canopy_stats.mixed.formulas.frames import as_pandas
from canopy_stats.panel_rows import check_rows
from canopy_stats.schema import (
    BOUND_COLUMNS,
    ENTROPY_COLUMNS,
    EXACT,
    INTERVAL,
    MISSING,
    PANEL_COLUMNS,
    PANELS_OF,
    UserError,
    names,
)

if TYPE_CHECKING:
    from canopy_stats.metrics.extra_of_run import JudgeOrSpec
    from canopy_stats.metrics.subset import SelectionLike
    from canopy_stats.store import Run

KEY = ["task", "prompt_id", "model_name", "model_variant"]
"""One row of a panel for each value of these."""
REQUIRED = {EXACT: ("D", "R_bar", "N_bar"), INTERVAL: ("D", "R_bar_low", "R_bar_high", "N_bar"),
            MISSING: ("D", "N_bar")}
"""Columns whose values may not be missing, by what is known of the entropies: those that models read."""

_DEMO = "demo.parquet"
_METADATA = b"canopy_stats_panel"
_SHOWN = 5


def panel(runs: Iterable[Run | str | Path] | Run | str | Path, *, embedder: EmbedderLike | None = None,
          think: str = "keep", allow_mixed_laws: bool = False,
          rollouts: Callable[[Run], SelectionLike] | None = None, entropy: str = EXACT, extra: Sequence[str] = (),
          judge: JudgeOrSpec | None = None, reward: Any = None) -> pd.DataFrame:
    """One row per (task, prompt, family, variant) from runs or their folders, in the columns of schema.PANEL_COLUMNS.

    ``embedder`` None takes the embeddings that each run's folder keeps, when they are of one kind. ``rollouts`` chooses
    among a run's rollouts, as ``cs.best_rollouts(model)`` does; see :func:`canopy_stats.measure` for what that means.
    See :func:`validate` for what is refused.

    ``entropy`` says what the panel holds of entropies. "exact" refuses, by name, runs that were imported without their
    model. "interval" takes those with bounds too: the panel then has ``R_bar_low``, ``R_bar_high`` and the like, equal
    for exact runs, and no ``R_bar``. "missing" leaves all entropies out.

    ``extra``, ``judge`` and ``reward`` add measures on request behind the panel's columns, as in
    :func:`canopy_stats.measure`.
    """
    if entropy not in PANELS_OF:
        raise UserError(f"entropy is {entropy!r}; it must be one of {', '.join(PANELS_OF)}.")
    opened = [_opened(run) for run in _listed(runs)]
    if not opened:
        raise UserError("No runs were given: a panel needs at least one run, or the folder of one.")
    _refuse_unknown_entropies(opened, entropy)
    more = {"extra": extra, "judge": judge, "reward": reward}
    frames = [_rows(run, embedder, think, rollouts, entropy, more) for run in opened]
    return validate(pd.concat(frames, ignore_index=True), allow_mixed_laws=allow_mixed_laws, entropy=entropy)


_TAKES = {EXACT: (EXACT,), INTERVAL: (EXACT, INTERVAL), MISSING: (EXACT, INTERVAL, MISSING)}


def _refuse_unknown_entropies(runs: list[Run], entropy: str) -> None:
    short = [run for run in runs if run.config.terms not in _TAKES[entropy]]
    if not short:
        return
    listed = _shortened([f"{r.config.family}/{r.config.variant}/{r.config.task} ({r.config.terms})" for r in short])
    bounded = all(run.config.terms == INTERVAL for run in short)
    other = "'interval' for bounds, or entropy='missing'" if bounded else "'missing'"
    raise UserError(f"{len(short)} of {len(runs)} runs have no exact entropies: {listed}. Import them with model=, or "
                    f"ask for entropy={other} for a panel without them.")


def _listed(runs: Any) -> list[Any]:
    return [runs] if isinstance(runs, (str, Path)) or hasattr(runs, "rollouts") else list(runs)


def _opened(run: Run | str | Path) -> Run:
    if not isinstance(run, (str, Path)):
        return run
    from canopy_stats.store import open_run

    return open_run(run)


def _rows(run: Run, embedder: EmbedderLike | None, think: str,
          rollouts: Callable[[Run], SelectionLike] | None, entropy: str, more: dict[str, Any]) -> pd.DataFrame:
    kept = the_kept_embedding(run) if embedder is None else None
    chosen = None if rollouts is None else rollouts(run)
    measured = measure(run, embedder=kept if embedder is None else embedder, think=think, rollouts=chosen, **more)
    if entropy == INTERVAL and run.config.terms == EXACT:
        measured = measured.assign(**{c.name: measured[c.name.rpartition("_")[0]] for c in BOUND_COLUMNS})
    own = [*names(PANELS_OF[run.config.terms]), *STANDARD_ERRORS]
    asked = [name for name in measured if name not in own and name not in names(BOUND_COLUMNS)]
    return measured[[*names(PANELS_OF[entropy]), *asked]]


# ---------------------------------------------------------------------------------------------------- strictness


def validate(frame: pd.DataFrame, *, allow_mixed_laws: bool = False, entropy: str = EXACT) -> pd.DataFrame:
    """The panel with its columns in order and of their declared types; columns of your own follow unchanged.

    Raises UserError for missing columns; for missing values in D, R_bar or N_bar; for rows that repeat (task, prompt,
    family, variant); for a prompt_uid that stands for different prompts; and where embedders or sampling laws
    differ between rows, since diversity or rates cannot be compared then (``allow_mixed_laws`` accepts the latter).
    ``entropy`` as in :func:`panel`.
    """
    _refuse_missing_columns(frame, entropy)
    check_rows(frame, KEY)
    typed = _typed(frame, entropy)
    _refuse_missing_values(typed, REQUIRED[entropy])
    _refuse_ambiguous_prompts(typed)
    _refuse_differing(typed, "embedder", "Build it again with one embedder for all runs.")
    if not allow_mixed_laws:
        _refuse_differing(typed, "law", "Generate the runs under one law, or pass allow_mixed_laws=True if the law is "
                                        "what you compare.")
    return typed


def kind_of(frame: pd.DataFrame) -> str:
    """What a panel holds of entropies, by its columns."""
    if BOUND_COLUMNS[0].name in frame:
        return INTERVAL
    return EXACT if any(name in frame for name in ENTROPY_COLUMNS) else MISSING


def _refuse_missing_columns(frame: pd.DataFrame, entropy: str) -> None:
    missing = [name for name in names(PANELS_OF[entropy]) if name not in frame]
    if missing:
        raise UserError(f"The panel lacks the column(s) {', '.join(missing)}. canopy_stats.panel() makes them all; a "
                        "table from elsewhere can go to the models directly.")
    if frame.empty:
        raise UserError("The panel has no rows: give runs that hold rollouts.")


def _typed(frame: pd.DataFrame, entropy: str) -> pd.DataFrame:
    columns = PANELS_OF[entropy]
    ordered = frame[[*names(columns), *(c for c in frame if c not in names(columns))]]
    types = {c.name: "str" if c.dtype == "string" else c.dtype for c in columns}
    try:
        return ordered.reset_index(drop=True).astype(types)
    except (ValueError, TypeError, OverflowError) as error:
        raise UserError(f"A column of the panel has values of the wrong type: {error}. Correct them there.") from None


def _refuse_missing_values(frame: pd.DataFrame, required: Sequence[str]) -> None:
    broken = {name: ~np.isfinite(frame[name]) for name in required}
    columns = [name for name, where in broken.items() if where.any()]
    if columns:
        rows = frame[np.logical_or.reduce([broken[name] for name in columns])]
        hint = ("They have one rollout each, and diversity needs two: draw more, or leave them out by name."
                if columns == ["D"] and (rows["M"] < 2).all() else
                "Name an embedder, such as embedder='minilm' or embedder='tfidf'." if columns == ["D"]
                else "Measure these again, or leave them out by name.")
        raise UserError(f"{' and '.join(columns)} missing in {len(rows)} row(s) of the panel: {_named(rows)}. {hint}")


def _refuse_ambiguous_prompts(frame: pd.DataFrame) -> None:
    different = frame.groupby("prompt_uid")["prompt_hash"].nunique(dropna=False)
    ambiguous = list(different.index[different > 1])
    if ambiguous:
        raise UserError(f"{len(ambiguous)} prompt(s) carry one name but different texts in different runs: "
                        f"{_shortened(ambiguous)}. Generate all runs of a task from the same prompt file.")


def _refuse_differing(frame: pd.DataFrame, column: str, advice: str) -> None:
    first = frame.drop_duplicates(column)
    if len(first) > 1:
        where = [f"{row[column]} ({row.model_name}/{row.model_variant}/{row.task})" for _, row in first.iterrows()]
        raise UserError(f"The runs differ in {column}: {_shortened(where)}. {advice}")


def _named(rows: pd.DataFrame) -> str:
    keys = rows[["model_name", "model_variant", "prompt_uid"]].to_numpy()
    return _shortened(["/".join(map(str, key)) for key in keys])


def _shortened(items: list[str]) -> str:
    return ", ".join(items[:_SHOWN]) + (", ..." if len(items) > _SHOWN else "")


# --------------------------------------------------------------------------------------------------------- files


def write_panel(frame: pd.DataFrame, path: str | Path, provenance: Mapping[str, Any] | None = None) -> Path:
    """Write a valid panel as Parquet (provenance, units and meanings inside) or, by the suffix .csv, as CSV with the
    provenance beside it in PATH.json. The file appears whole or not at all."""
    frame = as_pandas(frame)
    path, typed = Path(path), validate(frame, allow_mixed_laws=True, entropy=kind_of(frame))
    _refuse_suffix(path)
    note = json.dumps(dict(provenance or {}), indent=1, ensure_ascii=False).encode()
    if path.suffix == ".csv":
        files.write_atomic(path, typed.to_csv(index=False, lineterminator="\n").encode())
        files.write_atomic(_beside(path), note)
    else:
        files.write_atomic(path, _parquet(typed, note))
    return path


def read_panel(path: str | Path) -> pd.DataFrame:
    """Read a panel that :func:`write_panel` wrote; its provenance is in ``frame.attrs["provenance"]``."""
    path = files.place(path)
    _refuse_suffix(path)
    if not path.is_file():
        raise UserError(f"There is no panel file {path}. canopy_stats.panel() makes a panel from runs.")
    frame, note = _read_csv(path) if path.suffix == ".csv" else _read_parquet(path)
    frame = validate(frame, allow_mixed_laws=True, entropy=kind_of(frame))
    frame.attrs["provenance"] = _provenance(note, path)
    return frame


class PanelProvenance(dict[str, Any]):
    """How a panel was made. All tables that pandas makes from the panel share it: it copies ``attrs`` deeply at every
    step, which would take half the time of a check."""

    def __deepcopy__(self, memo: dict[int, Any]) -> PanelProvenance:
        return self


def _provenance(note: bytes, path: Path) -> PanelProvenance:
    try:
        return PanelProvenance(json.loads(note or b"{}"))
    except (ValueError, RecursionError, TypeError):
        beside = f"{_beside(path)} " if path.suffix == ".csv" else f"What {path} says of itself "
        raise UserError(f"{beside}is damaged: it says how the panel was made. Write the panel again.") from None


def load_demo_panel() -> pd.DataFrame:
    """The panel of the demo families' full run, shipped with the package: try everything on it without a model."""
    packaged = Path(str(resources.files("canopy_stats"))) / _DEMO
    checkout = Path(__file__).resolve().parents[1] / "data" / "panels" / _DEMO
    for path in (packaged, checkout):
        if path.is_file():
            return read_panel(path)
    raise UserError("The demo panel is not installed. Install the wheel of canopy-stats, or make the panel from a "
                    "checkout: data/panels there says how.")


def _refuse_suffix(path: Path) -> None:
    if path.suffix not in (".parquet", ".csv"):
        raise UserError(f"{path.name} is neither .parquet nor .csv: a panel is read and written in these formats.")


def _beside(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _parquet(frame: pd.DataFrame, note: bytes) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pandas(frame, preserve_index=False)
    described = {c.name: {"unit": c.unit, "meaning": c.meaning} for c in (*PANEL_COLUMNS, *BOUND_COLUMNS)}
    fields = [f.with_metadata(described[f.name]) if f.name in described else f for f in table.schema]
    table = table.cast(pa.schema(fields, {**(table.schema.metadata or {}), _METADATA: note}))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    written: bytes = sink.getvalue().to_pybytes()
    return written


def _read_parquet(path: Path) -> tuple[pd.DataFrame, bytes]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
        frame = table.to_pandas()
    except (pa.ArrowException, OSError, ValueError) as error:
        why = str(error).splitlines()[0]
        raise UserError(f"{path} is not a readable Parquet file ({why}). Write the panel again.") from None
    return frame, (table.schema.metadata or {}).get(_METADATA, b"")


def _read_csv(path: Path) -> tuple[pd.DataFrame, bytes]:
    frame = read_cells(path)
    text = [c.name for c in PANEL_COLUMNS if c.dtype == "string" and c.name in frame]
    frame[text] = frame[text].fillna("")
    return frame, _beside(path).read_bytes() if _beside(path).is_file() else b""


# Before pandas 3 the last digit of a number is read only on request; later the request is deprecated.
_EXACT: dict[str, Any] = {"float_precision": "round_trip"} if int(pd.__version__.split(".")[0]) < 3 else {}


def read_cells(path: str | Path) -> pd.DataFrame:
    """The cells of a CSV panel as they were written: a prompt may be called "NA" or "001", only an empty cell is
    missing, text stays text, and numbers keep their last digit."""
    text = {c.name: "str" for c in PANEL_COLUMNS if c.dtype == "string"}
    try:
        cells: pd.DataFrame = pd.read_csv(path, dtype=text, keep_default_na=False, na_values=[""], **_EXACT)
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is no CSV table in UTF-8 ({str(error).splitlines()[0]}). Correct it, or write the "
                        "panel again.") from None
    return cells
