"""The sentinel keeps connections while the hub is busy. The hub here is the test's own."""

from __future__ import annotations

import _socket
import itertools
import logging
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import gevent
import pytest
from gevent import monkey

from limehub.amqp.frames import HEARTBEAT
from limehub.amqp.sentinel import Line, Sentinel, _Watch
from limehub.amqp.stalls import Culprit
from limehub.amqp.stream import Stream
from limehub.workers.culprit import culprit_of
from tests.support.holding import hold
from tests.support.pair import received, tcp_pair
from tests.support.waiting import quickest, wait_until

pytestmark = pytest.mark.alone  # a stall is what other processes cause, too
_native_sleep = monkey.get_original("time", "sleep")
FRAME = b"\x01\x00\x01\x00\x00\x00\x04abcd\xce"


def burn(seconds: float, until: Callable[[], Any] = lambda: False) -> float:
    """Keep the hub busy in Python; returns for how long."""
    begun = time.monotonic()
    while time.monotonic() - begun < seconds and not until():
        sum(range(200))
    return time.monotonic() - begun


def burn_until(event: Callable[[], Any]) -> float:
    """Keep the hub busy until *event*() is true, for half a minute at most."""
    return burn(30.0, event)


def burn_until_received(peer: _socket.socket, count: int) -> bytes:
    """Keep the hub busy until *count* bytes have come. Returns them and what came with them."""
    wire = bytearray()

    def all_came() -> bool:
        wire.extend(received(peer))
        return len(wire) >= count

    burn_until(all_came)
    return bytes(wire)


