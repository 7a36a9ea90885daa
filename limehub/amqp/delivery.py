"""A delivery: what the broker handed out, on which channel, and the one right to settle it.

Delivery tags count per channel: a stale tag acks another message on a new channel (measured), so a
delivery knows its channel object and is dropped when that is gone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import pika
from attrs import field, frozen

from limehub.amqp import headers as own
from limehub.amqp.frames import DELIVER, address_of, content_coding, short_string
from limehub.errors import AlreadySettled

if TYPE_CHECKING:
    from limehub.amqp.channel import Channel

__all__ = ["Delivery", "Subscription"]

log = logging.getLogger(__name__)

_NO_PROPERTIES = b"\0\0"

_PROPERTIES = (
    "content_type", "content_encoding", "delivery_mode", "priority", "correlation_id", "reply_to",
    "expiration", "message_id", "timestamp", "type", "user_id", "app_id", "cluster_id",
)  # fmt: skip


def _not_consumed(_deliveries: list[Delivery]) -> None:
    """What was fetched one by one is handed to nobody."""


@frozen(eq=False)
class Subscription:
    """A consumer of *queue* on *channel*; what the frames of its deliveries begin with."""

    channel: Channel = field(repr=False)
    queue: str
    tag: str = ""
    on_deliveries: Callable[[list[Delivery]], None] = field(default=_not_consumed, repr=False)
    prefix: bytes = field(init=False, repr=False)

    @prefix.default
    def _prefix(self) -> bytes:
        return DELIVER + short_string(self.tag)


class Delivery:
    """One message in our hands. Settle it once, by `ack` or `give_back`, from the hub's thread.

    Where it was sent and its properties stay bytes until somebody asks: most handlers never do.
    """

    __slots__ = (
        "__dict__", "_address", "_properties", "_raw", "body", "channel", "local_retries", "queue",
        "redelivered", "settled", "subscription", "tag",
    )  # fmt: skip

    was_dropped = False
    """Whether it was settled too late, so that the broker never heard of it."""

    def __init__(
        self,
        subscription: Subscription,
        tag: int,
        redelivered: bool,
        address: bytes,
        raw_properties: bytes,
        body: bytes,
    ) -> None:
        self.subscription = subscription
        self.channel = subscription.channel
        self.queue = subscription.queue
        self.tag = tag
        self.redelivered = redelivered
        self.body = body
        self.settled = False
        self.local_retries = 0
        self._address = address
        self._raw = raw_properties
        self._properties: Any = None

    @classmethod
    def decoded(cls, subscription: Subscription, method: Any, properties: Any, body: bytes) -> Self:
        """Make one of what pika has read."""
        exchange, key = (_bytes(part) for part in (method.exchange, method.routing_key))
        address = bytes((len(exchange),)) + exchange + bytes((len(key),)) + key
        raw, _why = getattr(properties, "damaged", (_NO_PROPERTIES, ""))
        made = cls(subscription, method.delivery_tag, method.redelivered, address, raw, body)
        if raw is _NO_PROPERTIES:
            made._properties = properties
        return made

    @property
    def wire_exchange(self) -> str:
        """The exchange that this delivery came over."""
        return address_of(self._address)[0]

    @property
    def wire_routing_key(self) -> str:
        """The key that this delivery came with."""
        return address_of(self._address)[1]

    @cached_property
    def headers(self) -> Mapping[str, Any]:
        """All headers as they came."""
        if self.damage is not None:
            return {own.DAMAGED: self._raw}
        return self._decoded.headers or {}

    @cached_property
    def properties(self) -> Mapping[str, Any]:
        """The AMQP properties that are set, without the headers."""
        values = ((name, getattr(self._decoded, name)) for name in _PROPERTIES)
        return {name: _text(value) for name, value in values if value is not None}

    @property
    def coding(self) -> tuple[str | None, str | None]:
        """(content type, content encoding), for those who want no other property."""
        if self._properties is not None:
            return self.properties.get("content_type"), self.properties.get("content_encoding")
        try:
            return content_coding(self._raw)
        except IndexError:
            return None, None

    @property
    def damage(self) -> str | None:
        """Why its properties cannot be read; None if they can."""
        error = getattr(self._decoded, "damage", None)
        return None if error is None else str(error)

    @property
    def _decoded(self) -> Any:
        if self._properties is None:
            properties = pika.BasicProperties()
            try:
                properties.decode(self._raw)
            except Exception as error:  # noqa: BLE001 - whatever pika's decoder makes of them
                properties = pika.BasicProperties()
                properties.damage = repr(error)  # type: ignore[attr-defined] # for `damage`
            self._properties = properties
        return self._properties

    @property
    def is_moved(self) -> bool:
        """Whether limehub itself sent it here: over the default exchange, with our headers.

        A foreign queue may dead-letter to the default exchange, too, and carry what a publisher
        forged; the broker's own `x-death` tells it from the way back out of our retry queues.
        """
        if self._address[0] or own.EXCHANGE not in self.headers:
            return False
        ours = f"{self.queue}.retry."
        deaths = self.headers.get("x-death", [])
        return isinstance(deaths, list) and all(
            isinstance(death, dict) and str(death.get("queue")).startswith(ours) for death in deaths
        )

    @property
    def exchange(self) -> str:
        """Where it was first published; our headers are believed on the default exchange only."""
        if self._address[0] or not self.is_moved:
            return address_of(self._address)[0]
        return str(self.headers[own.EXCHANGE])

    @property
    def routing_key(self) -> str:
        """What it was first published with."""
        if self.is_moved:
            return str(self.headers.get(own.ROUTING_KEY, self.wire_routing_key))
        return self.wire_routing_key

    @property
    def message_id(self) -> str | None:
        """The publisher's message id."""
        return _text(self._decoded.message_id) or None

    @property
    def attempts(self) -> int:
        """How many runs of the handler came before this one."""
        return self._own_number(own.ATTEMPTS) + self.local_retries

    @property
    def retries(self) -> int:
        """How many of them were retries since it came or a person requeued it."""
        return self._own_number(own.RETRIES) + self.local_retries

    def _own_number(self, header: str) -> int:
        return own.whole(self.headers.get(header)) if self.is_moved else 0

    @property
    def is_stale(self) -> bool:
        """Whether its channel is gone: the broker has given it to somebody again."""
        return not self.channel.usable

    def ack(self) -> bool:
        """Tell the broker that it is done. Returns False if it was stale. Raises AlreadySettled."""
        if self.settled:
            raise self._settled_twice()
        self.settled = True
        if self.is_stale:
            return self._dropped()
        self.channel.acks.done(self.tag)
        return True

    def give_back(self) -> bool:
        """Return it to its queue, at its old place if it can. As `ack` otherwise."""
        if self.settled:
            raise self._settled_twice()
        self.settled = True
        if self.is_stale:
            return self._dropped()
        self.channel.reject(self.tag, requeue=True)
        return True

    def take_over(self, again: Delivery) -> None:
        """Go on as *again*, another delivery of the same event: its tag, on its channel."""
        self.subscription, self.channel, self.tag = again.subscription, again.channel, again.tag
        self.redelivered, self.settled, self.was_dropped = True, False, False

    def _settled_twice(self) -> AlreadySettled:
        return AlreadySettled(f"delivery {self.tag} of {self.queue} is settled already")

    def _dropped(self) -> bool:
        self.was_dropped = True
        log.debug("dropped a stale settlement", extra={"queue": self.queue, "tag": self.tag})
        return False

    def __repr__(self) -> str:
        return f"<Delivery {self.tag} of {self.queue}>"


def _text(value: Any) -> Any:
    """pika leaves what is not UTF-8 as bytes; handlers and our own code count on text."""
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()
