"""What happens at a trainer's evaluation steps: numbers of rollouts that are drawn then go into its logs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

Draw = Callable[[Any, Any, int], Mapping[str, float]]
"""Model, tokenizer and training step to numbers by name."""


class CanopyCallback(TrainerCallback):
    """Calls ``draw`` after each evaluation and logs what it returns, as ``eval_canopy_NAME``.

    Parameters
    ----------
    draw : callable
        Takes the model in evaluation mode, the trainer's tokenizer and the step; returns numbers.
        :func:`canopy_stats.training_callback` makes one.
    trainer : Trainer, optional
        Its ``log`` gets the numbers, and with it every reporting integration. Without one they go into
        ``state.log_history`` alone. It may be set later: ``callback.trainer = trainer``.

    Training goes on as if nothing had been drawn: modules have their modes again, the generators of random numbers
    their states.
    """

    def __init__(self, draw: Draw, trainer: Any = None):
        self.draw, self.trainer = draw, trainer

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, *, model: Any,
                    processing_class: Any = None, metrics: dict[str, float] | None = None, **others: Any) -> None:
        """Draw, on the first process, and log."""
        if not state.is_world_process_zero:
            return
        with undisturbed(model):
            found = self.draw(model, processing_class, state.global_step)
        named = {f"eval_canopy_{name}": float(value) for name, value in found.items()}
        if metrics is not None:
            metrics.update(named)
        if self.trainer is not None:
            self.trainer.log(named)
        else:
            state.log_history.append({**named, "step": state.global_step, "epoch": state.epoch})


@contextmanager
def undisturbed(model: torch.nn.Module) -> Iterator[None]:
    """The model in evaluation mode; afterwards each module's own mode, and the random numbers that were to come."""
    modes = [(module, module.training) for module in model.modules()]
    config: Any = model.config
    use_cache = getattr(config, "use_cache", None)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            model.eval()
            yield
        finally:
            for module, mode in modes:
                module.training = mode
            if use_cache is not None:
                config.use_cache = use_cache
