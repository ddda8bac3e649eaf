"""Canopy entropy while a model is trained: a small keyed set of rollouts at every evaluation step."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from canopy_stats.metrics.measures import measure
from canopy_stats.metrics.pooling import pool
from canopy_stats.runs import generate
from canopy_stats.schema import SamplingPolicy, UserError

if TYPE_CHECKING:
    from canopy_stats.generation.callback import CanopyCallback

_LOGGED = {"CE": "CE", "N": "mean_length", "r": "mean_rate", "rho": "rho_pearson"}


def draw_checkpoint(model: Any, tokenizer: Any, prompts: Any, out: str | Path, step: int, *, family: str, task: str,
                    n_rollouts: int = 8, policy: SamplingPolicy | None = None, seed: int = 0, embedder: Any = None,
                    chat: bool | str | None = False, batch_size: int | str = "auto") -> dict[str, float]:
    """Draw rollouts of a model at one training step into ``out/step-STEP`` and return what they say.

    The keys of the random numbers are those of the step's variant: the same call draws the same tokens from the same
    weights. A folder that holds other weights of this step is refused, as always.

    Parameters
    ----------
    model : transformers model
        In evaluation mode; peft's LoRA may be around it, unmerged.
    tokenizer : tokenizer
        The trainer's ``processing_class``; None where prompts are token ids.
    prompts : path or list
        As in :func:`canopy_stats.generate`; few, such as 20.
    out : str or Path
        Folder of the steps' runs; :func:`canopy_stats.trajectory` follows them.
    step : int
        The training step: the run's variant is ``step-STEP``.
    family, task : str
        Names for tables.
    n_rollouts : int
        Rollouts of each prompt.
    policy : SamplingPolicy, optional
        The law; None: temperature 1 and a cap of 256 tokens.
    seed : int
        Of the draws.
    embedder : name or embedder, optional
        For D, as in :func:`canopy_stats.measure`.
    chat : bool or "rendered-text", optional
        Whether the chat template is applied.
    batch_size : int or "auto"
        Rollouts decoded at once.

    Returns
    -------
    dict
        CE, N, r (means over prompts), rho (pooled Pearson correlation of N and r), truncation_rate, and D.
    """
    law = policy or SamplingPolicy(max_new_tokens=256)
    run = generate(_unwrapped(model), prompts, Path(out) / f"step-{step}", family=family, variant=f"step-{step}",
                   task=task, n_rollouts=n_rollouts, policy=law, seed=seed, tokenizer=tokenizer, chat=chat,
                   batch_size=batch_size, drift_tokens=0, progress=False)
    measured = measure(run, embedder=embedder)
    pooled = pool(measured, measured["M"])
    found = {name: pooled[column] for name, column in _LOGGED.items()}
    found["truncation_rate"] = float(measured["truncation_rate"].mean())
    return found if embedder is None else {**found, "D": float(measured["D"].mean())}


def _unwrapped(model: Any) -> Any:
    """The model itself where peft is around it: its layers hold the adapter. A learnt prompt stands outside of them."""
    if not hasattr(model, "get_base_model"):
        return model
    if getattr(model.active_peft_config, "is_prompt_learning", False):
        raise UserError("The model is trained by a learnt prompt or prefix (peft), which stands outside of its layers: "
                        "its rollouts cannot be drawn here. Use an adapter such as LoRA.")
    return model.get_base_model()


def training_callback(prompts: Any, out: str | Path, *, trainer: Any = None, family: str = "training",
                      task: str = "watch", n_rollouts: int = 8, policy: SamplingPolicy | None = None, seed: int = 0,
                      embedder: Any = None, chat: bool | str | None = False,
                      batch_size: int | str = "auto") -> CanopyCallback:
    """A callback for transformers' Trainer that logs CE, N, r, rho and D at every evaluation.

    Runs are kept in ``out/step-STEP``. Training is not disturbed: the weights are those of a training without the
    callback. Needs ``pip install 'canopy-stats[generate]'``.

    Parameters
    ----------
    prompts, out, family, task, n_rollouts, policy, seed, embedder, chat, batch_size
        As in :func:`canopy_stats.doors.training.draw_checkpoint`.
    trainer : Trainer, optional
        Gets the numbers by its ``log``, for reporting integrations; may be set later as ``callback.trainer``.

    Returns
    -------
    CanopyCallback
        For ``Trainer(callbacks=[...])`` or ``trainer.add_callback``.
    """
    from canopy_stats.generation.callback import CanopyCallback

    if n_rollouts < 2:
        raise UserError(f"n_rollouts is {n_rollouts}; at least 2 rollouts a prompt are needed.")

    def draw(model: Any, tokenizer: Any, step: int) -> dict[str, float]:
        return draw_checkpoint(model, tokenizer, prompts, out, step, family=family, task=task, n_rollouts=n_rollouts,
                               policy=policy, seed=seed, embedder=embedder, chat=chat, batch_size=batch_size)

    return CanopyCallback(draw, trainer)
