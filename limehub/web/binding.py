"""Opening a listening socket, with a message that names the key of the configuration."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from typing import Any, TypeVar

from limehub.config.address import Address
from limehub.errors import ConfigError

__all__ = ["listening", "url_of"]

_BACKLOG = 128
_ADVICE = {
    errno.EADDRINUSE: "is in use, perhaps by another limehub; choose another port, or 0 for any",
    errno.EACCES: "is not allowed; ports below 1024 need privileges",
    errno.EADDRNOTAVAIL: "is no address of this machine",
}

_Socket = TypeVar("_Socket", bound=Any)


def listening(kind: Callable[..., _Socket], address: Address, key: str) -> _Socket:
    """Return a socket of class *kind* that listens. Raises ConfigError naming *key*."""
    try:
        family, where = _resolved(address)
        return _bound(kind, family, where)
    except (OSError, UnicodeError) as error:
        number = error.errno if isinstance(error, OSError) else None
        said = getattr(error, "strerror", None) or error
        reason = _ADVICE.get(number or 0, f"cannot be used: {said}")
        raise ConfigError(f"{key}: {address} {reason}") from error


def url_of(host: str, port: int) -> str:
    """Return `http://host:port`."""
    return f"http://{Address(host, port)}"


def _resolved(address: Address) -> tuple[int, Any]:
    found = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    family, _, _, _, where = found[0]
    return family, where


def _bound(kind: Callable[..., _Socket], family: int, where: Any) -> _Socket:
    sock = kind(family, socket.SOCK_STREAM)
    try:
        # A restart must not wait for the last run's connections in TIME_WAIT.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(where)
        sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock
