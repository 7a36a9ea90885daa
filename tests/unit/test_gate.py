"""The gate: how long it waits, that one knocks for all, and that a stop lets everybody go."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import gevent
import pytest
from gevent.server import StreamServer
from hypothesis import given
from hypothesis import strategies as st

from limehub.amqp.connection import ConnectionSettings
from limehub.config.url import BrokerUrl
from limehub.errors import BrokerRefused, BrokerUnreachable
from limehub.workers.gate import BrokerGate, Streak, knock_delay
from tests.support.waiting import wait_until

UNREACHABLE, REFUSED = BrokerUnreachable("down"), BrokerRefused("403")
chances = st.floats(0, 1, exclude_max=True)


@pytest.fixture
def dead_port() -> Iterator[int]:
    """A port that refuses connections, and that nobody else can take."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield int(sock.getsockname()[1])


def gate_to(port: int, *, fail_fast: bool = False) -> BrokerGate:
    url = BrokerUrl.parse(f"amqp://guest@127.0.0.1:{port}//")
    return BrokerGate(ConnectionSettings(url=url, timeout=2.0), fail_fast=fail_fast)


@given(st.integers(1, 10**9), chances)
def test_an_unreachable_broker_is_asked_again_within_a_second(failures: int, chance: float) -> None:
    assert 0.0 <= knock_delay(UNREACHABLE, failures, chance) <= 1.0


@given(st.integers(1, 10**9), chances)
def test_a_broker_that_refuses_is_asked_again_after_5_to_30_seconds(
    failures: int, chance: float
) -> None:
    assert 5.0 <= knock_delay(REFUSED, failures, chance) <= 30.0


def test_the_delay_grows_with_the_failures() -> None:
    refused = [knock_delay(REFUSED, failures, 0.0) for failures in range(1, 6)]
    assert refused == [5.0, 10.0, 20.0, 30.0, 30.0]
    unreachable = [knock_delay(UNREACHABLE, failures, 0.5) for failures in range(1, 7)]
    assert unreachable == pytest.approx([0.05, 0.1, 0.2, 0.3, 0.3, 0.3])


def test_with_fail_fast_the_first_failure_is_raised(dead_port: int) -> None:
    with pytest.raises(BrokerUnreachable):
        gate_to(dead_port, fail_fast=True).open("one")


def test_while_the_broker_is_down_groups_wait_and_a_stop_lets_all_go(
    dead_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    gate = gate_to(dead_port)
    groups = [gevent.spawn(gate.open, f"group {number}") for number in range(5)]
    wait_until(lambda: gate.trouble)
    assert not any(group.ready() for group in groups)
    gate.stop()
    gevent.joinall(groups, timeout=30)
    assert [group.value for group in groups] == [None] * 5
    assert all(group.successful() for group in groups)
    mine = [each for each in caplog.records if vars(each).get("url") == str(gate.settings.url)]
    assert [each.getMessage() for each in mine] == ["broker not available; trying on"]


def test_after_a_stop_nobody_is_let_in(dead_port: int) -> None:
    gate = gate_to(dead_port)
    gate.stop()
    assert gate.open("late") is None


def test_one_group_knocks_for_all() -> None:
    """A listener that hangs up at once: how many come is how many knock."""
    callers: list[object] = []

    def hang_up(sock: socket.socket, _address: object) -> None:
        callers.append(sock)
        sock.close()

    with_server = StreamServer(("127.0.0.1", 0), hang_up)
    with_server.start()
    gate = gate_to(with_server.server_port)
    groups = [gevent.spawn(gate.open, f"group {number}") for number in range(20)]
    wait_until(lambda: len(callers) >= 20)  # all at once while nobody knows that it is down
    wait_until(lambda: len(callers) >= 24)
    crowd = len(callers)
    gevent.sleep(1)  # the time is the thing measured here
    assert len(callers) - crowd <= 20  # one knocker: twenty would have come some hundred times
    gate.stop()
    gevent.joinall(groups, timeout=30)
    with_server.stop()


def test_failures_of_one_kind_do_not_lengthen_the_wait_for_the_other() -> None:
    streak = Streak()
    errors = [UNREACHABLE, UNREACHABLE, UNREACHABLE, REFUSED, REFUSED, UNREACHABLE]
    assert [streak.add(error) for error in errors] == [1, 2, 3, 1, 2, 1]
