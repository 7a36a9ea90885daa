"""What a solution team touches: the event, Lime's message, and the exceptions that decide a fate.

def handler(event):            event.body, event.routing_key, event.application, event.ack()
def handler(event: LimeObjectEvent):   event.limetype, event.verb, event.changed("name")
def handler(worker, body, message):    message.ack()                      (Lime's manual form)

raise Retry(30)          run it again in 30 seconds
raise Reject("why")      to the dead letter queue, whatever the settings say
raise Discard("why")     an expected error without consequence: logged and acked
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Protocol

from limehub.decoding import UndecodableBody, decode_body

__all__ = ["Discard", "Event", "LimeObjectEvent", "Message", "Reject", "Retry"]


class Retry(Exception):
    """Run this event again. *delay*: seconds; None = what the handler's retry option says."""

    def __init__(self, delay: float | None = None, reason: str = "") -> None:
        super().__init__(reason or (f"retry in {delay} s" if delay is not None else "retry"))
        self.delay = delay


class Reject(Exception):
    """Send this event to the dead letter queue, whatever `catch_handler_exceptions` says."""


class Discard(Exception):
    """Drop this event: an expected error with no consequence. Logged, then acked."""


class RawDelivery(Protocol):
    """What an event needs of a delivery; `limehub.amqp.delivery.Delivery` is one."""

    body: bytes
    tag: int
    redelivered: bool

    @property
    def message_id(self) -> str | None: ...
    @property
    def attempts(self) -> int: ...
    @property
    def damage(self) -> str | None: ...
    @property
    def coding(self) -> tuple[str | None, str | None]: ...

    @property
    def exchange(self) -> str: ...
    @property
    def routing_key(self) -> str: ...
    @property
    def queue(self) -> str: ...
    @property
    def headers(self) -> Mapping[str, Any]: ...
    @property
    def properties(self) -> Mapping[str, Any]: ...


class Settler(Protocol):
    """Settles the delivery of an event, once. A second call raises AlreadySettled."""

    @property
    def settled(self) -> bool: ...
    def ack(self) -> None: ...
    def reject(self, reason: str) -> None: ...
    def requeue(self) -> None: ...


class Event:
    """One event as a handler sees it. Everything but the body is read when first asked for.

    *application*: the tenant, as in `applications`.
    """

    def __init__(self, delivery: RawDelivery, *, application: str, settler: Settler) -> None:
        self._delivery = delivery
        self._settler = settler
        self.application = application

    @property
    def attempt(self) -> int:
        """1 on the first run of this handler on the event."""
        return self._delivery.attempts + 1

    @property
    def raw_body(self) -> bytes:
        """The body as it came."""
        return self._delivery.body

    @property
    def redelivered(self) -> bool:
        """Whether the broker may have handed it out before: a hint, never a counter."""
        return self._delivery.redelivered

    @cached_property
    def body(self) -> Any:
        """The decoded body. Raises UndecodableBody (the event is then dead-lettered)."""
        return decode_body(self._delivery.body, *self._delivery.coding)

    @property
    def id(self) -> str | None:
        """The publisher's message id, or None: two equal events without id are two events."""
        return self._delivery.message_id

    @cached_property
    def fingerprint(self) -> str:
        """Hash of exchange, routing key, body: for logs and redelivery, never for identity."""
        digest = hashlib.sha256()
        for part in (self.exchange.encode(), self.routing_key.encode(), self.raw_body):
            digest.update(len(part).to_bytes(8, "big") + part)
        return digest.hexdigest()[:32]

    @property
    def exchange(self) -> str:
        """The exchange it was first published to."""
        return self._delivery.exchange

    @property
    def routing_key(self) -> str:
        """The key it was first published with."""
        return self._delivery.routing_key

    @property
    def queue(self) -> str:
        """The full name of the queue that it came from."""
        return self._delivery.queue

    @property
    def headers(self) -> Mapping[str, Any]:
        """The publisher's headers, never None. Raises UndecodableBody if they cannot be read."""
        return self._readable.headers

    @property
    def properties(self) -> Mapping[str, Any]:
        """AMQP properties that are set, by their AMQP names (`content_type`, `timestamp`, ...)."""
        return self._readable.properties

    @property
    def _readable(self) -> RawDelivery:
        if self._delivery.damage is not None:
            raise UndecodableBody(f"properties cannot be read: {self._delivery.damage}")
        return self._delivery

    @property
    def content_type(self) -> str | None:
        """As the publisher set it."""
        return self._delivery.coding[0]

    @property
    def content_encoding(self) -> str | None:
        """As the publisher set it."""
        return self._delivery.coding[1]

    @property
    def timestamp(self) -> datetime | None:
        """When the publisher says that it was published (UTC, whole seconds); None = no date."""
        seconds = self.properties.get("timestamp")
        try:
            return None if seconds is None else datetime.fromtimestamp(int(seconds), UTC)
        except (ValueError, OverflowError):  # milliseconds, as some publishers send
            return None

    @property
    def acknowledged(self) -> bool:
        """True once the event was acked, rejected or requeued."""
        return self._settler.settled

    def ack(self) -> None:
        """Ack now: the point of no return. What fails after it is dead-lettered as a copy."""
        self._settler.ack()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.routing_key} of {self.application} id={self.id}>"


