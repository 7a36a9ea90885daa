"""What a stream owes to the connection above it, whatever packages do in the process."""

from __future__ import annotations

import gc
from typing import Any

import gevent

from limehub.amqp.stream import Stream
from tests.support.pair import tcp_pair
from tests.support.waiting import wait_until


class Connection:
    """The protocol above a stream; *lost*: with what it ended."""

    def __init__(self) -> None:
        self.lost: list[BaseException | None] = []

    def _proto_data_received(self, data: bytes) -> None:
        return

    def _proto_eof_received(self) -> bool:
        return False

    def _proto_connection_lost(self, error: BaseException | None) -> None:
        self.lost.append(error)


def greenlets() -> list[Any]:
    # By type: `isinstance` asks a proxy for its object, and raises if that is gone.
    return [each for each in gc.get_objects() if issubclass(type(each), gevent.Greenlet)]


def test_a_package_that_kills_all_greenlets_does_not_keep_a_loss_from_being_told() -> None:
    others = greenlets()
    connection = Connection()
    with tcp_pair() as (ours, _):
        stream = Stream(ours, None, connection)
        stream.start()
        stream.abort()
        assert connection.lost == [], "told at once; nothing is tested"
        gevent.killall([each for each in greenlets() if each not in others])
        wait_until(lambda: len(connection.lost) == 1, message="the loss")
