"""What tests do with a channel, in one word each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pika
from pika.adapters.blocking_connection import BlockingChannel

from tests.support.waiting import wait_until

__all__ = ["bodies", "get", "publish", "queue", "receive", "refusal"]


def queue(channel: BlockingChannel, name: str = "", **options: Any) -> str:
    """Declare a queue that goes with its connection, unless *options* say otherwise."""
    options.setdefault("exclusive", not options.get("durable"))
    return str(channel.queue_declare(name, **options).method.queue)


def publish(
    channel: BlockingChannel,
    key: str,
    *bodies: str,
    exchange: str = "",
    headers: Mapping[str, Any] | None = None,
    mandatory: bool = False,
    **properties: Any,
) -> None:
    """Publish *bodies*, persistent unless said otherwise."""
    properties.setdefault("delivery_mode", 2)
    given = pika.BasicProperties(headers=dict(headers) if headers else None, **properties)
    for body in bodies:
        channel.basic_publish(exchange, key, body.encode(), given, mandatory=mandatory)


def get(channel: BlockingChannel, name: str) -> Any:
    """Wait for a message and take it: (method, properties, body), acked."""

    def look() -> Any:
        method, properties, body = channel.basic_get(name, auto_ack=True)
        return (method, properties, body) if method else None

    return wait_until(look, message=f"a message in {name}")


def bodies(channel: BlockingChannel, name: str) -> list[str]:
    """Take all that is ready now, acked."""
    found = []
    while True:
        method, _, body = channel.basic_get(name, auto_ack=True)
        if method is None:
            return found
        found.append(body.decode())


def receive(channel: BlockingChannel, received: list[Any], count: int) -> None:
    """Serve the connection until *received* has *count* entries."""

    def enough() -> bool:
        channel.connection.process_data_events(0.02)
        return len(received) >= count

    wait_until(enough, message=f"{count} deliveries")


def refusal(channel: BlockingChannel) -> tuple[int, str]:
    """Wait until the broker closes the channel or the connection; returns code and text."""
    try:
        channel.basic_qos(prefetch_count=0)  # answered in turn, so the refusal comes first
    except (
        pika.exceptions.ChannelClosedByBroker,
        pika.exceptions.ConnectionClosedByBroker,
    ) as error:
        return error.reply_code, error.reply_text
    raise AssertionError("nothing was refused")
