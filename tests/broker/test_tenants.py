"""Tenants: whose event is it, and what happens to one that is nobody's here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pika
from pika.adapters.blocking_connection import BlockingChannel

from limehub import Event
from tests.support.hub import Hub
from tests.support.serving import APP, DLQ, QUEUE, handles, queue_of, together
from tests.support.vhost import Vhost
from tests.support.waiting import wait_until

Serve = Callable[..., Hub]

TWO = 'applications = ["acme", "globex"]\n'
ONLY_ACME = f'{TWO}[packages.solution-x]\napplications = ["acme"]\n'


def test_an_event_from_a_foreign_exchange_is_never_run_and_its_queue_says_so(
    serve: Serve, vhost: Vhost, amqp: BlockingChannel
) -> None:
    ran: list[Any] = []
    other: list[Any] = []
    plugins = {APP: together(handles(ran.append), handles(other.append, "t.#", "other"))}
    hub = serve(plugins, "[event_handler]\nprefetch_count = 10\n")
    amqp.exchange_declare("elsewhere", "topic", durable=True)
    amqp.queue_bind(QUEUE, "elsewhere", "#")
    for number in range(5):
        amqp.basic_publish("elsewhere", "t.a", b'{"n": %d}' % number, mandatory=True)
    missing = wait_until(hub.server.missing)
    assert len(missing) == 1
    assert missing[0].startswith(f"{QUEUE}: ")
    assert "'elsewhere'" in missing[0]
    wait_until(lambda: vhost.queues()[QUEUE]["ready"] == 5, message="the events to be back")
    assert vhost.queues()[QUEUE]["consumers"] == 0
    hub.publish("t.b", {"n": 1})
    wait_until(lambda: other == [{"n": 1}], message="the other queue to go on")
    assert ran == []
    assert vhost.depth(QUEUE) == 6
    assert vhost.depth(DLQ) == 0


def test_an_event_put_into_the_queue_by_hand_belongs_to_nobody(
    serve: Serve, vhost: Vhost, amqp: BlockingChannel
) -> None:
    ran: list[Any] = []
    hub = serve({APP: handles(ran.append)})
    amqp.basic_publish("", QUEUE, b"{}", mandatory=True)
    wait_until(hub.server.missing)
    wait_until(lambda: vhost.queues()[QUEUE]["ready"] == 1)
    assert ran == []


def test_two_servers_with_other_applications_on_one_queue_stop_at_once(
    vhost: Vhost, tmp_path: Path
) -> None:
    ran: list[str] = []
    plugins = {APP: handles(lambda event: ran.append(event.application))}
    (tmp_path / "acme").mkdir()
    (tmp_path / "globex").mkdir()
    acme = Hub(vhost.url, tmp_path / "acme", plugins=plugins, toml='applications = ["acme"]\n')
    globex = Hub(vhost.url, tmp_path / "globex", plugins=plugins, toml='applications = ["globex"]')
    with acme, globex:
        for _ in range(4):  # they take turns, so each gets some of the other's
            acme.publish("t.a", {})
        wait_until(globex.server.missing, message="globex to stop at one of acme's events")
        wait_until(lambda: len(ran) == 4, message="acme to run them all, what came back included")
        wait_until(lambda: vhost.depth(QUEUE) == 0, message="their acks")
    assert ran == ["acme"] * 4


def test_a_package_limited_to_some_applications_is_bound_to_these_only(
    serve: Serve, vhost: Vhost
) -> None:
    plugins = {APP: handles(print), "solution-y": handles(print)}
    serve(plugins, ONLY_ACME)
    assert vhost.bindings() == [
        ("lime.acme", "t.#", QUEUE),
        ("lime.acme", "t.#", queue_of("handler", "solution-y")),
        ("lime.globex", "t.#", queue_of("handler", "solution-y")),
    ]


def test_limiting_a_package_removes_its_old_bindings_and_buries_what_they_brought(
    vhost: Vhost, tmp_path: Path, amqp: BlockingChannel
) -> None:
    ran: list[str] = []
    plugins = {APP: handles(lambda event: ran.append(event.application), ["t.#", "u.v"])}
    with Hub(vhost.url, tmp_path, plugins=plugins, toml=TWO):
        assert {exchange for exchange, _, _ in vhost.bindings()} == {"lime.acme", "lime.globex"}
    for exchange in ("lime.globex", "lime.acme", "lime.globex"):
        amqp.basic_publish(exchange, "t.a", b"{}", mandatory=True)
    with Hub(vhost.url, tmp_path, plugins=plugins, toml=ONLY_ACME) as hub:
        left = [("lime.acme", "t.#", QUEUE), ("lime.acme", "u.v", QUEUE)]
        wait_until(lambda: vhost.bindings() == left, message="the old bindings to go")
        wait_until(lambda: vhost.depth(QUEUE) == 0 and vhost.depth(DLQ) == 2)
        assert hub.server.missing() == []
    assert ran == ["acme"]
    _, properties, _ = amqp.basic_get(DLQ, auto_ack=True)
    assert properties.headers["x-limehub-reason"] == "tenant-excluded"
    assert properties.headers["x-limehub-exchange"] == "lime.globex"


def test_forged_headers_change_neither_tenant_nor_attempts_nor_where_a_handler_publishes(
    serve: Serve, vhost: Vhost, amqp: BlockingChannel
) -> None:
    seen: list[tuple[str, str, str, int]] = []
    follow_ups: list[str] = []

    def handler(event: Event, publisher: Any) -> None:
        seen.append((event.application, event.exchange, event.routing_key, event.attempt))
        publisher.publish("own.follow_up", {})

    plugins = {
        APP: together(
            handles(handler),
            handles(lambda event: follow_ups.append(event.application), "own.#", "follow_up"),
        )
    }
    serve(plugins, TWO)
    forged = {
        "x-limehub-exchange": "lime.globex",
        "x-limehub-routing-key": "t.forged",
        "x-limehub-attempts": 7,
    }
    amqp.basic_publish(
        "lime.acme", "t.real", b"{}", pika.BasicProperties(headers=forged), mandatory=True
    )
    wait_until(lambda: follow_ups)
    assert seen == [("acme", "lime.acme", "t.real", 1)]
    assert follow_ups == ["acme"]
