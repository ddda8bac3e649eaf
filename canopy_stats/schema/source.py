"""Which model, and how prompts are put to it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from canopy_stats.schema.problems import UserError, require

RENDERED_TEXT = "rendered-text"
"""``chat`` as the paper ran it: the rendered template is tokenised again, with whatever BOS the tokenizer adds."""
_DECIDED_HERE = {"messages", "conversation", "tokenize", "add_generation_prompt", "continue_final_message",
                 "chat_template", "return_dict", "return_tensors", "padding", "truncation", "max_length",
                 "return_assistant_tokens_mask", "tokenizer_kwargs", "sanitize_control_tokens"}
"""What a template is given anyway, or what is none of its arguments."""
_A_MAPPING = "a mapping of names to texts, numbers or lists"


def _template_kwargs(given: Any) -> dict[str, Any]:
    """Arguments of a chat template, which a manifest can hold."""
    try:
        kept: dict[str, Any] = json.loads(json.dumps(given or {}, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        require(False, "template_kwargs", given, _A_MAPPING)
    require(isinstance(kept, dict), "template_kwargs", given, _A_MAPPING)
    decided = sorted(kept.keys() & _DECIDED_HERE)
    if decided:
        raise UserError(f"template_kwargs holds {decided[0]!r}, which is decided here; leave it out.")
    return kept


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Which model, and how prompts are put to it.

    Parameters
    ----------
    model : str, path or transformers model
        Hub name, folder, GGUF file, or a loaded causal language model.
    tokenizer : str, path or tokenizer, optional
        Where it is not the one beside the adapter or the model.
    adapter : str or path, optional
        Adapter (peft) that is merged into the weights.
    revision : str, optional
        Commit or tag of a hub name.
    chat : bool or "rendered-text", optional
        Whether the chat template is applied; None means for variants other than ``base``. "rendered-text" tokenises
        the rendered template once more, so that tokenizers which add a BOS add a second one.
    system, enable_thinking, template_kwargs
        System message, and arguments of the chat template; they exist inside a chat template only.
    dtype, device : str
        "auto" is float32 on a CPU, the checkpoint's own type on a GPU; and the GPU where there is one.
    """

    model: Any
    tokenizer: Any = None
    adapter: str | Path | None = None
    revision: str | None = None
    chat: bool | str | None = None
    system: str | None = None
    enable_thinking: bool | None = None
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "auto"
    device: str = "auto"

    def __post_init__(self) -> None:
        object.__setattr__(self, "template_kwargs", _template_kwargs(self.template_kwargs))
        require(self.chat in (None, True, False, RENDERED_TEXT), "chat", self.chat,
                 f"True, False, {RENDERED_TEXT!r}, or None (the template for variants other than 'base')")
        if self.chat is False and (self.system is not None or self.template_arguments):
            raise UserError("A system prompt, enable_thinking and template_kwargs only exist inside a chat template; "
                            "drop them, or set chat=True.")

    @property
    def template_arguments(self) -> dict[str, Any]:
        """What the chat template is given beside the messages."""
        if self.enable_thinking is None:
            return dict(self.template_kwargs)
        if "enable_thinking" in self.template_kwargs:
            raise UserError("enable_thinking stands in template_kwargs too; give it once.")
        return {**self.template_kwargs, "enable_thinking": self.enable_thinking}

    @property
    def origin(self) -> dict[str, str | None]:
        """Names and paths as they were given, for the manifest; None for an object, which cannot be found again."""
        named = {name: getattr(self, name) for name in ("model", "tokenizer", "adapter", "revision")}
        return {name: str(thing) if isinstance(thing, str | Path) else None for name, thing in named.items()}
