"""Ray (extra `ray`), while it is needed: the cluster of RAY_ADDRESS, or one of this machine's own."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from dkv.errors import EngineError, SettingError
from dkv.storage.extras import module_of

__all__ = ["TRIES", "check_address", "cluster", "one_line", "share_of", "workers_for"]

TRIES = 3
"""Times that work is begun again after the death of who did it: what kills everyone must not do so for ever."""


_PATIENCE = 5.0
"""Seconds to connect, and seconds to an answer. Ray's own client tries for a quarter of an hour."""
_MEND = "start Ray there, or unset RAY_ADDRESS to use this machine"
_CLIENT_PORT = 10001
"""Of ray://HOST, as Ray has it."""
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""How an HTTP/2 client begins, with empty settings: every gRPC server, so every Ray, answers with its own."""


def check_address(address: str) -> None:
    """Connect to the cluster at `address` (HOST:PORT, or ray://HOST[:PORT]) and have it answer. Addresses by which Ray
    finds or starts a cluster itself are left to it. Raises EngineError."""
    scheme, _, rest = address.strip().rpartition("://")
    if scheme not in ("", "ray") or rest in ("", "auto", "local"):
        return
    host, colon, port = rest.rpartition(":")
    if not colon and scheme:
        host, port = rest, str(_CLIENT_PORT)
    if not (host and port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16):
        raise EngineError(f"ray: RAY_ADDRESS={address!r} must be HOST:PORT, ray://HOST:PORT, auto or local")
    try:
        _greet(host.strip("[]"), int(port))
    except TimeoutError:
        raise EngineError(f"ray: nothing answers at RAY_ADDRESS={address!r} ({_PATIENCE:g} s); {_MEND}") from None
    except (OSError, UnicodeError) as error:  # the second where no host can have such a name
        reason = getattr(error, "strerror", None) or "not a host's name"
        raise EngineError(f"ray: RAY_ADDRESS={address!r} cannot be reached ({reason}); {_MEND}") from None


def _greet(host: str, port: int) -> None:
    """Raises OSError, TimeoutError among them, where no Ray is there. With TLS the first word is not ours to say."""
    with socket.create_connection((host, port), timeout=_PATIENCE) as connection:
        if os.environ.get("RAY_USE_TLS", "0") == "1":
            return
        connection.settimeout(_PATIENCE)
        connection.sendall(_HELLO)
        if not connection.recv(1):
            raise ConnectionAbortedError(0, "the connection was closed: no Ray listens there")


@contextmanager
def cluster() -> Iterator[None]:
    """Join Ray, and leave it. Raises SettingError where it is not installed, EngineError where it cannot be had."""
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its other lines are not for who waits for results
    ray = module_of("ray", "ray")
    check_address(os.environ.get("RAY_ADDRESS", ""))
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    try:
        ray.init(logging_level=logging.ERROR, log_to_driver=False, include_dashboard=False)
    except Exception as error:  # it raises bare ones where it is slow to start
        ray.shutdown()
        raise EngineError(f"ray: cannot be started or reached ({one_line(error)}); see RAY_ADDRESS") from None
    try:
        yield
    finally:
        ray.shutdown()


def workers_for(argument: str, wanted: int | None, device: str) -> int:
    """How many processes are to load the model: as wanted, else one for each GPU, or two. device: as `load` takes it.

    Raises SettingError where there are fewer GPUs: Ray would wait for more without end.
    """
    gpus = int(module_of("ray", "ray").cluster_resources().get("GPU", 0)) if _on_gpu(device) else 0
    if _on_gpu(device) and (wanted or 1) > gpus:
        raise SettingError(f"{argument}={wanted or 1} exceeds the {gpus} GPUs of the cluster; use fewer")
    return wanted or gpus or 2


def share_of(workers: int, device: str) -> dict[str, float]:
    """What each of them holds of the cluster, as Ray's options: a GPU, or its part of the CPUs."""
    share = module_of("ray", "ray").cluster_resources().get("CPU", 1) / workers
    return {"num_cpus": int(share) if share >= 1 else share, "num_gpus": 1 if _on_gpu(device) else 0}


def one_line(error: BaseException) -> str:
    """What an error of Ray's says: the last line of a worker's traceback, else the first of its explanations."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1 if "Traceback" in str(error) else 0].strip()[:200]


def _on_gpu(device: str) -> bool:
    return device.startswith("cuda")
