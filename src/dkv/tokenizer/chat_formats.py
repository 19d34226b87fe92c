"""The chat formats of the families, in templates of our own: for checkpoints whose own template is missing or fails.

Both are written from the published strings; a checkpoint's own template comes first.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

__all__ = ["FORMATS", "TURN_ENDS", "Format", "format_for"]

TURN_ENDS = ("<|eot_id|>", "<|im_end|>")
"""Tokens that end a turn, and therefore a response."""


@dataclass(frozen=True)
class Format:
    """controls: the tokens without which the format means nothing; template: Jinja, of `messages`."""

    name: str
    controls: tuple[str, ...]
    template: str


_HEADERS = Format(
    "llada",
    ("<|startoftext|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "<|startoftext|>{% for message in messages %}"
    "<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n{{ message['content'] | trim }}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
)
# As in the published template, a conversation without a system message gets the default one.
_CHATML = Format(
    "dream",
    ("<|im_start|>", "<|im_end|>"),
    "{% if messages[0]['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
)
FORMATS = (_HEADERS, _CHATML)


def format_for(tokens: Collection[str]) -> Format | None:
    """The format whose control tokens are all among `tokens`; None for a vocabulary of plain text (LLaDA-Base)."""
    return next((form for form in FORMATS if all(control in tokens for control in form.controls)), None)
