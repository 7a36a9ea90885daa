"""Keepalive as the kernel has it."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator

import pytest

from limehub.amqp.keepalive import Keepalive, apply_keepalive


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    with socket.socket() as sock:
        yield sock


def option(sock: socket.socket, name: int) -> int:
    return sock.getsockopt(socket.IPPROTO_TCP, name)


def test_the_kernel_gets_idle_interval_and_count(sock: socket.socket) -> None:
    apply_keepalive(sock, Keepalive(idle=120, interval=7, count=4), heartbeat=15)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert option(sock, socket.TCP_KEEPIDLE) == 120
    assert option(sock, socket.TCP_KEEPINTVL) == 7
    assert option(sock, socket.TCP_KEEPCNT) == 4


def test_without_heartbeats_unacknowledged_data_ends_the_connection_too(
    sock: socket.socket,
) -> None:
    keepalive = Keepalive(idle=60, interval=10, count=3)
    apply_keepalive(sock, keepalive, heartbeat=0)
    # Between the last two looks of the kernel, so that the last probe decides.
    assert option(sock, socket.TCP_USER_TIMEOUT) == 85_000
    assert keepalive.patience == 90


def test_with_heartbeats_the_user_timeout_is_left_alone(sock: socket.socket) -> None:
    apply_keepalive(sock, Keepalive(idle=60), heartbeat=15)
    assert option(sock, socket.TCP_USER_TIMEOUT) == 0


@pytest.mark.parametrize(
    ("idle", "interval", "patience"), [(120, 10, 150), (20, 5, 35), (2, 1, 5), (0.1, 1, 4)]
)
def test_the_probes_come_faster_where_the_silence_is_short(
    idle: float, interval: float, patience: float
) -> None:
    keepalive = Keepalive(idle=idle)
    assert (keepalive.interval, keepalive.count) == (interval, 3)
    assert keepalive.patience == patience


@pytest.mark.parametrize("heartbeat", [0, 15])
def test_a_peer_that_does_not_read_is_given_up_only_without_heartbeats(heartbeat: int) -> None:
    """Why the user timeout is not set always: RabbitMQ stops reading while memory is low."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with socket.create_connection(server.getsockname()) as client, server.accept()[0]:
            keepalive = Keepalive(idle=1, interval=1, count=1)
            apply_keepalive(client, keepalive, heartbeat=heartbeat)
            client.settimeout(keepalive.patience + 1 if heartbeat else 30)
            with pytest.raises(OSError) as caught:
                client.sendall(bytes(20_000_000))
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.errno == (None if heartbeat else errno.ETIMEDOUT)


@pytest.mark.parametrize("idle", [1, 32_767])
@pytest.mark.parametrize("heartbeat", [0, 15])
def test_the_kernel_takes_every_time_that_the_configuration_allows(
    sock: socket.socket, idle: int, heartbeat: int
) -> None:
    apply_keepalive(sock, Keepalive(idle=float(idle)), heartbeat=heartbeat)
    assert option(sock, socket.TCP_KEEPIDLE) == idle


def test_less_than_a_second_is_a_second(sock: socket.socket) -> None:
    apply_keepalive(sock, Keepalive(idle=0.1, interval=0.1), heartbeat=15)
    assert option(sock, socket.TCP_KEEPIDLE) == option(sock, socket.TCP_KEEPINTVL) == 1
