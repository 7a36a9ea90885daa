"""The lane `greenlet`: a handler runs in its worker greenlet."""

from __future__ import annotations

from typing import Any

import gevent

from limehub.events import Event, Message
from limehub.workers.lanes.stacks import stack_of
from limehub.workers.lanes.watch import Call, TimeLimit

__all__ = ["in_greenlet"]


def in_greenlet(call: Call, limit: TimeLimit | None) -> Call:
    """Return *call*, interrupted at its next wait when the time is over."""
    if limit is None:
        return call

    def limited(event: Event, message: Message) -> None:
        greenlet: Any = gevent.getcurrent()
        watch = limit.watch(
            event, stack=lambda: stack_of(greenlet.gr_frame), interrupt=greenlet.throw
        )
        watch.over(lambda: call(event, message))

    return limited
