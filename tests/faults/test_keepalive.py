"""What the kernel has for the connections of a running server."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support.hub import Hub
from tests.support.serving import handles
from tests.support.vhost import Vhost
from tests.support.waiting import wait_until

OPTIONS = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")


@pytest.mark.parametrize(
    ("heartbeat", "timeout", "kernel"),
    [
        (0, 120, (120, 10, 3, 145_000)),
        (0, 2, (2, 1, 3, 4_500)),
        (15, 120, (120, 10, 3, 0)),
    ],
    ids=["keepalive-alone", "keepalive-alone-short", "with-heartbeats"],
)
def test_every_connection_of_the_server_has_what_was_configured(
    vhost: Vhost, tmp_path: Path, heartbeat: int, timeout: int, kernel: tuple[int, ...]
) -> None:
    published: list[str] = []

    def publish(publisher: Any) -> None:
        published.append(publisher.publish("t.other", {}))

    register = handles(publish, "t.go")
    other = handles(lambda: None, "t.other", "other")
    toml = (
        f"[events]\nconsumer_heartbeat = {heartbeat}\ntcp_keepalive_timeout = {timeout}\n"
        '[event_handler.workers.other]\nqueue_prefix = "y"\n'
    )
    with Hub(vhost.url, tmp_path, plugins={"x": register, "y": other}, toml=toml):
        publish_and_leave(vhost, "t.go")
        wait_until(lambda: published)
        ours = {row["peer_port"]: row for row in vhost.connections()}
        theirs = {port: options for port, options in connected_to(vhost) if port in ours}
    names = sorted(ours[port]["name"] for port in theirs)
    assert names == ["limehub default", "limehub other", "limehub publisher"]
    assert {ours[port]["heartbeat"] for port in theirs} == {heartbeat}
    assert set(theirs.values()) == {(1, *kernel)}


def publish_and_leave(vhost: Vhost, key: str) -> None:
    """Publish as a service whose connection is not the server's."""
    connection = vhost.connect()
    connection.channel().basic_publish("lime.default", key, b"{}")
    connection.close()


def connected_to(vhost: Vhost) -> Iterator[tuple[int, tuple[int, ...]]]:
    """(own port, SO_KEEPALIVE and `OPTIONS`) of each socket of this process to the broker."""
    broker = urlsplit(vhost.url).port
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(name))) as sock:
            if sock.family == socket.AF_INET and sock.getpeername()[1] == broker:
                keepalive = sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                options = [
                    sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, option))
                    for option in OPTIONS
                ]
                yield sock.getsockname()[1], (keepalive, *options)
