"""Deliveries made of pika's own frames, and the wire end of a channel that notes what it hears."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import pika
from attrs import define, field

from limehub.amqp.channel import Channel
from limehub.amqp.delivery import Delivery, Subscription

__all__ = ["Wire", "delivered"]

QUEUE = "lime.event_handler.test.handler"


@define(eq=False)
class Wire:
    """Where settlements go."""

    usable: bool = True
    told: list[str] = field(factory=list)

    @property
    def acks(self) -> Wire:
        return self

    def done(self, tag: int) -> None:
        self.told.append(f"ack {tag}")

    def reject(self, tag: int, *, requeue: bool) -> None:
        self.told.append(f"reject {tag} requeue={requeue}")


def delivered(
    body: bytes = b"{}",
    *,
    queue: str = QUEUE,
    exchange: str = "lime.acme",
    routing_key: str = "core.limeobject.deal.update.v1",
    tag: int = 1,
    redelivered: bool = False,
    headers: Mapping[Any, Any] | None = None,
    wire: Wire | None = None,
    **properties: Any,
) -> Delivery:
    """Return a Delivery as the channel makes it; its properties take a trip through the codec."""
    method = pika.spec.Basic.Deliver("ctag", tag, redelivered, exchange, routing_key)
    sent = pika.BasicProperties(headers=None if headers is None else dict(headers), **properties)
    came = pika.BasicProperties()
    came.decode(b"".join(sent.encode()))
    subscription = Subscription(cast("Channel", wire or Wire()), queue)
    return Delivery.decoded(subscription, method, came, body)
