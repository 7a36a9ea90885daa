"""One broker: its virtual hosts, users, connections, alarms."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gevent
from attrs import frozen

from limehub.broker.session.connection import Connection
from limehub.broker.session.handshake import same_secret
from limehub.broker.state.store import NoStore
from limehub.broker.state.timers import Timers
from limehub.broker.state.vhost import VirtualHost
from limehub.broker.storage.file import FileStore
from limehub.broker.storage.restore import last_number, last_row, remove_orphans, restore

__all__ = ["Limits", "Node", "steady_clock"]

log = logging.getLogger(__name__)

_LOOPBACK = ("127.", "::1", "[::1]", "::ffff:127.")
_LONGEST_WAIT = 3600.0


@frozen(kw_only=True)
class Limits:
    """What the broker offers a client. *heartbeat* in seconds, sizes in bytes."""

    frame_max: int = 131_072
    channel_max: int = 2047
    heartbeat: int = 60
    message_size: int = 128 * 1024 * 1024


class Node:
    """A broker without a port. *data*: its file, None keeps all in memory.

    *users*: name -> password; None is guest/guest, from this machine only. Raises StorageError.
    """

    def __init__(
        self,
        *,
        data: Path | None = None,
        users: Mapping[str, str] | None = None,
        vhosts: Sequence[str] = ("/",),
        version: str = "0",
        limits: Limits | None = None,
    ) -> None:
        self.version = version
        self.limits = limits or Limits()
        self.timers = Timers(steady_clock())
        self.connections: dict[Connection, None] = {}
        self._users = {"guest": "guest"} if users is None else dict(users)
        self._guests_are_local = users is None
        self._store = FileStore(data, self._storage_changed) if data else None
        self._was: tuple[str | None, bool] = (None, False)
        self._settling = False
        self._timer: Any = None
        self._loop = gevent.get_hub().loop
        self.vhosts = self._load(vhosts)

    def _load(self, names: Sequence[str]) -> dict[str, VirtualHost]:
        if self._store is None:
            return {name: VirtualHost(name, store=NoStore(), timers=self.timers) for name in names}
        database = self._store.open()
        remove_orphans(database)
        numbers = itertools.count(last_number(database) + 1)
        rows = itertools.count(last_row(database) + 1)
        vhosts = {}
        for name in names:
            vhosts[name] = VirtualHost(
                name, store=self._store, timers=self.timers, numbers=numbers, rows=rows
            )
            restore(database, vhosts[name])
        return vhosts

    # Connections

    def accept(self, sock: Any, address: str) -> None:
        """Serve a client on *sock*, which does not block."""
        self.connections[Connection(self, sock, address)] = None

    def forget(self, connection: Connection) -> None:
        """*connection* is over."""
        self.connections.pop(connection, None)

    def may_log_in(self, user: str, password: str, address: str) -> bool:
        """Whether these credentials are right, for a client at *address*."""
        wanted = self._users.get(user)
        if wanted is None or not same_secret(password, wanted):
            return False
        return not self._guests_are_local or address.startswith(_LOOPBACK)

    def drop_exclusive(self, vhost: VirtualHost, connection: Connection) -> None:
        """Delete the queues that belong to *connection*."""
        for queue in [one for one in vhost.queues.values() if one.owner is connection]:
            vhost.remove_queue(queue)

    # Work

    def settle(self) -> None:
        """Send out what the last calls have made ready, now."""
        for vhost in self.vhosts.values():
            if vhost.dirty:
                vhost.settle()
        self._set_timer()

    def settle_soon(self) -> None:
        """Settle in this turn of the loop, but not from here."""
        if not self._settling:
            self._settling = True
            self._loop.run_callback(self._settle_now)

    def _settle_now(self) -> None:
        self._settling = False
        self.settle()

    def _set_timer(self) -> None:
        when = self.timers.next_at
        if when is None or (self._timer is not None and self._timer[0] <= when):
            return
        if self._timer is not None:
            self._timer[1].stop()
            self._timer[1].close()
        wait = min(max(when - self.timers.clock(), 0.001), _LONGEST_WAIT)
        watcher = self._loop.timer(wait)
        self._timer = (when, watcher)
        watcher.start(self._on_timer)

    def _on_timer(self) -> None:
        timer, self._timer = self._timer, None
        timer[1].stop()
        timer[1].close()
        self.timers.due()
        self.settle()

    # Alarms

    @property
    def alarm(self) -> str | None:
        """Why publishers are blocked; None: they are not."""
        return "low on disk" if self._store is not None and self._store.failure else None

    @property
    def saturated(self) -> bool:
        """Whether publishers are faster than the disk."""
        return self._store is not None and self._store.saturated

    def _storage_changed(self) -> None:
        now = (self.alarm, self.saturated)
        if now != self._was:
            self._was = now
            for connection in list(self.connections):
                connection.flow()

    # The end

    def stop(self, grace: float = 3.0) -> None:
        """Close all connections as RabbitMQ does, for at most *grace* seconds; keep the file."""
        for connection in list(self.connections):
            connection.shut_down("shutdown")
        deadline = time.monotonic() + grace
        while self.connections and time.monotonic() < deadline:
            gevent.sleep(0.01)
        for connection in list(self.connections):
            connection.stream.abort()
        if self._store is not None:
            self._store.close()


def steady_clock() -> Any:
    """Return a clock that tells the time of day but does not follow its jumps."""
    start = time.time() - time.monotonic()
    return lambda: start + time.monotonic()
