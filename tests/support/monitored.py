"""A status as a server has it, and the metrics that come of it."""

from __future__ import annotations

from typing import Any

from limehub.observe.depths import Depth
from limehub.observe.metrics import Reading, families

__all__ = ["metric_names", "reading", "status"]


def status(**changes: Any) -> dict[str, Any]:
    """What `Server.status` returns, as far as metrics look at it."""
    queue = {
        "queue": "lime.event_handler.solution-x.deal",
        "handler": "solution-x.deal",
        "consuming": True,
        "rebuilds": 2,
        "ack_timeouts": 1,
    }
    group = {
        "name": "default",
        "connected": True,
        "ready": True,
        "reconnects": 3,
        "concurrency": 10,
        "waiting": 4,
        "waiting_for_retry": 5,
        "moving": 6,
        "stale": 7,
        "oldest_unacked": 12.5,
        "queues": [queue],
    }
    handler = {
        "name": "solution-x.deal",
        "in_flight": 1,
        "open": 2,
        "seconds": 0.75,
        "durations": [3, 0, 0, 0, 0, 0, 0, 1, *[0] * 9],
        "applications": {"acme": {"ack": 3, "dead-letter": 1}, "zoo": {"ack": 1}},
        "unrun": {"crash-loop": 1},
    }
    return {
        "version": "1.2.3",
        "ready": True,
        "groups": [group],
        "handlers": [handler],
        "publishers": {"events": "connected", "dead_letters": "blocked: low on memory"},
        "published": {"events": 8, "dead_letters": 9},
        "dead_letters": {
            "moved": 2,
            "trouble": {},
            "queues": {"solution-x": "lime.event_handler.solution-x.dlq"},
        },
        "crashes": {"ab": 1, "cd": 2},
        "stalls": {
            "longest": 4.0,
            "by_culprit": {"solution-x.deal": {"count": 2, "seconds": 5.5}},
        },
    } | changes


def reading(**changes: Any) -> Reading:
    """A reading with depths of both queues."""
    return Reading(
        status=status(**changes),
        depths={
            "lime.event_handler.solution-x.deal": Depth(ready=100, consumers=2),
            "lime.event_handler.solution-x.dlq": Depth(ready=11, consumers=0),
        },
    )


def metric_names() -> set[str]:
    """All names under which Prometheus knows them."""
    return {sample.name for family in families(reading()) for sample in family.samples}
