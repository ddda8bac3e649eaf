"""A finished study's folder as one file, ``report.html``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from canopy_stats import files
from canopy_stats.report.html import Content, Picture, Provenance, Table, page, read_table
from canopy_stats.schema import UserError
from canopy_stats.study import cautions, shown

if TYPE_CHECKING:
    import pandas as pd

    from canopy_stats.store import Run

LIMIT = 10_000_000
"""Bytes that the page should not exceed: what figures and tables leave is for rollouts."""

_TABLES = {"slopes": "Slope of semantic diversity D on mean entropy rate, D for each nat per token; standard errors in "
                     "brackets.",
           "base_tuned": "Base against tuned, each cell pooled over its prompts.",
           "decomposition": "Canopy entropy in three terms (nats): CE* = mean length · mean rate + covariance within "
                            "prompts + covariance between prompts.",
           "checks": "Check of the runs: z-scores should lie within 4, differences from plain transformers near zero."}
_FIGURES = {"diversity_by_family": "Semantic diversity against mean entropy rate, by family.",
            "diversity_by_task": "Semantic diversity against mean entropy rate, by task.",
            "slopes": "Base slope, tuned slope and their difference with 95% intervals, by model.",
            "decomposition": "Canopy entropy in three terms.",
            "lengths": "How long rollouts are, and how many the cap ended.",
            "entropy_profile": "Entropy of the next token by position in the rollout.",
            "cap_sensitivity": "What the entropy quantities would be under a shorter length cap."}


def write_report(folder: str | Path) -> Path:
    """Write ``report.html`` into the folder of a finished study and return its path.

    The page is made from what lies there: the panel, tables, figures, checks and runs. The same folder gives the same
    bytes. UserError where the study is not finished.
    """
    out = Path(folder)
    if not (out / "panel.parquet").is_file():
        raise UserError(f"{out} holds no finished study (no panel.parquet). Run the study first; the same command "
                        "resumes one that was interrupted.")
    text = page(content(out))
    files.write_atomic(out / "report.html", text.encode("utf-8", "replace"))
    return out / "report.html"


def content(out: Path) -> Content:
    """All that the page of a study folder says."""
    from canopy_stats.panel import read_panel

    panel, note = read_panel(out / "panel.parquet"), _json(out / "panel.json") or {}
    runs, study = opened(out, note.get("runs", {})), note.get("study", {})
    printed, drawn = tables(out), pictures(out)
    spent = sum(len(p.svg) for p in drawn) + 200_000
    return Content(
        title=str(study.get("title") or "Study"), contrast=str(study.get("contrast") or ""),
        finding=finding(out, panel), facts=facts(panel, runs), tables=printed, pictures=drawn,
        warnings=tuple(cautions.cautions(panel, _checks(out), _slopes(out),
                                         {name: run.manifest["drift"] for name, run in runs.items()})),
        explorer=shown.explorer(runs, panel, max(LIMIT - spent, LIMIT // 10)) if runs else None,
        provenance=Provenance(settings(out, panel, note, runs), runs_table(runs), commands(study, runs)))


def opened(out: Path, names: Iterable[str]) -> dict[str, Run]:
    """The study's runs that are there, each checked against its hashes."""
    from canopy_stats.store import open_run

    return {name: open_run(out / "runs" / name) for name in names if (out / "runs" / name / "manifest.json").is_file()}


def _json(path: Path) -> Any:
    return json.loads(path.read_bytes()) if path.is_file() else None


def _checks(out: Path) -> pd.DataFrame | None:
    import pandas as pd

    return pd.read_csv(out / "checks.csv") if (out / "checks.csv").is_file() else None


def _slopes(out: Path) -> Sequence[Mapping[str, Any]]:
    found = _json(out / "slopes.json") or []
    return found if isinstance(found, list) else list(found.get("models", []))


# --- what stands on the page ------------------------------------------------------------------------------------


def finding(out: Path, panel: pd.DataFrame) -> str:
    """The words that the study left in finding.txt, else the interaction model's."""
    if (out / "finding.txt").is_file():
        return (out / "finding.txt").read_text(encoding="utf-8").strip()
    from canopy_stats.slope import slope_change
    from canopy_stats.study import summary

    try:
        return summary.finding([slope_change(panel, model="interaction")])
    except UserError as error:
        return str(error)


def facts(panel: pd.DataFrame, runs: Mapping[str, Run]) -> tuple[tuple[str, str], ...]:
    """The study's size and law in a few words."""
    sizes = {"families": panel["model_name"].nunique(), "variants": panel["model_variant"].nunique(),
             "tasks": panel["task"].nunique(), "prompts": panel["prompt_uid"].nunique(),
             "rollouts": int(panel["M"].sum())}
    tokens = sum(shard["n_tokens"] for run in runs.values() for shard in run.shards)
    named = {**{name: f"{value:,}" for name, value in sizes.items()}, **({"tokens": f"{tokens:,}"} if tokens else {}),
             "law": _distinct(panel, "law"), "embedder": _distinct(panel, "embedder")}
    return tuple((name, value) for name, value in named.items() if value)


def _distinct(panel: pd.DataFrame, column: str) -> str:
    return ", ".join(map(str, panel[column].unique())) if column in panel else ""


def captions(folder: Path, known: Mapping[str, str]) -> dict[str, str]:
    """Each file's caption by name: from the folder's index.json, else what is known of it, else its own name.

    The order is the index's or ``known``'s; files that neither names follow by name.
    """
    listed = {name: entry if isinstance(entry, str) else str(entry.get("caption", name))
              for name, entry in (_json(folder / "index.json") or known).items()}
    return {**listed, **{path.stem: path.stem.replace("_", " ").capitalize() + "." for path in sorted(
        folder.glob("*")) if path.suffix in (".html", ".svg") and path.stem not in listed}}


