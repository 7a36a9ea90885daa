"""The sentinel: a native thread that keeps the connections while a handler keeps the hub busy.

A handler that computes lets no greenlet run, so no heartbeat is sent and no finished ack leaves.
The thread looks at the hub 16 times a second, which costs the hub nothing: libev counts its turns,
and Python tells which code a thread is in. While the hub is busy the thread sends what waits, else
a heartbeat; when it has not turned for half a second, it says who is to blame. It can do nothing
while one C call holds the interpreter's lock; for that there is the guard process.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import gevent
import gevent.hub
from attrs import define, field, frozen
from gevent import monkey

from limehub.amqp.outlet import Outlet
from limehub.amqp.stalls import UNKNOWN, Culprit, NamesCulprits, StallBook
from limehub.amqp.thread_log import ThreadLog

__all__ = ["Line", "Sentinel"]

TICK = 0.05
"""Seconds between two looks: what a handler acks before it computes waits no longer."""

NAMED_AFTER = 0.5
"""Seconds of a stall until its culprit is named, the first time."""

BEATS = 3
"""Heartbeats sent per heartbeat: RabbitMQ ends a connection after three of silence."""

WITHOUT_HEARTBEAT = 15.0
JOIN_SECONDS = 1.0
LOOK_SECONDS = 1.0
"""Seconds that `let_look` waits at most."""

_current_frames = sys._current_frames
_IDLE = gevent.hub.Hub.run.__code__
_native_ident = monkey.get_original("_thread", "get_ident")
_native_lock = monkey.get_original("_thread", "allocate_lock")
_native_sleep = monkey.get_original("time", "sleep")
_start_native = monkey.get_original("_thread", "start_new_thread")


@frozen(kw_only=True, eq=False)
class Line:
    """A connection to keep. *heartbeat*: the negotiated one in seconds, 0 = none.

    *flush_from_afar*: has the hub send what waits; called from the sentinel's thread.
    """

    name: str
    heartbeat: float
    outlet: Outlet
    flush_from_afar: Callable[[], None]


class _Kept:
    """A line while it is kept."""

    def __init__(self, line: Line) -> None:
        self._told = False
        self._full = False
        self._line = line
        self._beat_after = line.heartbeat / BEATS if line.heartbeat else float("inf")

    def keep(self, now: float) -> None:
        """Send what is due. What the socket does not take is the hub's, when it turns again."""
        outlet = self._line.outlet
        if not (outlet.due or self._full or now - outlet.sent_at >= self._beat_after):
            return
        try:
            sent = outlet.keep(self._beat_after)
        except OSError:  # the hub meets it, too, and ends the connection
            sent = False
        self._full = not sent
        if self._full and not self._told:
            self._told = True
            self._line.flush_from_afar()

    def hub_turns(self) -> None:
        """Leave it to the hub again."""
        self._full = self._told = False


@define(eq=False)
class _Watch:
    """One look after the other: since when does the hub not turn? Times: seconds, monotonic."""

    loop: Any
    ident: int
    looked_at: float = field(factory=time.monotonic)
    turned_at: float = field(factory=time.monotonic)
    iteration: int = -1
    turned: bool = False
    computed: float = field(factory=time.process_time)
    held_for: float = 0.0

    def look(self, now: float) -> FrameType | None:
        """Return the frame that keeps the hub busy; None if it waits. Sets the rest."""
        before, self.looked_at = self.looked_at, now
        computed, self.computed = self.computed, time.process_time()
        passed = now - before
        # A process that was stopped did not compute meanwhile; one on a busy machine a little.
        enough = min(passed / 10, NAMED_AFTER)
        held = passed >= NAMED_AFTER and self.computed - computed > enough
        self.held_for = passed if held else 0.0
        iteration = self.loop.iteration
        self.turned = iteration != self.iteration
        self.iteration = iteration
        frame = _current_frames().get(self.ident)
        if frame is None or frame.f_code is _IDLE:
            self.turned_at = now
            return None
        if self.turned:
            # If this thread could not look for so long, somebody held the lock since then.
            self.turned_at = now if passed < NAMED_AFTER else before
        return frame


