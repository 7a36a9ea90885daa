"""limehub runs the event handlers of pip-installed packages on RabbitMQ.

limehub.toml -> config -> plugins -> registry -> server -> workers.group --owns--> amqp.connection <-> RabbitMQ
basic.deliver -> workers.consumer -> Delivery -> handler(event) -> settlement -> ack | retry | dead letter | crash
handler -> amqp.publisher -> exchange          dead letter queue <- deadletters <- cli, web
"""  # noqa: E501 - the drawing

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from limehub.events import Discard, Event, LimeObjectEvent, Message, Reject, Retry

if TYPE_CHECKING:
    from limehub.amqp.publisher import Publisher
    from limehub.plugins.markers import event_handler, hookimpl

__version__ = "0.1.0"

__all__ = [
    "Discard",
    "Event",
    "LimeObjectEvent",
    "Message",
    "Publisher",
    "Reject",
    "Retry",
    "event_handler",
    "hookimpl",
]


def __getattr__(name: str) -> Any:
    """Import what is heavy only when it is asked for."""
    if name == "Publisher":
        from limehub.amqp.publisher import Publisher

        return Publisher
    if name in ("event_handler", "hookimpl"):
        from limehub.plugins import markers

        return getattr(markers, name)
    raise AttributeError(f"module 'limehub' has no attribute {name!r}")
