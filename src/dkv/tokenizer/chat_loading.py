"""Which chat template a checkpoint's conversations go through: its own, its family's, or none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dkv.tokenizer.chat import ChatTemplate
from dkv.tokenizer.chat_formats import format_for
from dkv.tokenizer.tokenizer_files import has_named_templates, template_of, variables_of

__all__ = ["Chat", "load_chat"]


@dataclass(frozen=True)
class Chat:
    """How conversations become text.

    template: None where there is no way; format: "own" for the checkpoint's template, "llada" or "dream" for dkv's own
    of that family, None without one; note: why the checkpoint's template is not used, or fails; None where it works.
    """

    template: ChatTemplate | None = None
    format: str | None = None
    note: str | None = None


def load_chat(directory: Path, settings: dict[str, Any], added: Mapping[str, int]) -> Chat:
    """The checkpoint's own template if it can answer a plain message; else the family's, if the vocabulary has its
    control tokens, with a note.

    A template that cannot be compiled or run within bounds is damage, which a fallback would hide: it is kept, and
    raises its error when a chat is asked for. Token ids and plain texts need no template. Raises CheckpointError for a
    file that is not what it should be.
    """
    family = format_for(added)
    found = template_of(directory, settings)
    variables = variables_of(directory, settings)
    own, reason = None, None
    if found is not None and not isinstance(found[0], str):
        reason = f"{found[1]}: the chat template is not a text; fetch the file again"
        return Chat(ChatTemplate.unusable(reason), "own", reason)
    if found is not None:
        own = ChatTemplate(found[0], variables, found[1])
        reason = own.trial()
        if reason is None:
            return Chat(own, "own")
        what = "is not usable" if own.fault is not None else "fails on a plain message"
        reason = f"{found[1]}: the chat template {what} ({reason})"
    elif has_named_templates(directory, settings):
        reason = f"{directory}: has named chat templates, and none of them is the default"
    if own is not None and (own.fault is not None or family is None):
        return Chat(own, "own", f"{reason}; chats are refused")
    if family is None:
        return Chat(note=reason)
    replaced = None if reason is None else f"{reason}; dkv's own format {family.name!r} takes its place"
    return Chat(ChatTemplate(family.template, variables), family.name, replaced)
