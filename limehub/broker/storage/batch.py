"""What one transaction writes."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from typing import Any

__all__ = ["Batch", "MessageRow"]

MessageRow = tuple[int, int, int, float | None, int, bytes, bytes, bytes]
"""id, queue, priority, expires, deliveries, address, properties, body."""

# Each statement gives up Python's lock, and getting it back from a busy hub takes up to 5 ms. So
# few statements with many rows; the sizes are powers so that few texts have to be compiled.
_ROWS_AT_ONCE = (512, 64, 8, 1)
_COLUMNS = 8
_PER_ROW = 600
"""Bytes that a row takes besides its body: the tuple, its numbers, address, properties."""


class Batch:
    """Collected by the hub, written by the native thread. A message that comes and goes within
    one batch never reaches the file."""

    def __init__(self) -> None:
        self.rows: dict[int, MessageRow] = {}
        self._bodies = 0  # bytes
        self.calls: list[Callable[[], None]] = []
        self._removed: list[int] = []
        self._deliveries: dict[int, int] = {}
        self._statements: list[tuple[str, Sequence[Any]]] = []

    def __bool__(self) -> bool:
        return bool(
            self.rows or self._removed or self._statements or self._deliveries or self.calls
        )

    @property
    def size(self) -> int:
        """Bytes of memory that its messages take, about."""
        return self._bodies + len(self.rows) * _PER_ROW

    def add(self, row: MessageRow) -> None:
        """Write a message."""
        self.rows[row[0]] = row
        self._bodies += len(row[7])

    def remove(self, number: int) -> None:
        """Delete a message."""
        self._deliveries.pop(number, None)
        row = self.rows.pop(number, None)
        if row is None:
            self._removed.append(number)
        else:
            self._bodies -= len(row[7])

    def count(self, number: int, deliveries: int) -> None:
        """Write how often a message has come back."""
        self._deliveries[number] = deliveries

    def execute(self, statement: str, values: Sequence[Any]) -> None:
        """Write something else."""
        self._statements.append((statement, values))

    def absorb(self, later: Batch) -> None:
        """Take in what came while this batch could not be written."""
        for number in later._removed:
            self.remove(number)
        for row in later.rows.values():
            self.add(row)
        self._deliveries.update(later._deliveries)
        self._statements += later._statements
        self.calls += later.calls

    def write(self, database: sqlite3.Connection) -> None:
        """Write all in one transaction, twice does no harm. In the native thread.

        Raises sqlite3.Error.
        """
        database.execute("BEGIN IMMEDIATE")
        try:
            for statement, values in self._statements:
                database.execute(statement, values)
            self._insert(database)
            self._delete(database)
            database.executemany(
                "UPDATE message SET deliveries = ? WHERE id = ?",
                [(count, number) for number, count in self._deliveries.items()],
            )
            database.execute("COMMIT")
        except BaseException:
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise

    def _insert(self, database: sqlite3.Connection) -> None:
        for rows in _chunks(list(self.rows.values())):
            values = [value for row in rows for value in row]
            database.execute(_insertion(len(rows)), values)

    def _delete(self, database: sqlite3.Connection) -> None:
        if self._removed:
            database.execute(
                "DELETE FROM message WHERE id IN (SELECT value FROM json_each(?))",
                (json.dumps(self._removed),),
            )


def _chunks(rows: list[MessageRow]) -> Iterator[list[MessageRow]]:
    at = 0
    for size in _ROWS_AT_ONCE:
        while len(rows) - at >= size:
            yield rows[at : at + size]
            at += size


def _insertion(rows: int) -> str:
    places = ",".join("?" * _COLUMNS)
    return f"INSERT OR REPLACE INTO message VALUES {','.join([f'({places})'] * rows)}"  # noqa: S608 - placeholders only
