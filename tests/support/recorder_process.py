"""The process of `tests.support.recorder`: a TCP proxy that writes down every AMQP frame it passes.

`python -m tests.support.recorder_process OPTIONS`, with OPTIONS in JSON. It prints `{"port": N}`,
then answers each command on standard input with a line, and ends with its standard input.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import ssl
import struct
import sys
import time
from typing import Any, BinaryIO

import attrs
from attrs import define, field

from tests.support.frames import FrameScanner

CHUNK = 65536
SMALL = 4096  # bytes of receive buffer: the peer's own buffer fills soon after a pause
RESET = struct.pack("ii", 1, 0)


@define(eq=False)
class Journal:
    """Where events go, one JSON line each, whole in one write."""

    descriptor: int

    def note(self, link: int, direction: str, *events: dict[str, Any]) -> None:
        """Write *events*, with the time of this moment (seconds, monotonic)."""
        common = {"at": time.monotonic(), "link": link, "direction": direction}
        lines = [json.dumps(common | event) + "\n" for event in events]
        os.write(self.descriptor, "".join(lines).encode())


@define(eq=False)
class Side:
    """One end of a link."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def reset(self) -> None:
        """End it with RST."""
        sock = self.writer.get_extra_info("socket")
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.writer.transport.abort()


@define(eq=False)
class RecorderProcess:
    """Accepts, forwards to *target* and notes; obeys commands."""

    target: tuple[str, int]
    journal: Journal
    links: dict[int, tuple[Side, Side]] = field(factory=dict)
    count: int = 0
    gates: dict[str, asyncio.Event] = field(factory=dict)

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection to its end."""
        self.count += 1
        number = self.count
        client = Side(reader, writer)
        try:
            broker = Side(*await asyncio.open_connection(*self.target))
        except OSError:
            client.reset()
            return
        self.links[number] = (client, broker)
        self.journal.note(number, "up", {"what": "begin"})
        up = asyncio.create_task(self.pump(number, "up", client, broker))
        down = asyncio.create_task(self.pump(number, "down", broker, client))
        await asyncio.gather(up, down)
        self.links.pop(number, None)

    async def pump(self, number: int, direction: str, source: Side, sink: Side) -> None:
        """Pass bytes on until *source* ends; then *sink* is closed when it has all of them."""
        scanner, error = FrameScanner(), None
        try:
            while data := await source.reader.read(CHUNK):
                await self.gates[direction].wait()
                frames = [attrs.asdict(frame) for frame in scanner.feed(data)]
                self.journal.note(number, direction, *frames)
                sink.writer.write(data)
                await sink.writer.drain()
        except (OSError, ssl.SSLError) as reason:
            error = str(reason)
        self.journal.note(number, direction, {"what": "end", "error": error, "size": scanner.rest})
        sink.writer.close()

    def obey(self, command: dict[str, Any]) -> dict[str, Any]:
        """Do what *command* says; returns the answer."""
        match command["do"]:
            case "pause":
                self.gates[command["direction"]].clear()
            case "resume":
                self.gates[command["direction"]].set()
            case "cut":
                for sides in list(self.links.values()):
                    for side in sides:
                        side.reset()
        return {"at": time.monotonic(), "open": len(self.links)}

    async def listen(self, options: dict[str, Any]) -> int:
        """Begin to accept; returns the port."""
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if options["small"]:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
        sock.bind((options["host"], 0))
        limit = SMALL if options["small"] else CHUNK
        tls = _tls(options["certificate"]) if options["certificate"] else None
        await asyncio.start_server(self.accept, sock=sock, limit=limit, ssl=tls)
        return int(sock.getsockname()[1])


def _tls(certificate: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


async def run(options: dict[str, Any], commands: BinaryIO) -> None:
    """Serve until *commands* end."""
    descriptor = os.open(options["journal"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    gates = {direction: asyncio.Event() for direction in ("up", "down")}
    for gate in gates.values():
        gate.set()
    recorder = RecorderProcess(tuple(options["target"]), Journal(descriptor), gates=gates)
    _say({"port": await recorder.listen(options)})
    lines = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(lines)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, commands)
    while line := await lines.readline():
        _say(recorder.obey(json.loads(line)))


def _say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    asyncio.run(run(json.loads(sys.argv[1]), sys.stdin.buffer))
