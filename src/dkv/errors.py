"""Every error that dkv raises on purpose.

    DkvError
    |-- SettingError       an argument of load, generate or stream that cannot be honoured (also a ValueError)
    |   |-- SpecError      an unknown name or key in a `name:key=value` spec
    |   `-- CapacityError  a request whose cache could never fit the engine's memory
    |-- PromptError        a prompt that cannot be used: empty, too long, no tokenizer for text (also a ValueError)
    |   `-- ContextError   a prompt that leaves too little of the model's context for the answer
    |-- CheckpointError    a checkpoint that is missing, damaged or incomplete
    |   |-- HubError                a model that cannot be fetched: no such one, no access, no connection, damaged
    |   `-- UnsupportedModelError   a sound checkpoint whose mathematics dkv does not implement
    |-- BusyError          the engine's queue is full, or it is shutting down: try again later
    |-- EngineError        the engine stopped, and with it every request
    |   `-- RequestError            one request failed on the way; the engine and all others go on
    |-- RankError          another process of a model that several hold together is gone
    `-- AuditError         a policy or a decoder broke its contract (only under audit)

Messages are one line: the argument, the value, the fix. The command line prints them and exits with 2. Programs read
the fields `argument`, `value` and `fix`, not the message.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__ = [
    "AuditError",
    "BusyError",
    "CapacityError",
    "CheckpointError",
    "ContextError",
    "DkvError",
    "EngineError",
    "HubError",
    "PromptError",
    "RankError",
    "RequestError",
    "SettingError",
    "SpecError",
    "UnsupportedModelError",
]


class DkvError(Exception):
    """Base of every error above."""

    def message_with(self, names: Mapping[str, str]) -> str:
        """The message for a client that calls arguments by other names. names: theirs, by ours."""
        if not names:
            return str(self)
        return re.sub("|".join(rf"\b{name}\b" for name in names), lambda found: names[found[0]], str(self))


class SettingError(DkvError, ValueError):
    """An argument has a value that cannot be honoured.

    argument: its name, None where the error is of none alone; value: as it was given, where that is known; fix: what to
    do instead, as the message ends with it, None where the message says it another way.
    """

    def __init__(self, message: str, argument: str | None = None, value: object = None, fix: str | None = None) -> None:
        super().__init__(message)
        self.argument, self.value, self.fix = argument, value, fix


class SpecError(SettingError):
    """A spec string names something unknown; the message lists what is known."""


class CapacityError(SettingError):
    """The cache of a request exceeds the engine's memory. positions: of the request; need, limit: bytes."""

    def __init__(self, message: str, positions: int = 0, need: int = 0, limit: int = 0) -> None:
        super().__init__(message, "memory")
        self.positions, self.need, self.limit = positions, need, limit


class PromptError(DkvError, ValueError):
    """A prompt is empty, too long, or cannot be tokenised here.

    argument: the argument that is at fault; reason: where a chat template refuses a conversation, why.
    """

    def __init__(self, message: str, argument: str = "prompt", reason: str | None = None) -> None:
        super().__init__(message)
        self.argument, self.reason = argument, reason


class ContextError(PromptError):
    """A prompt and the answer exceed the model's context. prompt_tokens, gen_length, context: counts of tokens."""

    def __init__(
        self, message: str, prompt_tokens: int = 0, gen_length: int = 0, context: int = 0, argument: str = "prompt"
    ) -> None:
        super().__init__(message, argument)
        self.prompt_tokens, self.gen_length, self.context = prompt_tokens, gen_length, context


class CheckpointError(DkvError):
    """A checkpoint is missing, damaged or incomplete."""


class HubError(CheckpointError):
    """A model cannot be fetched from the hub; what was fetched so far is kept, what arrived damaged is not."""


class UnsupportedModelError(CheckpointError):
    """The checkpoint is sound, but asks for mathematics that dkv does not implement."""


class BusyError(DkvError):
    """The engine takes no request now: its queue is full, or it is shutting down."""


class EngineError(DkvError):
    """The engine's step failed; no request of it can go on."""


class RequestError(EngineError):
    """One request failed on the way, and was dropped; the engine goes on with the others.

    public: the same line without what a foreign exception said, for those who do not run the engine; where: the frames
    that it was raised in, without their values.
    """

    def __init__(self, message: str, public: str | None = None, where: str = "") -> None:
        super().__init__(message)
        self.public, self.where = public or message, where


class RankError(DkvError):
    """Another process (rank) of a model that several hold together ended, or does not answer."""


class AuditError(DkvError):
    """Attention was about to read a slot that was never computed, or a token to be fixed that was never read."""
