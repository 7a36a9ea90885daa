"""The store in a file, as the state sees it: calls collect, answers come after a commit."""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import gevent
from gevent.threadpool import ThreadPool

from limehub.broker.state.exchanges import Binding, Exchange
from limehub.broker.state.message import Message
from limehub.broker.state.queue import DEEP, Queue
from limehub.broker.storage.batch import Batch
from limehub.broker.storage.errors import StorageError
from limehub.broker.storage.lock import FileLock
from limehub.broker.storage.schema import connect, open_database
from limehub.broker.tables import encode_table

__all__ = ["FileStore"]

log = logging.getLogger(__name__)

_RETRY = 1.0
"""Seconds between attempts to write while the file system refuses."""
_TIDY_EVERY = 64
_TIDY_AFTER = 0.5
"""Free pages go back to the file system every so many batches and seconds."""
_TIDY_PAGES = 2000
_WORTH_TIDYING = 256
_FULL = 4 * 1024 * 1024
"""Bytes on their way to the file from which on publishers have to wait."""


class FileStore:
    """Keeps everything durable in *path*. `failure` says why it cannot write at the moment.

    Call `open()` first; it raises StorageError. *on_change* is called when `failure` or
    `saturated` may have changed.
    """

    durable = True

    def __init__(
        self,
        path: Path,
        on_change: Callable[[], None] = lambda: None,
        on_broken: Callable[[StorageError], None] = lambda _error: None,
    ) -> None:
        self.path = path
        self.failure: str | None = None
        self.on_change = on_change
        self.on_broken = on_broken
        self._lock = FileLock(path)
        self._batch = Batch()
        self._new: list[tuple[Queue, Message]] = []
        self._flying: Batch | None = None
        self._scheduled = False
        self._written = 0
        self._identity: tuple[int, int] | None = None
        self._tidy_timer: gevent.Greenlet[[], None] | None = None

    def open(self) -> sqlite3.Connection:
        """Take the file. Returns the connection for reading what it has. Raises StorageError."""
        self._lock.acquire()
        try:
            if not self.path.exists():
                self.path.touch(mode=0o600)  # for nobody else's eyes; SQLite follows
            self._writer = open_database(self.path)
        except BaseException:
            self._lock.release()
            raise
        self.reader = connect(self.path)
        self._identity = _identity(self.path)
        self._loop = gevent.get_hub().loop
        self._pool = ThreadPool(1)
        return self.reader

    @property
    def saturated(self) -> bool:
        """Whether more is on its way to the file than memory should hold."""
        flying = self._flying.size if self._flying else 0
        return self._batch.size + flying > _FULL

    def close(self) -> None:
        """Write all that is collected and give the file back."""
        while (self._flying is not None or self._batch) and self.failure is None:
            self._submit()
            gevent.sleep(0.001)
        if self._tidy_timer is not None:
            self._tidy_timer.kill()
        self._pool.kill()
        self.reader.close()
        self._writer.close()
        self._lock.release()

    # What the state calls

    def add(self, queue: Queue, message: Message) -> None:
        """Keep a new message of *queue*."""
        address, properties, body = message.address, message.properties, message.body
        if address is None or properties is None or body is None:
            raise StorageError("a message without content cannot be stored")
        self._batch.add(
            (
                message.number,
                queue.row,
                message.priority,
                message.expires,
                message.deliveries,
                address,
                properties,
                body,
            )
        )
        self._new.append((queue, message))
        self._schedule()
        if self._batch.size > _FULL:
            self.on_change()

    def remove(self, messages: Sequence[Message]) -> None:
        """Forget messages."""
        for message in messages:
            self._batch.remove(message.number)
        if messages:
            self._schedule()

    def count_delivery(self, message: Message) -> None:
        """Keep how often a message of a quorum queue has come back."""
        self._batch.count(message.number, message.deliveries)
        self._schedule()

    def load(self, messages: Iterable[Message]) -> None:
        """Read the content of *messages*.

        Raises StorageError, and tells `on_broken`, if the file cannot be read or has lost one: who
        went on would lose what the file has.
        """
        wanted = {message.number: message for message in messages}
        try:
            self._load(wanted)
        except sqlite3.Error as error:
            raise self._broken(f"{self.path}: cannot be read: {error}") from error
        if wanted:
            raise self._broken(f"{self.path}: {len(wanted)} messages are missing")

    def _broken(self, text: str) -> StorageError:
        error = StorageError(text)
        self.on_broken(error)
        return error

    def _load(self, wanted: dict[int, Message]) -> None:
        rows = self.reader.execute(
            "SELECT id, address, properties, body FROM message "
            "WHERE id IN (SELECT value FROM json_each(?))",
            (json.dumps(list(wanted)),),
        )
        for number, address, properties, body in rows.fetchall():
            message = wanted.pop(number)
            message.address, message.properties, message.body = address, properties, body
            message.in_file = True

    def add_exchange(self, vhost: str, exchange: Exchange) -> None:
        """Keep an exchange."""
        self._execute(
            "INSERT OR REPLACE INTO exchange VALUES (?, ?, ?, ?, ?, ?)",
            vhost,
            _raw(exchange.name),
            exchange.kind,
            exchange.auto_delete,
            exchange.internal,
            encode_table(exchange.arguments),
        )

    def remove_exchange(self, vhost: str, exchange: Exchange) -> None:
        """Forget an exchange."""
        self._execute(
            "DELETE FROM exchange WHERE vhost = ? AND name = ?", vhost, _raw(exchange.name)
        )

    def add_queue(self, vhost: str, queue: Queue) -> None:
        """Keep a queue."""
        self._execute(
            "INSERT OR REPLACE INTO queue VALUES (?, ?, ?, ?, ?)",
            queue.row,
            vhost,
            _raw(queue.name),
            queue.auto_delete,
            encode_table(queue.arguments),
        )

    def remove_queue(self, vhost: str, queue: Queue) -> None:  # noqa: ARG002
        """Forget a queue; its messages are removed one by one."""
        self._execute("DELETE FROM queue WHERE id = ?", queue.row)

    def add_binding(self, vhost: str, binding: Binding) -> None:
        """Keep a binding."""
        self._execute(
            "INSERT OR IGNORE INTO binding VALUES (?, ?, ?, ?, ?, ?)", *_binding(vhost, binding)
        )

    def remove_binding(self, vhost: str, binding: Binding) -> None:
        """Forget a binding."""
        self._execute(
            "DELETE FROM binding WHERE vhost = ? AND source = ? AND to_exchange = ? "
            "AND destination = ? AND key = ? AND arguments = ?",
            *_binding(vhost, binding),
        )

    def when_kept(self, call: Callable[[], None]) -> bool:
        """Run *call* after the commit of all that was asked so far; False if it is kept."""
        if not self._batch and self._flying is None:
            return False
        self._batch.calls.append(call)
        self._schedule()
        return True

    # Writing

    def _execute(self, statement: str, *values: object) -> None:
        self._batch.execute(statement, values)
        self._schedule()

    def _schedule(self) -> None:
        """Write at the end of this turn of the loop, or when the thread is free again."""
        if not self._scheduled and self._flying is None:
            self._scheduled = True
            self._loop.run_callback(self._submit)

    def _submit(self) -> None:
        self._scheduled = False
        if self._flying is not None or not self._batch:
            return
        batch, self._batch = self._batch, Batch()
        new, self._new = self._new, []
        self._fly(batch, new)

    def _fly(self, batch: Batch, new: list[tuple[Queue, Message]]) -> None:
        self._flying = batch
        self._written += 1
        tidy = self._written % _TIDY_EVERY == 0
        result = self._pool.spawn(self._write, batch, tidy)
        result.rawlink(lambda done: self._landed(batch, new, done.value))

    def _write(self, batch: Batch, tidy: bool) -> Exception | None:
        """Runs in the native thread. Returns what went wrong; nothing was written then."""
        try:
            if _identity(self.path) != self._identity:
                return FileNotFoundError("the file was removed or replaced; put it back")
            batch.write(self._writer)
        except Exception as error:  # noqa: BLE001 - border of the thread: else it would count
            return error
        if tidy:
            _tidy(self._writer)
        return None

    def _landed(
        self, batch: Batch, new: list[tuple[Queue, Message]], error: Exception | None
    ) -> None:
        if error is not None:
            self._refused(batch, new, error)
            return
        if self.failure is not None:
            log.warning("the data file can be written again", extra={"file": str(self.path)})
            self.failure = None
        self._flying = None
        _leave_memory(new)
        for call in batch.calls:
            call()
        self.on_change()
        if self._batch:
            self._schedule()
        else:
            self._tidy_later()

    def _refused(self, batch: Batch, new: list[tuple[Queue, Message]], error: Exception) -> None:
        if self.failure is None:
            log.error(
                "the data file cannot be written; publishers wait",
                extra={"file": str(self.path), "reason": str(error)},
            )
        self.failure = str(error)
        self.on_change()
        gevent.spawn_later(_RETRY, self._again, batch, new)

    def _again(self, batch: Batch, new: list[tuple[Queue, Message]]) -> None:
        batch.absorb(self._batch)
        self._batch = Batch()
        new += self._new
        self._new = []
        self._fly(batch, new)

    def _tidy_later(self) -> None:
        if self._tidy_timer is None:
            self._tidy_timer = gevent.spawn_later(_TIDY_AFTER, self._tidy)

    def _tidy(self) -> None:
        more = True
        while more and self._flying is None:
            more = self._pool.apply(_tidy, (self._writer,))
        self._tidy_timer = None


