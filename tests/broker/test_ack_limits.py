"""The broker's acknowledgement timeout on a real node, whose clock ticks faster than usual."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from gevent.event import Event as Signal
from pika.adapters.blocking_connection import BlockingChannel

from limehub.workers import rounds
from limehub.workers.ack_limits import RUNS
from scripts.rabbitmq_node import RabbitNode, find_server
from tests.support.hub import Hub
from tests.support.serving import APP, QUEUE, handles, queue_of, together
from tests.support.vhost import Vhost
from tests.support.waiting import wait_until

Serve = Callable[..., Hub]

LIMIT = 2.0


@pytest.fixture(scope="module")
def hasty_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitNode]:
    """A node that looks 5 times a second, not once a minute, for what is unacked for 2 s."""
    if find_server() is None:
        pytest.skip("no rabbitmq-server here; `make test` installs it when root")
    settings = {"consumer_timeout": str(int(LIMIT * 1000)), "channel_tick_interval": "200"}
    node = RabbitNode(
        tmp_path_factory.mktemp("hasty"), plugins=["rabbitmq_management"], settings=settings
    )
    node.start()
    yield node
    node.kill()


@pytest.fixture
def hasty_vhost(hasty_node: RabbitNode) -> Iterator[Vhost]:
    with Vhost.create(hasty_node) as vhost:
        yield vhost


def queue_status(hub: Hub, queue: str = QUEUE) -> dict[str, Any]:
    queues = hub.server.groups[0].status()["queues"]
    return next(each for each in queues if each["queue"] == queue)


def messages(caplog: pytest.LogCaptureFixture, text: str) -> list[dict[str, Any]]:
    return [each.__dict__ for each in caplog.records if each.getMessage() == text]


def test_a_handler_beyond_the_limit_runs_once_and_costs_only_its_own_channel(
    serve: Serve,
    hasty_vhost: Vhost,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rounds, "EVERY", 0.1)
    release = Signal()
    runs: list[str] = []

    def slow(body: Any) -> None:
        runs.append("slow")
        release.wait()

    def quick(body: Any) -> None:
        runs.append("quick")

    plugins = {APP: together(handles(slow, "t.#"), handles(quick, "t.#", "quick"))}
    hub = serve(plugins, url=hasty_vhost.url)
    assert queue_status(hub)["ack_limit"] == 1800.0  # what the version has; nobody says otherwise
    hub.publish("t.a", {})
    wait_until(lambda: queue_status(hub)["ack_timeouts"] >= 1)
    assert queue_status(hub)["ack_limit"] == LIMIT
    wait_until(lambda: queue_status(hub)["ack_timeouts"] >= 2)
    running = hub.server.groups[0].status()["running"]
    assert [run["handler"] for run in running] == ["solution-x.handler"]
    wait_until(lambda: hub.server.groups[0].status()["running"][0]["ack_limit_used"] == 80)
    wait_until(lambda: hub.server.groups[0].status()["absorbed"] >= 2)
    wait_until(lambda: {each["percent"] for each in messages(caplog, RUNS)} == {50, 80})
    release.set()
    wait_until(lambda: hasty_vhost.depth(QUEUE) == 0)
    assert sorted(runs) == ["quick", "slow"]
    assert hub.server.groups[0].reconnects == 0
    assert queue_status(hub, queue_of("quick"))["ack_timeouts"] == 0
    assert queue_status(hub, queue_of("quick"))["rebuilds"] == 0
    warned = {(each["handler"], each["queue"]) for each in messages(caplog, RUNS)}
    assert warned == {("solution-x.handler", QUEUE)}
    told = messages(caplog, "acknowledgement timed out; the broker takes the events back")
    assert told[0]["handler"] == "solution-x.handler"
    assert told[0]["limit"] == LIMIT


def test_a_queues_own_limit_is_read_from_the_management_api(
    serve: Serve, vhost: Vhost, amqp: BlockingChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "EVERY", 0.1)
    monkeypatch.setattr(rounds, "LIMITS_EVERY", 1.0)  # asks again should the first answer be late
    arguments = {"x-queue-type": "classic", "x-consumer-timeout": 60_000}
    amqp.queue_declare(QUEUE, durable=True, arguments=arguments)
    toml = f'[events]\nmanagement_url = "{vhost.node.management_url}"\n'
    hub = serve({APP: handles(print)}, toml)
    consumer = hub.server.groups[0]._consumers[QUEUE]
    wait_until(lambda: consumer.own_limit == 60.0)
    version = hub.server.groups[0]._session.connection.server_version  # type: ignore[union-attr]
    assert consumer.ack_limit == (60.0 if version >= (3, 12) else 1800.0)
    assert queue_status(hub)["mismatches"] == []


def test_a_management_api_that_is_gone_is_told_once(
    serve: Serve,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    broker_kind: str,
) -> None:
    monkeypatch.setattr(rounds, "EVERY", 0.05)
    monkeypatch.setattr(rounds, "LIMITS_EVERY", 0.0)
    hub = serve({APP: handles(print)}, '[events]\nmanagement_url = "http://127.0.0.1:1"\n')
    asked = 0
    read = hub.server.groups[0]._rounds._read_limits
    assert read is not None

    def counted() -> Any:
        nonlocal asked
        asked += 1
        return read()

    hub.server.groups[0]._rounds._read_limits = counted
    wait_until(lambda: asked >= 3)
    assert len(messages(caplog, "cannot ask for acknowledgement limits")) == 1
    assert queue_status(hub)["ack_limit"] == (None if broker_kind == "embedded" else 1800.0)
