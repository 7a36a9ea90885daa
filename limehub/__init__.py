"""limehub runs the event handlers of pip-installed packages on RabbitMQ.

limehub.toml -> config -> plugins -> registry -> server -> workers.group --owns--> amqp.connection <-> RabbitMQ
basic.deliver -> workers.consumer -> Delivery -> handler(event) -> settlement -> ack | retry | dead letter | crash
handler -> amqp.publisher -> exchange          dead letter queue <- deadletters <- cli, web
"""  # noqa: E501 - the drawing

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from limehub.events import Discard, Event, LimeObjectEvent, Message, Reject, Retry

if TYPE_CHECKING:
    from limehub.amqp.publisher import Publisher
    from limehub.config import Config
    from limehub.plugins.lime import Application, Worker
    from limehub.plugins.markers import event_handler, hookimpl

__version__ = "0.1.0"

__all__ = [
    "Application",
    "Config",
    "Discard",
    "Event",
    "LimeObjectEvent",
    "Message",
    "Publisher",
    "Reject",
    "Retry",
    "Worker",
    "event_handler",
    "hookimpl",
]

# What is heavy is imported only when it is asked for.
_HOMES = {
    "Application": "limehub.plugins.lime",
    "Config": "limehub.config",
    "Publisher": "limehub.amqp.publisher",
    "Worker": "limehub.plugins.lime",
    "event_handler": "limehub.plugins.markers",
    "hookimpl": "limehub.plugins.markers",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'limehub' has no attribute {name!r}")