def _identity(path: Path) -> tuple[int, int] | None:
    """Tell a file from another of the same name; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _tidy(database: sqlite3.Connection) -> bool:
    """Give free pages back to the file system; whether there are more. In the native thread."""
    try:
        return _vacuum(database)
    except sqlite3.Error:  # a full disk, say; what was written before stands, and this can wait
        return False


def _vacuum(database: sqlite3.Connection) -> bool:
    (free,) = database.execute("PRAGMA freelist_count").fetchone()
    if free < _WORTH_TIDYING:
        return False
    # As a script: `execute` would take one step, which is one page.
    database.executescript(f"PRAGMA incremental_vacuum({_TIDY_PAGES})")
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return bool(free > _TIDY_PAGES)


def _leave_memory(new: list[tuple[Queue, Message]]) -> None:
    """What is in the file now, and far from being delivered, need not be in memory too."""
    for queue, message in new:
        message.in_file = True
        if len(queue.backlog) > DEEP or queue.unacked > DEEP:
            message.leave_memory()


def _raw(name: str) -> bytes:
    return name.encode(errors="surrogateescape")


def _binding(vhost: str, binding: Binding) -> tuple[object, ...]:
    to_exchange, destination, key, arguments = binding.identity
    source = _raw(binding.source.name)
    return vhost, source, to_exchange, _raw(destination), _raw(key), arguments
