"""Removing what was made for a while. RabbitMQ deletes what is not there without complaint."""

from __future__ import annotations

from limehub.amqp.connection import BrokerConnection

__all__ = ["delete_exchange", "delete_queue"]


def delete_queue(connection: BrokerConnection, name: str) -> None:
    """Delete the queue with all that is in it."""
    channel = connection.open_channel()
    try:
        channel.delete_queue(name)
    finally:
        channel.close()


def delete_exchange(connection: BrokerConnection, name: str) -> None:
    """Delete the exchange and its bindings."""
    channel = connection.open_channel()
    try:
        channel._call("exchange_delete", exchange=name)
    finally:
        channel.close()
