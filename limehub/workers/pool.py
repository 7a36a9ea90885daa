"""The greenlets of one group: long-lived, woken one at a time, at most *concurrency*.

Before each run the next idle greenlet is woken, so a handler that waits never delays the others,
and handlers that do not wait cost no switch.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import gevent
from gevent import Greenlet
from gevent.hub import Waiter

__all__ = ["WorkerPool"]

SLICE = 0.005
"""Seconds a worker runs handlers that never wait before it lets the hub turn (acks, heartbeats)."""

A_TURN = 1e-9
"""Seconds. sleep(0) only goes behind other callbacks: sockets and timers starved (measured)."""

KILL_PATIENCE = 2.0
"""Seconds for what handlers do in their `finally`."""


class WorkerPool:
    """Runs *step* in greenlets while it returns True (something ran)."""

    def __init__(self, name: str, concurrency: int, step: Callable[[], bool]) -> None:
        self.name = name
        self.concurrency = concurrency
        self._step = step
        self._idle: list[Waiter[Any]] = []
        self._wake = gevent.get_hub().loop.run_callback
        self._all: set[Greenlet[..., Any]] = set()
        self._waking = False
        self._closed = False

    @property
    def size(self) -> int:
        """How many greenlets there are, idle ones included."""
        return len(self._all)

    def offer(self) -> None:
        """Say that there is something to run."""
        if self._waking or self._closed:
            return
        if self._idle:
            self._waking = True
            self._wake(self._idle.pop().switch, None)
        elif len(self._all) < self.concurrency:
            self._waking = True
            worker = Greenlet(self._work)
            worker.name = f"{self.name} worker {len(self._all) + 1}"
            self._all.add(worker)
            worker.start()

    def resize(self, concurrency: int) -> None:
        """Change how many may run; those above the number end after what they run now."""
        self.concurrency = concurrency
        self.offer()

    def close(self) -> None:
        """End the idle workers; the others end after what they run now."""
        self._closed = True
        for waiter in self._idle:
            self._wake(waiter.switch, None)
        self._idle.clear()

    def join(self, timeout: float) -> bool:
        """Wait at most *timeout* seconds for all workers to end. Returns whether they did."""
        gevent.joinall(list(self._all), timeout=timeout)
        return not self._all

    def kill(self) -> int:
        """Kill what still runs. Returns how many."""
        victims = list(self._all)
        gevent.killall(victims, block=False)
        gevent.joinall(victims, timeout=KILL_PATIENCE)  # killall would raise its timeout
        self._all.difference_update([worker for worker in victims if worker.dead])
        return len(victims)

    def _work(self) -> None:
        waiter: Waiter[Any] = Waiter()
        try:
            while self._is_wanted():
                self._waking = False
                self._run_slice()
                if not self._is_wanted():
                    return
                waiter.clear()
                self._idle.append(waiter)
                waiter.get()
        finally:
            self._waking = False
            self._all.discard(gevent.getcurrent())
            if waiter in self._idle:
                self._idle.remove(waiter)
            self.offer()  # whoever leaves a shrinking pool hands over what still waits

    def _is_wanted(self) -> bool:
        return not self._closed and len(self._all) <= self.concurrency

    def _run_slice(self) -> None:
        step = self._step
        ends = perf_counter() + SLICE
        while not self._closed and len(self._all) <= self.concurrency and step():
            if perf_counter() > ends:
                gevent.sleep(A_TURN)
                ends = perf_counter() + SLICE
