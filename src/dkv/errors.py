"""Every error that dkv raises on purpose.

    DkvError
    |-- SettingError       an argument of load, generate or stream that cannot be honoured (also a ValueError)
    |   `-- SpecError      an unknown name or key in a `name:key=value` spec
    |-- PromptError        a prompt that cannot be used: empty, too long, no tokenizer for text (also a ValueError)
    |-- CheckpointError    a checkpoint that is missing, damaged or incomplete
    |   |-- HubError                a model that cannot be fetched: no such one, no access, no connection, damaged
    |   `-- UnsupportedModelError   a sound checkpoint whose mathematics dkv does not implement
    |-- BusyError          the engine's queue is full, or it is shutting down: try again later
    |-- EngineError        the engine stopped, and with it every request
    |-- RankError          another process of a model that several hold together is gone
    `-- AuditError         a policy or a decoder broke its contract (only under audit)

Messages are one line: the argument, the value, the fix. The command line prints them and exits with 2.
"""

__all__ = [
    "AuditError",
    "BusyError",
    "CheckpointError",
    "DkvError",
    "EngineError",
    "HubError",
    "PromptError",
    "RankError",
    "SettingError",
    "SpecError",
    "UnsupportedModelError",
]


class DkvError(Exception):
    """Base of every error above."""


class SettingError(DkvError, ValueError):
    """An argument has a value that cannot be honoured."""


class SpecError(SettingError):
    """A spec string names something unknown; the message lists what is known."""


class PromptError(DkvError, ValueError):
    """A prompt is empty, too long, or cannot be tokenised here."""


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


class RankError(DkvError):
    """Another process (rank) of a model that several hold together ended, or does not answer."""


class AuditError(DkvError):
    """Attention was about to read a slot that was never computed, or a token to be fixed that was never read."""
