"""What every process of a benchmark counts with: limehub's plugin and each Python peer.

A run lasts from the first handled message to the last: imports, connecting and declaring are
outside. `c/meter.h` measures the same. Standard library only, and harmless before monkey patching.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

__all__ = [
    "BROKER_VARIABLE",
    "JOB_VARIABLE",
    "STAMP",
    "WAIT",
    "Job",
    "Meter",
    "cpu_of",
    "rss_megabytes",
    "work_of",
]

JOB_VARIABLE = "BENCH_JOB"
BROKER_VARIABLE = "BENCH_BROKER_PID"
WAIT = 0.02  # seconds
STAMP = slice(7, 26)
"""Where a body has its time of publishing: 19 digits behind `{"ts": `, nanoseconds since 1970."""


class Job(NamedTuple):
    """What a peer has to do.

    *queues*, each bound with the routing key at its place in *keys*; *messages*: how many in each;
    *work*: `none`, `wait` (WAIT, cooperative) or `latency`; *ca_file*: with TLS.
    """

    url: str
    exchange: str
    queues: list[str]
    keys: list[str]
    prefetch: int
    concurrency: int
    messages: int
    work: str
    queue_type: str
    ca_file: str | None

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the broker."""
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or 5672

    @property
    def total(self) -> int:
        """How many messages there are in all queues."""
        return self.messages * len(self.queues)

    @classmethod
    def of_environment(cls) -> Self:
        """Read it from where the runner put it."""
        return cls(**json.loads(os.environ[JOB_VARIABLE]))


class Meter:
    """`hit()` once per handled message; the *count*-th prints one JSON line to standard output."""

    def __init__(self, count: int) -> None:
        self.latencies: list[int] = []
        self._count = count
        self._next = itertools.count(1).__next__  # one C call: safe among threads
        self._began = False

    def hit(self) -> None:
        """Count one."""
        n = self._next()
        if n == 1 and not self._began:
            self.start()
        if n == self._count:
            self._finish()

    def start(self) -> None:
        """Begin before the first `hit`: a publisher's span begins with its first call."""
        self._began = True
        self._broker, self._cpu, self._wall = _broker_cpu(), _cpu(), time.monotonic()

    def _finish(self) -> None:
        ended = time.monotonic()
        report = {
            "count": self._count,
            "began": self._wall,
            "ended": ended,
            "cpu": _cpu() - self._cpu,
            "broker_cpu": _broker_cpu() - self._broker,
            "rss_mb": rss_megabytes(os.getpid()),
            "latencies_ms": [ns / 1e6 for ns in self.latencies],
        }
        os.write(1, (json.dumps(report) + "\n").encode())  # frameworks replace sys.stdout


def work_of(job: Job, meter: Meter) -> Callable[[Any], None]:
    """Return what a handler does with a body: bytes, or what its framework has decoded."""
    hit, latency, sleep, now = meter.hit, meter.latencies.append, time.sleep, time.time_ns

    def wait(_body: Any) -> None:
        sleep(WAIT)
        hit()

    def measure(body: Any) -> None:
        latency(now() - _stamp_of(body))
        hit()

    return {"none": lambda _body: hit(), "wait": wait, "latency": measure}[job.work]


def _stamp_of(body: Any) -> int:
    """Return the time of publishing of a body, raw or decoded."""
    return int(body["ts"] if isinstance(body, dict) else body[STAMP])


def _broker_cpu() -> float:
    """Seconds of CPU that the broker has used so far; 0.0 if nobody says which it is."""
    pid = os.environ.get(BROKER_VARIABLE)
    return 0.0 if pid is None else cpu_of(int(pid))


def cpu_of(pid: int) -> float:
    """Seconds of CPU that a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_megabytes(pid: int) -> float:
    """Resident memory of a process in MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / (1 << 20)


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
