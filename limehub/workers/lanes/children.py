"""The children of handlers in native threads: `subprocess` and `os.fork` work there, too.

In a patched process both ask the loop of their thread for the end of a child, and gevent has that
for the main thread's only, which also takes every exit status first. So it is heard of there.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Self

import gevent
from gevent import monkey

__all__ = ["Children"]

_native_lock = monkey.get_original("_thread", "allocate_lock")

KEPT = 60.0
"""Seconds that the status of a child is kept: a quick one ends before anybody can ask for it, and
who asks later than that waits for ever. By then its number could be another's."""

ANY = 0


class Children:
    """Hears of every child that ends. To be made in the thread of the main hub."""

    def __init__(self) -> None:
        self._lock = _native_lock()
        self._ended: OrderedDict[int, tuple[int, float]] = OrderedDict()
        self._waiting: dict[int, list[_Watcher]] = {}
        loop: Any = gevent.get_hub().loop
        loop.install_sigchld()
        self._any = loop.child(ANY, ref=False)
        self._any.start(self._reaped)
        self._kind: Any = type(loop)

    def loop(self) -> Any:
        """Return a loop for another thread, which knows of its children by us."""
        children = self

        class Loop(self._kind):  # type: ignore[misc, name-defined] # whichever loop gevent uses
            def child(self, pid: int, *_options: Any, **_named: Any) -> _Watcher:
                return _Watcher(children, self, pid)

        return Loop(default=False)

    def close(self) -> None:
        """Listen no more."""
        self._any.stop()
        self._any.close()

    def add(self, watcher: _Watcher) -> None:
        """Tell *watcher* when its child ends, or now if it has. From any thread."""
        with self._lock:
            ended = self._ended.get(watcher.pid)
            if ended is None or ended[1] < time.monotonic() - KEPT:
                self._waiting.setdefault(watcher.pid, []).append(watcher)
                return
        watcher.tell(ended[0])

    def remove(self, watcher: _Watcher) -> None:
        """Forget *watcher*; harmless if it was told."""
        with self._lock:
            waiting = self._waiting.get(watcher.pid, [])
            if watcher in waiting:
                waiting.remove(watcher)
            if not waiting:
                self._waiting.pop(watcher.pid, None)

    def _reaped(self) -> None:
        pid, status, now = self._any.rpid, self._any.rstatus, time.monotonic()
        with self._lock:
            waiting = self._waiting.pop(pid, [])
            self._ended[pid] = status, now
            self._ended.move_to_end(pid)
            while next(iter(self._ended.values()))[1] < now - KEPT:
                self._ended.popitem(last=False)
        for watcher in waiting:
            watcher.tell(status)


class _Watcher:
    """What gevent expects of a child watcher of *loop*, a thread's own."""

    def __init__(self, children: Children, loop: Any, pid: int) -> None:
        self.loop = loop
        self.pid = pid
        self.rpid = self.rstatus = 0
        self._children = children
        self._call: tuple[Callable[..., None], tuple[Any, ...]] | None = None

    def start(self, callback: Callable[..., None], *args: Any) -> None:
        """Call *callback* in the thread's loop when the child has ended."""
        self._call = callback, args
        self._children.add(self)

    def stop(self) -> None:
        """Call nobody any more."""
        self._call = None
        self._children.remove(self)

    close = stop

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def tell(self, status: int) -> None:
        """The child has ended. From any thread."""
        self.rpid, self.rstatus = self.pid, status
        self.loop.run_callback_threadsafe(self._ended)

    def _ended(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            callback, args = call
            callback(*args)