class Sentinel:
    """Keeps the connections that it is told of, from `start` to `stop`; the hub is the caller's.

    *max_stall*: seconds after which it beats no more; *culprit_of*: names who runs in a frame;
    *on_culprit*: hears, in the thread, who keeps the hub busy, None when it turns again;
    *on_tick*(now, turned_at): called in the thread at each look.
    """

    def __init__(
        self,
        *,
        max_stall: float,
        culprit_of: NamesCulprits,
        on_culprit: Callable[[str | None], None],
        on_tick: Callable[[float, float], None] = lambda _now, _turned_at: None,
    ) -> None:
        self.book = StallBook()
        self._max_stall = max_stall
        self._culprit_of = culprit_of
        self._on_culprit = on_culprit
        self._on_tick = on_tick
        self._log = ThreadLog(logging.getLogger(__name__), gevent.get_hub().loop)
        self._kept: dict[Line, _Kept] = {}
        self._watch: _Watch | None = None
        self._stop = _native_lock()
        self._stopped = _native_lock()
        self._named = 0
        self._gave_up = False
        self._has_seen = 0.0  # when the last look that has ended began

    def start(self) -> None:
        """Watch the hub of the calling thread."""
        self._watch = _Watch(gevent.get_hub().loop, _native_ident())
        self._has_seen = self._watch.looked_at
        self._stop.acquire()
        self._stopped.acquire()
        _start_native(self._run, (self._watch,))

    def stop(self) -> None:
        """End the thread, within a second; harmless if it does not run."""
        if self._watch is None:
            return
        self._watch = None
        self._stop.release()
        if self._stopped.acquire(timeout=JOIN_SECONDS):
            self._stopped.release()

    def let_look(self) -> None:
        """Let the thread see who has kept it from looking: whoever calls this, in the hub.

        After a call that held the interpreter's lock, the hub may turn before the thread's turn
        comes, if other threads have waited, too. Waits only if the last look was long ago.
        """
        now = time.monotonic()
        if self._watch is None or now - self._has_seen < NAMED_AFTER:
            return
        while self._has_seen < now and time.monotonic() - now < LOOK_SECONDS:
            _native_sleep(0.001)

    def add(self, line: Line) -> None:
        """Keep *line* from now on."""
        self._kept = {**self._kept, line: _Kept(line)}

    def remove(self, line: Line) -> None:
        """Keep *line* no more."""
        # The thread may be going through the old one.
        self._kept = {each: kept for each, kept in self._kept.items() if each is not line}

    # -- in the thread ----------------------------------------------------------------------------

    def _run(self, watch: _Watch) -> None:
        pause = TICK
        try:
            while not self._stop.acquire(timeout=pause):
                now = time.monotonic()
                try:
                    self._look(watch, now)
                except Exception:  # noqa: BLE001 - border: silence would cost the connections
                    self._log.exception("the sentinel failed; it goes on")
                self._has_seen = now
                # If somebody has held the lock meanwhile, see at once who.
                pause = 0.0 if time.monotonic() - now >= NAMED_AFTER else TICK
        finally:
            self._stopped.release()

    def _look(self, watch: _Watch, now: float) -> None:
        frame = watch.look(now)
        self._on_tick(now, watch.turned_at)
        seconds = now - watch.turned_at
        if watch.turned or not seconds:  # what stalls now need not be what did before
            self._turns()
        if frame is not None:
            self._keep_all(now, seconds)
        if frame is not None and seconds:
            self._blame(frame, seconds)
        elif watch.held_for:
            self._blame_others(watch)

    def _keep_all(self, now: float, seconds: float) -> None:
        if seconds <= self._max_stall:
            for kept in self._kept.values():
                kept.keep(now)
        elif not self._gave_up:
            self._gave_up = True
            extra = {"max_stall": self._max_stall, "seconds": round(seconds, 1)}
            self._log.error("no heartbeats any more: a stall is longer than max_stall", extra)

    def _blame(self, frame: FrameType, seconds: float) -> None:
        self.book.goes_on(seconds)
        thresholds = (NAMED_AFTER, max(NAMED_AFTER, self._half_heartbeat()))
        due = sum(seconds >= threshold for threshold in thresholds)
        if due <= self._named:
            return
        self._named = due
        culprit = self._culprit(frame)
        self.book.begin(culprit, seconds)
        self._on_culprit(culprit.name)
        extra = {
            "handler": culprit.name,
            "where": culprit.where,
            "seconds": round(seconds, 3),
            "stack": culprit.stack,
        }
        self._log.warning("the server stalls: it is kept busy", extra)

    def _blame_others(self, watch: _Watch) -> None:
        """Another thread has held the interpreter: by now it may be any of those at work."""
        hidden = (watch.ident, _native_ident())
        frames = [frame for ident, frame in _current_frames().items() if ident not in hidden]
        suspects = [one for one in map(self._culprit, frames) if one.of_a_plugin]
        suspect = suspects[0] if len(suspects) == 1 else UNKNOWN
        self.book.begin(suspect, watch.held_for)
        self.book.end()
        extra = {
            "seconds": round(watch.held_for, 3),
            "suspects": [f"{each.name} ({each.where})" for each in suspects],
        }
        self._log.warning("the server stalled: a thread let no Python run", extra)

    def _culprit(self, frame: FrameType) -> Culprit:
        try:
            return self._culprit_of(frame)
        except Exception:  # noqa: BLE001 - a frame that runs on may show anything
            self._log.exception("cannot tell who stalls the server")
            return UNKNOWN

    def _turns(self) -> None:
        self._named = 0
        self._gave_up = False
        for kept in self._kept.values():
            kept.hub_turns()
        stall = self.book.end()
        if stall is not None:
            self._on_culprit(None)
            extra = {"handler": stall.culprit.name, "seconds": round(stall.seconds, 3)}
            self._log.warning("the stall is over", extra)

    def _half_heartbeat(self) -> float:
        heartbeats = [line.heartbeat for line in self._kept if line.heartbeat]
        return min(heartbeats, default=WITHOUT_HEARTBEAT) / 2
