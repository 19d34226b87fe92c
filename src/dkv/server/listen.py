"""Where the server listens, checked before anything is loaded."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from ipaddress import ip_address

from dkv.errors import SettingError

__all__ = ["address_of", "check_exposure", "listen"]

_BACKLOG = 1024


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises SettingError where that cannot be."""
    if not 0 <= port < 1 << 16:
        raise SettingError(f"port={port} must be a whole number from 0 to 65535")
    family, address = _resolved(host, port)[0]
    found = socket.socket(family, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen(_BACKLOG)
    except OSError as error:
        found.close()
        raise SettingError(f"port={port}: cannot listen on {host}:{port} ({error.strerror}); choose another") from None
    return found


def check_exposure(host: str, keys: Sequence[str], no_key: bool) -> None:
    """Refuse to serve other machines without a key, unless that is what is wanted. Raises SettingError."""
    if keys and no_key:
        raise SettingError("no_key: DKV_API_KEY is set; unset it, or leave out --no-key")
    is_local = all(ip_address(address[0].partition("%")[0]).is_loopback for _, address in _resolved(host, 0))
    if not (is_local or keys or no_key):
        raise SettingError(f"host={host!r}: other machines could reach it; set DKV_API_KEY, or give --no-key")


def address_of(found: socket.socket) -> str:
    """The URL of a listening socket."""
    host, port = found.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _resolved(host: str, port: int) -> list[tuple[socket.AddressFamily, tuple[str, int]]]:
    """The addresses of a host, at least one. Raises SettingError."""
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise SettingError(f"host={host!r} is not known here; use 127.0.0.1, or an address of this machine") from None
    return [(family, address) for family, _, _, _, address in found]  # type: ignore[misc]
