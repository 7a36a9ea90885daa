"""`make run`: see to a broker, run `limehub serve` on it, stop both in order on Ctrl-C.

The embedded broker, which limehub.toml asks for, is the server's own business. Where limehub.toml,
RABBIT_URL or LIMEHUB_EVENTS__CONNECTION_STRING names a RabbitMQ, that is used if it answers; else a
private node in `.limehub/rabbitmq/` is started (and stopped again at the end).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from scripts.rabbitmq_node import (
    NodeError,
    RabbitNode,
    answers_amqp,
    dies_with_parent,
    find_server,
)

URL_VARIABLE = "LIMEHUB_EVENTS__CONNECTION_STRING"
DEFAULT_URL = "amqp://guest@localhost//"
NODE_FOLDER = Path(".limehub/rabbitmq")
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PORTS = {"amqp": 5672, "amqps": 5671}
CHECK_INTERVAL = 1.0  # seconds between looks at the node


class Stop(Exception):
    """A stop signal came. *number*: which."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def main(arguments: Sequence[str]) -> int:
    """Run the server until it ends. Returns its exit code, or 1 when there is no broker."""
    for number in STOP_SIGNALS:
        signal.signal(number, _raise_stop)
    try:
        return run(arguments)
    except Stop as stop:
        return 128 + stop.number
    except NodeError as error:
        say(str(error))
        return 1


def run(arguments: Sequence[str]) -> int:
    """Serve on the configured broker if it answers, else on a private node."""
    url = configured_url(Path("limehub.toml"), os.environ)
    if answers(url):
        return Server(arguments, {}).run()
    say(f"no broker answers at {address_of(url)}")
    with private_node() as node:
        return Server(arguments, {URL_VARIABLE: node.url}, node).run()


@contextlib.contextmanager
def private_node() -> Iterator[RabbitNode]:
    """A started node of this folder; only one run at a time may own it."""
    NODE_FOLDER.mkdir(parents=True, exist_ok=True)
    with (NODE_FOLDER / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise NodeError("another `make run` of this folder runs already") from None
        install_server()
        say(f"starting a private RabbitMQ in {NODE_FOLDER} (5 to 10 seconds)")
        node = RabbitNode(NODE_FOLDER)
        try:
            node.start()
            say(f"RabbitMQ is up at {address_of(node.url)}; its log: {NODE_FOLDER / node.log.name}")
            yield node
        finally:
            end(node)


def end(node: RabbitNode) -> None:
    """Stop the node; a stop signal that comes meanwhile kills it, so that it cannot be left."""
    if node.running:
        say("stopping RabbitMQ")
    try:
        node.stop()
    except Stop:
        node.kill()


def install_server() -> None:
    """Install rabbitmq-server when it is missing and we may. Raises NodeError."""
    if find_server() is not None:
        return
    if subprocess.run(["scripts/install-rabbitmq"], check=False).returncode:
        raise NodeError("limehub needs a broker; see the line above, or set RABBIT_URL")


class Server:
    """`limehub serve` as a child in its own session: it gets each signal once, from us."""

    def __init__(
        self, arguments: Sequence[str], environ: Mapping[str, str], node: RabbitNode | None = None
    ) -> None:
        self._command = [str(Path(sys.executable).with_name("limehub")), "serve", *arguments]
        self._environ = {**os.environ, **environ}
        self._node = node
        self._child: subprocess.Popen[bytes] | None = None
        self._early: list[int] = []

    def run(self) -> int:
        """Start it, pass signals on, keep its node alive. Returns its exit code."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._forward)
        command = dies_with_parent(self._command, "TERM")
        self._child = subprocess.Popen(command, env=self._environ, start_new_session=True)
        say("when it is ready, `make demo` in a second shell sends it a CRM's events")
        try:
            for early in self._early:
                self._forward(early, None)
            code = self._wait(self._child)
        finally:
            self._end()
        return code if code >= 0 else 128 - code

    def _forward(self, number: int, _frame: object) -> None:
        # SIGHUP here means that the terminal is gone; for limehub it means "read the file again".
        passed_on = int(signal.SIGTERM) if number == signal.SIGHUP else number
        if self._child is None:
            self._early.append(passed_on)
        else:
            self._child.send_signal(passed_on)

    def _end(self) -> None:
        if self._child is not None and self._child.poll() is None:
            self._child.terminate()
            self._child.wait()
        for number in STOP_SIGNALS:
            signal.signal(number, _raise_stop)

    def _wait(self, child: subprocess.Popen[bytes]) -> int:
        while True:
            try:
                return child.wait(CHECK_INTERVAL)
            except subprocess.TimeoutExpired:
                self._revive_node()

    def _revive_node(self) -> None:
        if self._node is not None and not self._node.running:
            say("RabbitMQ ended; starting it again")
            self._node.restart()


def configured_url(path: Path, environ: Mapping[str, str]) -> str:
    """The broker's URL by limehub's own precedence; what is wrong in the file, limehub will say."""
    for name in (URL_VARIABLE, "RABBIT_URL"):
        if name in environ:
            return environ[name]
    try:
        events: Any = tomllib.loads(path.read_text()).get("events", {})
        return str(events.get("connection_string", DEFAULT_URL))
    except (OSError, ValueError, AttributeError):
        return DEFAULT_URL


def answers(url: str) -> bool:
    """Whether there is a broker at *url*; an embedded one needs no look."""
    parts = urlsplit(url)
    if parts.scheme == "embedded":
        return True
    try:
        host, port = parts.hostname or "localhost", parts.port or PORTS.get(parts.scheme, 5672)
    except ValueError:  # a broken port: limehub explains it better
        return True
    if parts.scheme == "amqps":
        return answers_tcp(host, port)
    return answers_amqp(host, port)


def answers_tcp(host: str, port: int) -> bool:
    """Whether something accepts connections there; TLS is limehub's to judge."""
    try:
        with socket.create_connection((host, port), timeout=2):
            return True
    except OSError:
        return False


def address_of(url: str) -> str:
    """*url* without credentials."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def say(text: str) -> None:
    """One line for the person at the terminal."""
    print(f"make run: {text}", file=sys.stderr, flush=True)


def _raise_stop(number: int, _frame: object) -> None:
    raise Stop(number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
