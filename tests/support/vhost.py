"""One virtual host of a node: a test's own broker, with what an operator can see and do there."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any, Self

import pika
from attrs import field, frozen

from scripts.rabbitmq_node import RabbitNode
from tests.support.embedded_node import EmbeddedNode, only_rabbitmq
from tests.support.operators import Operator, operator_of, quoted

__all__ = ["Vhost"]


@frozen(kw_only=True)
class Vhost:
    """A virtual host of *node*. `with Vhost.create(node) as vhost:` removes it at the end."""

    node: RabbitNode | EmbeddedNode
    name: str = field(factory=lambda: f"test-{uuid.uuid4().hex[:12]}")

    @classmethod
    def create(cls, node: RabbitNode | EmbeddedNode) -> Self:
        """Add a vhost with a unique name; `guest` may do everything there."""
        vhost = cls(node=node)
        vhost._operator.create()
        return vhost

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.delete()

    @property
    def url(self) -> str:
        """Its AMQP URL."""
        return self.node.url_of(self.name)

    @property
    def management_url(self) -> str | None:
        """Its broker's management API, with credentials; None where there is none."""
        return None if isinstance(self.node, EmbeddedNode) else self.node.management_url

    @property
    def _operator(self) -> Operator:
        return operator_of(self.node, self.name)

    def delete(self) -> None:
        """Remove it with all that is in it; its connections are closed. Harmless if gone."""
        self._operator.delete()

    def connect(self, **parameters: Any) -> pika.BlockingConnection:
        """Open a plain connection for the test's own traffic; the caller closes it."""
        given = pika.URLParameters(self.url)
        for key, value in parameters.items():
            setattr(given, key, value)
        return pika.BlockingConnection(given)

    # What is there

    def queues(self) -> dict[str, dict[str, Any]]:
        """Each queue by name: `ready`, `unacked`, `consumers` (counts), `arguments`."""
        return self._operator.queues()

    def depth(self, queue: str) -> int:
        """Messages of *queue*, ready and unacked; 0 when there is no such queue."""
        row = self.queues().get(queue)
        return row["ready"] + row["unacked"] if row else 0

    def connections(self) -> list[dict[str, Any]]:
        """Each open connection: `name` (the client's own), `channels`, `heartbeat`, `peer_port`."""
        return self._operator.connections()

    def bindings(self) -> list[tuple[str, str, str]]:
        """(exchange, routing key, queue) of each binding; the default exchange's left out."""
        return sorted(row for row in self._operator.bindings() if row[0])

    def exchanges(self) -> dict[str, dict[str, Any]]:
        """Each exchange by name (`type`, `durable`, ...), without the broker's own."""
        return self._operator.exchanges()

    @property
    def largest_body(self) -> int:
        """Bytes of the largest message that the broker takes."""
        return self._operator.largest_body()

    # What an operator, or bad luck, does

    def close_connections(self) -> int:
        """Close all connections as an operator would (320); returns how many."""
        return self._operator.close_connections()

    def close_channels(self, queue: str) -> int:
        """Make the broker close the channels that consume *queue* (406); returns how many."""
        return self._operator.close_channels(queue)

    def delete_queue(self, queue: str) -> None:
        """Delete *queue* under its consumers."""
        self._operator.delete_queue(queue)

    def delete_exchange(self, exchange: str) -> None:
        """Delete *exchange* with its bindings."""
        self._operator.delete_exchange(exchange)

    def memory_alarm(self, on: bool) -> None:
        """Let the whole broker be low on memory, so that publishers are blocked, or not."""
        self._operator.memory_alarm(on)

    # What only RabbitMQ has; elsewhere the test is skipped

    def set_policy(
        self, name: str, pattern: str, definition: Mapping[str, Any], apply_to: str = "queues"
    ) -> None:
        """Set a policy, e.g. `{"max-length": 1, "overflow": "reject-publish"}`."""
        if isinstance(self.node, EmbeddedNode):
            only_rabbitmq("policies")
        body = {"pattern": pattern, "definition": dict(definition), "apply-to": apply_to}
        self.http("PUT", f"policies/{self.name}/{quoted(name)}", body)

    def clear_policy(self, name: str) -> None:
        """Remove a policy."""
        self.http("DELETE", f"policies/{self.name}/{quoted(name)}")

    def http(self, method: str, path: str, body: Any = None, *, missing_ok: bool = False) -> Any:
        """Call the management API below `/api/`; returns the decoded answer, or None if empty."""
        return self._operator.http(method, path, body, missing_ok=missing_ok)
