"""What limehub makes on a broker, and what it does with what others made there before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gevent.event import Event as Signal
from pika.adapters.blocking_connection import BlockingChannel

from limehub import Event
from limehub.errors import TopologyMismatch
from limehub.server import ServeOptions
from tests.support.hub import Hub
from tests.support.serving import APP, DLQ, QUEUE, handles, publish_all, queue_of, together
from tests.support.vhost import Vhost
from tests.support.waiting import wait_until

Serve = Callable[..., Hub]

CLASSIC = {"x-queue-type": "classic"}


def nothing(body: Any) -> None:
    """A handler that has nothing to do."""


def warnings_of(caplog: pytest.LogCaptureFixture, queue: str) -> list[dict[str, Any]]:
    """Argument, actual and wanted of each warning about *queue*."""
    return [
        {key: vars(record)[key] for key in ("argument", "actual", "wanted")}
        for record in caplog.records
        if vars(record).get("queue") == queue and "argument" in vars(record)
    ]


def test_a_fresh_broker_gets_exchanges_queues_and_bindings_by_their_names(
    serve: Serve, vhost: Vhost
) -> None:
    plugins = {
        "solution-x": together(
            handles(nothing, "core.limeobject.deal.#", "deals"),
            handles(nothing, ["own.paid.v1", "own.*.v2"], "own_events"),
        ),
        "lime_webclient": handles(nothing, "#", "all"),
    }
    serve(plugins, 'applications = ["acme", "globex"]\n')
    exchanges = vhost.exchanges()
    assert exchanges.keys() == {"lime.acme", "lime.globex"}
    assert {(e["type"], e["durable"], e["auto_delete"]) for e in exchanges.values()} == {
        ("topic", True, False)
    }
    keys = {
        "lime.event_handler.solution-x.deals": ["core.limeobject.deal.#"],
        "lime.event_handler.solution-x.own_events": ["own.paid.v1", "own.*.v2"],
        "lime.event_handler.lime_webclient.all": ["#"],
    }
    queues = vhost.queues()
    dlqs = {"lime.event_handler.solution-x.dlq", "lime.event_handler.lime_webclient.dlq"}
    assert queues.keys() == keys.keys() | dlqs
    assert all(row["arguments"] == CLASSIC for row in queues.values())
    assert {name for name, row in queues.items() if row["consumers"]} == keys.keys()
    assert vhost.bindings() == sorted(
        (exchange, key, queue)
        for exchange in exchanges
        for queue, bound in keys.items()
        for key in bound
    )


def delivery_limit(hub: Hub) -> int:
    """What says "no limit" to this broker: RabbitMQ 3 drops at the first return when told -1."""
    broker = hub.server.groups[0].status()["broker"]
    return -1 if int(broker.split()[1].split(".")[0]) >= 4 else 1_000_000_000


def test_quorum_queues_never_count_how_often_an_event_came_back(serve: Serve, vhost: Vhost) -> None:
    hub = serve({APP: handles(nothing)}, '[event_handler]\nqueue_type = "quorum"\n')
    wanted = {"x-queue-type": "quorum", "x-delivery-limit": delivery_limit(hub)}
    assert {name: row["arguments"] for name, row in vhost.queues().items()} == {
        QUEUE: wanted,
        DLQ: wanted,
    }


def test_a_routing_key_template_shapes_bindings_and_publishes_alike(
    serve: Serve, vhost: Vhost
) -> None:
    seen: list[Any] = []
    toml = '[events]\nrouting_key_template = "{exchange}_{routing_key}"\n'
    hub = serve({APP: handles(seen.append, "own.paid.v1")}, toml)
    assert vhost.bindings() == [("lime.default", "lime.default_own.paid.v1", QUEUE)]
    hub.server.publisher.publish("own.paid.v1", {"n": 1})
    wait_until(lambda: seen == [{"n": 1}])


def test_a_queue_with_dead_letter_arguments_is_consumed_as_it_is_after_one_warning(
    serve: Serve, vhost: Vhost, amqp: BlockingChannel, caplog: pytest.LogCaptureFixture
) -> None:
    amqp.queue_declare(QUEUE, durable=True, arguments={"x-dead-letter-exchange": "lime.dlx"})
    seen: list[Any] = []
    hub = serve({APP: handles(seen.append)})
    hub.publish("t.a", {"n": 1})
    wait_until(lambda: seen == [{"n": 1}])
    vhost.close_connections()
    wait_until(lambda: hub.server.groups[0].reconnects)
    hub.publish("t.a", {"n": 2})
    wait_until(lambda: {"n": 2} in seen)  # the first one, too, if its ack was cut off
    assert warnings_of(caplog, QUEUE) == [
        {"argument": "x-dead-letter-exchange", "actual": "lime.dlx", "wanted": None}
    ]
    arguments = vhost.queues()[QUEUE]["arguments"]
    arguments.pop("x-queue-type", None)  # RabbitMQ 4 notes it by itself
    assert arguments == {"x-dead-letter-exchange": "lime.dlx"}


LOSING = [
    {"x-message-ttl": 60_000},
    {"x-max-length": 10},
    {"x-max-length-bytes": 1_000_000},
    {"x-expires": 3_600_000},
    {"x-dead-letter-exchange": "lime.dlx", "x-message-ttl": 60_000},
]


@pytest.mark.parametrize("arguments", LOSING, ids=lambda arguments: "+".join(arguments))
def test_a_queue_that_may_lose_events_is_not_ready_and_no_other_suffers(
    serve: Serve,
    vhost: Vhost,
    amqp: BlockingChannel,
    caplog: pytest.LogCaptureFixture,
    arguments: dict[str, Any],
) -> None:
    amqp.queue_declare(QUEUE, durable=True, arguments=arguments)
    ran: list[str] = []
    plugins = {
        APP: together(
            handles(lambda body: ran.append("losing"), "t.#", "handler"),
            handles(lambda body: ran.append("sound"), "t.#", "sound"),
        )
    }
    hub = serve(plugins, ready=False)
    losing = list(arguments)[-1]
    missing = wait_until(lambda: len(m := hub.server.missing()) == 1 and losing in m[0] and m)
    assert missing[0].startswith(f"{QUEUE}: ")
    assert str(arguments[losing]) in missing[0]
    assert "events.accept_foreign_queues" in missing[0]
    wait_until(lambda: vhost.bindings() == [("lime.default", "t.#", queue_of("sound"))])
    hub.publish("t.a", {})
    wait_until(lambda: ran == ["sound"])
    assert vhost.queues()[QUEUE]["consumers"] == 0
    named = {each["argument"] for each in warnings_of(caplog, QUEUE)}  # again at each new try
    assert named == arguments.keys()


@pytest.mark.parametrize("arguments", LOSING, ids=lambda arguments: "+".join(arguments))
def test_accept_foreign_queues_consumes_even_what_may_lose_events(
    serve: Serve, amqp: BlockingChannel, arguments: dict[str, Any]
) -> None:
    amqp.queue_declare(QUEUE, durable=True, arguments=arguments)
    seen: list[Any] = []
    hub = serve({APP: handles(seen.append)}, "[events]\naccept_foreign_queues = true\n")
    hub.publish("t.a", {"n": 1})
    wait_until(lambda: seen == [{"n": 1}])


@pytest.mark.parametrize(
    ("queue", "argument"),
    [({"durable": False}, "durable"), ({"durable": True, "auto_delete": True}, "auto_delete")],
    ids=["transient", "auto-delete"],
)
def test_a_queue_that_vanishes_with_the_broker_or_its_consumer_is_not_ready(
    serve: Serve, amqp: BlockingChannel, queue: dict[str, Any], argument: str
) -> None:
    amqp.queue_declare(QUEUE, **queue)
    hub = serve({APP: handles(nothing)}, ready=False)
    missing = wait_until(lambda: [m for m in hub.server.missing() if argument in m])
    assert missing[0].startswith(f"{QUEUE}: ")


def test_a_quorum_queue_with_a_delivery_limit_is_not_ready(
    serve: Serve, amqp: BlockingChannel
) -> None:
    limited = {"x-queue-type": "quorum", "x-delivery-limit": 5}
    amqp.queue_declare(QUEUE, durable=True, arguments=limited)
    toml = '[event_handler]\nqueue_type = "quorum"\n'
    hub = serve({APP: handles(nothing)}, toml, ready=False)
    wait_until(lambda: [m for m in hub.server.missing() if "x-delivery-limit=5" in m])


@pytest.mark.parametrize(
    ("was", "wanted"), [("classic", "quorum"), ("quorum", "classic")], ids=lambda kind: kind
)
def test_another_queue_type_than_the_configured_one_is_only_worth_a_warning(
    vhost: Vhost, tmp_path: Path, caplog: pytest.LogCaptureFixture, was: str, wanted: str
) -> None:
    seen: list[Any] = []

    def run(kind: str) -> Hub:
        toml = f'[event_handler]\nqueue_type = "{kind}"\n'
        return Hub(vhost.url, tmp_path, plugins={APP: handles(seen.append)}, toml=toml)

    with run(was):
        before = vhost.queues()[QUEUE]["arguments"]
    with run(wanted) as hub:
        hub.publish("t.a", {"n": 1})
        wait_until(lambda: seen == [{"n": 1}])
        assert vhost.queues()[QUEUE]["arguments"] == before
    assert warnings_of(caplog, QUEUE) == [
        {"argument": "x-queue-type", "actual": was, "wanted": wanted}
    ]


@pytest.mark.parametrize("limit", [None, -1], ids=["none", "below-zero"])
def test_a_quorum_queue_of_others_is_judged_by_what_its_limit_means_to_this_broker(
    serve: Serve, amqp: BlockingChannel, limit: int | None
) -> None:
    """No limit is none on RabbitMQ 3 and 20 on 4; -1 drops at the first return and is none."""
    given = {} if limit is None else {"x-delivery-limit": limit}
    amqp.queue_declare(QUEUE, durable=True, arguments={"x-queue-type": "quorum", **given})
    hub = serve({APP: handles(nothing)}, ready=False)
    wait_until(lambda: hub.server.status()["groups"][0]["queues"][0]["mismatches"])
    if (limit is None) is (delivery_limit(hub) == -1):
        wait_until(lambda: [m for m in hub.server.missing() if "x-delivery-limit=" in m])
    else:
        wait_until(lambda: not hub.server.missing())


@pytest.mark.parametrize("name", [QUEUE, DLQ], ids=["handler-queue", "dead-letter-queue"])
def test_strict_topology_ends_the_server_with_exit_code_5(
    serve: Serve, amqp: BlockingChannel, name: str
) -> None:
    amqp.queue_declare(name, durable=True, arguments={"x-dead-letter-exchange": "lime.dlx"})
    strict = ServeOptions(strict_topology=True)
    hub = serve({APP: handles(nothing)}, ready=False, options=strict)
    wait_until(lambda: hub.server._ending.requested.is_set())
    error = hub.server._ending.error
    assert isinstance(error, TopologyMismatch)
    assert name in str(error)
    assert "x-dead-letter-exchange='lime.dlx'" in str(error)
    assert hub.server.shut_down() == 5


def test_with_a_queue_per_application_an_import_of_one_delays_no_other(
    serve: Serve, vhost: Vhost
) -> None:
    runs: list[str] = []
    gate = Signal()

    def handler(event: Event) -> None:
        gate.wait()
        runs.append(event.application)

    toml = """
        applications = ["big", "small"]
        [event_handler]
        queue_per = "application"
        prefetch_count = 10
        workers.default.concurrency = 1
    """
    hub = serve({APP: handles(handler)}, toml)
    assert vhost.bindings() == [
        ("lime.big", "t.#", f"{QUEUE}.big"),
        ("lime.small", "t.#", f"{QUEUE}.small"),
    ]
    publish_all(hub.publisher, "t.a", range(1000), at_once=100, application="big")
    wait_until(lambda: hub.server.groups[0].status()["waiting"] == 9)
    publish_all(hub.publisher, "t.a", range(10), application="small")
    wait_until(lambda: hub.server.groups[0].status()["waiting"] == 19)
    gate.set()
    wait_until(lambda: runs.count("small") == 10)
    last = max(number for number, tenant in enumerate(runs) if tenant == "small")
    assert last < 40, f"ten events of the small tenant took {last} runs"
    wait_until(lambda: len(runs) == 1010)


def test_an_empty_dead_letter_exchange_does_not_hide_a_length_limit(
    serve: Serve, vhost: Vhost, amqp: BlockingChannel
) -> None:
    arguments = {
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": "elsewhere",
        "x-max-length": 5,
    }
    amqp.queue_declare(QUEUE, durable=True, arguments=arguments)
    hub = serve({APP: handles(lambda body: None)}, ready=False)
    wait_until(lambda: any("x-max-length" in cause for cause in hub.server.missing()))
