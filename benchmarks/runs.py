"""One run of one peer: queues made and filled, processes started, their reports, all removed."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pika
from attrs import define, evolve, field, frozen

from benchmarks import wire
from benchmarks.catalog import APP, REPOSITORY, Peer, Tools
from benchmarks.meter import BROKER_VARIABLE, JOB_VARIABLE, STAMP, Job, rss_megabytes
from benchmarks.peers.event import BODY
from scripts.rabbitmq_node import RabbitNode, dies_with_parent

__all__ = ["Bench", "Report", "RunFailed"]

TIMEOUT = 90.0  # seconds for one run
PATIENCE = 60.0  # seconds for the broker, or for a peer to begin consuming
SETTLE = 1.0  # seconds from a consumer's start to what is measured
DLQ = f"lime.event_handler.{APP}.dlq"
DEAD_LETTERS = 20_000
TRACEBACK_LINE = '  File "/site-packages/benchmark/handlers.py", line 7, in handle\n'
WELCOME = ("200", "live 200")
LOG_TAIL = 2000  # characters of a peer's standard error that a failure shows


class RunFailed(Exception):
    """A peer ended, or did nothing for too long; the text ends with what it said."""


@frozen(kw_only=True)
class Report:
    """What a run measured. Seconds of one clock; CPU in seconds over *count* messages."""

    count: int
    began: float
    ended: float
    cpu: float
    broker_cpu: float
    rss_mb: float
    latencies_ms: Sequence[float] = field(factory=list)
    start_seconds: float = 0.0
    idle_rss_mb: float = 0.0
    pages: int = 0
    slowest_page: float = 0.0

    @property
    def rate(self) -> float:
        """Messages a second; 0 when there was one only."""
        seconds = self.ended - self.began
        return (self.count - 1) / seconds if seconds else 0.0

    @property
    def cpu_us(self) -> float:
        """Microseconds of client CPU a message."""
        return self.cpu / self.count * 1e6

    @property
    def broker_us(self) -> float:
        """Microseconds of broker CPU a message."""
        return self.broker_cpu / self.count * 1e6

    def latency_ms(self, share: float) -> float:
        """Return a percentile of the latencies, e.g. 0.5."""
        return sorted(self.latencies_ms)[int(len(self.latencies_ms) * share)]


def together(reports: Sequence[Report]) -> Report:
    """Return the reports of processes that ran side by side as one: it lasts until the last."""
    if len(reports) == 1:
        return reports[0]
    return Report(
        count=sum(report.count for report in reports),
        began=min(report.began for report in reports),
        ended=max(report.ended for report in reports),
        cpu=sum(report.cpu for report in reports),
        broker_cpu=max(report.broker_cpu for report in reports),
        rss_mb=sum(report.rss_mb for report in reports),
    )


@define(eq=False)
class Child:
    """A peer's process in its own session. Its standard output is for its report only."""

    process: subprocess.Popen[bytes]
    log: Path
    started: float

    def report(self, deadline: float) -> Report:
        """Wait for its report. Raises RunFailed."""
        line = b""
        assert self.process.stdout is not None
        output = self.process.stdout.fileno()
        while True:
            ready, _, _ = select.select([output], [], [], max(0.0, deadline - time.monotonic()))
            chunk = os.read(output, 1 << 20) if ready else b""
            if not chunk:
                raise RunFailed(f"{'ended' if ready else 'no report in time'}: {self._said()}")
            line += chunk
            if line.endswith(b"}\n"):
                found = json.loads(line[line.rindex(b'{"count"') :])
                return Report(start_seconds=found["began"] - self.started, **found)

    def kill(self) -> None:
        """End it and what it started; nothing of a run may cost the next one."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _said(self) -> str:
        return self.log.read_text(errors="replace")[-LOG_TAIL:]


@define(eq=False, kw_only=True)
class Bench:
    """Runs peers on *node*. *folder*: for logs and configuration files, emptied now and then."""

    node: RabbitNode
    tools: Tools
    folder: Path

    def consume(self, peer: Peer, job: Job) -> Report:
        """Fill the queues, let *peer* empty them. Raises RunFailed, as all of these."""
        with self._queues(peer, job):
            self._fill(peer, job)
            with self._children(peer, job) as children:
                return together(_reports(children))

    def publish(self, peer: Peer, job: Job) -> Report:
        """Let *peer* publish."""
        with self._queues(peer, job), self._children(peer, job) as children:
            return together(_reports(children))

    def memory(self, peer: Peer, job: Job) -> Report:
        """Look at *peer*'s memory before it has handled anything, and after all."""
        with self._queues(peer, job), self._children(peer, job) as children:
            self._wait_for_consumers(job)
            time.sleep(SETTLE)
            idle = sum(rss_megabytes(child.process.pid) for child in children)
            self._fill(peer, job, wait=False)
            return evolve(together(_reports(children)), idle_rss_mb=idle)

    def looks(self, peer: Peer, job: Job) -> Report:
        """Let *peer* empty the queues while its browsers look at DEAD_LETTERS dead letters."""
        with self._dead_letters(), self._queues(peer, job):
            self._fill(peer, job)
            with self._children(peer, job) as children:
                return _with_pages(together(_reports(children)), self.folder / f"{peer.name}-0")

    def latency(self, peer: Peer, job: Job, rate: float) -> Report:
        """Give *peer* *rate* messages a second, each with the time of its sending."""
        with self._queues(peer, job), self._children(peer, job) as children:
            self._wait_for_consumers(job)
            time.sleep(SETTLE)
            message = self._packed(peer, job, 0)
            publisher = wire.Publisher(self.node.url)
            publisher.send_paced(message, job.messages, rate, message.index(BODY) + STAMP.start)
            report = together(_reports(children))
            publisher.close()
            return report

    def _fill(self, peer: Peer, job: Job, *, wait: bool = True) -> None:
        """Put *count* messages into each queue; with *wait* return when they are there."""
        publisher = wire.Publisher(self.node.url)
        for number in range(len(job.queues)):
            publisher.send_many(self._packed(peer, job, number), job.messages)
        publisher.close()
        if wait:
            with self._channel() as channel:
                for queue in job.queues:
                    _wait_until(partial(_holds, channel, queue, job.messages), queue)

    def _packed(self, peer: Peer, job: Job, number: int) -> bytes:
        message = peer.message(job.queues[number])
        return wire.packed(job.exchange, job.keys[number], message.body, message.properties)

    def _wait_for_consumers(self, job: Job) -> None:
        with self._channel() as channel:
            for queue in job.queues:
                _wait_until(partial(_is_consumed, channel, queue), queue)

    @contextlib.contextmanager
    def _children(self, peer: Peer, job: Job) -> Iterator[list[Child]]:
        jobs = [job]
        if peer.each_queue:
            jobs = [
                job._replace(queues=[queue], keys=[key])
                for queue, key in zip(job.queues, job.keys, strict=True)
            ]
        children: list[Child] = []
        try:
            for number, each in enumerate(jobs):
                children.append(self._start(peer, each, self.folder / f"{peer.name}-{number}"))
            yield children
        finally:
            for child in children:
                child.kill()

    def _start(self, peer: Peer, job: Job, folder: Path) -> Child:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        command = [str(part) for part in peer.command(self.tools, job, folder)]
        log = folder / "stderr.log"
        with log.open("wb") as errors:
            started = time.monotonic()
            process = subprocess.Popen(
                dies_with_parent(command),
                cwd=folder,
                env=self._environment(job),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
        return Child(process, log, started)

    def _environment(self, job: Job) -> Mapping[str, str]:
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(REPOSITORY),
            "NODE_PATH": str(self.tools.node_modules),
            BROKER_VARIABLE: str(self.node.pid),
            JOB_VARIABLE: json.dumps(job._asdict()),
        }

    @contextlib.contextmanager
    def _queues(self, peer: Peer, job: Job) -> Iterator[None]:
        kind = {"x-queue-type": job.queue_type}
        with self._channel() as channel:
            channel.exchange_declare(job.exchange, "topic", durable=True)
            for queue, key in zip(job.queues, job.keys, strict=True):
                channel.queue_delete(queue)
                channel.queue_declare(
                    queue, durable=True, arguments=kind | dict(peer.queue_arguments(queue))
                )
                channel.queue_bind(queue, job.exchange, key)
        try:
            yield
        finally:
            with self._channel() as channel:
                for queue in job.queues:
                    channel.queue_delete(queue)

    @contextlib.contextmanager
    def _dead_letters(self) -> Iterator[None]:
        with self._channel() as channel:
            channel.queue_delete(DLQ)
            channel.queue_declare(DLQ, durable=True)
            publisher = wire.Publisher(self.node.url)
            for number in range(DEAD_LETTERS):
                publisher.send(wire.packed("", DLQ, BODY, _why(number)))
            publisher.close()
            _wait_until(partial(_holds, channel, DLQ, DEAD_LETTERS), DLQ)
        try:
            yield
        finally:
            with self._channel() as channel:
                channel.queue_delete(DLQ)

    @contextlib.contextmanager
    def _channel(self) -> Iterator[Any]:
        connection = pika.BlockingConnection(pika.URLParameters(self.node.url))
        try:
            yield connection.channel()
        finally:
            connection.close()


