"""The embedded broker in place of a RabbitMQ node: the same life cycle, killed and paused alike."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.parse
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import pytest

from scripts.rabbitmq_node import NodeError, dies_with_parent
from tests.support.ports import hold_port

__all__ = ["EmbeddedNode", "only_rabbitmq"]

PROGRAM = (sys.executable, "-m", "tests.support.embedded_program")
REPOSITORY = Path(__file__).parents[2]


def only_rabbitmq(what: str) -> NoReturn:
    """The test needs *what*, which the embedded broker does not have."""
    pytest.skip(f"RabbitMQ only: {what}")


class Ports(NamedTuple):
    """TCP ports of the broker."""

    amqp: int

    @property
    def management(self) -> int:
        """There is none."""
        only_rabbitmq("the management API")


class EmbeddedNode:
    """A broker process that lives in *folder* and keeps its data in a file there.

    Its port stays the same over restarts.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.vhosts: list[str] = []
        self._place = hold_port()
        self.ports = Ports(self._place.getsockname()[1])
        self._process: subprocess.Popen[str] | None = None
        self._control = 0

    # What a client needs

    @property
    def url(self) -> str:
        """The AMQP URL of vhost `/`."""
        return self.url_of("/")

    def url_of(self, vhost: str) -> str:
        """The AMQP URL of *vhost*."""
        return f"amqp://guest:guest@127.0.0.1:{self.ports.amqp}/{urllib.parse.quote(vhost, '')}"

    @property
    def management_url(self) -> str:
        """There is none."""
        only_rabbitmq("the management API")

    @property
    def log(self) -> Path:
        """The broker's log file."""
        return self.folder / "node.log"

    # Life cycle

    @property
    def pid(self) -> int:
        """Its process id. Raises NodeError when it does not run."""
        if self._process is None:
            raise NodeError("the node is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process lives (paused counts as alive)."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it and wait until it listens."""
        if self.running:
            return
        listen, file = f"127.0.0.1:{self.ports.amqp}", str(self.folder / "broker.db")
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                dies_with_parent([*PROGRAM, listen, file, *self.vhosts]),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=REPOSITORY,
                start_new_session=True,
            )
        assert self._process.stdout is not None
        words = self._process.stdout.readline().split()
        if not words:
            raise NodeError(f"the broker ended while starting:\n{self.log.read_text()}")
        self._control = int(words[2])

    def kill(self) -> None:
        """End it as a power cut would (SIGKILL). File and port stay."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    stop = kill

    def settle(self) -> None:
        """All that was declared is on disk: it answers no sooner."""

    def restart(self) -> None:
        """Kill it and start it again on the same port with the same file."""
        self.kill()
        self.start()

    def pause(self) -> None:
        """Freeze it: connections stay open and nobody answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it run again after `pause`."""
        os.kill(self.pid, signal.SIGCONT)

    # Asking it

    def ask(self, what: str, vhost: str, **details: Any) -> Any:
        """Ask the operator of the running broker; see `tests.support.embedded_program`.

        Raises AssertionError with what is wrong.
        """
        question = json.dumps({"ask": what, "vhost": vhost, **details})
        with socket.create_connection(("127.0.0.1", self._control), 30) as sock:
            sock.sendall(question.encode() + b"\n")
            with contextlib.closing(sock.makefile("r")) as lines:
                answer = json.loads(lines.readline())
        if "error" in answer:
            raise AssertionError(answer["error"])
        return answer["answer"]

    def ctl(self, *_args: str) -> str:
        """There is none."""
        only_rabbitmq("rabbitmqctl")

    def eval(self, _expression: str) -> str:
        """There is no Erlang."""
        only_rabbitmq("Erlang expressions")
