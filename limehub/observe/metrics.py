"""Metrics for Prometheus, made when they are asked for from the plain counters of the status.

Nothing here runs once per event. Durations have no `application` label: handlers times
applications times steps would be too many series.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any, TypeVar

import gevent
from attrs import define, field, frozen
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder

from limehub.observe.depths import Depth
from limehub.workers.handling import BOUNDS

__all__ = ["Reading", "exposition", "families"]

BREATH = 100
"""Samples until others have their turn: thousands of queues take a while, handlers go on."""

Status = Mapping[str, Any]
T = TypeVar("T")


@frozen(kw_only=True)
class Reading:
    """*status*: as `Server.status` returns it; *depths*: of the queues that the broker told of."""

    status: Status
    depths: Mapping[str, Depth] = field(factory=dict)


def exposition(reading: Reading, accept: str) -> tuple[bytes, str]:
    """Return the metrics, and their content type, in the format that *accept* prefers."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(_Collected(reading))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


def families(reading: Reading) -> Iterator[Metric]:
    """Yield all metrics of limehub's own."""
    status = reading.status
    yield from _server(status)
    yield from _handlers(status["handlers"])
    yield from _groups(status["groups"])
    yield from _queues(status["groups"], reading.depths)
    yield from _dead_letters(status, reading.depths)
    yield from _publishers(status)
    yield from _stalls(status["stalls"])


@define(eq=False)
class _Collected:
    reading: Reading

    def collect(self) -> Iterator[Metric]:
        for family in families(self.reading):
            family.samples = _gently(family.samples)  # type: ignore[assignment] # is gone through once
            yield family


def _gently(items: Iterable[T]) -> Iterator[T]:
    for number, item in enumerate(items):
        if number % BREATH == 0:
            gevent.sleep(0)
        yield item


Sample = tuple[tuple[str, ...], float]


def _counter(name: str, help_: str, labels: Iterable[str], samples: Iterable[Sample]) -> Metric:
    metric = CounterMetricFamily(f"limehub_{name}", help_, labels=tuple(labels))
    for values, number in _gently(samples):
        metric.add_metric(values, number)
    return metric


def _gauge(name: str, help_: str, labels: Iterable[str], samples: Iterable[Sample]) -> Metric:
    metric = GaugeMetricFamily(f"limehub_{name}", help_, labels=tuple(labels))
    for values, number in _gently(samples):
        metric.add_metric(values, number)
    return metric


def _server(status: Status) -> Iterator[Metric]:
    built = (status["version"], platform.python_version())
    suspects = status["crashes"].values()
    yield _gauge("build_info", "What runs.", ("version", "python"), [(built, 1)])
    yield _gauge("ready", "1 if every wanted queue is consumed.", (), [((), status["ready"])])
    yield _gauge(
        "crash_suspects",
        "Events that were in flight when a server ended without stopping in order.",
        (),
        [((), len(suspects))],
    )
    yield _gauge(
        "crash_suspect_crashes",
        "Most crashes that one of them has seen; at event_handler.crash_limit it is put away.",
        (),
        [((), max(suspects, default=0))],
    )


def _handlers(handlers: Iterable[Status]) -> Iterator[Metric]:
    handlers = list(handlers)
    yield _counter(
        "deliveries",
        "Events that came to an end here, by what became of them.",
        ("application", "handler", "outcome"),
        (
            ((application, each["name"], outcome), count)
            for each in handlers
            for application, outcomes in each["applications"].items()
            for outcome, count in outcomes.items()
        ),
    )
    yield _counter(
        "unrun_deliveries",
        "Of these the ones that were dead-lettered without a run, as in a crash loop.",
        ("handler", "reason"),
        (((h["name"], reason), count) for h in handlers for reason, count in h["unrun"].items()),
    )
    yield _durations(handlers)
    of_handlers: tuple[tuple[str, str, str], ...] = (
        ("in_flight", "in_flight", "Handlers at work now."),
        ("open_deliveries", "open", "Events whose manual handler returned without settling them."),
    )
    for name, key, help_ in of_handlers:
        samples = (((each["name"],), each[key]) for each in handlers)
        yield _gauge(name, help_, ("handler",), samples)


def _durations(handlers: Iterable[Status]) -> Metric:
    metric = HistogramMetricFamily(
        "limehub_handler_duration_seconds", "How long runs of a handler took.", labels=("handler",)
    )
    steps = [*(f"{float(bound)}" for bound in BOUNDS), "+Inf"]
    for each in _gently(handlers):
        counts = accumulate(each["durations"])
        metric.add_metric((each["name"],), list(zip(steps, counts, strict=True)), each["seconds"])
    return metric


