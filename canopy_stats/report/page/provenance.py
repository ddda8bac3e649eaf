"""How a study was made: settings, a row a run with its hashes, fits and their certificates, and the commands."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from canopy_stats import files
from canopy_stats.mixed.certificate import Certificate
from canopy_stats.report.folder import Folder
from canopy_stats.report.page.html import Provenance, Table

if TYPE_CHECKING:
    import pandas as pd

    from canopy_stats.schema import SamplingPolicy
    from canopy_stats.store import Run

VERSIONS = ("canopy_stats", "python", "torch", "transformers", "tokenizers", "numpy", "platform")


def provenance(folder: Folder) -> Provenance:
    """All of it for a study's folder."""
    runs = folder.runs
    return Provenance(settings(folder.root, folder.panel, runs), runs_table(runs), commands(folder.settings, runs))


def settings(out: Path, panel: pd.DataFrame, runs: Mapping[str, Run]) -> tuple[tuple[str, str], ...]:
    """What the study was made with, in pairs of name and value."""
    models = [run.config.model for run in runs.values()]
    versions = {name: joined(run.manifest["versions"].get(name) for run in runs.values()) for name in VERSIONS}
    pairs = {"law": distinct(panel, "law"), "rollouts of each prompt": joined(panel["M"].unique()),
             "seed": distinct(panel, "seed"), "embedder": distinct(panel, "embedder"),
             "engine": distinct(panel, "engine"), "number format": distinct(panel, "dtype"),
             "device": joined(m.get("device") for m in models), "threads": joined(m.get("threads") for m in models),
             "tasks": distinct(panel, "task"), "system prompt": joined(m.get("system") for m in models),
             "drawn with": ", ".join(f"{name} {version}" for name, version in versions.items() if version),
             "drawing code": joined(run.config.code_version for run in runs.values()),
             "panel.parquet, SHA-256": files.file_sha256(out / "panel.parquet") or ""}
    return tuple((name, value) for name, value in pairs.items() if value)


def distinct(panel: pd.DataFrame, column: str) -> str:
    """A column's values, each once; nothing where there is no such column."""
    return joined(panel[column].unique()) if column in panel else ""


def joined(values: Iterable[Any]) -> str:
    """Values in words, each once."""
    return ", ".join(dict.fromkeys(str(v) for v in values if v is not None))


# --- runs -------------------------------------------------------------------------------------------------------

_HEAD = ("run", "model", "chat template", "rollouts", "tokens", "batch", "flips in redraws", "run id", "weights",
         "content")


def runs_table(runs: Mapping[str, Run]) -> Table | None:
    """A row a run: what was drawn, from which weights, and the hashes that prove it."""
    caption = "Weights and content by the first 12 digits of their SHA-256; flips when rollouts were drawn again at " \
              "other batch sizes."
    return Table(caption, _HEAD, tuple(_run_row(name, run) for name, run in runs.items())) if runs else None


def _run_row(name: str, run: Run) -> tuple[str, ...]:
    model, redrawn = run.config.model, (run.manifest["drift"] or {}).get("redrawn", [])
    flips, tokens = (sum(part[key] for part in redrawn) for key in ("flips", "tokens"))
    weights = str(model.get("weights_sha256") or model.get("revision") or "–")[:12]
    adapter = f" + adapter {model['adapter_sha256'][:12]}" if model.get("adapter_sha256") else ""
    sizes = [sum(shard[what] for shard in run.shards) for what in ("n_rollouts", "n_tokens")]
    chat = {True: "yes", False: "no", None: "no"}.get(model.get("chat"), str(model.get("chat")))
    return (name, _model(run), chat, *(f"{size:,}" for size in sizes),
            str(run.config.batch_size), f"{flips} of {tokens:,}" if redrawn else "–", run.run_id, weights + adapter,
            run.content_hash[:12])


def _model(run: Run) -> str:
    return short_path(run.manifest["origin"].get("model") or run.config.model.get("model") or run.config.engine)


def short_path(named: Any) -> str:
    """A hub name as it is, and of a path that starts at the root its last two parts."""
    path = Path(str(named))
    return "…/" + "/".join(path.parts[-2:]) if path.is_absolute() else str(named)


# --- fits -------------------------------------------------------------------------------------------------------


def slopes(folder: Folder) -> list[dict[str, Any]]:
    """The slope models' entries in fits/changes.json, each with ``certified`` where its fit is kept."""
    return [{**entry, "certified": certified(folder.inside("fits", entry["fit"]))} if "fit" in entry else entry
            for entry in folder.entries]


def certified(fit: Path) -> bool:
    """Whether the certificate of a kept fit calls it converged. The model itself is not built again for that."""
    with np.load(fit, allow_pickle=False) as kept:
        return Certificate.from_dict(json.loads(str(kept["meta"]))["certificate"]).converged


# --- commands ---------------------------------------------------------------------------------------------------


def commands(study: Mapping[str, Any], runs: Mapping[str, Run]) -> tuple[str, ...]:
    """The commands that draw the runs again in the study's folder, measure them and fit; paths are shortened."""
    if not runs:
        return ()
    embedder = study.get("embedder")
    measure = ["canopy-stats", "panel", *(f"runs/{name}" for name in runs),
               *(["--embedder", embedder] if isinstance(embedder, str) else []), "--out", "panel.parquet"]
    return (*(_generate(name, run) for name, run in runs.items()), shlex.join(measure),
            "canopy-stats scrutinise panel.parquet")


def _generate(name: str, run: Run) -> str:
    config, origin, model = run.config, run.manifest["origin"], run.config.model
    law = _law_options(config.policy)
    options = {"--prompts": f"prompts/{config.task}.jsonl", "--task": config.task, "--family": config.family,
               "--variant": config.variant, "--rollouts": config.n_rollouts, **law, "--seed": config.seed,
               "--batch-size": config.batch_size, "--dtype": model.get("dtype"), "--system": model.get("system"),
               "--chat": model.get("chat"), "--thinking": model.get("enable_thinking"),
               **{f"--{name}": short_path(origin[name]) for name in ("tokenizer", "adapter") if origin.get(name)},
               "--revision": origin.get("revision"), "--out": f"runs/{name}"}
    words = [word for flag, value in options.items() if value is not None for word in _option(flag, value)]
    return " ".join(["canopy-stats", "generate", *map(_quoted, [_model(run), *words])])


def _law_options(law: SamplingPolicy) -> dict[str, Any]:
    return {"--repetition-penalty": law.repetition_penalty, "--min-new-tokens": law.min_new_tokens or None,
            "--suppress-tokens": ",".join(map(str, law.suppress_tokens)) or None, "--temperature": law.temperature,
            "--top-k": law.top_k, "--top-p": law.top_p, "--min-p": law.min_p, "--max-new-tokens": law.max_new_tokens,
            "--stop-token-ids": ",".join(map(str, law.stop_token_ids)) or None, "--stop-string": law.stop_strings}


def _option(flag: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, bool):
        return (flag if value else flag.replace("--", "--no-"),)
    if isinstance(value, tuple):
        return tuple(word for one in value for word in (flag, one))
    return flag, str(value)


def _quoted(word: str) -> str:
    """A word as a shell reads it; the dots of a shortened path stay bare, since they are to be filled in."""
    return word if word.startswith("…/") else shlex.quote(word)
