"""What an operator can see and do in a virtual host: of RabbitMQ, or of the embedded broker.

RabbitMQ's reads and faults go through the node itself (exact, milliseconds; the management API's
numbers are up to 5 s old); what it offers as a stable API is done through that.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from typing import Any, Protocol

from attrs import frozen

from limehub.broker.node import Limits
from scripts.rabbitmq_node import RabbitNode
from tests.support.embedded_node import EmbeddedNode, only_rabbitmq
from tests.support.waiting import wait_until

__all__ = ["EmbeddedOperator", "Operator", "RabbitOperator", "operator_of", "quoted"]

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

# One that has ended since it was listed does not count.
CLOSE_CONNECTIONS = """
length([closed || Info <- rabbit_networking:connection_info_all([pid, vhost]),
 proplists:get_value(vhost, Info) =:= {vhost},
 (catch rabbit_networking:close_connection(
   proplists:get_value(pid, Info), "by an operator")) =:= ok])
"""

MEMORY_ALARMS = "[on || {{resource_limit, memory, _}, _} <- rabbit_alarm:get_alarms()]"

LARGEST_BODY = "rabbit_misc:get_env(rabbit, max_message_size, 134217728)"

# An ack of a tag that was never given makes the broker close exactly that channel with 406.
CLOSE_CHANNELS = """
length([rabbit_channel:do(proplists:get_value(channel_pid, Consumer),
   {{'basic.ack', 4294967295, false}})
 || Consumer <- rabbit_amqqueue:consumers_all({vhost}),
 element(4, proplists:get_value(queue_name, Consumer)) =:= {queue}])
"""


class Operator(Protocol):
    """Of one virtual host. `Vhost` has the same methods, described there."""

    def create(self) -> None:
        """Add the virtual host; guest may do everything there."""

    def delete(self) -> None:
        """Remove it with all that is in it; harmless if gone."""

    def queues(self) -> dict[str, dict[str, Any]]:
        """Each queue by name."""

    def connections(self) -> list[dict[str, Any]]:
        """Each open connection."""

    def bindings(self) -> list[tuple[str, str, str]]:
        """(exchange, routing key, queue) of each binding, the default exchange's too."""

    def exchanges(self) -> dict[str, dict[str, Any]]:
        """Each exchange by name."""

    def close_connections(self) -> int:
        """Close all connections; returns how many."""

    def close_channels(self, queue: str) -> int:
        """Close the channels that consume *queue*; returns how many."""

    def delete_queue(self, queue: str) -> None:
        """Delete *queue* under its consumers."""

    def delete_exchange(self, exchange: str) -> None:
        """Delete *exchange* with its bindings."""

    def largest_body(self) -> int:
        """Bytes of the largest message that the broker takes."""

    def memory_alarm(self, on: bool) -> None:
        """Block publishers of the whole broker, or let them go on; in force at the return."""

    def http(self, method: str, path: str, body: Any = None, *, missing_ok: bool = False) -> Any:
        """Call the management API."""


@frozen
class EmbeddedOperator:
    """Asks the program that runs the embedded broker."""

    node: EmbeddedNode
    vhost: str

    def create(self) -> None:
        """As `Operator`; so are all of these."""
        self._ask("create")
        self.node.vhosts.append(self.vhost)

    def delete(self) -> None:
        if self.node.running:
            self._ask("delete")
        if self.vhost in self.node.vhosts:
            self.node.vhosts.remove(self.vhost)

    def queues(self) -> dict[str, dict[str, Any]]:
        return dict(self._ask("queues"))

    def connections(self) -> list[dict[str, Any]]:
        return list(self._ask("connections"))

    def bindings(self) -> list[tuple[str, str, str]]:
        return [(source, key, destination) for source, key, destination in self._ask("bindings")]

    def exchanges(self) -> dict[str, dict[str, Any]]:
        return dict(self._ask("exchanges"))

    def close_connections(self) -> int:
        return int(self._ask("close_connections"))

    def close_channels(self, queue: str) -> int:
        return int(self._ask("close_channels", queue=queue))

    def delete_queue(self, queue: str) -> None:
        self._ask("delete_queue", queue=queue)

    def delete_exchange(self, exchange: str) -> None:
        self._ask("delete_exchange", exchange=exchange)

    def largest_body(self) -> int:
        return Limits().message_size

    def memory_alarm(self, on: bool) -> None:
        self._ask("memory_alarm", on=on)

    def http(self, method: str, path: str, body: Any = None, *, missing_ok: bool = False) -> Any:
        only_rabbitmq(f"the management API, {method} {path.partition('/')[0]}")

    def _ask(self, what: str, **details: Any) -> Any:
        return self.node.ask(what, self.vhost, **details)


