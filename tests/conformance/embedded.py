"""The embedded broker as a process of its own, as users have it."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Self

import psutil
from attrs import define, field

from scripts.rabbitmq_node import dies_with_parent
from tests.support.ports import hold_port

__all__ = ["EmbeddedBroker"]


@define(eq=False)
class EmbeddedBroker:
    """`python -m limehub.broker`; *data*: its file. Its port stays the same over restarts."""

    folder: Path
    data: Path | None = None
    arguments: tuple[str, ...] = ()
    _place: socket.socket = field(factory=hold_port, init=False)
    _process: subprocess.Popen[str] | None = field(default=None, init=False)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._place.close()

    @property
    def port(self) -> int:
        return int(self._place.getsockname()[1])

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/%2F"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def memory(self) -> int:
        """Resident bytes."""
        return int(psutil.Process(self.pid).memory_info().rss)

    @property
    def log(self) -> str:
        return (self.folder / "broker.log").read_text()

    def spawn(self) -> subprocess.Popen[str]:
        """Start a process without waiting for it."""
        data = ("--data", str(self.data)) if self.data else ()
        listen = f"127.0.0.1:{self.port}"
        command = (sys.executable, "-m", "limehub.broker", "--listen", listen, *data)
        with (self.folder / "broker.log").open("a") as log:
            return subprocess.Popen(
                dies_with_parent([*command, *self.arguments]),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def start(self) -> None:
        self._process = self.spawn()
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.startswith("ready "), f"{line!r}: {self.log}"

    def kill(self) -> None:
        """End it as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process.communicate()

    def stop(self) -> int:
        """End it in order; returns its exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self.ended()

    def ended(self) -> int:
        """Wait until it has ended; returns its exit code."""
        assert self._process is not None
        code = self._process.wait(60)
        self._process.communicate()
        return code
