"""The same step for many things side by side: a round trip each would add up."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import gevent
from gevent.lock import Semaphore

from limehub.errors import ConnectionLost, LimehubError

__all__ = ["side_by_side"]

AT_ONCE = 16

T = TypeVar("T")


def side_by_side(
    step: Callable[[T], object], things: Iterable[T], *, timeout: float | None = None
) -> list[LimehubError]:
    """Take *step* for all *things*; returns what went wrong, one error a thing.

    What takes longer than *timeout* seconds is given up. Raises what is no LimehubError.
    """
    errors: list[LimehubError] = []
    turn = Semaphore(AT_ONCE)

    def guarded(thing: T) -> None:
        with turn:
            try:
                step(thing)
            except LimehubError as error:
                errors.append(error)

    jobs = [gevent.spawn(guarded, thing) for thing in things]
    gevent.joinall(jobs, timeout=timeout, raise_error=True)
    if any(not job.ready() for job in jobs):
        errors.append(ConnectionLost(f"no answer within {timeout} s"))
        gevent.killall(jobs, timeout=1)
    return errors
