"""One broker: its virtual hosts, users, connections, alarms."""

from __future__ import annotations

import itertools
import logging
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gevent
from attrs import field, frozen

from limehub.broker.memory import MEMORY_SHARE, MemoryAlarm, machine_memory
from limehub.broker.session.connection import Connection
from limehub.broker.session.handshake import same_secret
from limehub.broker.state.store import NoStore
from limehub.broker.state.timers import Timers
from limehub.broker.state.vhost import VirtualHost
from limehub.broker.storage.errors import StorageError
from limehub.broker.storage.file import FileStore
from limehub.broker.storage.restore import last_number, last_row, remove_orphans, restore

__all__ = ["Limits", "Node", "steady_clock"]

log = logging.getLogger(__name__)

_LOOPBACK = ("127.", "::1", "[::1]", "::ffff:127.")
_LONGEST_WAIT = 3600.0
_LOOK_AGAIN = 0.25
"""Seconds between looks at the memory while publishers wait for it."""


@frozen(kw_only=True)
class Limits:
    """What the broker offers a client. *heartbeat* in seconds, sizes in bytes."""

    frame_max: int = 131_072
    channel_max: int = 2047
    heartbeat: int = 60
    message_size: int = 128 * 1024 * 1024
    memory: int = field(factory=lambda: int(machine_memory() * MEMORY_SHARE))
    """From here on publishers are blocked until messages have left."""


class Node:
    """A broker without a port. *data*: its file, None keeps all in memory.

    *users*: name -> password; None is guest/guest, from this machine only. Raises StorageError.
    *on_broken* hears of a file that cannot be read any more: the broker must end.
    """

    def __init__(
        self,
        *,
        data: Path | None = None,
        users: Mapping[str, str] | None = None,
        vhosts: Sequence[str] = ("/",),
        version: str = "0",
        limits: Limits | None = None,
        on_broken: Callable[[StorageError], None] = lambda _error: None,
    ) -> None:
        self.version = version
        self.limits = limits or Limits()
        self.timers = Timers(steady_clock())
        self.connections: dict[Connection, None] = {}
        self._users = {"guest": "guest"} if users is None else dict(users)
        self._guests_are_local = users is None
        self._store = FileStore(data, self._alarm_changed, on_broken) if data else None
        self.memory = MemoryAlarm(self.limits.memory)
        self._numbers = self._rows = itertools.count(1)
        self._was: tuple[str | None, bool] = (None, False)
        self._settling = False
        self._looking: Any = None
        self._timer: Any = None
        self._loop = gevent.get_hub().loop
        self.vhosts: dict[str, VirtualHost] = {}
        if self._store is not None:
            self._prepare(self._store.open())
        for name in vhosts:
            self.add_vhost(name)

    # Virtual hosts

    def _prepare(self, database: sqlite3.Connection) -> None:
        remove_orphans(database)
        self._numbers = itertools.count(last_number(database) + 1)
        self._rows = itertools.count(last_row(database) + 1)

    def add_vhost(self, name: str) -> None:
        """Open a virtual host, with what the file has for it."""
        self.vhosts[name] = vhost = VirtualHost(
            name,
            store=NoStore() if self._store is None else self._store,
            timers=self.timers,
            numbers=self._numbers,
            rows=self._rows,
        )
        if self._store is not None:
            restore(self._store.reader, vhost)

    def remove_vhost(self, name: str) -> None:
        """Delete a virtual host with all that is in it; its clients are disconnected."""
        vhost = self.vhosts.pop(name)
        for connection in [one for one in self.connections if one.vhost is vhost]:
            connection.force_close(f"vhost '{name}' is deleted")
        for queue in list(vhost.queues.values()):
            vhost.remove_queue(queue)
        for exchange in [one for one in vhost.exchanges if one and not one.startswith("amq.")]:
            vhost.delete_exchange(exchange)

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
        full = self._store is not None and self._store.failure
        scarce = [name for name, is_so in (("memory", self.memory.on), ("disk", full)) if is_so]
        return f"low on {' & '.join(scarce)}" if scarce else None

    @property
    def saturated(self) -> bool:
        """Whether publishers are faster than the disk."""
        return self._store is not None and self._store.saturated

    def received(self, size: int) -> None:
        """Bytes came in; look at the memory now and then."""
        if self.memory.received(size):
            self.look_at_memory()

    def look_at_memory(self) -> None:
        """Block or unblock publishers; while they are blocked, look again soon."""
        unfinished = sum(one.unfinished for one in self.connections)
        if self.memory.look(self.vhosts.values(), unfinished):
            log.warning("memory is scarce" if self.memory.on else "memory is enough again")
            self._alarm_changed()
        if self.memory.on and not self._looking:
            self._looking = gevent.spawn_later(_LOOK_AGAIN, self._look_again)

    def _look_again(self) -> None:
        self._looking = None
        self._look_after_clients()
        self.look_at_memory()

    def _look_after_clients(self) -> None:
        for connection in list(self.connections):
            connection.look_after_client()

    def _alarm_changed(self) -> None:
        now = (self.alarm, self.saturated)
        if self.alarm:
            self._look_after_clients()
        if now != self._was:
            self._was = now
            for connection in list(self.connections):
                connection.flow()

    # The end

    def stop(self, grace: float = 3.0) -> None:
        """Close all connections as RabbitMQ does, for at most *grace* seconds; keep the file."""
        for connection in list(self.connections):
            connection.force_close("broker forced connection closure with reason 'shutdown'")
        deadline = time.monotonic() + grace
        while self.connections and time.monotonic() < deadline:
            gevent.sleep(0.01)
        for connection in list(self.connections):
            connection.stream.abort()
        if self._looking is not None:
            self._looking.kill()
        if self._store is not None:
            self._store.close()


def steady_clock() -> Any:
    """Return a clock that tells the time of day but does not follow its jumps."""
    start = time.time() - time.monotonic()
    return lambda: start + time.monotonic()
