"""Keepalive as the kernel has it."""

from __future__ import annotations

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
    apply_keepalive(sock, Keepalive(idle=60), heartbeat=0)
    assert option(sock, socket.TCP_USER_TIMEOUT) == 90_000


def test_with_heartbeats_the_user_timeout_is_left_alone(sock: socket.socket) -> None:
    apply_keepalive(sock, Keepalive(idle=60), heartbeat=15)
    assert option(sock, socket.TCP_USER_TIMEOUT) == 0


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
