"""A delivery: what the broker handed out, on which channel, and the one right to settle it.

Delivery tags count per channel: a stale tag acks another message on a new channel (measured), so a
delivery knows its channel object and is dropped when that is gone.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from limehub.amqp import headers as own
from limehub.errors import AlreadySettled, BrokerError

if TYPE_CHECKING:
    from limehub.amqp.channel import Channel

__all__ = ["Delivery"]

log = logging.getLogger(__name__)

_PROPERTIES = (
    "content_type", "content_encoding", "delivery_mode", "priority", "correlation_id", "reply_to",
    "expiration", "message_id", "timestamp", "type", "user_id", "app_id", "cluster_id",
)  # fmt: skip


class Delivery:
    """One message in our hands. Settle it once, by `ack` or `reject`, from the hub's thread."""

    __slots__ = (
        "__dict__", "_properties", "body", "channel", "local_retries", "queue", "redelivered",
        "settled", "tag", "wire_exchange", "wire_routing_key",
    )  # fmt: skip

    def __init__(
        self, channel: Channel, queue: str, method: Any, properties: Any, body: bytes
    ) -> None:
        self.channel = channel
        self.queue = queue
        self.tag: int = method.delivery_tag
        self.redelivered: bool = method.redelivered
        self.wire_exchange: str = _text(method.exchange)
        self.wire_routing_key: str = _text(method.routing_key)
        self.body = body
        self.settled = False
        self.local_retries = 0
        self._properties = properties

    @cached_property
    def headers(self) -> Mapping[str, Any]:
        """All headers as they came."""
        if self.damage is not None:
            return {own.DAMAGED: self._properties.damaged[0]}
        return self._properties.headers or {}

    @cached_property
    def properties(self) -> Mapping[str, Any]:
        """The AMQP properties that are set, without the headers."""
        values = ((name, getattr(self._properties, name)) for name in _PROPERTIES)
        return {name: _text(value) for name, value in values if value is not None}

    @property
    def damage(self) -> str | None:
        """Why its properties could not be read; None if they could."""
        damaged = getattr(self._properties, "damaged", None)
        return None if damaged is None else str(damaged[1])

    @property
    def is_moved(self) -> bool:
        """Whether limehub itself sent it here: over the default exchange, with our headers.

        A foreign queue may dead-letter to the default exchange, too, and carry what a publisher
        forged; the broker's own `x-death` tells it from the way back out of our retry queues.
        """
        if self.wire_exchange != "" or own.EXCHANGE not in self.headers:
            return False
        ours = f"{self.queue}.retry."
        deaths = self.headers.get("x-death", [])
        return isinstance(deaths, list) and all(
            isinstance(death, dict) and str(death.get("queue")).startswith(ours) for death in deaths
        )

    @property
    def exchange(self) -> str:
        """Where it was first published; our headers are believed on the default exchange only."""
        return str(self.headers[own.EXCHANGE]) if self.is_moved else self.wire_exchange

    @property
    def routing_key(self) -> str:
        """What it was first published with."""
        if self.is_moved:
            return str(self.headers.get(own.ROUTING_KEY, self.wire_routing_key))
        return self.wire_routing_key

    @property
    def message_id(self) -> str | None:
        """The publisher's message id."""
        return _text(self._properties.message_id) or None

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
        return not self.channel.is_open

    def ack(self) -> bool:
        """Tell the broker that it is done. Returns False if it was stale. Raises AlreadySettled."""
        return self._settle(lambda: self.channel.ack(self.tag))

    def give_back(self) -> bool:
        """Return it to its queue, at its old place if it can. As `ack` otherwise."""
        return self._settle(lambda: self.channel.reject(self.tag, requeue=True))

    def _settle(self, tell: Any) -> bool:
        if self.settled:
            raise AlreadySettled(f"delivery {self.tag} of {self.queue} is settled already")
        self.settled = True
        if not self.is_stale:
            try:
                tell()
            except BrokerError:
                pass
            else:
                return True
        log.debug("dropped a stale settlement", extra={"queue": self.queue, "tag": self.tag})
        return False

    def __repr__(self) -> str:
        return f"<Delivery {self.tag} of {self.queue}>"


def _text(value: Any) -> Any:
    """pika leaves what is not UTF-8 as bytes; handlers and our own code count on text."""
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value