class LimeObjectEvent(Event):
    """An event of a Lime object: `core.limeobject.<limetype>.<new|update|delete|restore>.v1`.

    Example: `if event.verb == "update" and event.changed("name"): ...`
    """

    @property
    def limetype(self) -> str:
        """The object's type, from the body, else from the routing key."""
        return str(self._field("limetype") or self._key_part(2))

    @property
    def verb(self) -> str:
        """`new`, `update`, `delete` or `restore`, from the routing key."""
        return self._key_part(3)

    @property
    def object_id(self) -> int | None:
        """The object's id in the application's database."""
        value = self._field("id")
        return value if isinstance(value, int) else None

    @property
    def values(self) -> Mapping[str, Any]:
        """All properties after the change; empty for `delete`."""
        return self._table("values")

    @property
    def original_values(self) -> Mapping[str, Any]:
        """Old values of the changed properties; empty but for `update`."""
        return self._table("original_values")

    def changed(self, name: str) -> bool:
        """Whether the property *name* has another value than before."""
        old = self.original_values
        return name in old and old[name] != self.values.get(name)

    def _field(self, name: str) -> Any:
        return self.body.get(name) if isinstance(self.body, dict) else None

    def _table(self, name: str) -> Mapping[str, Any]:
        value = self._field(name)
        return value if isinstance(value, dict) else {}

    def _key_part(self, index: int) -> str:
        parts = self.routing_key.split(".")
        return parts[index] if len(parts) > index else ""


class Message:
    """The third argument of Lime's handlers, with kombu's names."""

    __slots__ = ("_event", "_settler")

    def __init__(self, event: Event, settler: Settler) -> None:
        self._event = event
        self._settler = settler

    @property
    def payload(self) -> Any:
        """The decoded body."""
        return self._event.body

    @property
    def body(self) -> bytes:
        """The bytes as they came."""
        return self._event.raw_body

    @property
    def headers(self) -> Mapping[str, Any]:
        """The publisher's headers."""
        return self._event.headers

    @property
    def properties(self) -> Mapping[str, Any]:
        """The AMQP properties that are set."""
        return self._event.properties

    @property
    def delivery_info(self) -> dict[str, Any]:
        """`exchange`, `routing_key`, `delivery_tag`, `redelivered`, `queue`."""
        return {
            "exchange": self._event.exchange,
            "routing_key": self._event.routing_key,
            "delivery_tag": self.delivery_tag,
            "redelivered": self._event.redelivered,
            "queue": self._event.queue,
        }

    @property
    def delivery_tag(self) -> int:
        """The broker's number for this delivery, unique on its channel only."""
        return self._event._delivery.tag

    @property
    def content_type(self) -> str | None:
        """As the publisher set it."""
        return self._event.content_type

    @property
    def content_encoding(self) -> str | None:
        """As the publisher set it."""
        return self._event.content_encoding

    @property
    def acknowledged(self) -> bool:
        """True once acked, rejected or requeued."""
        return self._settler.settled

    def decode(self) -> Any:
        """Return the decoded body, as `payload`."""
        return self._event.body

    def ack(self) -> None:
        """The event is done. Raises AlreadySettled the second time."""
        self._settler.ack()

    def reject(self, requeue: bool = False) -> None:
        """Send it to the dead letter queue; with *requeue* back to its own queue."""
        if requeue:
            self._settler.requeue()
        else:
            self._settler.reject("message.reject()")

    def requeue(self) -> None:
        """Give it back to its queue; a second time within a second it is delayed."""
        self._settler.requeue()
