"""Dead letters to fill a queue with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from attrs import evolve, frozen

from limehub.amqp import moves
from limehub.amqp.connection import BrokerConnection
from limehub.amqp.message import Outgoing
from limehub.amqp.moves import Failure
from limehub.amqp.topology import declare_queue, dlq_spec, handler_queue_spec
from tests.support.waiting import wait_until

__all__ = ["APP", "DLQ", "QUEUE", "dead", "fill", "ready"]

APP = "solution-deals"
DLQ = f"lime.event_handler.{APP}.dlq"
QUEUE = f"lime.event_handler.{APP}.totals"


@frozen(kw_only=True)
class _Event:
    """An event as `moves` wants it, never on a broker before."""

    body: bytes
    exchange: str = "lime.acme"
    routing_key: str = "core.limeobject.deal.update.v1"
    queue: str = QUEUE
    headers: Mapping[str, Any] = MappingProxyType({})
    properties: Mapping[str, Any] = MappingProxyType({"content_type": "application/json"})
    is_moved: bool = False


def dead(number: int, *, ttl: float = 3600, kind: str = "shop.NoPrice", **changes: Any) -> Outgoing:
    """The dead letter `id-<number>`, of an exception of type *kind*; *changes*: to the event."""
    failure = Failure(
        handler=f"{APP}.totals",
        reason="exception",
        exception_type=kind,
        exception_text=f"deal {number} has no price",
        traceback="Traceback (most recent call last): ...",
        where="shop.py:12 in totals",
        at=datetime.now(UTC),
    )
    event = _Event(**{"body": json.dumps({"id": number}).encode(), **changes})
    message = moves.dead_letter(event, failure, dlq=DLQ, ttl=ttl, frame_max=131072)
    return evolve(message, headers={**message.headers, "x-limehub-id": f"id-{number}"})


def fill(connection: BrokerConnection, letters: list[Outgoing], *, kind: str = "classic") -> None:
    """Make the queues of APP, put *letters* into the dead letter queue, wait until all are in."""
    for spec in (dlq_spec(DLQ, queue_type=kind), handler_queue_spec(QUEUE)):
        declare_queue(connection, spec)
    before = ready(connection, DLQ)
    channel = connection.open_channel()
    for message in letters:
        channel.publish(evolve(message, mandatory=False))
    channel.sync()
    wait_until(lambda: ready(connection, DLQ) == before + len(letters), 60, "the dead letters")
    channel.close()


def ready(connection: BrokerConnection, queue: str) -> int:
    """The ready messages of *queue*."""
    channel = connection.open_channel()
    try:
        return channel.check_queue(queue)[0]
    finally:
        channel.close()
