"""One suite for three brokers: embedded in memory, embedded on a file, and RabbitMQ."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from tests.conformance.embedded import EmbeddedBroker

ON_FOUR = os.environ.get("LIMEHUB_TEST_ON") == "rabbitmq4"
Connect = Callable[..., pika.BlockingConnection]


@pytest.fixture(scope="session")
def memory_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker(tmp_path_factory.mktemp("memory")) as broker:
        yield broker


@pytest.fixture(scope="session")
def file_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedBroker]:
    folder = tmp_path_factory.mktemp("file")
    with EmbeddedBroker(folder, folder / "broker.db") as broker:
        yield broker


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "differs_on_4: RabbitMQ 4 does it otherwise; the docs say how"
    )


@pytest.fixture(params=["memory", "file", "rabbitmq"])
def url(request: pytest.FixtureRequest) -> str:
    """The AMQP URL of each broker in turn."""
    if request.param == "rabbitmq":
        if ON_FOUR and request.node.get_closest_marker("differs_on_4"):
            request.applymarker(pytest.mark.xfail(strict=True, reason="RabbitMQ 4"))
        return str(request.getfixturevalue("rabbit_node").url)
    return str(request.getfixturevalue(f"{request.param}_broker").url)


@pytest.fixture
def connect(url: str) -> Iterator[Connect]:
    """Open connections that are closed at the end; keywords are pika's parameters."""
    with contextlib.ExitStack() as opened:

        def open_one(**parameters: Any) -> pika.BlockingConnection:
            given = pika.URLParameters(url)
            for key, value in parameters.items():
                setattr(given, key, value)
            connection = pika.BlockingConnection(given)
            opened.callback(_close, connection)
            return connection

        yield open_one


def _close(connection: pika.BlockingConnection) -> None:
    with contextlib.suppress(pika.exceptions.AMQPError):
        connection.close()


@pytest.fixture
def channel(connect: Connect) -> BlockingChannel:
    """A channel on a connection of its own."""
    return connect().channel()


@pytest.fixture
def name() -> str:
    """A name that no other test has."""
    return f"conf-{uuid.uuid4().hex[:12]}"
