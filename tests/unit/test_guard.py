"""The guard process beats while the interpreter is held, and never into a frame."""

from __future__ import annotations

import _socket
import contextlib
import fcntl
import gc
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from struct import pack_into, unpack_from
from typing import Any

import gevent
import psutil
import pytest
from gevent import monkey

from limehub.amqp import guard_program
from limehub.amqp.frames import HEARTBEAT
from limehub.amqp.guard import Guard
from limehub.amqp.outlet import Outlet
from limehub.amqp.shared_line import SharedLine
from tests.support.holding import hold
from tests.support.pair import received, tcp_pair
from tests.support.waiting import wait_until

FRAME = b"\x03\x00\x01\x00\x00\x00\x04abcd\xce"


def beats_during(
    seconds: float, peer: _socket.socket, spend: Callable[[float], object] = hold
) -> int:
    """How many heartbeats, and nothing else, come to *peer* while *spend* takes *seconds*."""
    received(peer)
    spend(seconds)
    wire = received(peer)
    beats = len(wire) // len(HEARTBEAT)
    assert wire == HEARTBEAT * beats
    return beats


class Post:
    """A guard over TCP pairs, and the sentinel's part of its work in a greenlet."""

    def __init__(self, **options: Any) -> None:
        self.guard = Guard(**({"max_stall": 60.0} | options))
        self.guard.start()
        self.open: list[Any] = []
        self.ticker = gevent.spawn(self.tick)
        self.turned_at: float | None = None

    def tick(self) -> None:
        while True:
            now = time.monotonic()
            self.guard.look(now, self.turned_at or now)
            gevent.sleep(0.03)

    def line(
        self, *, heartbeat: float = 0.6, small: bool = False
    ) -> tuple[int, SharedLine, _socket.socket, _socket.socket]:
        pair = tcp_pair(small=small)
        ours, peer = pair.__enter__()
        self.open.append(pair)
        number, shared = self.guard.add(ours, heartbeat)
        return number, shared, ours, peer

    def settle(self) -> None:
        """Wait until the guard has started and heard of all."""
        before = time.monotonic()
        wait_until(lambda: self.beat_at() > before, message="the guard is at work")

    def beat_at(self) -> float:
        (at,) = unpack_from("d", self.guard._memory, guard_program.GUARD_ALIVE)
        return float(at)

    def close(self) -> None:
        self.ticker.kill()
        for number in list(self.guard._lines):
            self.guard.drop(number)
        self.guard.stop()
        for pair in self.open:
            pair.__exit__(None, None, None)


@pytest.fixture
def post() -> Iterator[Callable[..., Post]]:
    posts: list[Post] = []

    def make(**options: Any) -> Post:
        posts.append(Post(**options))
        return posts[-1]

    yield make
    for each in posts:
        each.close()


MakePost = Callable[..., Post]


def test_it_beats_while_one_call_holds_the_interpreter(post: MakePost) -> None:
    here = post()
    _, _, _, peer = here.line(heartbeat=0.6)
    here.settle()
    wait_until(lambda: 4 <= beats_during(2.0, peer) <= 9, message="7 heartbeats or so")


def test_it_is_silent_while_python_runs(post: MakePost) -> None:
    here = post()
    _, _, _, peer = here.line(heartbeat=0.6)
    here.settle()
    wait_until(lambda: not beats_during(1.2, peer, gevent.sleep), message="no heartbeat")


def test_it_stops_at_max_stall_counted_from_the_last_turn_of_the_hub(post: MakePost) -> None:
    here = post(max_stall=1.0)
    _, _, _, peer = here.line(heartbeat=0.3)
    here.settle()
    here.turned_at = time.monotonic() - 2.0
    here.guard.look(time.monotonic(), here.turned_at)
    here.settle()
    assert beats_during(1.5, peer) == 0


