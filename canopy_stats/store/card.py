"""The texts of a data set folder: its card for people and for the hub, and its Croissant metadata for programs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from canopy_stats.schema import Column, UserError, printable

ROWS = {"rollouts": "a rollout", "steps": "a token", "prompts": "a prompt"}
_CROISSANT = {"string": "sc:Text", "int32": "cr:Int32", "int64": "cr:Int64", "float32": "cr:Float32",
              "float64": "cr:Float64", "list<int32>": "cr:Int32"}


@dataclass(frozen=True, slots=True)
class Stored:
    """One Parquet file of the folder: its table, its place, rows, bytes and SHA-256."""

    kind: str
    name: str
    rows: int
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Contents:
    """What a data set folder holds: ``tables`` are the columns of each configuration, ``runs`` their provenance."""

    title: str
    license: str | None
    tables: Mapping[str, Sequence[Column]]
    stored: tuple[Stored, ...]
    runs: tuple[Mapping[str, Any], ...]

    def rows(self, kind: str) -> int:
        return sum(s.rows for s in self.stored if s.kind == kind)


def refuse_licence(name: str | None) -> None:
    """UserError for what the hub would not take as the name of a licence."""
    if name is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", name):
        raise UserError(f"license is {name!r}; give the hub's name of a licence, such as 'cc-by-4.0', 'apache-2.0' or "
                        "'other'.")


def readable(value: Any) -> str:
    """JSON for people, as ASCII where a reader might stumble."""
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


# --- the card ---------------------------------------------------------------------------------------------------


def readme(of: Contents) -> str:
    """README.md: a YAML header for the hub, then the card."""
    return "\n".join(["---", _header(of), "---", "", f"# {_plain(of.title)}", "", *_loading(of), *_laws(of),
                      *(line for kind, columns in of.tables.items() for line in _columns(kind, columns)), *_origin(of)])


def _header(of: Contents) -> str:
    import yaml

    header: dict[str, Any] = {"license": of.license} if of.license else {}
    header |= {"pretty_name": of.title, "size_categories": [_size(of.rows("rollouts"))],
               "task_categories": ["text-generation"], "tags": ["rollouts", "entropy", "canopy-stats"],
               "configs": [{"config_name": kind, "default": kind == "rollouts",
                            "data_files": [{"split": "train", "path": f"{kind}/*.parquet"}]} for kind in of.tables]}
    for config in header["configs"]:
        if not config["default"]:
            del config["default"]
    return str(yaml.safe_dump(header, sort_keys=False, allow_unicode=True)).rstrip()


def _size(rows: int) -> str:
    """The hub's name for a number of rows."""
    edges = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M", 10_000_000: "1M<n<10M"}
    return next((name for edge, name in edges.items() if rows < edge), "10M<n<100M" if rows < 10**8 else "100M<n<1B")


def _loading(of: Contents) -> list[str]:
    counts = ", ".join(f"{of.rows(kind):,} {kind}" for kind in of.tables)
    licence = f"Licence: {of.license}." if of.license else "No licence was given; ask whoever made it before using it."
    return [f"Texts that language models drew, with the exact entropy of every step: {counts}. {licence}", "",
            "```python", "from datasets import load_dataset", "",
            *(f'{kind} = load_dataset(FOLDER, "{kind}", split="train")' for kind in of.tables), "```", "",
            "`run_id`, `prompt_id` and `rollout` join the tables. Entropies are in nats.", ""]


def _laws(of: Contents) -> list[str]:
    rows = [[r["run_id"], r["family"], r["variant"], r["task"], r["law"], r["seed"], r["engine"],
             f"{r['rollouts']:,}"] for r in of.runs]
    return ["## Runs and their laws", "",
            "The law is the distribution that tokens were really drawn from: temperature, then top-k, top-p and min-p, "
            "then end tokens and the length cap.", "",
            *_table(["run_id", "family", "variant", "task", "law", "seed", "engine", "rollouts"], rows), ""]


def _columns(kind: str, columns: Sequence[Column]) -> list[str]:
    return [f"## {kind}: one row {ROWS[kind]}", "",
            *_table(["column", "type", "unit", "meaning"],
                    [[f"`{c.name}`", c.dtype, c.unit, c.meaning] for c in columns]), ""]


def _origin(of: Contents) -> list[str]:
    told = readable(list(of.runs)).rstrip().replace("```", "'''")
    return ["## Provenance", "", "`content_hash` is the SHA-256 of what decides the law, the prompts and every stored "
            "value: equal hashes, equal content.", "", "```json", told, "```", ""]


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    line = "| {} |".format
    return [line(" | ".join(head)), line(" | ".join("---" for _ in head)),
            *(line(" | ".join(_plain(str(cell)).replace("|", "\\|") for cell in row)) for row in rows)]


def _plain(text: str) -> str:
    """A name in one line of Markdown."""
    return " ".join(printable(text).split()).replace("<", "&lt;")


# --- Croissant --------------------------------------------------------------------------------------------------


def croissant(of: Contents) -> dict[str, Any]:
    """Croissant 1.0 metadata: every file with its hash, every column with its type and meaning."""
    described = f"{of.title}. Texts that language models drew, with the exact entropy of every step."
    return {"@context": _CONTEXT, "@type": "sc:Dataset", "conformsTo": "http://mlcommons.org/croissant/1.0",
            "name": _identifier(of.title), "description": described,
            **({"license": of.license} if of.license else {}), "version": "1.0.0",
            "distribution": [_file(s) for s in of.stored] + [_file_set(kind) for kind in of.tables],
            "recordSet": [_record_set(kind, columns) for kind, columns in of.tables.items()]}


def _identifier(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-") or "rollouts"


def _file(s: Stored) -> dict[str, Any]:
    return {"@type": "cr:FileObject", "@id": s.name, "name": s.name, "contentUrl": s.name,
            "contentSize": f"{s.size} B", "encodingFormat": "application/x-parquet", "sha256": s.sha256}


def _file_set(kind: str) -> dict[str, Any]:
    return {"@type": "cr:FileSet", "@id": f"{kind}-files", "name": f"{kind}-files",
            "encodingFormat": "application/x-parquet", "includes": f"{kind}/*.parquet"}


def _record_set(kind: str, columns: Sequence[Column]) -> dict[str, Any]:
    return {"@type": "cr:RecordSet", "@id": kind, "name": kind, "description": f"One row {ROWS[kind]}.",
            "field": [_field(kind, column) for column in columns]}


def _field(kind: str, column: Column) -> dict[str, Any]:
    unit = f" ({column.unit})" if column.unit else ""
    many = {"repeated": True} if column.dtype.startswith("list") else {}
    return {"@type": "cr:Field", "@id": f"{kind}/{column.name}", "name": column.name,
            "description": f"{column.meaning}{unit}", "dataType": _CROISSANT[column.dtype], **many,
            "source": {"fileSet": {"@id": f"{kind}-files"}, "extract": {"column": column.name}}}


_TERMS = ("citeAs", "column", "equivalentProperty", "examples", "excludes", "extract", "field", "fileObject",
          "fileProperty", "fileSet", "format", "includes", "isArray", "isLiveDataset", "jsonPath", "key", "md5",
          "parentField", "path", "recordSet", "references", "regex", "repeated", "replace", "samplingRate",
          "separator", "source", "subField", "transform")
_CONTEXT: dict[str, Any] = {
    "@language": "en", "@vocab": "https://schema.org/", "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/", "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/", "conformsTo": "dct:conformsTo", "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"}, **{term: f"cr:{term}" for term in _TERMS}}
"""The standard's context, as its readers expect it."""
