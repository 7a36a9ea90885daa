"""What a broker test of a running server begins with: handlers in a line, the names that follow."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import gevent
from gevent.pool import Pool

from limehub.amqp.publisher import Publisher
from tests.support.hub import Register

__all__ = ["APP", "DLQ", "QUEUE", "handles", "publish_all", "queue_of", "together"]

APP = "solution-x"
QUEUE = "lime.event_handler.solution-x.handler"
DLQ = "lime.event_handler.solution-x.dlq"


def queue_of(name: str, app: str = APP) -> str:
    """The full name of a handler's queue."""
    return f"lime.event_handler.{app}.{name}"


def handles(
    handler: Callable[..., Any],
    key: str | list[str] = "t.#",
    queue_name: str = "handler",
    **options: Any,
) -> Register:
    """A plugin's `register_event_handlers` that registers *handler*."""

    def register(worker: Any, _config: Any) -> None:
        worker.register_event_handler(handler, key, queue_name, **options)

    return register


def together(*registers: Register) -> Register:
    """One plugin that registers what all *registers* do."""

    def register(worker: Any, config: Any) -> None:
        for each in registers:
            each(worker, config)

    return register


def publish_all(
    publisher: Publisher, key: str, bodies: Iterable[Any], *, at_once: int = 50, **options: Any
) -> None:
    """Publish *bodies* and return when all are confirmed; raises what a publish raised."""
    pool = Pool(at_once)
    jobs = [pool.spawn(publisher.publish, key, body, **options) for body in bodies]
    gevent.joinall(jobs, raise_error=True)
