"""All lanes of a server, and the way from a handler to its call. Resolved once, at start."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import define, field

from limehub.config import Lane
from limehub.plugins.handlers import Handler
from limehub.plugins.lime import EventPublisher
from limehub.plugins.registry import Registry
from limehub.workers.lanes.greenlet_lane import in_greenlet
from limehub.workers.lanes.watch import Call, TimeLimit

if TYPE_CHECKING:  # a server without such handlers starts without them
    from limehub.workers.lanes.process_lane import ChildLimits, ProcessLane
    from limehub.workers.lanes.thread_lane import ThreadLane

__all__ = ["Lanes"]


@define(eq=False)
class Lanes:
    """Threads and children, apart for each group, so that no group waits for another's.

    To be made and closed in the thread of the main hub. Neither threads nor children are started
    before an event needs them.
    """

    _registry: Registry
    _publisher: EventPublisher
    _limits: ChildLimits | None = None
    _threads: dict[str, ThreadLane] = field(factory=dict, init=False)
    _processes: dict[str, ProcessLane] = field(factory=dict, init=False)

    def call_of(self, handler: Handler, group: str, lane: Lane, timeout: float | None) -> Call:
        """Return what runs one event in *lane*, at most *timeout* seconds (None: no limit).

        Raises PluginError if *handler* cannot run there.
        """
        limit = None
        if timeout is not None:
            limit = TimeLimit(handler=handler.name, lane=lane, seconds=timeout)
        if lane == "process":
            return self._process_lane(group).bind(handler, limit)
        call = handler.form.bind(self._registry.services_for(handler, self._publisher))
        if lane == "thread":
            return self._thread_lane(group).bind(call, limit)
        return in_greenlet(call, limit)

    def close(self) -> None:
        """End threads and children, after the last handler."""
        for threads in self._threads.values():
            threads.close()
        for processes in self._processes.values():
            processes.close()

    @property
    def child_pids(self) -> list[int]:
        """The process ids of all children."""
        return [pid for lane in self._processes.values() for pid in lane.pids]

    def _thread_lane(self, group: str) -> ThreadLane:
        from limehub.workers.lanes.thread_lane import ThreadLane

        if group not in self._threads:
            self._threads[group] = ThreadLane()
        return self._threads[group]

    def _process_lane(self, group: str) -> ProcessLane:
        from limehub.workers.lanes.process_lane import ProcessLane

        if group not in self._processes:
            lane = ProcessLane(group, self._registry, self._publisher, self._limits)
            self._processes[group] = lane
        return self._processes[group]
