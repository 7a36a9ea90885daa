"""How many events wait in the queues: asked of the broker, at most every few seconds."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from attrs import define, field, frozen
from gevent import Greenlet

from limehub.amqp.channel import Channel
from limehub.amqp.connection import BrokerConnection
from limehub.errors import BrokerError, QueueMissing

__all__ = ["Depth", "Depths"]

log = logging.getLogger(__name__)

FRESH = 5.0
"""Seconds for which an answer will do, however many ask."""

KEPT = 60.0
PATIENCE = 2.0
"""Seconds that one who asks waits for the broker; then the last answer has to do."""


@frozen(kw_only=True)
class Depth:
    """*ready*: events that nobody holds; *consumers*: of all servers together."""

    ready: int
    consumers: int


@define(eq=False)
class Depths:
    """*ask*(work): runs work(connection) on a connection to the broker, as `Publisher.call`."""

    _ask: Callable[[Callable[[BrokerConnection], Any]], Any]
    _found: Mapping[str, Depth] = field(factory=dict, init=False)
    _found_at: float = field(default=float("-inf"), init=False)
    _asking: Greenlet[..., None] | None = field(default=None, init=False)

    def of(self, queues: Iterable[str]) -> Mapping[str, Depth]:
        """Return queue -> depth as far as it is known; nothing that is older than a minute."""
        wanted = tuple(queues)
        if wanted and time.monotonic() - self._found_at >= FRESH:
            if self._asking is None or self._asking.dead:
                self._asking = Greenlet.spawn(self._look, wanted)
                self._asking.name = "depths"
            self._asking.join(PATIENCE)
        return self._found if time.monotonic() - self._found_at < KEPT else {}

    def _look(self, queues: Iterable[str]) -> None:
        try:
            self._found = self._ask(lambda connection: _depths(connection, queues))
        except BrokerError as error:
            log.debug("no depths of queues", extra={"cause": str(error)})
        else:
            self._found_at = time.monotonic()


def _depths(connection: BrokerConnection, queues: Iterable[str]) -> dict[str, Depth]:
    found: dict[str, Depth] = {}
    channel: Channel | None = None
    for queue in queues:
        channel = channel or connection.open_channel()
        try:
            ready, consumers = channel.check_queue(queue)
        except QueueMissing:  # which closes the channel
            channel = None
        else:
            found[queue] = Depth(ready=ready, consumers=consumers)
    if channel is not None:
        channel.close()
    return found
