"""The peer vanishes below TCP: no FIN, no RST, no probe answered. Only keepalive can tell.

A proxy that swallows bytes is no such peer: its kernel answers the probes. So the server lives in
a network namespace, and frames are lost on the cable.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from attrs import frozen

from limehub.amqp.keepalive import Keepalive
from tests.support.burners import Run
from tests.support.lab import Lab
from tests.support.network import NamespacesUnavailable, Network
from tests.support.stand import Stand
from tests.support.waiting import wait_until

IDLE = 2
PATIENCE = Keepalive(idle=IDLE).patience  # 5 s
PROBING = PATIENCE - IDLE  # s: what it takes at least, if the first probe was due anyway
LOST = "connection lost; reconnecting"


@frozen(kw_only=True)
class Vanished:
    """Seconds until each loss was told, with its line; how often the second event ran."""

    idle: tuple[float, dict[str, Any]]
    in_flight: tuple[float, dict[str, Any]]
    runs: list[Run]
    left: tuple[int, int]
    code: int


def vanish_twice(lab: Lab) -> Vanished:
    """The peer vanishes while the connection is idle, comes back, and vanishes before an ack."""
    events = f"tcp_keepalive_timeout = {IDLE}\n"
    options = {"heartbeat": 0, "events": events}
    with (
        Network() as network,
        lab.stand("vanished", prefix=network.prefix, host=network.here, **options) as stand,
    ):
        begun = time.monotonic()
        network.vanish()
        idle = time_to_find(stand, begun, 1)
        back(network, stand)

        stand.burners.publish({"n": 1, "do": "hold_for", "value": "ack"})
        stand.burners.wait_for("start")
        begun = time.monotonic()
        network.vanish()
        stand.burners.release("ack")
        in_flight = time_to_find(stand, begun, 2)
        back(network, stand)
        stand.burners.wait_empty()
        runs, left = stand.burners.runs, stand.burners.depth()
        return Vanished(
            idle=idle, in_flight=in_flight, runs=runs, left=left, code=stand.process.stop()
        )


def time_to_find(stand: Stand, begun: float, times: int) -> tuple[float, dict[str, Any]]:
    """(seconds since *begun* when the server says for the n-th time that it is lost, its line)."""

    def told() -> Iterator[dict[str, Any]]:
        return (r for r in stand.process.records() if r.get("message") == LOST)

    found = wait_until(lambda: list(told())[times - 1 : times], 12 * PATIENCE, "the loss")
    return time.monotonic() - begun, found[0]


def back(network: Network, stand: Stand) -> None:
    """The cable is whole again; the broker forgets the old connection, and the server returns."""
    network.return_()
    stand.recorder.cut()
    wait_until(lambda: stand.consumers() == 1, message="the server to consume again")


@pytest.fixture
def vanished(lab: Lab) -> Vanished:
    try:
        found: Vanished = lab.finding(vanish_twice)
    except NamespacesUnavailable as error:
        pytest.skip(f"network namespaces: {error}")
    return found


@pytest.mark.experiment(of=vanish_twice)
def test_a_peer_that_vanished_is_found_while_the_connection_is_idle(vanished: Vanished) -> None:
    seconds, line = vanished.idle
    assert PROBING <= seconds < 3 * PATIENCE
    assert "timed out" in str(line).lower()


@pytest.mark.experiment(of=vanish_twice)
def test_a_peer_that_vanished_is_found_while_an_ack_is_in_flight(vanished: Vanished) -> None:
    seconds, line = vanished.in_flight
    assert PROBING <= seconds < 3 * PATIENCE
    assert "timed out" in str(line).lower()


@pytest.mark.experiment(of=vanish_twice)
def test_the_event_whose_ack_was_lost_is_not_lost(vanished: Vanished) -> None:
    assert vanished.runs[-1].what == "end"
    assert vanished.left == (0, 0)
    assert vanished.code == 0
