"""A message in one queue. What was published to three queues is three of these, sharing bytes."""

from __future__ import annotations

from attrs import define

from limehub.broker.tables import text_of

__all__ = ["Message", "address_of", "read_address"]


@define(eq=False, weakref_slot=False)
class Message:
    """*address*: exchange and routing key as they go over the wire, two short strings.

    *number* grows with each message of the broker and is its place in the queue. *expires*: on the
    broker's clock. *stored*: it has, or will have, a row in the file; *in_file*: it has. *address*,
    *properties* and *body* are None while only the file has them; *size* is the body's.
    """

    number: int
    address: bytes | None
    properties: bytes | None
    body: bytes | None
    size: int
    priority: int = 0
    expires: float | None = None
    stored: bool = False
    in_file: bool = False
    redelivered: bool = False
    deliveries: int = 0

    @property
    def in_memory(self) -> bool:
        """Whether the content is here."""
        return self.body is not None

    def leave_memory(self) -> None:
        """Keep the content in the file only."""
        self.address = self.properties = self.body = None


def address_of(exchange: str, key: str) -> bytes:
    """Return exchange and routing key as the wire has them."""
    one, two = exchange.encode(errors="surrogateescape"), key.encode(errors="surrogateescape")
    return b"%c%b%c%b" % (len(one), one, len(two), two)


def read_address(address: bytes) -> tuple[str, str]:
    """Return exchange and routing key of an *address*."""
    middle = 1 + address[0]
    return text_of(address[1:middle]), text_of(address[middle + 1 :])
