"""What the guard process costs: CPU of one turn of the hub that reads and answers, in µs.

python -m benchmarks.turns
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import _socket  # noqa: E402 - patch first
import resource  # noqa: E402
import socket  # noqa: E402
import statistics  # noqa: E402
import time  # noqa: E402

import gevent  # noqa: E402
from gevent.event import Event  # noqa: E402

from limehub.amqp.guard import Guard  # noqa: E402
from limehub.amqp.stream import Stream  # noqa: E402

TURNS = 15_000
ROUNDS = 7
QUESTION, ANSWER = b"q" * 200, b"a" * 21
_start_native = monkey.get_original("_thread", "start_new_thread")


class Answering:
    """The protocol above a stream: one answer a turn."""

    def __init__(self, sock: _socket.socket) -> None:
        self.stream = Stream(sock, None, self)
        self.left = TURNS
        self.done = Event()
        self.stream.start()

    def _proto_data_received(self, _data: bytes) -> None:
        self.left -= 1
        self.stream.write(ANSWER)
        if not self.left:
            self.done.set()

    def _proto_eof_received(self) -> bool:
        return False

    def _proto_connection_lost(self, error: BaseException | None) -> None:  # noqa: ARG002
        return


def ask(peer: _socket.socket) -> None:
    """Ask and await the answer, over and over; in a native thread, whose CPU is not counted."""
    for _ in range(TURNS):
        peer.send(QUESTION)
        peer.recv(len(ANSWER))


def microseconds(guard: Guard | None) -> float:
    """Measure one round. Returns the CPU of the hub's thread per turn."""
    listener = _socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.bind(("127.0.0.1", 0))
    listener.listen(1)
    peer = _socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    peer.connect(listener.getsockname())
    descriptor, _ = listener._accept()  # type: ignore[attr-defined] # not in the stub
    listener.close()
    sock = _socket.socket(fileno=descriptor)
    sock.setblocking(False)
    answering = Answering(sock)
    number = None
    if guard is not None:
        number, shared = guard.add(sock, 15.0)
        answering.stream.outlet.send_through(shared.send)
    before = resource.getrusage(resource.RUSAGE_THREAD)
    _start_native(ask, (peer,))
    answering.done.wait()
    after = resource.getrusage(resource.RUSAGE_THREAD)
    gevent.sleep(0.1)  # the last answer leaves
    answering.stream.abort()
    peer.close()
    if guard is not None and number is not None:
        guard.drop(number)
    spent = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return spent / TURNS * 1e6


def look(guard: Guard) -> None:
    """Do the sentinel's part."""
    while True:
        now = time.monotonic()
        guard.look(now, now)
        gevent.sleep(0.05)


def main() -> None:
    """Print the medians, measured in turns."""
    guard = Guard(max_stall=600.0)
    guard.start()
    looking = gevent.spawn(look, guard)
    rounds = [(microseconds(None), microseconds(guard)) for _ in range(ROUNDS)]
    looking.kill()
    guard.stop()
    plain, shared = (statistics.median(column) for column in zip(*rounds, strict=True))
    print(f"a turn: {plain:.1f} us, shared with the guard process {shared:.1f} us")


if __name__ == "__main__":
    main()