class Lines(logging.Handler):
    """Hears without a lock, as limehub's own log does."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def createLock(self) -> None:
        self.lock = None

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def messages(self) -> list[str]:
        return [each.getMessage() for each in self.records]


@pytest.fixture
def at_once() -> Iterator[Lines]:
    """What the sentinel says while the hub does not turn."""
    lines, log = Lines(), logging.getLogger("limehub.amqp.sentinel")
    log.addHandler(lines)
    yield lines
    log.removeHandler(lines)


class Deaf:
    """The protocol above a stream that is only written to."""

    def _proto_data_received(self, data: bytes) -> None:
        return

    def _proto_eof_received(self) -> bool:
        return False

    def _proto_connection_lost(self, error: BaseException | None) -> None:
        return


class Watched:
    """A sentinel over one stream; *heard*: what `on_culprit` was told."""

    def __init__(
        self, sock: _socket.socket, *, heartbeat: float, max_stall: float, culprit_of: Any = None
    ) -> None:
        self.heard: list[str | None] = []
        self.ticks: list[tuple[float, float]] = []
        self.when_looking: Callable[[], None] = lambda: None
        self.stream = Stream(sock, None, Deaf())
        self.outlet = self.stream.outlet
        self.sentinel = Sentinel(
            max_stall=max_stall,
            culprit_of=culprit_of or self.culprit_of,
            on_culprit=self.heard.append,
            on_tick=self.tick,
        )
        self.line = Line(
            name="test",
            heartbeat=heartbeat,
            outlet=self.outlet,
            flush_from_afar=self.stream.flush_from_afar,
        )
        self.sentinel.add(self.line)
        self.stream.start()
        self.sentinel.start()

    def tick(self, now: float, turned_at: float) -> None:
        self.ticks.append((now, turned_at))
        self.when_looking()

    @staticmethod
    def culprit_of(frame: FrameType) -> Culprit:
        ours = frame.f_code.co_filename == __file__
        name = frame.f_code.co_name
        return Culprit(name=name, where="here:1", stack="a stack", of_a_plugin=ours)

    def close(self) -> None:
        self.sentinel.stop()
        self.stream.abort()
        gevent.sleep(0.01)  # lines that waited for the hub are told now, not in the next test

    def settle(self) -> None:
        """Wait until it has seen the hub turn."""
        before = len(self.ticks)  # one look may be on its way, one begins after it and is done
        wait_until(lambda: len(self.ticks) > before + 2, interval=0.005)


@pytest.fixture
def keep(
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[..., tuple[Watched, _socket.socket]]]:
    monkeypatch.setattr("limehub.amqp.sentinel.LOOK_SECONDS", 30.0)  # on a busy machine, too
    closing: list[Callable[[], Any]] = []

    def make(*, small: bool = False, **options: Any) -> tuple[Watched, _socket.socket]:
        pair = tcp_pair(small=small)
        ours, peer = pair.__enter__()
        watched = Watched(ours, **({"heartbeat": 0.6, "max_stall": 60.0} | options))
        closing.extend((lambda: pair.__exit__(None, None, None), watched.close))
        watched.settle()
        return watched, peer

    yield make
    for close in reversed(closing):
        close()


Keep = Callable[..., tuple[Watched, _socket.socket]]


def test_what_waits_is_on_the_wire_within_100_ms_of_a_stall(keep: Keep) -> None:
    watched, peer = keep(heartbeat=60.0)

    def delay() -> float:
        watched.settle()
        received(peer)
        watched.outlet.write(FRAME)
        return burn_until(lambda: received(peer))

    assert quickest(delay, 0.1, tries=10) < 0.1


def test_an_idle_connection_beats_three_times_a_heartbeat_during_a_stall(keep: Keep) -> None:
    watched, peer = keep(heartbeat=0.6)

    def seconds_of_six_beats() -> float:
        watched.settle()
        received(peer)
        begun = time.monotonic()
        wire = burn_until_received(peer, 6 * len(HEARTBEAT))
        assert watched.sentinel.book.current is not None
        assert wire == HEARTBEAT * (len(wire) // len(HEARTBEAT))
        took = time.monotonic() - begun
        assert len(wire) // len(HEARTBEAT) <= took / 0.2 + 2
        return took

    assert quickest(seconds_of_six_beats, 1.7, tries=5) < 1.7


def test_a_connection_without_heartbeats_is_flushed_but_never_beaten(keep: Keep) -> None:
    watched, peer = keep(heartbeat=0)
    watched.outlet.write(FRAME)
    assert burn_until_received(peer, len(FRAME)) == FRAME
    burn(1.0)
    assert received(peer) == b""


def test_an_idle_hub_is_no_stall(keep: Keep) -> None:
    watched, peer = keep(heartbeat=0.6)
    gevent.sleep(1.2)
    assert received(peer) == b""
    assert watched.sentinel.book.status()["total"] == 0


def test_a_frame_half_sent_is_finished_before_a_heartbeat(keep: Keep) -> None:
    watched, peer = keep(small=True, heartbeat=0.6)
    frames = FRAME * 20_000
    watched.outlet.write(frames)
    gevent.sleep(0)
    assert watched.outlet.size > 0, "the socket took it all; nothing is tested"
    wire = burn_until_received(peer, len(frames) + len(HEARTBEAT))
    assert wire[: len(frames)] == frames
    assert set(wire[len(frames) :]) == set(HEARTBEAT)


def test_the_hub_sends_the_rest_when_the_socket_took_no_more_during_a_stall(keep: Keep) -> None:
    watched, peer = keep(small=True, heartbeat=0.3)
    frames = FRAME * 20_000
    watched.outlet.write(frames)
    burn(0.8)  # nobody reads: the sentinel leaves it
    wire = bytearray()

    def all_came() -> bool:
        wire.extend(received(peer))
        return len(wire) >= len(frames)

    wait_until(all_came, message="the rest", interval=0.001)
    assert bytes(wire[: len(frames)]) == frames


def test_a_stall_is_named_twice_in_the_log_and_once_when_it_is_over(
    keep: Keep, at_once: Lines
) -> None:
    begun = time.monotonic()
    watched, _ = keep(heartbeat=4.0)
    at_once.records.clear()
    watched.heard.clear()
    burn_until(lambda: len(watched.heard) == 2)
    watched.settle()
    elapsed = time.monotonic() - begun
    first, second, last = (each.__dict__ for each in at_once.records)
    assert [each.levelno for each in at_once.records] == [logging.WARNING] * 3
    assert {first["handler"], second["handler"]} <= {"burn", "<lambda>"}
    assert first["stack"] == "a stack"
    assert 0.5 <= first["seconds"] < 2.0 <= second["seconds"] <= last["seconds"] <= elapsed
    assert last["handler"] == second["handler"]


def test_the_book_and_the_health_listener_hear_of_a_stall(keep: Keep) -> None:
    begun = time.monotonic()
    watched, _ = keep(heartbeat=60.0)
    for heard in (1, 3):  # the culprit, None, the next one
        burn_until(lambda heard=heard: len(watched.heard) == heard)
        current = watched.sentinel.book.status()["current"]
        assert current["where"] == "here:1"
        assert 0.5 <= current["seconds"] <= time.monotonic() - begun
        watched.settle()
    told = watched.sentinel.book.status()
    assert told["current"] is None
    assert told["total"] == len(told["last"]) == 2
    assert 0.5 <= told["longest"] <= told["seconds"] - 0.49  # each is rounded
    assert told["seconds"] <= time.monotonic() - begun
    assert sum(each["count"] for each in told["by_culprit"].values()) == 2
    one, over, two, over_again = watched.heard
    assert {one, two} <= {"burn", "<lambda>"}
    assert (over, over_again) == (None, None)


def test_one_call_that_holds_the_interpreter_is_named_afterwards(keep: Keep) -> None:
    begun = time.monotonic()
    watched, _ = keep(heartbeat=60.0)
    gevent.sleep(0)
    hold(0.9)
    watched.settle()
    (stall,) = watched.sentinel.book.status()["last"]
    assert stall["culprit"] in ("hold", "<module>") or "hold" in stall["culprit"]
    assert 0.85 <= stall["seconds"] <= time.monotonic() - begun


def test_a_call_that_begins_while_the_sentinel_looks_is_named_too(keep: Keep) -> None:
    """It has read the clock before the call and has its next turn after it."""
    watched, _ = keep(heartbeat=60.0)
    watched.settle()
    asleep = len(watched.ticks) + 1
    watched.when_looking = lambda: _native_sleep(0.2)
    while len(watched.ticks) < asleep:  # not by waiting: the hub is at work when it looks
        sum(range(200))
    watched.when_looking = lambda: None
    hold(0.9)
    watched.settle()
    (stall,) = watched.sentinel.book.status()["last"]
    assert stall["seconds"] >= 0.85


def test_whoever_held_the_interpreter_lets_it_look_before_the_hub_turns(keep: Keep) -> None:
    watched, _ = keep(heartbeat=60.0)
    hold(0.9)
    watched.sentinel.let_look()
    (current,) = [watched.sentinel.book.current]
    assert current is not None
    assert current.seconds >= 0.85


def test_a_stall_that_follows_before_it_looks_again_is_another_one(keep: Keep) -> None:
    watched, _ = keep(heartbeat=60.0)
    for _ in range(2):
        hold(0.9)
        watched.sentinel.let_look()
        gevent.sleep(0.001)  # the hub turns, and the next begins
    watched.settle()
    one, two = watched.sentinel.book.status()["last"]
    assert one["seconds"] >= 0.85 <= two["seconds"]
    assert watched.heard.count(None) == 2


def test_nobody_waits_for_a_sentinel_that_could_look(keep: Keep) -> None:
    watched, _ = keep(heartbeat=60.0)
    burn(0.6)

    def looks_meanwhile() -> float:
        looks = len(watched.ticks)
        for _ in range(1000):
            watched.sentinel.let_look()
        return len(watched.ticks) - looks

    assert quickest(looks_meanwhile, 2) < 2


def test_after_max_stall_it_beats_no_more_until_the_hub_turns(keep: Keep, at_once: Lines) -> None:
    watched, peer = keep(heartbeat=0.3, max_stall=1.5)

    def errors() -> list[float]:
        return [each.__dict__["max_stall"] for each in at_once.records if each.levelname == "ERROR"]

    assert burn_until_received(peer, len(HEARTBEAT)) != b""
    burn_until(errors)
    received(peer)
    burn(0.6)
    assert received(peer) == b"", "it still beats"
    assert errors() == [1.5]
    watched.settle()
    received(peer)
    assert burn_until_received(peer, len(HEARTBEAT)) != b"", "the next stall has its own time"


def test_a_culprit_that_cannot_be_told_ends_nothing(
    keep: Keep, caplog: pytest.LogCaptureFixture
) -> None:
    def puzzled(frame: FrameType) -> Culprit:
        raise RuntimeError("no idea")

    watched, peer = keep(heartbeat=0.6, culprit_of=puzzled)
    burn_until(lambda: watched.heard)
    received(peer)
    assert burn_until_received(peer, 3 * len(HEARTBEAT)) != b""
    watched.settle()
    assert watched.sentinel.book.status()["last"][0]["culprit"] == "unknown"
    wait_until(lambda: "no idea" in caplog.text)


def test_a_stall_within_a_log_handler_is_logged_where_nobody_waits_and_stops_no_beats(
    keep: Keep, at_once: Lines, caplog: pytest.LogCaptureFixture
) -> None:
    _, peer = keep(heartbeat=0.6)
    caplog.handler.acquire()
    caplog.clear()
    at_once.records.clear()
    try:
        burn_until(lambda: at_once.records)
        received(peer)
        assert burn_until_received(peer, 3 * len(HEARTBEAT)) != b""
        assert caplog.records == []
    finally:
        caplog.handler.release()
    wait_until(lambda: len(caplog.records) == 2)  # named, and over
    assert [each.getMessage() for each in caplog.records] == at_once.messages


def test_a_line_that_is_removed_is_left_alone(keep: Keep) -> None:
    watched, peer = keep(heartbeat=0.3)
    watched.sentinel.remove(watched.line)
    watched.settle()
    received(peer)
    burn(0.6)
    assert received(peer) == b""


def test_a_peer_that_is_gone_does_not_end_the_sentinel(keep: Keep) -> None:
    watched, peer = keep(heartbeat=0.3)
    peer.close()
    burn_until(lambda: watched.heard)
    looks = len(watched.ticks)
    watched.settle()
    assert len(watched.ticks) > looks
    assert watched.heard[-1] is None, "it has seen the end of the stall"


def test_the_thread_ends_with_stop(keep: Keep) -> None:
    watched, _ = keep()
    watched.sentinel.stop()
    count = len(watched.ticks)
    gevent.sleep(0.15)
    assert len(watched.ticks) == count


def test_a_deep_stack_is_named_too(keep: Keep) -> None:
    watched, _ = keep(heartbeat=60.0, culprit_of=culprit_of)
    limit = sys.getrecursionlimit()

    def dive(depth: int) -> None:
        if depth:
            dive(depth - 1)
        else:
            burn_until(lambda: watched.heard)

    sys.setrecursionlimit(20_000)
    try:
        dive(9_000)
    finally:
        sys.setrecursionlimit(limit)
    watched.settle()
    stall = watched.sentinel.book.status()["last"][-1]  # the first: to name it may take a while
    assert "burn" in stall["stack"]


def test_a_thread_that_holds_the_interpreter_is_a_suspect(
    keep: Keep, caplog: pytest.LogCaptureFixture
) -> None:
    times = times_of_a_second()
    begun = time.monotonic()
    watched, _ = keep(heartbeat=60.0)

    def compute() -> float:
        began = time.monotonic()
        any(itertools.repeat(0, times))
        took = time.monotonic() - began
        looks = len(watched.ticks)
        while len(watched.ticks) < looks + 3:  # it is still at work when the sentinel looks
            _native_sleep(0.01)
        return took

    took = gevent.get_hub().threadpool.spawn(compute).get()
    watched.settle()
    assert took > 0.6, "the call was too short; nothing is tested"
    (stall,) = watched.sentinel.book.status()["last"]
    assert stall["culprit"] == "compute"
    assert 0.6 < stall["seconds"] <= time.monotonic() - begun
    (warning,) = wait_until(
        lambda: [each for each in caplog.records if "let no Python run" in each.getMessage()]
    )
    assert warning.__dict__["suspects"] == ["compute (here:1)"]


def test_a_second_of_computing_tells_from_a_stopped_process_however_long_it_took() -> None:
    watch = _Watch(gevent.get_hub().loop, ident=0)
    now = watch.looked_at
    watch.computed -= 1.0
    watch.look(now + 60.0)
    assert watch.held_for == 60.0
    watch.look(now + 120.0)
    assert watch.held_for == 0.0


def times_of_a_second() -> int:
    """How often `any` asks in a second in which nothing comes between."""

    def seconds() -> float:
        begun = time.thread_time()
        any(itertools.repeat(0, 2_000_000))
        return time.thread_time() - begun

    return int(2_000_000 / min(seconds() for _ in range(10)))