def test_it_never_beats_into_a_frame_that_is_half_sent(post: MakePost) -> None:
    here = post()
    _, shared, ours, peer = here.line(heartbeat=0.3, small=True)
    outlet = Outlet(ours, None, lambda: None)
    outlet.send_through(shared.send)
    frames = FRAME * 20_000
    outlet.write(frames)
    assert not outlet.flush()
    here.settle()
    wire = received(peer)
    hold(1.5)  # now there is room, and the guard must not use it
    wire += received(peer)

    def sent() -> bool:
        nonlocal wire
        outlet.flush()
        wire += received(peer)
        return len(wire) >= len(frames)

    wait_until(sent, interval=0.001)
    assert wire.startswith(frames)
    wait_until(lambda: beats_during(1.5, peer), message="heartbeats, now that it may")


def test_a_heartbeat_that_it_sent_in_part_is_finished_by_the_server(post: MakePost) -> None:
    here = post()
    _, shared, _, peer = here.line(heartbeat=0)
    shared._send(HEARTBEAT[:3])
    shared._count_beaten(3)
    shared._memory[guard_program.OWED] = 5
    assert shared.send(FRAME) == len(FRAME)
    assert shared.send(FRAME) == len(FRAME)
    expected = HEARTBEAT + FRAME + FRAME
    assert received(peer, len(expected)) == expected


@pytest.mark.parametrize("sent", range(9))
def test_the_kernel_tells_what_a_guard_sent_that_died_while_it_did(
    post: MakePost, sent: int
) -> None:
    here = post()
    _, shared, _, peer = here.line(heartbeat=0)
    shared.send(FRAME)
    shared._memory[guard_program.OWED] = guard_program.BEATING | len(HEARTBEAT)
    if sent:
        shared._send(HEARTBEAT[:sent])
    shared.send(FRAME)
    assert shared._memory[guard_program.OWED] == 0
    expected = FRAME + (HEARTBEAT if sent else b"") + FRAME
    assert received(peer, len(expected)) == expected


def test_it_beats_though_a_thread_sleeps_with_the_lock(post: MakePost) -> None:
    """As it does when another thread takes the interpreter during the send."""
    here = post()
    _, shared, _, peer = here.line(heartbeat=0.3)
    shared.send(FRAME)
    here.settle()
    assert FRAME in received(peer, len(FRAME))
    fcntl.flock(shared._file, fcntl.LOCK_EX)
    wait_until(lambda: beats_during(2.0, peer) >= 3, message="three heartbeats")
    fcntl.flock(shared._file, fcntl.LOCK_UN)
    shared.send(FRAME)
    assert 3 in frames_of(received(peer, len(FRAME)))


def test_it_does_not_beat_when_a_thread_sleeps_with_a_frame_half_sent(post: MakePost) -> None:
    here = post()
    _, shared, _, peer = here.line(heartbeat=0.3)
    here.settle()
    fcntl.flock(shared._file, fcntl.LOCK_EX)
    pack_into("QQ", shared._memory, guard_program.EDGES, 0, len(FRAME))
    shared._send(FRAME[:5])  # all that it noted is where the frame begins and ends
    hold(1.5)
    fcntl.flock(shared._file, fcntl.LOCK_UN)
    assert received(peer, 5).endswith(FRAME[:5]), "it beat into the frame"


def test_a_guard_that_is_killed_is_replaced_and_knows_all_connections(
    post: MakePost, caplog: pytest.LogCaptureFixture
) -> None:
    here = post()
    _, _, _, peer = here.line(heartbeat=0.3)
    here.settle()
    first = here.guard.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: here.guard.pid not in (None, first), message="another guard")
    here.settle()
    wait_until(lambda: beats_during(1.2, peer) >= 2, message="two heartbeats")
    assert here.guard.starts == 2
    assert "another one" in caplog.text
    assert not psutil.pid_exists(first)


