"""The embedded broker beside RabbitMQ: the same clients, the same messages, one after the other."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Self

import pika
from attrs import define, field, frozen

from benchmarks.catalog import REPOSITORY, SCRIPTS
from benchmarks.meter import cpu_of, rss_megabytes
from benchmarks.report import Results, middle, print_rows
from benchmarks.runs import Report, RunFailed
from benchmarks.traffic import BODY, PROPERTIES
from benchmarks.wire import Publisher, packed
from scripts.rabbitmq_node import RabbitNode, dies_with_parent

__all__ = ["NAME", "measure", "print_embedded"]

NAME = "embedded"
TITLE = "confirmed in and consumed out at once, persistent, 400 bytes; memory; readiness"
RABBITMQ, MEMORY, FILE = "rabbitmq", "in memory", "on a file"
MESSAGES = 40_000
SHALLOW, DEEP = 1_000, 1_000_000
HELD = 100_000
STARTS = 5  # a round
SETTLE = 3.0  # seconds until memory is looked at
TIMEOUT = 300.0
LISTEN = "127.0.0.1:0"


@define(eq=False)
class Embedded:
    """`python -m limehub.broker`; *data*: its file."""

    data: Path | None = None
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    url: str = field(default="", init=False)

    def __enter__(self) -> Self:
        data = ["--data", str(self.data)] if self.data else []
        command = [sys.executable, "-m", "limehub.broker", "--listen", LISTEN, *data]
        self._process = subprocess.Popen(
            dies_with_parent(command), cwd=REPOSITORY, stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.startswith(b"ready "):
            raise RunFailed("the embedded broker did not start; see above why")
        self.url = f"amqp://guest:guest@{line.split()[1].decode()}/%2F"
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.communicate()
        if self.data is not None:
            for file in self.data.parent.glob(f"{self.data.name}*"):
                file.unlink()

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None
        return self._process.pid


@frozen(kw_only=True)
class Place:
    """A queue of a broker that messages go through. *depth*: how many wait in it all the time."""

    name: str
    broker: RabbitNode | Embedded
    queue: str
    depth: int = 0

    def prepare(self) -> Self:
        """Make the queue and fill it."""
        with _channel(self.broker.url) as channel:
            channel.queue_declare(self.queue, durable=True)
        fill(self.broker.url, self.queue, self.depth)
        return self

    def run(self, count: int) -> Report:
        """Publish and consume side by side. Raises RunFailed."""
        before = cpu_of(self.broker.pid)
        children = [self._client("consume", count), self._client("publish", count)]
        spans = [_span(child) for child in children]
        return Report(
            count=count,
            began=min(began for began, _ in spans),
            ended=max(ended for _, ended in spans),
            cpu=0.0,
            broker_cpu=cpu_of(self.broker.pid) - before,
            rss_mb=rss_megabytes(self.broker.pid),
        )

    def _client(self, what: str, count: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "benchmarks.traffic"]
        command += [what, self.broker.url, self.queue, str(count)]
        return subprocess.Popen(dies_with_parent(command), cwd=REPOSITORY, stdout=subprocess.PIPE)


def measure(
    node: RabbitNode,
    folder: Path,
    rounds: int,
    say: Callable[[str], None],
    *,
    messages: int = MESSAGES,
    deep: int = DEEP,
    held: int = HELD,
    starts: int = STARTS,
) -> Results:
    """Run all rounds, interleaved. Returns reports by what was measured."""
    results: dict[str, list[Report]] = {}
    folder.mkdir(parents=True, exist_ok=True)

    def keep(name: str, report: Report) -> None:
        results.setdefault(name, []).append(report)

    with Embedded() as memory, Embedded(folder / "traffic.db") as file:
        say(f"{NAME}: filling queues with {deep:,} messages")
        places = [place.prepare() for place in _places(node, memory, file, deep)]
        for number in range(rounds):
            for place in places:
                say(f"{NAME} {number + 1}/{rounds} {place.name}")
                keep(place.name, place.run(messages))
    for number in range(rounds):
        say(f"{NAME} {number + 1}/{rounds} memory and readiness")
        for name, data in ((MEMORY, None), (FILE, folder / "held.db")):
            keep(f"{name}, {held:,} queued", holding(data, held))
        for _ in range(starts):
            keep("imports", start([sys.executable, str(SCRIPTS / "imports.py")]))
            for name, data in ((MEMORY, None), (FILE, folder / "start.db")):
                keep(f"{name}, ready", start(_broker_command(data)))
    return results


def _places(node: RabbitNode, memory: Embedded, file: Embedded, deep: int) -> Iterator[Place]:
    brokers: dict[str, RabbitNode | Embedded] = {RABBITMQ: node, MEMORY: memory, FILE: file}
    for name, broker in brokers.items():
        yield Place(name=name, broker=broker, queue="traffic")
    for name in (MEMORY, FILE):
        for depth in (SHALLOW, deep):
            yield Place(
                name=f"{name}, {depth:,} waiting",
                broker=brokers[name],
                queue=f"depth-{depth}",
                depth=depth,
            )


def holding(data: Path | None, count: int) -> Report:
    """Look at the memory of a broker that holds *count* messages."""
    with Embedded(data) as broker:
        with _channel(broker.url) as channel:
            channel.queue_declare("held", durable=True)
        fill(broker.url, "held", count)
        time.sleep(SETTLE)
        now = time.monotonic()
        rss = rss_megabytes(broker.pid)
    return Report(count=count, began=now, ended=now, cpu=0.0, broker_cpu=0.0, rss_mb=rss)


def start(command: Sequence[str]) -> Report:
    """Time a process from its start to its first line."""
    began = time.monotonic()
    process = subprocess.Popen(dies_with_parent(command), cwd=REPOSITORY, stdout=subprocess.PIPE)
    assert process.stdout is not None
    line = process.stdout.readline()
    ended = time.monotonic()
    process.kill()
    process.communicate()
    if not line:
        raise RunFailed(f"{command} said nothing")
    return Report(
        count=1,
        began=began,
        ended=ended,
        cpu=0.0,
        broker_cpu=0.0,
        rss_mb=0.0,
        start_seconds=ended - began,
    )


def fill(url: str, queue: str, count: int) -> None:
    """Put *count* messages into *queue*; returns when they are there."""
    publisher = Publisher(url)
    publisher.send_many(packed("", queue, BODY, PROPERTIES), count)
    publisher.close()
    deadline = time.monotonic() + TIMEOUT
    with _channel(url) as channel:
        while channel.queue_declare(queue, passive=True).method.message_count < count:
            if time.monotonic() > deadline:
                raise RunFailed(f"{queue} does not fill")
            time.sleep(0.05)


def print_embedded(results: Results) -> None:
    """Print one table."""
    rows = [["what", "msg/s", "broker us", "RSS MB", "ready ms"]]
    rows += [[name, *_cells(reports)] for name, reports in results.items()]
    print(f"\n## {NAME}: {TITLE}\n")
    print_rows(rows)


def _cells(reports: Sequence[Report]) -> list[str]:
    if reports[0].start_seconds:
        return ["", "", "", f"{middle(reports, lambda one: one.start_seconds) * 1000:.0f}"]
    rss = f"{middle(reports, lambda one: one.rss_mb):.0f}"
    if not reports[0].broker_cpu:
        return ["", "", rss, ""]
    rates = sorted(one.rate for one in reports)
    rate = f"{middle(reports, lambda one: one.rate):.0f} ({rates[0]:.0f} to {rates[-1]:.0f})"
    return [rate, f"{middle(reports, lambda one: one.broker_us):.1f}", rss, ""]


def _broker_command(data: Path | None) -> list[str]:
    command = [sys.executable, "-m", "limehub.broker", "--listen", LISTEN]
    return command + (["--data", str(data)] if data else [])


def _span(child: subprocess.Popen[bytes]) -> tuple[float, float]:
    try:
        told, _ = child.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        raise RunFailed("a client took too long") from None
    if child.returncode:
        raise RunFailed("a client failed; see above why")
    began, ended = told.split()
    return float(began), float(ended)


@contextlib.contextmanager
def _channel(url: str) -> Iterator[pika.adapters.blocking_connection.BlockingChannel]:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    try:
        yield connection.channel()
    finally:
        connection.close()