@frozen
class RabbitOperator:
    """Asks a RabbitMQ node."""

    node: RabbitNode
    vhost: str

    def create(self) -> None:
        """As `Operator`; so are all of these."""
        self.http("PUT", f"vhosts/{self.vhost}")
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        self.http("PUT", f"permissions/{self.vhost}/guest", everything)

    def delete(self) -> None:
        if self.node.running:
            self.http("DELETE", f"vhosts/{self.vhost}", missing_ok=True)

    def queues(self) -> dict[str, dict[str, Any]]:
        rows = self.node.eval_json(QUEUES.format(vhost=_binary(self.vhost)))
        return {row["name"]: row for row in rows}

    def connections(self) -> list[dict[str, Any]]:
        return list(self.node.eval_json(CONNECTIONS.format(vhost=_binary(self.vhost))))

    def bindings(self) -> list[tuple[str, str, str]]:
        rows = self.http("GET", f"bindings/{self.vhost}")
        return [(r["source"], r["routing_key"], r["destination"]) for r in rows]

    def exchanges(self) -> dict[str, dict[str, Any]]:
        rows = self.http("GET", f"exchanges/{self.vhost}")
        return {r["name"]: r for r in rows if r["name"] and not r["name"].startswith("amq.")}

    def close_connections(self) -> int:
        return int(self.node.eval(CLOSE_CONNECTIONS.format(vhost=_binary(self.vhost))))

    def close_channels(self, queue: str) -> int:
        vhost, name = _binary(self.vhost), _binary(queue)
        return int(self.node.eval(CLOSE_CHANNELS.format(vhost=vhost, queue=name)))

    def delete_queue(self, queue: str) -> None:
        self.http("DELETE", f"queues/{self.vhost}/{quoted(queue)}")

    def delete_exchange(self, exchange: str) -> None:
        self.http("DELETE", f"exchanges/{self.vhost}/{quoted(exchange)}")

    def largest_body(self) -> int:
        return int(self.node.eval(LARGEST_BODY))

    def memory_alarm(self, on: bool) -> None:
        share = "0.0000001" if on else "0.4"
        self.node.eval(f"vm_memory_monitor:set_vm_memory_high_watermark({share})")
        wait_until(lambda: (self.node.eval(MEMORY_ALARMS) == "[on]") is on, message="the alarm")

    def http(self, method: str, path: str, body: Any = None, *, missing_ok: bool = False) -> Any:
        """Call the management API below `/api/`; returns the decoded answer, or None if empty."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.node.ports.management}/api/{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": "Basic Z3Vlc3Q6Z3Vlc3Q=", "Content-Type": "application/json"},
            method=method,
        )
        try:
            with OPENER.open(request, timeout=120) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            with error:
                if missing_ok and error.code == 404:
                    return None
                detail = error.read().decode(errors="replace")
            raise AssertionError(f"{method} {path}: {error.code} {detail}") from None
        return json.loads(text) if text else None


def operator_of(node: RabbitNode | EmbeddedNode, vhost: str) -> Operator:
    """Who looks after *vhost* on *node*."""
    if isinstance(node, EmbeddedNode):
        return EmbeddedOperator(node, vhost)
    return RabbitOperator(node, vhost)


def quoted(name: str) -> str:
    return urllib.parse.quote(name, safe="")


def _binary(name: str) -> str:
    """*name* as an Erlang binary, whatever characters it has."""
    return "<<" + ",".join(str(byte) for byte in name.encode()) + ">>"
