"""Runs as a Hugging Face data set folder, which ``datasets.load_dataset`` reads.

::

    FOLDER/README.md                    the data card: how to load it, every column, the law, where it comes from
    FOLDER/croissant.json               the same for programs (Croissant 1.0)
    FOLDER/rollouts/RUN_ID.parquet      one row a rollout: configuration "rollouts"
    FOLDER/steps/RUN_ID.parquet         one row a token: configuration "steps"
    FOLDER/prompts/RUN_ID.parquet       one row a prompt: configuration "prompts"

Nothing of the machine enters: the card is made of the fields that :func:`provenance` names, and of no others.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from canopy_stats import __version__, files
from canopy_stats.schema import (
    PANEL_COLUMNS,
    PROMPT_COLUMNS,
    ROLLOUTS_OF,
    STEPS_OF,
    Column,
    Prompt,
    RunConfig,
    UserError,
)
from canopy_stats.store import card
from canopy_stats.store.tables import REPEATED, arrow_schema


class StoredRun(Protocol):
    """What an export reads of a run."""

    @property
    def run_id(self) -> str: ...
    @property
    def config(self) -> RunConfig: ...
    @property
    def manifest(self) -> dict[str, Any]: ...
    @property
    def content_hash(self) -> str: ...
    @property
    def complete(self) -> bool: ...
    @property
    def n_stored(self) -> int: ...
    @property
    def n_tokens(self) -> int: ...
    @property
    def prompts_held(self) -> int: ...
    def prompts(self) -> list[Prompt]: ...
    def parts(self) -> Iterator[StoredRun]: ...
    def rollouts(self) -> pa.Table: ...
    def steps(self) -> pa.Table: ...


OF_RUN = tuple(c for c in PANEL_COLUMNS if c.name in ("run_id", "model_name", "model_variant", "task"))
"""Columns that say of which run a row is; rows of steps have the ``run_id`` alone."""
RUN_ID = tuple(c for c in OF_RUN if c.name == "run_id")
_OF_MODEL = ("architecture", "revision", "weights_sha256", "adapter_use", "adapter_sha256", "quantisation", "dtype",
             "end_token_ids", "chat", "chat_template", "template_date", "system", "enable_thinking")
_PACKAGES = ("torch", "transformers", "tokenizers", "peft", "vllm", "numpy")


def export_runs(runs: Sequence[StoredRun], path: str | Path, *, license: str | None = None,
                title: str | None = None) -> Path:
    """Write runs into a new data set folder, part by part, whatever their size.

    Parameters
    ----------
    runs : sequence of Run
        Each once. Rows carry their ``run_id``.
    path : str or Path
        A folder that is not there yet, or is empty. It is there as a whole or not at all.
    license : str, optional
        The hub's name of a licence, such as ``cc-by-4.0``. Without one the card says that none was given.
    title : str, optional
        Title of the card; None makes one of families, variants and tasks.

    Returns
    -------
    Path
        The folder.
    """
    _refuse_twins(runs)
    tables = _tables(runs)
    target = files.place(path)
    _refuse_what_is_there(target)
    card.refuse_licence(license)
    files.make_folder(target.absolute().parent)
    try:
        draft = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.absolute().parent))
    except OSError as error:
        raise UserError(f"Cannot write beside {target}: {error.strerror}. Choose another place.") from error
    try:
        written = [_write(run, kind, columns, draft) for run in runs for kind, columns in tables.items()]
        told = card.Contents(title or _title(runs), license, tables, tuple(written), tuple(map(provenance, runs)))
        files.write_atomic(draft / "README.md", card.readme(told).encode())
        files.write_atomic(draft / "croissant.json", card.readable(card.croissant(told)).encode())
        draft.chmod(0o755)
        draft.replace(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def _refuse_twins(runs: Sequence[StoredRun]) -> None:
    if not runs:
        raise UserError("There is no run to export.")
    ids = [run.run_id for run in runs]
    twice = sorted({i for i in ids if ids.count(i) > 1})
    if twice:
        raise UserError(f"The run {twice[0]} was given twice; give each once.")


def _refuse_what_is_there(target: Path) -> None:
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise UserError(f"{target} is there already, and nothing in it was changed. Choose another folder, or remove "
                        "it.")


def _title(runs: Sequence[StoredRun]) -> str:
    families, variants, tasks = (", ".join(dict.fromkeys(getattr(run.config, name) for run in runs))
                                 for name in ("family", "variant", "task"))
    return f"Rollouts of {families} ({variants}): {tasks}"


# --- tables -----------------------------------------------------------------------------------------------------


def _tables(runs: Sequence[StoredRun]) -> Mapping[str, Sequence[Column]]:
    """The columns of each table; those of imported runs say less of the entropies."""
    terms = {run.config.terms for run in runs}
    if len(terms) > 1:
        raise UserError(f"The runs know different things of their entropies ({', '.join(sorted(terms))}): export each "
                        "kind into a folder of its own.")
    known = terms.pop()
    return {"rollouts": (*OF_RUN, *ROLLOUTS_OF[known]), "steps": (*RUN_ID, *STEPS_OF[known]),
            "prompts": (*RUN_ID, *PROMPT_COLUMNS)}


def _write(run: StoredRun, kind: str, columns: Sequence[Column], folder: Path) -> card.Stored:
    """One table of a run as a file, which never stands in memory as a whole."""
    name = f"{kind}/{run.run_id}.parquet"
    schema, rows = arrow_schema(columns), 0
    files.make_folder(folder / kind)
    repeated = [c for c in (*(c.name for c in OF_RUN), *REPEATED) if c.split(".")[0] in schema.names]
    with pq.ParquetWriter(folder / name, schema, compression="zstd", use_dictionary=repeated) as writer:
        for table in _pieces(run, kind):
            writer.write_table(_labelled(table, run, schema))
            rows += table.num_rows
    return card.Stored(kind, name, rows, (folder / name).stat().st_size, str(files.file_sha256(folder / name)))


def _pieces(run: StoredRun, kind: str) -> Iterator[pa.Table]:
    if kind == "prompts":
        yield _prompt_table(run)
    else:
        for part in run.parts():
            yield part.rollouts() if kind == "rollouts" else part.steps()


def _labelled(table: pa.Table, run: StoredRun, schema: pa.Schema) -> pa.Table:
    """The table with the columns that say of which run it is."""
    named = {"run_id": run.run_id, "model_name": run.config.family, "model_variant": run.config.variant,
             "task": run.config.task}
    columns = {f.name: table[f.name] if f.name in table.column_names else pa.repeat(named[f.name], table.num_rows)
               for f in schema}
    return pa.table(columns, schema=schema)


def _prompt_table(run: StoredRun) -> pa.Table:
    listed = run.prompts()
    columns = {"prompt_id": [p.prompt_id for p in listed], "prompt_hash": [p.prompt_hash for p in listed],
               "source": [p.source if isinstance(p.source, str) else json.dumps(p.source, ensure_ascii=False)
                          for p in listed],
               "prompt_token_ids": [list(p.token_ids) for p in listed]}
    return pa.table(columns, schema=arrow_schema(PROMPT_COLUMNS))


# --- provenance -------------------------------------------------------------------------------------------------


def provenance(run: StoredRun) -> dict[str, Any]:
    """What a reader elsewhere may know of a run: what was drawn, from what, under which law, and its hashes.

    A local model has the name of its folder and no path; of the machine only the type of the numbers is told.
    """
    config, model = run.config, run.config.model
    named = {k: _last(str(model[k])) for k in ("model", "adapter") if model.get(k)}
    versions = {k: v for k, v in (run.manifest.get("versions") or {}).items() if k in _PACKAGES}
    return {"run_id": run.run_id, "content_hash": run.content_hash, "family": config.family, "variant": config.variant,
            "task": config.task, "prompts": run.prompts_held, "rollouts": run.n_stored, "tokens": run.n_tokens,
            "complete": run.complete, "law": config.policy.label(), "policy": config.policy.to_dict(),
            "seed": config.seed, "engine": config.engine,
            "model": {**named, **{k: model[k] for k in _OF_MODEL if model.get(k) not in (None, {}, [])}},
            "versions": versions, "exported_by": f"canopy_stats {__version__}"}


def _last(name: str) -> str:
    """A hub name as it is; of a path its last part."""
    local = name.startswith(("/", "~", ".")) or "\\" in name or name.count("/") > 1
    return PurePosixPath(name.replace("\\", "/")).name if local else name
