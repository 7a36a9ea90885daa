"""Fixtures of the tests that talk to a broker from this process, and the broker each is for."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from limehub.server import ServeOptions
from tests.support.hub import Hub, Register
from tests.support.vhost import Vhost
from tests.support.waiting import wait_until

ON_BOTH = {
    "test_deadletters",
    "test_desk_faults",
    "test_order",
    "test_publisher",
    "test_reconnect",
    "test_redeliveries",
    "test_settlement",
}
"""Modules whose tests run on RabbitMQ and on the embedded broker; with `make soak` all do."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test once a broker, unless LIMEHUB_TEST_ON names the one."""
    name = metafunc.module.__name__.rpartition(".")[2]
    if "broker_kind" not in metafunc.fixturenames or "LIMEHUB_TEST_ON" in os.environ:
        return
    if name in ON_BOTH or os.environ.get("LIMEHUB_SOAK") == "1":
        metafunc.parametrize("broker_kind", ["rabbitmq", "embedded"])


@pytest.fixture
def amqp(vhost: Vhost) -> Iterator[BlockingChannel]:
    """A plain channel of the test's own, in confirm mode: the outside world."""
    connection = vhost.connect(heartbeat=0)  # nobody answers while the test does something else
    channel = connection.channel()
    channel.confirm_delivery()
    yield channel
    try:
        connection.close()
    except pika.exceptions.AMQPError:
        return  # the test has closed it, or had it closed


@pytest.fixture
def serve(vhost: Vhost, tmp_path: Path) -> Iterator[Callable[..., Hub]]:
    """Start a hub: `serve({app: register}, toml)`; all hubs are shut down at the end.

    *url*: not the test's vhost but this broker (name its fixture before this one, so that it
    outlives the hub); *ready*: False returns before all consume.
    """
    with contextlib.ExitStack() as running:

        def begin(
            plugins: dict[str, Register],
            toml: str = "",
            *,
            url: str | None = None,
            ready: bool = True,
            options: ServeOptions | None = None,
        ) -> Hub:
            options = options or ServeOptions()
            hub = Hub(url or vhost.url, tmp_path, plugins=plugins, toml=toml, options=options)
            hub.build()
            running.push(hub.__exit__)
            hub.server.start()
            if ready:
                wait_until(lambda: not hub.server.missing(), message="the hub to be ready")
            return hub

        yield begin