def test_a_guard_that_has_ended_is_not_killed_by_a_number_that_is_anothers_now() -> None:
    guard = Guard(max_stall=60.0)
    guard.start()
    child = guard._child
    assert child is not None
    handle = child.handle
    guard.stop()
    wait_until(lambda: not Path(f"/proc/self/fd/{handle}").exists())  # gevent closes in a while
    with subprocess.Popen(["sleep", "60"]) as other:
        own = os.pidfd_open(other.pid)
        os.dup2(own, handle)
        child.kill()
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(0.2)
        other.kill()
    for descriptor in {own, handle}:
        os.close(descriptor)


def test_a_guard_that_is_killed_with_the_lock_frees_it() -> None:
    with tcp_pair() as (ours, peer):
        stuck: list[bool] = []
        shared = SharedLine(ours, lambda: stuck.append(True))
        holder = lock_holder(shared)
        holder.kill()
        holder.wait()
        shared.send(FRAME)
        assert not stuck
        assert received(peer, len(FRAME)) == FRAME
        shared.close()


def test_a_guard_that_is_stopped_with_the_lock_is_killed_and_delays_little() -> None:
    with tcp_pair() as (ours, peer):
        stuck: list[subprocess.Popen[bytes]] = []
        shared = SharedLine(ours, lambda: stuck[0].kill())
        stuck.append(lock_holder(shared))
        stuck[0].send_signal(signal.SIGSTOP)
        begun = time.monotonic()
        shared.send(FRAME)  # gives up after two seconds
        assert time.monotonic() - begun > 0.05
        assert received(peer, len(FRAME)) == FRAME
        stuck[0].wait()
        shared.close()


def lock_holder(shared: SharedLine) -> subprocess.Popen[bytes]:
    """Start a process that holds the other side's lock."""
    lock = shared.open_lock()
    os.set_inheritable(lock, True)
    code = (
        f"import fcntl, signal; fcntl.flock({lock}, fcntl.LOCK_EX);"
        "print('held', flush=True); signal.pause()"
    )
    child = subprocess.Popen([sys.executable, "-c", code], pass_fds=[lock], stdout=subprocess.PIPE)
    os.close(lock)
    assert child.stdout is not None
    assert child.stdout.readline() == b"held\n"
    child.stdout.close()
    return child


def test_a_guard_that_is_stopped_is_replaced(post: MakePost) -> None:
    here = post()
    here.line()
    here.settle()
    first = here.guard.pid
    assert first is not None
    os.kill(first, signal.SIGSTOP)
    wait_until(lambda: here.guard.pid not in (None, first), message="another guard")
    here.settle()


def test_a_connection_is_dropped_before_it_is_replaced(
    post: MakePost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("limehub.amqp.guard.DROP_SECONDS", 30.0)
    here = post()
    number, _, ours, _ = here.line()
    here.settle()
    ours.shutdown(_socket.SHUT_RDWR)
    here.guard.drop(number)
    here.guard.wait_dropped()
    assert shared_files(here.guard.pid) == 1, "it holds more than its control socket"


def shared_files(pid: int | None) -> int:
    """How many sockets and locks the guard *pid* holds."""
    links = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()]
    return sum("socket:" in each or "limehub-connection" in each for each in links)


