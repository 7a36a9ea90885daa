"""Who keeps the connections of a server while its hub is busy, as `event_handler.guard` says."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import gevent

from limehub.amqp.connection import BrokerConnection
from limehub.amqp.guard import Guard, Wakeup
from limehub.amqp.sentinel import Line, Sentinel
from limehub.amqp.stalls import NamesCulprits
from limehub.config import model
from limehub.forks import in_children, leave_hub

__all__ = ["Keeper"]

log = logging.getLogger(__name__)


class Keeper:
    """Keeps the connections that are opened with it in their settings, from `start` to `stop`.

    *guard*: `none` does nothing, `thread` has a sentinel, `process` has a guard process, too;
    *patience*: as of `Guard`; the others as of `Sentinel`.
    """

    def __init__(
        self,
        guard: model.Guard,
        *,
        max_stall: float,
        culprit_of: NamesCulprits,
        on_culprit: Callable[[str | None], None],
        patience: float = 0.0,
    ) -> None:
        self.kind = guard
        self._max_stall = max_stall
        self._patience = patience
        self._lines: dict[BrokerConnection, Line] = {}
        self._shared: dict[BrokerConnection, int] = {}
        self._guard: Guard | None = None
        self._wakeup: Wakeup | None = None
        self._hub: Any = None
        self._sentinel = Sentinel(
            max_stall=max_stall,
            culprit_of=culprit_of,
            on_culprit=on_culprit,
            on_tick=self._on_tick,
        )

    def start(self, wakeup: Wakeup | None = None) -> None:
        """Watch the hub of the calling thread; *wakeup*: the server's signals."""
        self._wakeup = wakeup
        self._hub = gevent.get_hub()
        in_children(self._forked)
        if self.kind != "none":
            self._sentinel.start()

    def stop(self) -> None:
        """End; harmless if it never started."""
        self._sentinel.stop()
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.stop()

    def before_dial(self) -> None:
        """Wait until the guard holds no connection any more that is lost."""
        if self._guard is not None:
            self._guard.wait_dropped()

    def opened(self, connection: BrokerConnection) -> None:
        """Look after *connection* from now on."""
        stream = connection.stream
        line = self._lines[connection] = Line(
            name=connection.name,
            heartbeat=connection.heartbeat,
            outlet=stream.outlet,
            flush_from_afar=stream.flush_from_afar,
        )
        self._sentinel.add(line)
        if self.kind == "process" and not stream.is_encrypted:
            self._share(connection)

    def lost(self, connection: BrokerConnection) -> None:
        """Look after it no more; harmless if it never was."""
        line = self._lines.pop(connection, None)
        if line is not None:
            self._sentinel.remove(line)
        number = self._shared.pop(connection, None)
        if number is not None and self._guard is not None:
            self._guard.drop(number)

    def ran_long(self) -> None:
        """Hear, from the hub, that a handler has just ended that may have kept it busy."""
        self._sentinel.let_look()

    def status(self) -> dict[str, Any]:
        """Return the `stalls` table of status pages."""
        return self._sentinel.book.status()

    def guard_status(self) -> dict[str, Any]:
        """Return the `guard` table of status pages."""
        guard = self._guard
        return {
            "kind": self.kind,
            "pid": guard.pid if guard else None,
            "starts": guard.starts if guard else 0,
        }

    def _forked(self) -> None:
        for connection in self._lines:
            connection.stream.abandon()
        leave_hub(self._hub)

    def _share(self, connection: BrokerConnection) -> None:
        stream = connection.stream
        try:
            guard = self._guard = self._guard or self._started_guard()
            number, shared = guard.add(stream.sock, connection.heartbeat)
        except OSError as error:
            extra = {"connection": connection.name, "cause": str(error)}
            log.warning("a connection goes without the guard process", extra=extra)
            return
        self._shared[connection] = number
        stream.outlet.send_through(shared.send)

    def _started_guard(self) -> Guard:
        """Only now: over TLS there is nothing that it could do."""
        guard = Guard(max_stall=self._max_stall, wakeup=self._wakeup, patience=self._patience)
        guard.start()
        return guard

    def _on_tick(self, now: float, turned_at: float) -> None:
        guard = self._guard
        if guard is not None:
            guard.look(now, turned_at)
