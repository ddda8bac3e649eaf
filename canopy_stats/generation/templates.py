"""Chat templates: messages as text or token ids, with the date pinned, the last turn continued, nothing left out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, time
from typing import Any

from ..schema import RENDERED_TEXT, UserError

DATE_KEY = "template_date"
"""Among a template's arguments: the day that a template which asks for today is told, as YYYY-MM-DD."""
DEFAULT_DATE = "2024-07-26"
"""The day that Llama's own templates fall back on. A fixed one, so that the same prompt is the same on every day."""
_CLOCK = "strftime_now"
_CODES = ("%-d", "%-m", "%-H", "%-I", "%-M", "%-S", "%Y", "%m", "%d", "%B", "%b", "%h", "%A", "%a", "%y", "%j", "%H",
          "%I", "%M", "%S", "%p", "%F", "%D", "%T", "%R", "%e", "%u", "%w", "%U", "%W", "%V", "%G", "%C", "%c", "%x",
          "%X")
"""What of strftime a template can ask for; each is replaced in this order."""
_PERCENT = "\ue000"
"""Stands for ``%%`` meanwhile."""


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """How sources become token ids: with the tokenizer's chat template and its arguments, or as plain text."""

    chat: bool | str
    system: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.chat and (self.system is not None or self.arguments):
            raise UserError("A system prompt, enable_thinking and template_kwargs only exist inside a chat template; "
                            "drop them, or set chat=True.")
        _day(self.arguments.get(DATE_KEY, DEFAULT_DATE))

    @property
    def day(self) -> str:
        """The day that a template is told, as YYYY-MM-DD."""
        return str(self.arguments.get(DATE_KEY, DEFAULT_DATE))


def _day(text: Any) -> datetime:
    """Noon of a day."""
    try:
        return datetime.combine(datetime.strptime(text, "%Y-%m-%d"), time(12))
    except (TypeError, ValueError):
        raise UserError(f"{DATE_KEY} is {text!r}; it must be a day such as '{DEFAULT_DATE}'.") from None


def check_template(tokenizer: Any, style: ChatFormat) -> None:
    """Refuse a chat format that the tokenizer can't produce."""
    if style.chat and (tokenizer is None or not getattr(tokenizer, "chat_template", None)):
        raise UserError("Prompts should go through a chat template (chat=None means the template for variants other "
                        "than 'base'), but the tokenizer has none; set chat=False, or give the tokenizer of a chat "
                        "model with tokenizer=.")
    if DATE_KEY in style.arguments and not asks_for_the_date(tokenizer):
        raise UserError(f"{DATE_KEY} was given, but the chat template does not ask for the date ({_CLOCK}); leave it "
                        "out, or give the template's own variable.")


def unused_arguments(tokenizer: Any, style: ChatFormat) -> list[str]:
    """Names among the arguments that do not occur in the template."""
    template = str(tokenizer.chat_template)
    return [name for name in style.arguments if name != DATE_KEY and not re.search(rf"\b{re.escape(name)}\b", template)]


def asks_for_the_date(tokenizer: Any) -> bool:
    """Whether the chat template looks at the clock."""
    return _CLOCK in str(getattr(tokenizer, "chat_template", "") or "")


def pinned(template: str, day: str) -> str:
    """The template with its clock stopped at noon of a day: a macro of the clock's name is put before it."""
    if _CLOCK not in template:
        return template
    noon = _day(day)
    told = {"%%": _PERCENT, **{code: noon.strftime(code) for code in _CODES}, _PERCENT: "%"}
    swaps = "".join(f"|replace({code!r},{words!r})" for code, words in told.items())
    return "{%- macro " + _CLOCK + "(format) -%}{{ format" + swaps + " }}{%- endmacro %}\n" + template


def templated(source: Any, tokenizer: Any, style: ChatFormat) -> list[int]:
    """The token ids of a text or of chat messages under the template.

    Messages that end with the assistant's are continued: its turn stays open. Raises UserError where the template
    leaves out the prompt, or what a message holds beside role and content.
    """
    messages = _messages(source, style)
    text = _rendered(messages, tokenizer, style)
    _refuse_what_is_left_out(messages, text, tokenizer, style)
    if style.chat == RENDERED_TEXT:
        return list(tokenizer(text)["input_ids"])
    return list(_rendered(messages, tokenizer, style, tokenize=True, return_dict=True)["input_ids"])


def _messages(source: Any, style: ChatFormat) -> list[dict[str, Any]]:
    messages = [{"role": "user", "content": source}] if isinstance(source, str) else list(source)
    if style.system is None:
        return messages
    if messages[0]["role"] == "system":
        raise UserError("A prompt brings its own system message and a system prompt was given too; drop one.")
    return [{"role": "system", "content": style.system}, *messages]


def _rendered(messages: list[dict[str, Any]], tokenizer: Any, style: ChatFormat, *, tokenize: bool = False,
              **how: bool) -> Any:
    """The messages as text, or as what the tokenizer makes of them in one go."""
    arguments = {name: value for name, value in style.arguments.items() if name != DATE_KEY}
    goes_on = messages[-1]["role"] == "assistant"
    if goes_on and not messages[-1]["content"].strip():
        raise UserError("A prompt ends in an assistant message without words, so there is nothing to continue; remove "
                        "that message.")
    try:
        template = tokenizer.get_chat_template(None, arguments.get("tools"))
        return tokenizer.apply_chat_template(
            messages, tokenize=tokenize, add_generation_prompt=not goes_on, continue_final_message=goes_on,
            chat_template=pinned(template, style.day), **how, **arguments)
    except Exception as error:  # templates are programs, and refuse in their own words
        raise UserError(f"The chat template refuses the prompt ({' '.join(str(error).split())[:300]}); change its "
                        "messages, or set chat=False for plain text.") from error


def _refuse_what_is_left_out(messages: list[dict[str, Any]], text: str, tokenizer: Any, style: ChatFormat) -> None:
    """Refuse a template that says the same without a message's words, or without a key that messages hold."""
    for i, message in enumerate(messages):
        emptied = [*messages[:i], {**message, "content": ""}, *messages[i + 1:]]
        if message["content"] and text == _or_nothing(emptied, tokenizer, style):
            raise UserError(f"The chat template leaves out what the {message['role']} says: it gives the same for an "
                            "empty message. Change the message's role, or set chat=False for plain text.")
    for key in sorted({key for m in messages for key in m} - {"role", "content"}):
        without = [{k: v for k, v in m.items() if k != key} for m in messages]
        if text == _or_nothing(without, tokenizer, style):
            raise UserError(f"The chat template leaves out what a message holds as {key!r}; remove it, or use a model "
                            "whose template takes it.")


def _or_nothing(messages: list[dict[str, Any]], tokenizer: Any, style: ChatFormat) -> str | None:
    """The rendered messages; None where the template refuses them."""
    try:
        return str(_rendered(messages, tokenizer, style))
    except UserError:
        return None
