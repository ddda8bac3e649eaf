"""A worker: it holds one engine and does one item after the other."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from canopy_stats.drawing import ready_engine
from canopy_stats.schema import Engine, UserError
from canopy_stats.study.executors.items import CheckModel, Item, Model


@dataclass(frozen=True)
class Declined:
    """What was asked cannot be done, in the words of a UserError, which need not survive the way between processes."""

    words: str


class Hand:
    """Loads an engine when an item needs another one than the last."""

    def __init__(self) -> None:
        self._open = ExitStack()
        self._loaded: tuple[str, Engine] | None = None

    def place(self) -> str:
        """Where this is."""
        return f"{socket.gethostname()}, process {os.getpid()}"

    def do(self, item: Item) -> Any:
        """What an item gives; Declined where it cannot be done by anybody."""
        try:
            if isinstance(item, CheckModel):
                self.close()  # a check loads the model twice by itself
                return item.done_without_engine()
            return item.done_by(self._engine(item.model))
        except UserError as error:
            return Declined(str(error))

    def _engine(self, model: Model) -> Engine:
        if self._loaded is None or self._loaded[0] != model.key:
            self.close()
            made = ready_engine(model.engine, model.source, model.variant, model.options)
            self._loaded = model.key, self._open.enter_context(made)
        return self._loaded[1]

    def close(self) -> None:
        """Give the engine's memory back."""
        self._loaded = None
        self._open.close()