_OF_GROUPS = (
    ("group_connected", "connected", "1 if the group has a connection."),
    ("group_ready", "ready", "1 if the group consumes all its queues."),
    ("group_concurrency", "concurrency", "Handlers that may be at work at once."),
    ("group_waiting_deliveries", "waiting", "Events fetched that wait for a handler."),
    ("group_retrying_deliveries", "waiting_for_retry", "Events that wait here for another run."),
    ("group_moving_deliveries", "moving", "Dead letters and retries on their way to the broker."),
    (
        "oldest_unacked_seconds",
        "oldest_unacked",
        "For how long the oldest event of the group has been held.",
    ),
)


def _groups(groups: Iterable[Status]) -> Iterator[Metric]:
    groups = list(groups)
    for name, key, help_ in _OF_GROUPS:
        yield _gauge(name, help_, ("group",), (((g["name"],), float(g[key])) for g in groups))
    counters: tuple[tuple[str, str, str], ...] = (
        ("reconnects", "reconnects", "Connections to the broker that were lost."),
        ("stale_settlements", "stale", "Results that came after the broker took the event back."),
    )
    for name, key, help_ in counters:
        yield _counter(name, help_, ("group",), (((g["name"],), g[key]) for g in groups))


def _queues(groups: Iterable[Status], depths: Mapping[str, Depth]) -> Iterator[Metric]:
    queues = [(group["name"], queue) for group in groups for queue in group["queues"]]
    labels = ("queue", "handler", "group")
    names = {q["queue"]: (q["queue"], q["handler"], group) for group, q in queues}
    known = {queue: depth for queue, depth in depths.items() if queue in names}
    yield _gauge(
        "queue_consuming",
        "1 if this server consumes the queue.",
        labels,
        ((names[queue["queue"]], queue["consuming"]) for _, queue in queues),
    )
    yield _counter(
        "queue_rebuilds",
        "Consumers that had to be made again.",
        labels,
        ((names[queue["queue"]], queue["rebuilds"]) for _, queue in queues),
    )
    yield _counter(
        "ack_timeouts",
        "Times that the broker took events back because their ack took too long.",
        labels,
        ((names[queue["queue"]], queue["ack_timeouts"]) for _, queue in queues),
    )
    yield _gauge(
        "queue_ready_messages",
        "Events in the queue that nobody holds.",
        labels,
        ((names[queue], depth.ready) for queue, depth in known.items()),
    )
    yield _gauge(
        "queue_consumers",
        "Consumers of the queue, those of other servers included.",
        labels,
        ((names[queue], depth.consumers) for queue, depth in known.items()),
    )


def _dead_letters(status: Status, depths: Mapping[str, Depth]) -> Iterator[Metric]:
    dlqs = status["dead_letters"]["queues"]
    yield _gauge(
        "dead_letters",
        "Events in the app's dead letter queue.",
        ("app",),
        (((app,), depths[dlq].ready) for app, dlq in dlqs.items() if dlq in depths),
    )
    yield _counter(
        "moves",
        "Dead letters and long retries that were stored.",
        (),
        [((), status["dead_letters"]["moved"])],
    )
    yield _gauge(
        "unstorable_queues",
        "Queues that take no dead letter or retry now; the originals are kept, unacked.",
        (),
        [((), len(status["dead_letters"]["trouble"]))],
    )


def _publishers(status: Status) -> Iterator[Metric]:
    yield _counter(
        "publishes",
        "Messages that the broker confirmed: what handlers publish, and dead letters.",
        ("publisher",),
        (((name,), count) for name, count in status["published"].items()),
    )
    yield _gauge(
        "publisher_blocked",
        "1 if the broker blocks the publisher, as in an alarm.",
        ("publisher",),
        (((name,), state.startswith("blocked")) for name, state in status["publishers"].items()),
    )


def _stalls(stalls: Status) -> Iterator[Metric]:
    culprits = stalls["by_culprit"].items()
    label = ("culprit",)
    yield _counter(
        "stalls",
        "Times that one handler kept the whole server busy.",
        label,
        (((name,), each["count"]) for name, each in culprits),
    )
    yield _counter(
        "stall_seconds",
        "How long these took together.",
        label,
        (((name,), each["seconds"]) for name, each in culprits),
    )
    yield _gauge("longest_stall_seconds", "The longest of them.", (), [((), stalls["longest"])])
