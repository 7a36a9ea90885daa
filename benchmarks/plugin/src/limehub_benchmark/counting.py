"""One handler per queue of the job; each does the job's work, and all feed one meter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.meter import Job, Meter, work_of
from limehub import Event

__all__ = ["register_event_handlers"]


def register_event_handlers(worker: Any, _config: Any) -> None:
    """Register `handle_0`, `handle_1` ... with the job's keys."""
    job = Job.of_environment()
    meter = Meter(job.total)
    for number, key in enumerate(job.keys):
        worker.register_event_handler(_handler(job, meter), key, f"handle_{number}")


def _handler(job: Job, meter: Meter) -> Callable[[Event], None]:
    work = work_of(job, meter)

    def handle(event: Event) -> None:
        work(event)

    def handle_body(event: Event) -> None:
        work(event.body)

    return handle_body if job.work == "latency" else handle
