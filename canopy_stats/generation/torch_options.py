"""What may be asked of the torch engine beside its model: nothing here changes the law."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from ..schema import UserError

_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
_TRIAL = "eager"
"""Traced but not compiled: tries the fixed slots where there is no compiler, such as in tests."""


@dataclass(frozen=True, slots=True)
class TorchOptions:
    """``mix_shards``: whether a slot that one shard leaves free is taken by the next one's rollouts; None means on a
    GPU. Bits then depend on what is drawn together. ``compile``: a mode of torch.compile for the decode step, such as
    "reduce-overhead" (CUDA graphs); None means as it is."""

    mix_shards: bool | None = None
    compile: str | None = None

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """Options by name; refuses what is none."""
        names = [field.name for field in fields(cls)]
        if unknown := [name for name in given if name not in names]:
            raise UserError(f"The torch engine has no option {unknown[0]!r}; it has {' and '.join(names)} (others are "
                            "for engine='vllm').")
        options = cls(**given)
        if not (options.mix_shards is None or isinstance(options.mix_shards, bool)):
            raise UserError(f"mix_shards is {options.mix_shards!r}; it must be true, false or left out.")
        if options.compile not in (None, _TRIAL, *_MODES):
            raise UserError(f"compile is {options.compile!r}; choose one of {', '.join(_MODES)}, or leave it out.")
        return options

    def how_to_compile(self) -> dict[str, str]:
        """The arguments of torch.compile."""
        assert self.compile is not None
        return {"backend": "eager"} if self.compile == _TRIAL else {"mode": self.compile}
