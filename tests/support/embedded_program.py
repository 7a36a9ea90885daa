"""An embedded broker that tells an operator what is in it, and does what an operator does.

    python -m tests.support.embedded_program HOST:PORT FILE VHOST...

The broker itself has no management API: the tests look into its state, over one more port. They
speak JSON lines: `{"ask": "queues", "vhost": "v", ...}`, answered by `{"answer": ...}`, or
`{"error": "what is wrong"}`. Prints `ready PORT CONTROL_PORT`.
"""

from __future__ import annotations

import json
import logging
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from attrs import frozen
from gevent import monkey
from gevent.event import Event
from gevent.server import StreamServer

from limehub.broker.memory import MemoryAlarm
from limehub.broker.node import Node
from limehub.broker.refusals import ChannelRefusal
from limehub.broker.serving import Listener
from limehub.broker.session.connection import Connection
from limehub.broker.state.exchanges import Exchange
from limehub.broker.state.vhost import VirtualHost
from limehub.broker.tables import Field

Question = Mapping[str, Any]

BACKLOG_KEYS = ("ready", "unacked", "consumers", "arguments")


@frozen
class Operator:
    """Answers questions about *node*; each public method is one."""

    node: Node

    def answer(self, question: Question) -> Any:
        """Answer one question. Raises KeyError, ChannelRefusal for what is not there."""
        method: Callable[[Question], Any] = getattr(self, question["ask"])
        found = method(question)
        self.node.settle()
        return found

    # Virtual hosts

    def create(self, question: Question) -> None:
        """Add a virtual host."""
        self.node.add_vhost(question["vhost"])

    def delete(self, question: Question) -> None:
        """Remove it; harmless if gone."""
        if question["vhost"] in self.node.vhosts:
            self.node.remove_vhost(question["vhost"])

    # What is there

    def queues(self, question: Question) -> dict[str, Any]:
        """Each queue by name."""
        return {
            name: {
                "ready": len(queue.backlog),
                "unacked": queue.unacked,
                "consumers": len(queue.consumers),
                "arguments": {key: plain(value) for key, value in queue.arguments.items()},
            }
            for name, queue in self._vhost(question).queues.items()
        }

    def exchanges(self, question: Question) -> dict[str, Any]:
        """Each exchange by name."""
        return {
            name: {
                "name": name,
                "type": exchange.kind,
                "durable": exchange.durable,
                "auto_delete": exchange.auto_delete,
                "internal": exchange.internal,
                "arguments": {key: plain(value) for key, value in exchange.arguments.items()},
            }
            for name, exchange in self._own_exchanges(question).items()
        }

    def bindings(self, question: Question) -> list[tuple[str, str, str]]:
        """(exchange, routing key, queue) of each binding."""
        return [
            (exchange.name, binding.key, binding.destination.name)
            for exchange in self._vhost(question).exchanges.values()
            for binding in exchange.bindings.values()
        ]

    def connections(self, question: Question) -> list[dict[str, Any]]:
        """Each connection."""
        return [
            {
                "name": plain_text(each.client_properties.get("connection_name")),
                "channels": len(each.channels),
                "heartbeat": int(each.heartbeat),
                "peer_port": int(each.address.rpartition(":")[2]),
            }
            for each in self._connections(question)
        ]

    # What an operator does

    def close_connections(self, question: Question) -> int:
        """Close all connections with 320."""
        found = self._connections(question)
        for connection in found:
            connection.force_close("by an operator")
        return len(found)

    def close_channels(self, question: Question) -> int:
        """Close the channels that consume a queue with 406."""
        channels = {
            session
            for connection in self._connections(question)
            for session in connection.channels.values()
            for consumer in session.state.consumers.values()
            if consumer.queue.name == question["queue"]
        }
        for session in channels:
            session.refuse(ChannelRefusal(406, "unknown delivery tag 4294967295"))
        return len(channels)

    def delete_queue(self, question: Question) -> None:
        """Delete a queue under its consumers."""
        vhost = self._vhost(question)
        vhost.remove_queue(vhost.queues[question["queue"]])

    def delete_exchange(self, question: Question) -> None:
        """Delete an exchange with its bindings."""
        self._vhost(question).delete_exchange(question["exchange"])

    def memory_alarm(self, question: Question) -> None:
        """Let the memory be scarce, or not any more."""
        self.node.memory = ScarceMemory() if question["on"] else MemoryAlarm(1 << 40)
        self.node.memory.on = not question["on"]
        self.node.look_at_memory()

    def _vhost(self, question: Question) -> VirtualHost:
        return self.node.vhosts[question["vhost"]]

    def _own_exchanges(self, question: Question) -> dict[str, Exchange]:
        exchanges = self._vhost(question).exchanges
        return {name: one for name, one in exchanges.items() if name and name[:4] != "amq."}

    def _connections(self, question: Question) -> list[Connection]:
        vhost = self._vhost(question)
        return [one for one in self.node.connections if one.vhost is vhost]


class ScarceMemory(MemoryAlarm):
    """An alarm that is on whatever is in the broker."""

    def __init__(self) -> None:
        super().__init__(1)

    def look(self, vhosts: Any, unfinished: int = 0) -> bool:
        """Be on."""
        changed, self.on = not self.on, True
        return changed


def plain(field: Field) -> Any:
    """A field's value as JSON has it."""
    value = field.value
    return value.decode() if isinstance(value, bytes) else value


def plain_text(field: Field | None) -> str:
    """A text that may be missing."""
    return "" if field is None else str(plain(field))


def serve_operator(operator: Operator) -> Callable[[socket.socket, Any], None]:
    """The handler of a control connection."""

    def handle(sock: socket.socket, _address: Any) -> None:
        with sock, sock.makefile("rw", encoding="utf-8", newline="\n") as lines:
            for line in lines:
                lines.write(json.dumps(answered(operator, json.loads(line))) + "\n")
                lines.flush()

    return handle


def answered(operator: Operator, question: Question) -> dict[str, Any]:
    """The answer to one question, or what is wrong with it."""
    try:
        return {"answer": operator.answer(question)}
    except (KeyError, ChannelRefusal) as error:
        return {"error": f"{question['ask']}: 404 {error!r}"}


def main() -> None:
    """Serve until killed."""
    listen, file, *vhosts = sys.argv[1:]
    host, _, port = listen.rpartition(":")
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(message)s")
    node = Node(data=Path(file), vhosts=["/", *vhosts])
    listener = Listener(node, host, int(port))
    control = StreamServer(("127.0.0.1", 0), serve_operator(Operator(node)))
    control.start()
    sys.stdout.write(f"ready {listener.address[1]} {control.server_port}\n")
    sys.stdout.flush()
    Event().wait()


if __name__ == "__main__":
    monkey.patch_socket()
    main()
