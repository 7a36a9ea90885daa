"""The lane `thread`: a handler runs in a native thread while its worker greenlet waits.

For libraries that block without Python's sockets and for C calls that release the GIL: the hub, its
heartbeats and all other handlers go on.
"""

from __future__ import annotations

from contextvars import copy_context
from functools import partial

from limehub.amqp.home import Home
from limehub.events import Event, Message, Settler
from limehub.workers.lanes.locks import mend_locks
from limehub.workers.lanes.native_threads import NativeThreads
from limehub.workers.lanes.watch import Call, TimeLimit

__all__ = ["ThreadLane"]


class ThreadLane:
    """The threads of one group. To be made in the thread of the main hub."""

    def __init__(self) -> None:
        mend_locks()
        self._home = Home()
        self._threads = NativeThreads()

    def bind(self, call: Call, limit: TimeLimit | None) -> Call:
        """Return *call*, run in a thread. What it raises is raised."""

        def start(event: Event, _message: Message) -> None:
            message = self._reachable(event)
            # The copy carries the application of the event, for publishers.
            job = self._threads.start(partial(copy_context().run, call, event, message))
            if limit is None:
                job.wait()
            else:
                limit.watch(event, stack=job.stack, interrupt=job.interrupt).over(job.wait)

        return start

    def close(self) -> None:
        """End the idle threads."""
        self._threads.close()
        self._home.close()

    def _reachable(self, event: Event) -> Message:
        """Let *event* be settled from any thread, also after the handler has returned."""
        settler = _SettlerFromAfar(self._home, event._settler)
        event._settler = settler
        return Message(event, settler)


class _SettlerFromAfar:
    """Carries settlements to the thread of the hub, and what they raise back."""

    def __init__(self, home: Home, settler: Settler) -> None:
        self._home = home
        self._settler = settler

    @property
    def settled(self) -> bool:
        return self._settler.settled

    def ack(self) -> None:
        self._home.run(self._settler.ack)

    def reject(self, reason: str) -> None:
        self._home.run(lambda: self._settler.reject(reason))

    def requeue(self) -> None:
        self._home.run(self._settler.requeue)
