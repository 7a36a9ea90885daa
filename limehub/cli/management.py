"""RabbitMQ's management API, read only: what AMQP does not tell.

AMQP lists neither queues nor bindings nor policies. https://www.rabbitmq.com/docs/http-api-reference
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

from attrs import frozen

from limehub.cli.findings import Finding, Level
from limehub.cli.inspection import Topology
from limehub.config import QUEUE_NAMESPACE, BrokerUrl
from limehub.management import ManagementApi

__all__ = ["BrokerLists", "management_findings", "read_lists"]

QUEUE_COLUMNS = "name,messages,exclusive,policy,operator_policy,effective_policy_definition"
LOSING_POLICIES = ("message-ttl", "max-length", "max-length-bytes", "expires", "delivery-limit")


@frozen(kw_only=True)
class BrokerLists:
    """*queues*: objects of /api/queues; *bindings*: (queue, exchange, key)."""

    queues: tuple[Mapping[str, Any], ...]
    bindings: frozenset[tuple[str, str, str]]


def read_lists(management_url: str, broker: BrokerUrl) -> BrokerLists:
    """Ask for all queues and bindings of *broker*'s vhost. Raises BrokerError.

    Credentials: those of *management_url*, else those of the broker.
    """
    api = ManagementApi.of(management_url, broker)
    vhost = quote(broker.vhost, safe="")
    queues = api.get(f"queues/{vhost}?columns={QUEUE_COLUMNS}")
    bindings = api.get(f"bindings/{vhost}")
    return BrokerLists(
        queues=tuple(queues),
        bindings=frozenset(
            (each["destination"], each["source"], each["routing_key"])
            for each in bindings
            if each.get("destination_type") == "queue" and each["source"]
        ),
    )


def management_findings(lists: BrokerLists, topology: Topology) -> Iterator[Finding]:
    """Say what is left over, what is not bound yet, and which policies can lose events. Pure."""
    wanted = {each.spec.name for each in topology.queues}
    yield from _left_over_queues(lists.queues, wanted)
    yield from _left_over_bindings(lists.bindings, topology, wanted)
    yield from _missing_bindings(lists, topology)
    yield from _policies(lists.queues, wanted)


def _left_over_queues(queues: Iterable[Mapping[str, Any]], wanted: set[str]) -> Iterator[Finding]:
    for queue in queues:
        name = str(queue["name"])
        if not name.startswith(QUEUE_NAMESPACE) or queue.get("exclusive"):
            continue
        if name not in wanted and name.partition(".retry.")[0] not in wanted:
            text = (
                f"no handler installed here reads it; it holds {queue.get('messages', 0)} messages "
                "and keeps filling while it is bound; if its package is gone for good, delete it"
            )
            yield _warning(f"queue {name}", text)


def _left_over_bindings(
    bindings: Iterable[tuple[str, str, str]], topology: Topology, wanted: set[str]
) -> Iterator[Finding]:
    for queue, exchange, key in sorted(bindings):
        if queue not in wanted or (queue, exchange, key) in topology.bindings:
            continue
        if exchange in topology.exchanges:
            text = f"is still bound to {exchange} with {key!r}, which no handler asks for any more"
        else:
            text = f"is bound to {exchange} with {key!r}, which is none of our exchanges"
        yield _warning(f"queue {queue}", f"{text}; unbind it")


def _missing_bindings(lists: BrokerLists, topology: Topology) -> Iterator[Finding]:
    existing = {queue["name"] for queue in lists.queues}
    for queue, exchange, key in sorted(topology.bindings - lists.bindings):
        if queue in existing:
            yield Finding(
                kind="topology",
                level=Level.INFO,
                subject=f"queue {queue}",
                text=f"is not bound to {exchange} with {key!r} yet; the server binds it at start",
            )


def _policies(queues: Iterable[Mapping[str, Any]], wanted: set[str]) -> Iterator[Finding]:
    for queue in queues:
        if queue["name"] not in wanted:
            continue
        definition = queue.get("effective_policy_definition") or {}
        losing = {key: value for key, value in definition.items() if key in LOSING_POLICIES}
        if losing:
            names = [queue[kind] for kind in ("policy", "operator_policy") if queue.get(kind)]
            limits = ", ".join(f"{key}={value}" for key, value in losing.items())
            text = f"policy {' and '.join(names)} sets {limits}: the broker can drop events"
            yield _warning(f"queue {queue['name']}", text)


def _warning(subject: str, text: str) -> Finding:
    return Finding(kind="topology", level=Level.WARNING, subject=subject, text=text)
