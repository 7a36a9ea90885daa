"""Fixtures of the tests that talk to a broker from this process."""

from __future__ import annotations

from collections.abc import Iterator

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from tests.support.vhost import Vhost


@pytest.fixture
def amqp(vhost: Vhost) -> Iterator[BlockingChannel]:
    """A plain channel of the test's own, in confirm mode: the outside world."""
    connection = vhost.connect()
    channel = connection.channel()
    channel.confirm_delivery()
    yield channel
    try:
        connection.close()
    except pika.exceptions.AMQPError:
        return  # the test has closed it, or had it closed