def tables(out: Path) -> tuple[Table, ...]:
    """The tables of the study, from their printed form."""
    folder = out / "tables"
    return tuple(read_table(key, caption, (folder / f"{key}.html").read_text(encoding="utf-8"))
                 for key, caption in captions(folder, _TABLES).items() if (folder / f"{key}.html").is_file())


def pictures(out: Path) -> tuple[Picture, ...]:
    """The figures of the study."""
    folder = out / "figures"
    return tuple(Picture(key, caption, (folder / f"{key}.svg").read_text(encoding="utf-8"))
                 for key, caption in captions(folder, _FIGURES).items() if (folder / f"{key}.svg").is_file())


# --- how it was made --------------------------------------------------------------------------------------------


def settings(out: Path, panel: pd.DataFrame, note: Mapping[str, Any],
             runs: Mapping[str, Run]) -> tuple[tuple[str, str], ...]:
    """What the study was made with, in pairs of name and value."""
    models = [run.config.model for run in runs.values()]
    versions = {name: _joined(run.manifest["versions"].get(name) for run in runs.values())
                for name in ("canopy_stats", "python", "torch", "transformers", "tokenizers", "numpy", "platform")}
    pairs = {"law": _distinct(panel, "law"), "rollouts of each prompt": _joined(panel["M"].unique()),
             "seed": _distinct(panel, "seed"), "embedder": _distinct(panel, "embedder"),
             "engine": _distinct(panel, "engine"), "number format": _distinct(panel, "dtype"),
             "device": _joined(m.get("device") for m in models), "threads": _joined(m.get("threads") for m in models),
             "tasks": _distinct(panel, "task"), "system prompt": _joined(m.get("system") for m in models),
             "drawn with": ", ".join(f"{name} {version}" for name, version in versions.items() if version),
             "panel made by": f"canopy_stats {note['canopy_stats']}" if "canopy_stats" in note else "",
             "panel.parquet, SHA-256": str(files.file_sha256(out / "panel.parquet"))}
    return tuple((name, value) for name, value in pairs.items() if value)


def _joined(values: Iterable[Any]) -> str:
    return ", ".join(dict.fromkeys(str(v) for v in values if v is not None))


def runs_table(runs: Mapping[str, Run]) -> Table | None:
    """A row a run: what was drawn, from which weights, and the hashes that prove it."""
    head = ("run", "model", "chat template", "rollouts", "tokens", "batch", "flips in redraws", "run id", "weights",
            "content")
    return Table("runs", "Hashes are SHA-256, of which the first 12 digits are shown.", head,
                 tuple(_run_row(name, run) for name, run in runs.items())) if runs else None


def _run_row(name: str, run: Run) -> tuple[str, ...]:
    model, drift = run.config.model, run.manifest["drift"]
    redrawn = drift["redrawn"] if drift else []
    flips, tokens = (sum(part[key] for part in redrawn) for key in ("flips", "tokens"))
    weights = model.get("weights_sha256") or model.get("revision") or "–"
    adapter = f" + adapter {str(model['adapter_sha256'])[:12]}" if model.get("adapter_sha256") else ""
    return (name, short_path(run.manifest["origin"].get("model") or model.get("model") or run.config.engine),
            "yes" if model.get("chat") else "no", f"{sum(s['n_rollouts'] for s in run.shards):,}",
            f"{sum(s['n_tokens'] for s in run.shards):,}", str(run.config.batch_size),
            f"{flips} of {tokens:,}" if redrawn else "–", run.run_id, str(weights)[:12] + adapter,
            run.content_hash[:12])


def short_path(named: Any) -> str:
    """A hub name as it is, and of a path that starts at the root its last two parts."""
    path = Path(str(named))
    return "…/" + "/".join(path.parts[-2:]) if path.is_absolute() else str(named)


def commands(study: Mapping[str, Any], runs: Mapping[str, Run]) -> tuple[str, ...]:
    """The commands that draw the runs again, measure them and fit; in the study's folder, paths shortened."""
    if not runs:
        return ()
    embedder = study.get("embedder")
    return (*(_generate(name, run) for name, run in runs.items()),
            "canopy-stats panel runs/* " + f"--embedder {embedder} " * isinstance(embedder, str)
            + "--out panel.parquet", "canopy-stats fit panel.parquet")


def _generate(name: str, run: Run) -> str:
    config, origin = run.config, run.manifest["origin"]
    law = {"--temperature": config.policy.temperature, "--top-k": config.policy.top_k, "--top-p": config.policy.top_p,
           "--min-p": config.policy.min_p, "--max-new-tokens": config.policy.max_new_tokens}
    options = {"--task": config.task, "--family": config.family, "--variant": config.variant,
               "--rollouts": config.n_rollouts, **law, "--seed": config.seed, "--batch-size": config.batch_size,
               "--adapter": short_path(origin["adapter"]) if origin.get("adapter") else None,
               "--revision": origin.get("revision"), "--out": f"runs/{name}"}
    said = " ".join(f"{flag} {value:g}" if isinstance(value, float) else f"{flag} {value}"
                    for flag, value in options.items() if value is not None)
    model = short_path(origin.get("model") or "(model object)")
    return f"canopy-stats generate {model} --prompts prompts/{config.task}.jsonl {said}"
