"""The writing half of a connection."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from limehub.amqp.outlet import BURST, Outlet

FRAME = b"\x08\x00\x00\x00\x00\x00\x00\xce"


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def test_writes_of_one_turn_wait_for_its_end(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    wakes: list[bool] = []
    outlet = Outlet(ours, None, lambda: wakes.append(True))
    outlet.write(FRAME)
    outlet.write(FRAME)
    assert wakes == [True]
    with pytest.raises(BlockingIOError):
        theirs.recv(1)
    assert outlet.flush()
    assert theirs.recv(100) == FRAME * 2


def test_a_long_burst_leaves_before_the_turn_ends(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = ends
    outlet = Outlet(ours, None, lambda: None)
    for _ in range(BURST + 1):
        outlet.write(FRAME)
    assert theirs.recv(10_000) == FRAME * BURST
    assert outlet.flush()
    assert theirs.recv(10_000) == FRAME


def test_a_burst_that_fills_the_socket_loses_nothing_and_keeps_its_order(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = ends
    outlet = Outlet(ours, None, lambda: None)
    pieces = [bytes((number % 256,)) * 20_000 for number in range(BURST * 3)]
    for piece in pieces:
        outlet.write(piece)
    found, wanted = bytearray(), b"".join(pieces)
    while len(found) < len(wanted):
        outlet.flush()
        found += theirs.recv(1 << 20)
    assert found == wanted


def test_the_loss_of_the_peer_in_a_burst_shows_in_the_turns_write(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = ends
    outlet = Outlet(ours, None, lambda: None)
    theirs.close()
    for _ in range(BURST):
        outlet.write(FRAME)
    with pytest.raises(OSError, match="pipe"):
        outlet.flush()
