"""What parent and child tell each other: pickled tuples, each after its length in four bytes.

| from the parent | from the child |
|---|---|
| `("hello", Hello)` | `("ready", rss)` |
| `("run", Run)` | `("done", run, CarriedError or None, rss)` |
| `("answer", call, CarriedError or None, value)` | `("call", call, run, name, arguments)` |
| `("end",)` | `("log", record)` |

Neither side trusts the other less than itself: they are one program.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Mapping
from typing import Any, Protocol

from attrs import define, field, fields, frozen

from limehub.config import Config
from limehub.events import RawDelivery

__all__ = ["CarriedDelivery", "Hello", "Run", "read_frame", "write_frame"]

_LENGTH = struct.Struct("!I")


class Connection(Protocol):
    """A stream socket, gevent's or Python's."""

    def recv_into(self, buffer: memoryview, /) -> int: ...
    def sendall(self, data: bytes, /) -> None: ...


@frozen(kw_only=True)
class Hello:
    """What a child needs before its first run. *config*: with the settings of all plugins."""

    path: tuple[str, ...]
    config: Config = field(repr=False)


@define(kw_only=True, eq=False)
class CarriedDelivery:
    """What an event reads of its delivery; a `limehub.events.RawDelivery`."""

    body: bytes = field(repr=False)
    tag: int
    redelivered: bool
    message_id: str | None
    attempts: int
    damage: str | None
    coding: tuple[str | None, str | None]
    exchange: str
    routing_key: str
    queue: str
    headers: Mapping[str, Any] = field(repr=False)
    properties: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(cls, delivery: RawDelivery) -> CarriedDelivery:
        """Read everything that a handler may ask for."""
        values = {name: getattr(delivery, name) for name in _ALWAYS}
        readable = delivery.damage is None
        return cls(
            headers=dict(delivery.headers) if readable else {},
            properties=dict(delivery.properties) if readable else {},
            **values,
        )


_ALWAYS = tuple(
    attribute.name
    for attribute in fields(CarriedDelivery)
    if attribute.name not in ("headers", "properties")
)


@frozen(kw_only=True)
class Run:
    """One event for the handler of *handler_queue* of *app*.

    *settled*: it was acked before the run; *log_level*: the parent's at the moment.
    """

    number: int
    app: str
    handler_queue: str
    application: str
    delivery: CarriedDelivery
    settled: bool
    log_level: int


def write_frame(connection: Connection, message: tuple[Any, ...]) -> None:
    """Send *message*. Raises OSError; whatever pickle raises for what cannot be carried."""
    data = pickle.dumps(message, protocol=5)
    connection.sendall(_LENGTH.pack(len(data)) + data)


def read_frame(connection: Connection) -> tuple[Any, ...] | None:
    """Wait for a message and return it; None at the end of the stream. Raises OSError."""
    head = _read(connection, _LENGTH.size)
    data = None if head is None else _read(connection, _LENGTH.unpack(head)[0])
    # Only our own child, or parent, writes to this socket.
    return None if data is None else pickle.loads(data)  # noqa: S301


def _read(connection: Connection, size: int) -> bytes | None:
    buffer = bytearray(size)
    rest = memoryview(buffer)
    while rest:
        count = connection.recv_into(rest)
        if not count:
            return None
        rest = rest[count:]
    return bytes(buffer)