def _reports(children: Sequence[Child]) -> list[Report]:
    deadline = time.monotonic() + TIMEOUT
    return [child.report(deadline) for child in children]


def _why(number: int) -> Mapping[str, Any]:
    """Return the properties of a dead letter: one of ten causes."""
    cause = number % 10
    headers = {
        "x-limehub-id": str(UUID(int=number)),
        "x-limehub-queue": f"lime.event_handler.{APP}.handle_0",
        "x-limehub-handler": f"{APP}.handle_0",
        "x-limehub-routing-key": "core.limeobject.deal.update.v1",
        "x-limehub-exception-type": f"benchmark.Cause{cause}",
        "x-limehub-exception-text": f"deal {number} has no price",
        "x-limehub-where": f"/site-packages/benchmark/handlers.py:{cause} in handle",
        "x-limehub-traceback": "Traceback (most recent call last):\n" + TRACEBACK_LINE * 10,
        "x-limehub-attempts": 1,
        "x-limehub-reason": "exception",
    }
    return {"content_type": "application/json", "headers": headers}


def _with_pages(report: Report, folder: Path) -> Report:
    """Add what the browsers of the run noted, if there were any."""
    file = folder / "browsers.json"
    if not file.exists():
        return report
    seen = json.loads(file.read_text())
    refused = {answer: n for answer, n in seen["answers"].items() if answer not in WELCOME}
    if refused:
        print(f"bench: browsers got also: {refused}", file=sys.stderr)
    return evolve(report, pages=seen["answers"].get("200", 0), slowest_page=seen["slowest"])


def _holds(channel: Any, queue: str, count: int) -> bool:
    return bool(channel.queue_declare(queue, passive=True).method.message_count == count)


def _is_consumed(channel: Any, queue: str) -> bool:
    return bool(channel.queue_declare(queue, passive=True).method.consumer_count)


def _wait_until(condition: Callable[[], bool], queue: str) -> None:
    """What the broker has read may still be on its way from the channel to the queue."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise RunFailed(f"{queue} is not as it should be after {PATIENCE} s")
        time.sleep(0.01)
