"""The lane `process`: a handler runs in a child process while its worker greenlet waits.

Nothing there is patched. A segfault, a kill or a C call that holds the GIL hurts that child only.
"""

from __future__ import annotations

import logging
import sys
from itertools import count

import gevent
from attrs import frozen

from limehub.events import Event, Message
from limehub.plugins.handlers import Handler
from limehub.plugins.lime import EventPublisher
from limehub.plugins.registry import Registry
from limehub.workers.lanes.child_process import ChildEnded, ChildProcess
from limehub.workers.lanes.crossing import refuse_uncrossable
from limehub.workers.lanes.frames import CarriedDelivery, Hello, Run
from limehub.workers.lanes.watch import Call, TimeLimit

__all__ = ["ChildLimits", "ProcessLane"]

log = logging.getLogger(__name__)


@frozen(kw_only=True)
class ChildLimits:
    """When a child is replaced: after *runs*, or when it has grown by *growth* bytes.

    *start*, *end*: seconds that it may take to be ready, and to end when asked.
    """

    runs: int = 1_000
    growth: int = 512 * 1024 * 1024
    start: float = 60.0
    end: float = 2.0


class ProcessLane:
    """The children of one group: started when first needed, as many as handlers run at once."""

    def __init__(
        self,
        group: str,
        registry: Registry,
        publisher: EventPublisher,
        limits: ChildLimits | None = None,
    ) -> None:
        self._group = group
        self._registry = registry
        self._publisher = publisher
        self._limits = limits or ChildLimits()
        self._numbers = count(1)
        self._idle: list[ChildProcess] = []
        self._all: set[ChildProcess] = set()
        self._closed = False

    @property
    def pids(self) -> list[int]:
        """The process ids of its children."""
        return [child.pid for child in self._all if not child.ended.is_set()]

    def bind(self, handler: Handler, limit: TimeLimit | None) -> Call:
        """Return what runs *handler* in a child. Raises PluginError if it cannot run there."""
        refuse_uncrossable(handler)
        manual = handler.options.ack == "manual"

        def start(event: Event, _message: Message) -> None:
            run = self._run_of(handler, event)
            child = self._take()
            try:
                if limit is None:
                    child.run(run, event._settler, manual=manual)
                else:
                    watch = limit.watch(event, stack=child.stack, interrupt=lambda _: child.kill())
                    watch.over(lambda: child.run(run, event._settler, manual=manual))
            finally:
                self._give_back(child)

        return start

    def close(self) -> None:
        """End all children; those that do not end are killed."""
        self._closed = True
        self._idle.clear()
        gevent.joinall([gevent.spawn(child.end, self._limits.end) for child in self._all])

    def _take(self) -> ChildProcess:
        while self._idle:
            child = self._idle.pop()  # the one used last: the others may be swapped out
            if not child.ended.is_set():
                return child
            self._all.discard(child)
        return self._start()

    def _start(self) -> ChildProcess:
        if self._closed:
            raise ChildEnded("the server is stopping; no child process was started")
        hello = Hello(path=tuple(sys.path), config=self._registry.config)
        child = ChildProcess(self._group, hello, self._publisher)
        self._all.add(child)
        try:
            child.wait_ready(self._limits.start)
        except BaseException:
            child.kill()
            self._all.discard(child)
            raise
        log.info("child process started", extra={"group": self._group, "child": child.pid})
        return child

    def _give_back(self, child: ChildProcess) -> None:
        if child.is_busy:  # the run was given up: nothing else ends it
            child.kill()
        if child.is_busy or child.ended.is_set():
            self._all.discard(child)
        elif self._is_worn_out(child):
            self._retire(child)
        else:
            self._idle.append(child)

    def _is_worn_out(self, child: ChildProcess) -> bool:
        if child.has_open_events:
            return False
        return child.runs >= self._limits.runs or child.growth > self._limits.growth

    def _retire(self, child: ChildProcess) -> None:
        growth = f"{child.growth / 1024 / 1024:.0f} MiB"
        extra = {"group": self._group, "child": child.pid, "runs": child.runs, "growth": growth}
        log.info("child process replaced", extra=extra)

        def end() -> None:
            child.end(self._limits.end)
            self._all.discard(child)

        gevent.spawn(end)

    def _run_of(self, handler: Handler, event: Event) -> Run:
        return Run(
            number=next(self._numbers),
            app=handler.app,
            handler_queue=handler.queue,
            application=event.application,
            delivery=CarriedDelivery.of(event._delivery),
            settled=event.acknowledged,
            log_level=logging.getLogger().level,
        )
