"""A run against the clock: a warning with its stack at half of the time, then a TimeoutError.

A run that cannot be interrupted goes on, and is judged by the clock when it ends.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import gevent
from attrs import frozen

from limehub.events import Discard, Event, Message, Reject, Retry

__all__ = ["Call", "TimeLimit", "Watch"]

log = logging.getLogger(__name__)

Call = Callable[[Event, Message], object]
"""Runs one event through its handler; raises what the handler raises."""

_DECISIONS = (Retry, Reject, Discard)
"""What a handler raises on purpose; it may well be its answer to the TimeoutError."""


@frozen(kw_only=True)
class TimeLimit:
    """*seconds* that a run of *handler* in *lane* may take."""

    handler: str
    lane: str
    seconds: float

    def watch(
        self,
        event: Event,
        *,
        stack: Callable[[], str],
        interrupt: Callable[[TimeoutError], object],
    ) -> Watch:
        """Return the watch over one run. *stack*(): where it is; *interrupt*(error): end it."""
        return Watch(self, event, stack, interrupt)


class Watch:
    """See `TimeLimit.watch`; use it once, from the hub's thread."""

    def __init__(
        self,
        limit: TimeLimit,
        event: Event,
        stack: Callable[[], str],
        interrupt: Callable[[TimeoutError], object],
    ) -> None:
        self.error = TimeoutError(f"ran longer than {limit.seconds:g} s")
        self._limit = limit
        self._event = event
        self._stack = stack
        self._interrupt = interrupt
        self._warned = False
        self._ended = False
        self._started = time.perf_counter()
        self._timer = self._after(limit.seconds / 2, self._half_over)

    def over(self, run: Callable[[], object]) -> None:
        """Run *run* to its end. Raises what it raises, or TimeoutError if it took too long.

        What it has acked stays acked; Retry, Reject and Discard keep their meaning.
        """
        try:
            run()
        except BaseException as error:
            if error is self.error or not self._is_spent or isinstance(error, _DECISIONS):
                raise
            raise self.error from error
        finally:
            self._end()
        if self._is_spent and not self._event.acknowledged:
            raise self.error

    @property
    def _seconds(self) -> float:
        return time.perf_counter() - self._started

    @property
    def _is_spent(self) -> bool:
        return self._seconds >= self._limit.seconds

    def _after(self, seconds: float, then: Callable[[], None]) -> Any:
        timer = gevent.get_hub().loop.timer(seconds)
        timer.start(then, update=True)  # the loop's own clock is as old as its turn
        return timer

    def _half_over(self) -> None:
        """Runs in the hub, where nothing may wait."""
        self._timer.close()
        self._timer = self._after(max(0.0, self._limit.seconds - self._seconds), self._all_over)
        self._warned = True
        gevent.spawn(self._warn)

    def _all_over(self) -> None:
        if self._is_spent:
            self._interrupt(self.error)
        else:  # the loop's clock runs a little ahead of ours
            self._timer.close()
            self._timer = self._after(self._limit.seconds - self._seconds, self._all_over)

    def _end(self) -> None:
        self._ended = True
        self._timer.stop()
        self._timer.close()
        if not self._warned and self._seconds >= self._limit.seconds / 2:
            self._warned = True  # it never let the hub turn, so nobody could look at its stack
            self._say("")

    def _warn(self) -> None:
        if not self._ended:
            self._say(self._stack())

    def _say(self, stack: str) -> None:
        extra = {
            "handler": self._limit.handler,
            "lane": self._limit.lane,
            "seconds": round(self._seconds, 3),
            "timeout": self._limit.seconds,
            "queue": self._event.queue,
            "message_id": self._event.id,
        }
        text = "handler has used half of its timeout"
        if log.isEnabledFor(logging.WARNING):
            level, nowhere = logging.WARNING, ("", 0)
            log.handle(
                log.makeRecord(
                    log.name, level, *nowhere, text, (), None, extra=extra, sinfo=stack or None
                )
            )
