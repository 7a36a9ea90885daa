"""What one transaction of the data file writes."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from limehub.broker.storage.batch import Batch, MessageRow
from limehub.broker.storage.errors import StorageError
from limehub.broker.storage.lock import FileLock
from limehub.broker.storage.schema import open_database


def row(number: int) -> MessageRow:
    return number, 1, 0, None, 0, b"", b"", b"body %d" % number


def numbers(database: sqlite3.Connection) -> list[int]:
    return [number for (number,) in database.execute("SELECT id FROM message ORDER BY id")]


@pytest.fixture
def database(tmp_path: Path) -> sqlite3.Connection:
    return open_database(tmp_path / "broker.db")


def test_rows_of_any_number_are_written(database: sqlite3.Connection) -> None:
    batch = Batch()
    for number in range(1, 1500):
        batch.add(row(number))
    batch.write(database)
    assert numbers(database) == list(range(1, 1500))


def test_what_comes_and_goes_in_one_batch_is_never_written(database: sqlite3.Connection) -> None:
    batch, only = Batch(), Batch()
    batch.add(row(1))
    batch.add(row(2))
    batch.remove(1)
    only.add(row(2))
    assert batch.size == only.size > len(b"body 2")
    batch.write(database)
    assert numbers(database) == [2]


def test_a_batch_that_failed_takes_in_what_came_later(database: sqlite3.Connection) -> None:
    called: list[int] = []
    failed, later = Batch(), Batch()
    failed.add(row(1))
    failed.add(row(2))
    failed.calls.append(lambda: called.append(1))
    later.remove(1)
    later.add(row(3))
    later.calls.append(lambda: called.append(2))
    failed.absorb(later)
    failed.write(database)
    for call in failed.calls:
        call()
    assert numbers(database) == [2, 3]
    assert called == [1, 2]


def test_a_batch_is_written_whole_or_not_at_all(database: sqlite3.Connection) -> None:
    first, second = Batch(), Batch()
    first.add(row(5))
    first.write(database)
    second.add(row(4))
    second.remove(5)
    database.execute(
        "CREATE TRIGGER full BEFORE DELETE ON message BEGIN SELECT RAISE(ABORT, 'full'); END"
    )
    with pytest.raises(sqlite3.IntegrityError):
        second.write(database)
    assert numbers(database) == [5]


def test_a_batch_that_is_written_twice_does_no_harm(database: sqlite3.Connection) -> None:
    batch = Batch()
    batch.add(row(1))
    batch.execute(
        "INSERT OR REPLACE INTO queue VALUES (?, ?, ?, ?, ?)", (1, "/", b"q", 0, b"\0\0\0\0")
    )
    batch.write(database)
    batch.write(database)
    assert numbers(database) == [1]


def test_a_file_of_a_later_version_is_refused(tmp_path: Path) -> None:
    database = open_database(tmp_path / "broker.db")
    database.execute("PRAGMA user_version=99")
    database.close()
    with pytest.raises(StorageError, match="of version 99, and this limehub reads 1"):
        open_database(tmp_path / "broker.db")


def test_a_lock_can_be_taken_again_when_released(tmp_path: Path) -> None:
    first, second = FileLock(tmp_path / "f"), FileLock(tmp_path / "f")
    first.acquire()
    with pytest.raises(StorageError, match=r"f: in use by process \d+"):
        second.acquire()
    first.release()
    second.acquire()
    second.release()