def test_connections_that_come_and_go_leave_nothing_behind(
    post: MakePost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("limehub.amqp.guard.DROP_SECONDS", 30.0)  # else a slow one is replaced
    here = post()
    here.settle()

    def cycle() -> None:
        number, shared, ours, _ = here.line()
        shared.send(FRAME)
        ours.shutdown(_socket.SHUT_RDWR)
        here.guard.drop(number)
        here.guard.wait_dropped()
        here.open.pop().__exit__(None, None, None)

    cycle()
    gc.collect()
    me = psutil.Process()
    files, threads, pid = me.num_fds(), me.num_threads(), here.guard.pid
    for _ in range(200):
        cycle()
    gc.collect()
    assert me.num_fds() <= files
    assert me.num_threads() <= threads
    assert (here.guard.pid, shared_files(pid)) == (pid, 1)


def test_a_guard_that_does_not_let_go_is_replaced_before_the_next_connection(
    post: MakePost,
) -> None:
    here = post()
    number, _, ours, _ = here.line()
    here.settle()
    first = here.guard.pid
    assert first is not None
    os.kill(first, signal.SIGSTOP)
    ours.shutdown(_socket.SHUT_RDWR)
    here.guard.drop(number)
    here.guard.wait_dropped()
    assert here.guard.pid != first
    wait_until(lambda: not psutil.pid_exists(first))


def test_it_is_small(post: MakePost) -> None:
    here = post()
    for _ in range(4):
        here.line()
    here.settle()
    assert psutil.Process(here.guard.pid).memory_info().rss <= 12 * 1024 * 1024


def test_it_ends_with_the_server(tmp_path: Path) -> None:
    """Killed with -9, in a call that holds the interpreter."""
    script = tmp_path / "server.py"
    script.write_text(
        "from gevent import monkey; monkey.patch_all()\n"
        "import ctypes\n"
        "from limehub.amqp.guard import Guard\n"
        "guard = Guard(max_stall=60.0); guard.start(); print(guard.pid, flush=True)\n"
        "ctypes.PyDLL(None).usleep(60_000_000)\n"
    )
    server = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE)
    assert server.stdout is not None
    guard = psutil.Process(int(server.stdout.readline()))
    server.stdout.close()
    wait_until(lambda: guard.memory_info().rss > 5_000_000 and guard.num_fds() > 5)
    server.kill()
    server.wait()
    _native_wait(lambda: not guard.is_running() or guard.status() == psutil.STATUS_ZOMBIE)


_sleep = monkey.get_original("time", "sleep")


def _native_wait(predicate: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not predicate():
        assert time.monotonic() < deadline
        _sleep(0.001)


def test_whatever_happens_to_the_guard_the_peer_reads_whole_frames(post: MakePost) -> None:
    """Both write all the time into a socket that is nearly always full; guards die at random."""
    here = post()
    here.ticker.kill()  # from now on the guard takes the interpreter for held
    chance = random.Random(7)
    _, shared, ours, peer = here.line(heartbeat=0.03, small=True)
    outlet = Outlet(ours, None, lambda: None)
    outlet.send_through(shared.send)
    wire = bytearray()
    written = 0

    def fill() -> None:
        nonlocal written
        for _ in range(chance.randrange(60)):
            frames = [body_frame(chance.randrange(3_000)) for _ in range(20)]
            written += len(frames)
            outlet.write(b"".join(frames))
            outlet.flush()
            with contextlib.suppress(BlockingIOError):
                wire.extend(peer.recv(chance.randrange(1, 60_000)))
            gevent.sleep(0.002)

    def drained() -> bool:
        done = outlet.flush()
        wire.extend(received(peer))
        return done

    for _ in range(12):
        fill()
        assert here.guard.pid is not None
        os.kill(here.guard.pid, signal.SIGKILL)
        here.guard._failures = 0  # the next one without a pause
        wait_until(drained, interval=0.002)
        outlet.write(body_frame(0))  # finishes what the dead one may have begun
        written += 1
        wait_until(lambda: drained() and wire.endswith(HEARTBEAT), message="the next one beats")
    kinds = frames_of(bytes(wire))
    assert kinds.count(3) == written
    assert here.guard.starts == 13


def body_frame(size: int) -> bytes:
    return b"\x03\x00\x01" + size.to_bytes(4, "big") + b"x" * size + b"\xce"


def frames_of(wire: bytes) -> list[int]:
    """The types of the frames of *wire*; fails on a byte that is out of place."""
    kinds, at = [], 0
    while at < len(wire):
        size = int.from_bytes(wire[at + 3 : at + 7], "big")
        assert wire[at] in (3, 8), f"no frame at {at} of {len(wire)}"
        assert wire[at + 7 + size] == 0xCE, f"no end of the frame at {at}"
        kinds.append(wire[at])
        at += 8 + size
    return kinds
