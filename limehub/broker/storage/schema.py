"""The tables of a data file, and opening one: ours and whole, or a StorageError."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from pathlib import Path

from limehub.broker.storage.errors import StorageError

__all__ = ["connect", "open_database"]

APPLICATION = 0x4C696D65  # "Lime"; SQLite's place for saying whose file it is
VERSION = 1
ROOM_TO_START = 1 << 20
"""Bytes that SQLite wants beside an empty file, for its log and the index of that."""
_TABLES = """
CREATE TABLE exchange (
  vhost TEXT, name BLOB, kind TEXT, auto_delete INTEGER, internal INTEGER, arguments BLOB,
  PRIMARY KEY (vhost, name)
) WITHOUT ROWID;
CREATE TABLE queue (
  id INTEGER PRIMARY KEY, vhost TEXT, name BLOB, auto_delete INTEGER, arguments BLOB
);
CREATE TABLE binding (
  vhost TEXT, source BLOB, to_exchange INTEGER, destination BLOB, key BLOB, arguments BLOB,
  PRIMARY KEY (vhost, source, to_exchange, destination, key, arguments)
) WITHOUT ROWID;
CREATE TABLE message (
  id INTEGER PRIMARY KEY, queue INTEGER, priority INTEGER, expires REAL, deliveries INTEGER,
  address BLOB, properties BLOB, body BLOB
);
"""


def connect(path: Path) -> sqlite3.Connection:
    """Open a connection that may be used from any thread, one at a time; no hidden transactions."""
    return sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, cached_statements=256, timeout=30
    )


def open_database(path: Path) -> sqlite3.Connection:
    """Open *path*, made if it is missing or empty. Raises StorageError."""
    try:
        database = connect(path)
    except sqlite3.Error as error:
        raise _told(path, error) from error
    try:
        _prepare(database, path)
    except sqlite3.Error as error:
        database.close()
        raise _told(path, error) from error
    except BaseException:
        database.close()
        raise
    return database


def _told(path: Path, error: sqlite3.Error) -> StorageError:
    """SQLite's own words, and what they do not say: that the disk is full."""
    with contextlib.suppress(OSError):
        free = shutil.disk_usage(path.parent).free
        if free < ROOM_TO_START:
            return StorageError(f"{path}: {error}; only {free} bytes are free there: make room")
    return StorageError(f"{path}: {error}")


def _prepare(database: sqlite3.Connection, path: Path) -> None:
    if _number(database, "PRAGMA schema_version") == 0:
        database.execute("PRAGMA auto_vacuum=INCREMENTAL")  # only before the first table
        database.execute("PRAGMA journal_mode=WAL")
        database.executescript(
            f"BEGIN; PRAGMA application_id={APPLICATION}; PRAGMA user_version={VERSION};"
            f"{_TABLES} COMMIT;"
        )
    _check(database, path)
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "journal_size_limit=4194304"):
        database.execute(f"PRAGMA {pragma}")


def _check(database: sqlite3.Connection, path: Path) -> None:
    if _number(database, "PRAGMA application_id") != APPLICATION:
        raise StorageError(f"{path}: a database of another program; give another file")
    version = _number(database, "PRAGMA user_version")
    if version != VERSION:
        raise StorageError(f"{path}: of version {version}, and this limehub reads {VERSION}")
    (verdict,) = database.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise StorageError(
            f"{path}: damaged: {' '.join(verdict.split())}; give another file, or a copy"
        )


def _number(database: sqlite3.Connection, question: str) -> int:
    return int(database.execute(question).fetchone()[0])
