"""A TCP proxy that misbehaves on demand, for clients of this process or of another one."""

from __future__ import annotations

import socket
import struct
from typing import Literal, Self
from urllib.parse import urlsplit, urlunsplit

import gevent
from attrs import define, field
from gevent.server import StreamServer

from tests.support.ports import hold_port

__all__ = ["BASIC_ACK", "BASIC_DELIVER", "BASIC_PUBLISH", "Proxy"]

Direction = Literal["up", "down"]  # up: from the client to the broker

# Class and method of AMQP 0-9-1 method frames, as patterns for `cut_on`.
BASIC_PUBLISH = b"\x00\x3c\x00\x28"
BASIC_DELIVER = b"\x00\x3c\x00\x3c"
BASIC_ACK = b"\x00\x3c\x00\x50"  # up: a consumer's ack; down: a publisher's confirm

CHUNK = 65536
RESET = struct.pack("ii", 1, 0)  # SO_LINGER with 0 s: close sends RST instead of FIN


@define(eq=False)
class Cut:
    """Reset the connection when *pattern* passes in *direction*, *times* times."""

    pattern: bytes
    direction: Direction
    forward: bool
    times: int


@define(eq=False)
class Link:
    """One proxied connection."""

    client: socket.socket
    broker: socket.socket
    tails: dict[Direction, bytes] = field(factory=lambda: {"up": b"", "down": b""})

    def ends(self, direction: Direction) -> tuple[socket.socket, socket.socket]:
        """(source, sink) of *direction*."""
        return (self.client, self.broker) if direction == "up" else (self.broker, self.client)

    def reset(self) -> None:
        """Send RST to both ends."""
        for end in (self.client, self.broker):
            _reset(end)


class Proxy:
    """Listens on a free port of 127.0.0.1 and forwards to *target*; `with Proxy(...) as proxy`.

    Faults, changeable while connections are open: `latency` (seconds before each chunk), `slice`
    (bytes a piece), `held` (directions in which all waits), `blackhole` (directions that swallow
    everything and hide the end of the connection). Counts: `accepted` connections ever, `open` now,
    `passed` bytes by direction.
    """

    def __init__(self, target: str) -> None:
        """*target*: an AMQP URL; its host and port are what is proxied."""
        parts = urlsplit(target)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 5672)
        self._url = parts
        self._server: StreamServer | None = None
        self._links: set[Link] = set()
        self._cuts: list[Cut] = []
        self._resets = 0
        self._place = hold_port()
        self.port = int(self._place.getsockname()[1])
        self.latency = 0.0
        self.slice: int | None = None
        self.held: frozenset[Direction] = frozenset()
        self.blackhole: frozenset[Direction] = frozenset()
        self.accepted = 0
        self.cuts = 0
        self.passed: dict[Direction, int] = {"up": 0, "down": 0}

    def __enter__(self) -> Self:
        self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        self.refuse()
        self.reset()
        self._place.close()

    @property
    def url(self) -> str:
        """The target's URL, through this proxy."""
        user = self._url.netloc.rpartition("@")[0]
        netloc = f"{user}@127.0.0.1:{self.port}" if user else f"127.0.0.1:{self.port}"
        return urlunsplit(self._url._replace(netloc=netloc))

    @property
    def open(self) -> int:
        """How many connections are open."""
        return len(self._links)

    def listen(self) -> None:
        """Accept connections (again), always on the same port."""
        if self._server is None:
            self._server = StreamServer(("127.0.0.1", self.port), self._serve)
            self._server.start()

    def refuse(self) -> None:
        """Stop listening: new connections are refused, open ones stay."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def reset(self) -> None:
        """End all open connections with RST, those that are being opened, too."""
        self._resets += 1
        for link in list(self._links):
            self._drop(link)

    def hold(self, *directions: Direction) -> None:
        """Keep what comes in *directions* back, none: both, until `pass_all`."""
        self.held = frozenset(directions or ("up", "down"))

    def swallow(self, *directions: Direction) -> None:
        """Become a black hole for *directions*, none: both."""
        self.blackhole = frozenset(directions or ("up", "down"))

    def pass_all(self) -> None:
        """End every fault. Bytes that were swallowed stay lost: reset such connections."""
        self.latency, self.slice, self.held, self.blackhole = 0.0, None, frozenset(), frozenset()
        self._cuts.clear()

    def cut_on(
        self, pattern: bytes, direction: Direction = "up", *, forward: bool = False, times: int = 1
    ) -> None:
        """Reset the next connection on which *pattern* passes. *forward*: let it pass first."""
        self._cuts.append(Cut(pattern, direction, forward, times))

    def _serve(self, client: socket.socket, _address: object) -> None:
        self.accepted += 1
        resets = self._resets
        try:
            broker = socket.create_connection(self._target, timeout=5)
        except OSError:
            _reset(client)
            return
        broker.settimeout(None)
        link = Link(client, broker)
        if self._resets != resets:
            link.reset()
            return
        self._links.add(link)
        up = gevent.spawn(self._pump, link, "up")
        self._pump(link, "down")
        up.join()
        self._links.discard(link)
        client.close()
        broker.close()

    def _pump(self, link: Link, direction: Direction) -> None:
        source, sink = link.ends(direction)
        try:
            while chunk := source.recv(CHUNK):
                if direction not in self.blackhole and not self._pass(link, direction, chunk):
                    return
            while direction in self.blackhole | self.held and link in self._links:
                gevent.sleep(0.02)  # a black hole hides the FIN too
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            self._drop(link)

    def _pass(self, link: Link, direction: Direction, chunk: bytes) -> bool:
        """Forward *chunk*, or what of it comes before a cut; False when the link was cut."""
        source, sink = link.ends(direction)
        before, cut = self._up_to_cut(link, direction, chunk)
        for piece in self._pieces(before):
            if self.latency:
                gevent.sleep(self.latency)
            while direction in self.held and link in self._links:
                gevent.sleep(0.005)
            sink.sendall(piece)
            self.passed[direction] += len(piece)
        if cut:
            self.cuts += 1
            self._sever(link, source, sink)
        return not cut

    def _up_to_cut(self, link: Link, direction: Direction, chunk: bytes) -> tuple[bytes, bool]:
        tail = link.tails[direction]
        seen = tail + chunk
        for cut in self._cuts:
            at = seen.find(cut.pattern) if cut.direction == direction else -1
            if at >= 0:
                cut.times -= 1
                self._cuts = [each for each in self._cuts if each.times > 0]
                return (chunk if cut.forward else chunk[: max(at - len(tail), 0)]), True
        longest = max((len(cut.pattern) for cut in self._cuts), default=1)
        link.tails[direction] = seen[max(len(seen) - longest + 1, 0) :]
        return chunk, False

    def _pieces(self, chunk: bytes) -> list[bytes]:
        size = self.slice or len(chunk) or 1
        return [chunk[at : at + size] for at in range(0, len(chunk), size)]

    def _sever(self, link: Link, source: socket.socket, sink: socket.socket) -> None:
        # What was forwarded leaves with a FIN, since an RST could overtake it; the sender sees RST.
        self._links.discard(link)
        _reset(source)
        sink.close()

    def _drop(self, link: Link) -> None:
        if link in self._links:
            self._links.discard(link)
            link.reset()


def _reset(end: socket.socket) -> None:
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    end.close()
