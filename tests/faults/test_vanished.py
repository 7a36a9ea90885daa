"""The peer vanishes below TCP: no FIN, no RST, no probe answered. Only keepalive can tell.

A proxy that swallows bytes is no such peer: its kernel answers the probes. So the server lives in
a network namespace, and frames are lost on the cable.
"""

from __future__ import annotations

import time
from collections.abc import Callable
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
        idle = time_to_find(network, stand)
        back(network, stand)

        stand.burners.publish({"n": 1, "do": "hold_for", "value": "ack"})
        stand.burners.wait_for("start")
        in_flight = time_to_find(network, stand, lambda: stand.burners.release("ack"))
        back(network, stand)
        stand.burners.wait_empty()
        runs, left = stand.burners.runs, stand.burners.depth()
        return Vanished(
            idle=idle, in_flight=in_flight, runs=runs, left=left, code=stand.process.stop()
        )


def time_to_find(
    network: Network, stand: Stand, then: Callable[[], None] = lambda: None
) -> tuple[float, dict[str, Any]]:
    """Let the peer vanish, do *then*: seconds until the server says it is lost, and its line."""
    known, begun = len(losses(stand)), time.monotonic()
    network.vanish()
    then()
    found = wait_until(lambda: losses(stand)[known:], 12 * PATIENCE, "the loss")
    return time.monotonic() - begun, found[0]


def losses(stand: Stand) -> list[dict[str, Any]]:
    """The lines in which the server said so."""
    return [record for record in stand.process.records() if record.get("message") == LOST]


def back(network: Network, stand: Stand) -> None:
    """The broker forgets the old connection; the cable is whole again, and the server returns."""
    stand.recorder.cut()  # first, or it could hit the new connection
    network.return_()
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
