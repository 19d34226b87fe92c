"""Many requests at once: they join and leave between any two steps, and each gets the tokens that it gets alone."""

from dkv.engine.async_engine import Service
from dkv.engine.engine import Engine
from dkv.engine.sequence import Request, Status, Update

__all__ = ["Engine", "Request", "Service", "Status", "Update"]
