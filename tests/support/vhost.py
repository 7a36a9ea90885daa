"""One virtual host of a node: a test's own broker, with what an operator can see and do there.

Reads and faults go through the node itself (exact, milliseconds; the management API's numbers are
up to 5 s old); what RabbitMQ offers as a stable API is done through that.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Mapping
from typing import Any, Self

import pika
from attrs import field, frozen

from scripts.rabbitmq_node import RabbitNode

__all__ = ["Vhost"]

# The tests must reach a loopback address whatever proxy the machine is set to.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))

QUEUES = """
[begin
  {{resource, _, queue, Name}} = proplists:get_value(name, Info),
  #{{name => Name,
    ready => proplists:get_value(messages_ready, Info),
    unacked => proplists:get_value(messages_unacknowledged, Info),
    consumers => proplists:get_value(consumers, Info),
    arguments => rabbit_misc:amqp_table(proplists:get_value(arguments, Info))}}
 end || Info <- rabbit_amqqueue:info_all({vhost},
   [name, messages_ready, messages_unacknowledged, consumers, arguments])]
"""

CONNECTIONS = """
[begin
  Properties = proplists:get_value(client_properties, Info),
  Name = case lists:keyfind(<<"connection_name">>, 1, Properties) of
    {{_, _, Given}} -> Given;
    false -> <<>>
  end,
  #{{name => Name,
    channels => proplists:get_value(channels, Info),
    heartbeat => proplists:get_value(timeout, Info),
    peer_port => proplists:get_value(peer_port, Info)}}
 end || Info <- rabbit_networking:connection_info_all(
   [vhost, client_properties, channels, timeout, peer_port]),
 proplists:get_value(vhost, Info) =:= {vhost}]
"""

CLOSE_CONNECTIONS = """
length([rabbit_networking:close_connection(proplists:get_value(pid, Info), "by an operator")
 || Info <- rabbit_networking:connection_info_all([pid, vhost]),
 proplists:get_value(vhost, Info) =:= {vhost}])
"""

# An ack of a tag that was never given makes the broker close exactly that channel with 406.
CLOSE_CHANNELS = """
length([rabbit_channel:do(proplists:get_value(channel_pid, Consumer),
   {{'basic.ack', 4294967295, false}})
 || Consumer <- rabbit_amqqueue:consumers_all({vhost}),
 element(4, proplists:get_value(queue_name, Consumer)) =:= {queue}])
"""


@frozen(kw_only=True)
class Vhost:
    """A virtual host of *node*. `with Vhost.create(node) as vhost:` removes it at the end."""

    node: RabbitNode
    name: str = field(factory=lambda: f"test-{uuid.uuid4().hex[:12]}")

    @classmethod
    def create(cls, node: RabbitNode) -> Self:
        """Add a vhost with a unique name; `guest` may do everything there."""
        vhost = cls(node=node)
        vhost.http("PUT", f"vhosts/{vhost.name}")
        vhost.http(
            "PUT",
            f"permissions/{vhost.name}/guest",
            {"configure": ".*", "write": ".*", "read": ".*"},
        )
        return vhost

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.delete()

    @property
    def url(self) -> str:
        """Its AMQP URL."""
        return self.node.url_of(self.name)

    def delete(self) -> None:
        """Remove it with all that is in it; its connections are closed. Harmless if gone."""
        if self.node.running:
            self.http("DELETE", f"vhosts/{self.name}", missing_ok=True)

    def connect(self, **parameters: Any) -> pika.BlockingConnection:
        """Open a plain connection for the test's own traffic; the caller closes it."""
        given = pika.URLParameters(self.url)
        for key, value in parameters.items():
            setattr(given, key, value)
        return pika.BlockingConnection(given)

    # What is there

    def queues(self) -> dict[str, dict[str, Any]]:
        """Each queue by name: `ready`, `unacked`, `consumers` (counts), `arguments`."""
        rows = self.node.eval_json(QUEUES.format(vhost=_binary(self.name)))
        return {row["name"]: row for row in rows}

    def depth(self, queue: str) -> int:
        """Messages of *queue*, ready and unacked; 0 when there is no such queue."""
        row = self.queues().get(queue)
        return row["ready"] + row["unacked"] if row else 0

    def connections(self) -> list[dict[str, Any]]:
        """Each open connection: `name` (the client's own), `channels`, `heartbeat`, `peer_port`."""
        rows: list[dict[str, Any]] = self.node.eval_json(
            CONNECTIONS.format(vhost=_binary(self.name))
        )
        return rows

    def bindings(self) -> list[tuple[str, str, str]]:
        """(exchange, routing key, queue) of each binding; the default exchange's left out."""
        rows = self.http("GET", f"bindings/{self.name}")
        return sorted(
            (r["source"], r["routing_key"], r["destination"]) for r in rows if r["source"]
        )

    def exchanges(self) -> dict[str, dict[str, Any]]:
        """Each exchange by name (`type`, `durable`, ...), without the broker's own."""
        rows = self.http("GET", f"exchanges/{self.name}")
        return {r["name"]: r for r in rows if r["name"] and not r["name"].startswith("amq.")}

    # What an operator, or bad luck, does

    def close_connections(self) -> int:
        """Close all connections as an operator would (320); returns how many."""
        return int(self.node.eval(CLOSE_CONNECTIONS.format(vhost=_binary(self.name))))

    def close_channels(self, queue: str) -> int:
        """Make the broker close the channels that consume *queue* (406); returns how many."""
        vhost, name = _binary(self.name), _binary(queue)
        return int(self.node.eval(CLOSE_CHANNELS.format(vhost=vhost, queue=name)))

    def delete_queue(self, queue: str) -> None:
        """Delete *queue* under its consumers."""
        self.http("DELETE", f"queues/{self.name}/{_quoted(queue)}")

    def delete_exchange(self, exchange: str) -> None:
        """Delete *exchange* with its bindings."""
        self.http("DELETE", f"exchanges/{self.name}/{_quoted(exchange)}")

    def set_policy(
        self, name: str, pattern: str, definition: Mapping[str, Any], apply_to: str = "queues"
    ) -> None:
        """Set a policy, e.g. `{"max-length": 1, "overflow": "reject-publish"}`."""
        path = f"policies/{self.name}/{_quoted(name)}"
        body = {"pattern": pattern, "definition": dict(definition), "apply-to": apply_to}
        self.http("PUT", path, body)

    def clear_policy(self, name: str) -> None:
        """Remove a policy."""
        self.http("DELETE", f"policies/{self.name}/{_quoted(name)}")

    def http(self, method: str, path: str, body: Any = None, *, missing_ok: bool = False) -> Any:
        """Call the management API below `/api/`; returns the decoded answer, or None if empty."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.node.ports.management}/api/{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": "Basic Z3Vlc3Q6Z3Vlc3Q=", "Content-Type": "application/json"},
            method=method,
        )
        try:
            with OPENER.open(request, timeout=30) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            with error:
                if missing_ok and error.code == 404:
                    return None
                detail = error.read().decode(errors="replace")
            raise AssertionError(f"{method} {path}: {error.code} {detail}") from None
        return json.loads(text) if text else None


def _quoted(name: str) -> str:
    return urllib.parse.quote(name, safe="")


def _binary(name: str) -> str:
    """*name* as an Erlang binary, whatever characters it has."""
    return "<<" + ",".join(str(byte) for byte in name.encode()) + ">>"
