"""How long the broker lets an event stay unacked, and who comes near it.

RabbitMQ looks once a minute and then closes the channel, with all that is unacked on it; from 4.3
on only quorum queues have the limit, and the consumer is cancelled instead. AMQP does not tell the
limit: it is the default of the broker's version until the management API, or the broker's own words
on the first timeout, say otherwise. https://www.rabbitmq.com/docs/consumers#acknowledgement-timeout
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import quote

from attrs import frozen

from limehub.amqp.channel import Channel
from limehub.amqp.delivery import Delivery
from limehub.config import BrokerUrl
from limehub.errors import BrokerError

__all__ = [
    "AckWatch",
    "Held",
    "default_limit",
    "effective_limit",
    "is_ack_timeout",
    "limit_in",
    "limit_of",
    "may_cancel",
    "read_limits",
]

log = logging.getLogger(__name__)

RUNS = "handler holds its event long; the broker takes it back at the limit"
WAITS = "event waits unstarted for long; the broker takes it back at the limit"

LEVELS = (80, 50)
"""Per cent of the limit at which a warning is given."""

_SERVER = re.compile(r"RabbitMQ (\d+)\.(\d+)\.(\d+)")
_VALUE = re.compile(r"Timeout value used: (\d+) ms")
_COLUMNS = "name,arguments,effective_policy_definition"


def default_limit(server: str, is_quorum: bool) -> float | None:
    """Return the seconds that *server* (`RabbitMQ 3.10.8`) grants unless told otherwise."""
    version = _version(server)
    if version < (3, 8, 15) or (version >= (4, 3) and not is_quorum):
        return None
    return 900.0 if version < (3, 8, 17) else 1800.0


def effective_limit(
    server: str, is_quorum: bool, *, own: float | None, told: float | None
) -> float | None:
    """Return the seconds that hold; *own*: what the queue sets; *told*: by a timeout of it.

    A queue may set its own since RabbitMQ 3.12.
    """
    default = default_limit(server, is_quorum)
    if default is None:
        return None
    return told or (own if _version(server) >= (3, 12) else None) or default


def may_cancel(server: str, is_quorum: bool) -> bool:
    """Whether *server* cancels a consumer whose acknowledgement timed out."""
    return is_quorum and _version(server) >= (4, 3)


def _version(server: str) -> tuple[int, ...]:
    found = _SERVER.match(server)
    return tuple(int(part) for part in found.groups()) if found else (0,)


def is_ack_timeout(error: BrokerError) -> bool:
    """Whether a channel was closed because an acknowledgement took too long."""
    return "delivery acknowledgement" in str(error) and "timed out" in str(error)


def limit_in(error: BrokerError) -> float | None:
    """Return the seconds that the broker says it has granted."""
    found = _VALUE.search(str(error))
    return int(found[1]) / 1000 if found else None


def limit_of(queue: Mapping[str, Any]) -> float | None:
    """Return the seconds that a queue (as the management API shows it) itself sets.

    Of argument and policy the smaller holds.
    """
    arguments = queue.get("arguments") or {}
    policy = queue.get("effective_policy_definition") or {}
    values = (arguments.get("x-consumer-timeout"), policy.get("consumer-timeout"))
    found = [value for value in values if isinstance(value, int) and value > 0]
    return min(found) / 1000 if found else None


def read_limits(management_url: str, broker: BrokerUrl) -> dict[str, float]:
    """Return queue -> seconds for the queues that set a limit. Raises BrokerError."""
    from limehub.management import ManagementApi  # HTTP, which few servers need, is 2 MB

    api = ManagementApi.of(management_url, broker)
    queues = api.get(f"queues/{quote(broker.vhost, safe='')}?columns={_COLUMNS}")
    limits = ((str(queue.get("name")), limit_of(queue)) for queue in queues)
    return {name: limit for name, limit in limits if limit is not None}


@frozen(kw_only=True)
class Held:
    """An unacked *delivery*, the *limit* of its queue, and since when its *handler* runs it.

    *started*: as the watch's clock tells; None = it waits, *handler* is whose it is.
    """

    delivery: Delivery
    handler: str
    limit: float
    started: float | None = None


class AckWatch:
    """Warns of events that stay unacked too long, once for each of the levels.

    It looks now and then, so what was never seen waiting counts from the start of its run.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._seen: dict[tuple[Channel, int], tuple[float, int]] = {}

    def look(self, held: Iterable[Held]) -> None:
        """Judge everything that is *held* now."""
        now, seen = self._clock(), {}
        told: set[tuple[str, int]] = set()
        for each in held:
            since, level = self._seen.get(_place(each.delivery), (_since(each, now), 0))
            reached = _level((now - since) / each.limit)
            if reached > level:
                self._warn(each, now - since, reached, told)
            seen[_place(each.delivery)] = (since, max(level, reached))
        self._seen = seen

    def level_of(self, delivery: Delivery) -> int:
        """Return 80 or 50 if that much of the limit has passed, else 0."""
        return self._seen.get(_place(delivery), (0.0, 0))[1]

    def oldest(self) -> float:
        """Return for how many seconds the oldest event of the last look has been held."""
        since = min((since for since, _ in self._seen.values()), default=None)
        return 0.0 if since is None else self._clock() - since

    def _warn(self, held: Held, seconds: float, level: int, told: set[tuple[str, int]]) -> None:
        """Of those that wait, the first of a queue stands for all."""
        queue = held.delivery.queue
        if held.started is None and (queue, level) in told:
            return
        if held.started is None:
            told.add((queue, level))
        extra = {
            "handler": held.handler,
            "queue": queue,
            "message_id": held.delivery.message_id,
            "seconds": round(seconds, 1),
            "limit": held.limit,
            "percent": level,
        }
        log.warning(WAITS if held.started is None else RUNS, extra=extra)


def _place(delivery: Delivery) -> tuple[Channel, int]:
    # Not the delivery itself: its body should not be kept until the next look.
    return delivery.channel, delivery.tag


def _since(held: Held, now: float) -> float:
    """A delivery that took another's place is as old as itself, not as the run."""
    return now if held.started is None or held.delivery.redelivered else held.started


def _level(used: float) -> int:
    return next((level for level in LEVELS if used * 100 >= level), 0)
