"""Rebuilding a virtual host from the data file at the start."""

from __future__ import annotations

import sqlite3

from limehub.broker.state.arguments import queue_settings, string_argument
from limehub.broker.state.exchanges import Binding, Exchange
from limehub.broker.state.message import Message
from limehub.broker.state.queue import Queue
from limehub.broker.state.vhost import VirtualHost
from limehub.broker.tables import decode_table, text_of

__all__ = ["last_number", "last_row", "remove_orphans", "restore"]


def last_number(database: sqlite3.Connection) -> int:
    """Return the highest number of a message in the file."""
    return int(database.execute("SELECT coalesce(max(id), 0) FROM message").fetchone()[0])


def last_row(database: sqlite3.Connection) -> int:
    """Return the highest row of a queue in the file."""
    return int(database.execute("SELECT coalesce(max(id), 0) FROM queue").fetchone()[0])


def remove_orphans(database: sqlite3.Connection) -> None:
    """Delete messages whose queue was deleted just before the end."""
    database.execute("DELETE FROM message WHERE queue NOT IN (SELECT id FROM queue)")


def restore(database: sqlite3.Connection, vhost: VirtualHost) -> None:
    """Put into *vhost* what the file has for it. Contents of messages stay in the file."""
    _restore_exchanges(database, vhost)
    queues = _restore_queues(database, vhost)
    _restore_bindings(database, vhost)
    _restore_messages(database, queues)


def _restore_exchanges(database: sqlite3.Connection, vhost: VirtualHost) -> None:
    rows = database.execute(
        "SELECT name, kind, auto_delete, internal, arguments FROM exchange WHERE vhost = ?",
        (vhost.name,),
    )
    for name, kind, auto_delete, internal, arguments in rows.fetchall():
        table = decode_table(arguments)
        vhost.add_exchange(
            Exchange(
                name=text_of(name),
                kind=kind,
                durable=True,
                auto_delete=bool(auto_delete),
                internal=bool(internal),
                arguments=table,
                alternate=string_argument(table, "alternate-exchange", text_of(name)),
            )
        )


def _restore_queues(database: sqlite3.Connection, vhost: VirtualHost) -> dict[int, Queue]:
    queues = {}
    rows = database.execute(
        "SELECT id, name, auto_delete, arguments FROM queue WHERE vhost = ?", (vhost.name,)
    )
    for row, name, auto_delete, arguments in rows.fetchall():
        table = decode_table(arguments)
        queues[row] = Queue(
            name=text_of(name),
            vhost=vhost,
            settings=queue_settings(table, text_of(name)),
            durable=True,
            auto_delete=bool(auto_delete),
            arguments=table,
            row=row,
        )
        vhost.add_queue(queues[row])
    return queues


def _restore_bindings(database: sqlite3.Connection, vhost: VirtualHost) -> None:
    rows = database.execute(
        "SELECT source, to_exchange, destination, key, arguments FROM binding WHERE vhost = ?",
        (vhost.name,),
    )
    for source, to_exchange, destination, key, arguments in rows.fetchall():
        places = vhost.exchanges if to_exchange else vhost.queues
        target, exchange = places.get(text_of(destination)), vhost.exchanges.get(text_of(source))
        if target is not None and exchange is not None:
            table = decode_table(arguments)
            vhost.restore_binding(Binding(exchange, target, text_of(key), table))


def _restore_messages(database: sqlite3.Connection, queues: dict[int, Queue]) -> None:
    rows = database.execute(
        "SELECT id, queue, priority, expires, deliveries, length(body) FROM message ORDER BY id"
    )
    for number, row, priority, expires, deliveries, size in rows:
        queue = queues.get(row)
        if queue is not None:
            queue.restore(
                Message(
                    number,
                    None,
                    None,
                    None,
                    queue.vhost.one_size(size),
                    priority,
                    expires,
                    stored=True,
                    in_file=True,
                    redelivered=True,  # it may have been delivered before the end
                    deliveries=deliveries,
                )
            )
