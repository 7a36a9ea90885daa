"""The sections of the table: what is measured, with whom, how long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import field, frozen

from benchmarks.catalog import Peer
from benchmarks.meter import Job

__all__ = ["CONSUME", "LATENCY", "LOOKS", "MEMORY", "PUBLISH", "SECTIONS", "START", "Section"]

EXCHANGE = "lime.default"
LIMETYPES = ("deal", "person", "company")

CONSUME, PUBLISH, LATENCY, MEMORY, START = "consume", "publish", "latency", "memory", "start"
LOOKS = "looks"
"""Kinds: empty filled queues; publish; handle what comes at a pace; look at memory before and
after; from the start of the process to the first message; empty a queue while people look."""

LIMITS = ("c_raw_multi", "c_raw_each", "c_librabbitmq")
FRAMEWORKS = ("yapw", "dramatiq_gevent", "faststream_uvloop", "celery_gevent")
CONSUMERS = (
    "limehub",
    *LIMITS,
    "pika_select",
    "pika_gevent",
    "pika_blocking",
    "aiopika_uvloop",
    *FRAMEWORKS,
)


@frozen(kw_only=True)
class Section:
    """One table. *count*: messages a queue for a peer of pace 1, *least* for any; *queues*: how
    many; *rate*: a second, for latency; *repeat*: runs a round.
    """

    name: str
    title: str
    peers: Sequence[str]
    count: int
    prefetch: int
    kind: str = CONSUME
    least: int = 0
    concurrency: int = field()
    queues: int = 1
    work: str = "none"
    queue_type: str = "classic"
    tls: bool = False
    rate: float = 0.0
    repeat: int = 1

    @concurrency.default
    def _as_limehub_would(self) -> int:
        return min(self.prefetch, 100)

    def job(self, peer: Peer, url: str, ca_file: str | None) -> Job:
        """Return what *peer* has to do here."""
        numbers = range(self.queues)
        return Job(
            url=url,
            exchange=EXCHANGE,
            queues=[f"lime.event_handler.benchmark.handle_{number}" for number in numbers],
            keys=[f"core.limeobject.{LIMETYPES[number]}.update.v1" for number in numbers],
            prefetch=self.prefetch,
            concurrency=self.concurrency,
            messages=max(self.least, int(self.count * peer.pace)),
            work=self.work,
            queue_type=self.queue_type,
            ca_file=ca_file,
        )


def _no_op(prefetch: int, count: int, least: int) -> Section:
    return Section(
        name=f"p{prefetch}",
        title=f"consume and ack, no-op handler, prefetch {prefetch}",
        peers=CONSUMERS,
        count=count,
        least=least,
        prefetch=prefetch,
    )


def _waiting(in_flight: int, count: int) -> Section:
    return Section(
        name=f"wait{in_flight}",
        title=f"handlers that wait 20 ms, {in_flight} in flight: at most {in_flight * 50:,}/s",
        peers=(
            "limehub",
            "node_amqplib",
            "pika_gevent_pool",
            "aiopika_uvloop",
            "dramatiq_gevent",
            "faststream_uvloop",
            "celery_gevent",
        ),
        count=count,
        least=3_000,
        prefetch=in_flight,
        concurrency=in_flight,
        work="wait",
    )


ALL = (
    _no_op(1000, count=40_000, least=5_000),
    _no_op(100, count=30_000, least=3_000),
    _no_op(10, count=20_000, least=3_000),
    _no_op(1, count=8_000, least=1_500),
    Section(
        name="three",
        title="three queues, prefetch 1000: three groups in one process, three C processes",
        peers=("limehub", "c_raw_multi", "c_raw_each", "pika_gevent"),
        count=25_000,
        prefetch=1000,
        queues=3,
    ),
    _waiting(100, count=15_000),
    _waiting(1000, count=40_000),
    Section(
        name="publish",
        title="confirmed publishing: up to 1000 at a time, blocking pika one by one",
        peers=(
            "publish_limehub",
            "publish_c",
            "publish_pika_gevent",
            "publish_aiopika",
            "publish_pika_blocking",
        ),
        kind=PUBLISH,
        count=20_000,
        prefetch=1,
        concurrency=1000,
    ),
    Section(
        name="latency",
        title="publish to handler at 500 a second, prefetch 100",
        peers=(
            "limehub",
            "pika_select",
            "pika_gevent",
            "pika_blocking",
            "aiopika_uvloop",
            "yapw",
            "faststream_uvloop",
        ),
        kind=LATENCY,
        count=2_000,
        least=2_000,
        prefetch=100,
        rate=500.0,
        work="latency",
    ),
    Section(
        name="memory",
        title="memory of the process: idle, and after 1000 in flight (handlers wait 20 ms)",
        peers=(
            "limehub",
            "pika_gevent_pool",
            "yapw",
            "aiopika_uvloop",
            "dramatiq_gevent",
            "faststream_uvloop",
            "celery_gevent",
        ),
        kind=MEMORY,
        count=6_000,
        least=1_500,
        prefetch=1000,
        concurrency=1000,
        work="wait",
    ),
    Section(
        name="start",
        title="from process start to the first message handled; limehub with three plugins",
        peers=(
            "limehub",
            "imports",
            "pika_gevent",
            "yapw",
            "aiopika_uvloop",
            "dramatiq_gevent",
            "faststream_uvloop",
            "celery_gevent",
        ),
        kind=START,
        count=1,
        least=1,
        prefetch=1,
        repeat=3,
    ),
    Section(
        name="web",
        title="no-op handler, prefetch 100, with pages: nobody looks; 50 browsers look at them and"
        " at 20,000 dead letters",
        peers=("limehub_alone", "limehub_looked_at"),
        kind=LOOKS,
        count=100_000,
        prefetch=100,
    ),
    Section(
        name="tls",
        title="TLS: consume and ack, no-op handler, prefetch 1000",
        peers=("limehub", "c_librabbitmq", "pika_select", "aiopika_uvloop"),
        count=20_000,
        least=5_000,
        prefetch=1000,
        tls=True,
    ),
    Section(
        name="quorum",
        title="a quorum queue (one node): consume and ack, no-op handler, prefetch 1000",
        peers=("limehub", "c_raw_multi", "c_raw_each", "pika_select", "aiopika_uvloop"),
        count=60_000,
        least=5_000,
        prefetch=1000,
        queue_type="quorum",
    ),
)
SECTIONS: Mapping[str, Section] = {section.name: section for section in ALL}
