"""Heartbeats of a connection whose hub turns: sent in time, and the peer judged fairly."""

from __future__ import annotations

import _socket
import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from pika.exceptions import AMQPHeartbeatTimeout

from limehub.amqp.frames import HEARTBEAT
from limehub.amqp.heartbeat import HeartbeatChecker
from limehub.amqp.stream import Stream
from tests.support.pair import received, tcp_pair
from tests.support.waiting import quickest, wait_until

BEAT = 0.4
"""Seconds; the broker's would be whole ones."""


class Line:
    """A stream that counts its bytes; what a connection is to its heartbeats."""

    def __init__(self, sock: _socket.socket) -> None:
        self.bytes_received = 0
        self.stream = Stream(sock, None, self)
        self.outlet = self.stream.outlet
        self.lost: list[tuple[float, BaseException]] = []
        self.stream.start()

    def has_unread(self) -> bool:
        return self.stream.has_unread()

    def later(self, seconds: float, callback: Callable[[], None]) -> Any:
        return Timer(seconds, callback)

    def give_up(self, error: BaseException) -> None:
        self.lost.append((time.monotonic(), error))

    def _proto_data_received(self, data: bytes) -> None:
        self.bytes_received += len(data)

    def _proto_eof_received(self) -> bool:
        return False

    def _proto_connection_lost(self, error: BaseException | None) -> None:
        return


class Timer:
    def __init__(self, seconds: float, callback: Callable[[], None]) -> None:
        self.greenlet = gevent.spawn_later(seconds, callback)

    def cancel(self) -> None:
        if self.greenlet is not gevent.getcurrent():
            self.greenlet.kill(block=False)


Ends = tuple[Line, _socket.socket, HeartbeatChecker]


@contextlib.contextmanager
def line_and_peer() -> Iterator[Ends]:
    with tcp_pair() as (ours, peer):
        line = Line(ours)
        checker = HeartbeatChecker(line, BEAT)
        try:
            yield line, peer, checker
        finally:
            checker.stop()
            line.stream.abort()


@pytest.fixture
def ends() -> Iterator[Ends]:
    with line_and_peer() as ends:
        yield ends


def burn(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def test_an_idle_connection_beats_at_least_every_half_heartbeat(ends: Ends) -> None:
    _, peer, _ = ends

    def longest_gap() -> float:
        came = [time.monotonic()]
        while len(came) < 5:
            wait_until(lambda: received(peer) == HEARTBEAT, message="a heartbeat", interval=0.002)
            peer.send(b"I am here")
            came.append(time.monotonic())
        return max(after - before for before, after in itertools.pairwise(came))

    limit = BEAT / 2 + 0.1
    assert quickest(longest_gap, limit, tries=20) < limit


def test_a_connection_that_writes_anyway_sends_no_heartbeats(ends: Ends) -> None:
    line, peer, _ = ends

    def heartbeats() -> int:
        wire = b""
        for _ in range(40):
            line.outlet.write(b"x")
            peer.send(b"I am here")
            gevent.sleep(BEAT / 20)
            wire += received(peer)
        return wire.count(HEARTBEAT)

    assert quickest(heartbeats, 1, tries=20) == 0


def test_a_silent_peer_is_given_up_within_two_heartbeats() -> None:
    def seconds_of_patience() -> float:
        with line_and_peer() as (line, peer, _):
            begun = time.monotonic()
            peer.send(b"last words")
            wait_until(lambda: line.lost, message="the peer is given up")
        at, error = line.lost[0]
        assert isinstance(error, AMQPHeartbeatTimeout)
        assert "2 x 0.4 s" in str(error)
        assert at - begun > 1.5 * BEAT
        return at - begun

    limit = 2 * BEAT + 0.1
    assert quickest(seconds_of_patience, limit, tries=20) < limit


def test_a_peer_that_says_one_byte_a_heartbeat_is_kept(ends: Ends) -> None:
    line, peer, _ = ends
    for _ in range(5):
        peer.send(b"x")
        gevent.sleep(BEAT)
    assert line.lost == []


def test_what_came_during_a_stall_is_read_before_the_peer_is_judged(ends: Ends) -> None:
    line, peer, _ = ends
    gevent.sleep(1.6 * BEAT)  # one more silent look is one too many
    peer.send(b"I am here")
    burn(4 * BEAT)
    gevent.sleep(BEAT)
    assert line.lost == []
    assert line.bytes_received == len(b"I am here")


def test_a_peer_that_was_silent_during_a_stall_has_its_time_after_it(ends: Ends) -> None:
    line, _, _ = ends
    gevent.sleep(BEAT / 2)
    burn(4 * BEAT)
    gevent.sleep(BEAT / 2)
    assert line.lost == [], "a stall of ours is not silence of the peer"
    wait_until(lambda: line.lost)
