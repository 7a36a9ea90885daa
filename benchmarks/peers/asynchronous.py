"""The work of a handler that is a coroutine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.meter import WAIT, Job, Meter, work_of

__all__ = ["coroutine_of"]


def coroutine_of(job: Job, meter: Meter) -> Callable[[Any], Awaitable[None]]:
    """Return what a handler does with a body; `wait` lets others run meanwhile."""
    if job.work != "wait":
        work = work_of(job, meter)

        async def run(body: Any) -> None:
            work(body)

        return run

    async def wait(_body: Any) -> None:
        await asyncio.sleep(WAIT)
        meter.hit()

    return wait
