"""The embedded broker of a server: `python -m limehub.broker` as a child process.

A process apart, so that no handler can stall it. It is started before anything connects and ended
after everything has; it ends by itself when the server dies, because its standard input does.
"""

from __future__ import annotations

import itertools
import logging
import os
import secrets
import signal
import socket
from pathlib import Path
from typing import Any

import gevent
from attrs import evolve
from gevent import Greenlet, monkey, subprocess

from limehub.config import BrokerUrl, Config, Loaded
from limehub.config.address import Address
from limehub.errors import BrokerError
from limehub.interpreter import interpreter

__all__ = ["EmbeddedBroker"]

log = logging.getLogger(__name__)

# gevent's own waits with closing until something wakes the hub; meanwhile the child would wait for
# the end of the pipe, and we for the child (measured: one start in about ten took a minute).
_close = monkey.get_original("os", "close")

USER = "limehub"
PATIENCE = 30.0
"""Seconds after which a start takes long: a large file is read, 10 s per million messages."""

STOP_SECONDS = 10.0
LONGEST_PAUSE = 5.0
_HERE = "127.0.0.1"


class EmbeddedBroker:
    """The broker that *config* asks for; `url` is how to reach it while it runs."""

    def __init__(self, config: Config) -> None:
        self._file = config.events.url.path or config.broker.path
        self._listen = config.broker.address or Address(_HERE, 0)
        self._log = config.log
        self._memory_share = config.broker.memory_share
        self._password = secrets.token_urlsafe(24)
        self._asked = config.events.connection_string
        self._process: Any = None
        self._watcher: Greenlet[..., None] | None = None
        self._place: socket.socket | None = None

    def start(self) -> None:
        """Start it and wait until it is ready. Raises BrokerError with its last words."""
        if not self._listen.port:
            self._take_place()
        port = self._launch()
        self._listen = evolve(self._listen, port=port)  # the same after a restart: clients know it
        self._watcher = Greenlet(self._watch)
        self._watcher.name = "embedded broker"
        self._watcher.start()

    def stop(self) -> None:
        """Let it end in order, and wait."""
        if self._watcher is not None:
            self._watcher.kill()
        process, self._process = self._process, None
        if process is not None:
            _end(process)
        if self._place is not None:
            self._place.close()

    @property
    def url(self) -> BrokerUrl:
        """How its clients reach it."""
        host = _HERE if self._listen.host in ("0.0.0.0", "::", "") else self._listen.host  # noqa: S104
        shown = f"[{host}]" if ":" in host else host
        return BrokerUrl.parse(f"amqp://{USER}:{self._password}@{shown}:{self._listen.port}//")

    def serve(self, loaded: Loaded) -> Loaded:
        """Return *loaded* with this broker in place of `embedded://`.

        A configuration that asks for another one stays as it is: that needs a restart.
        """
        events = loaded.config.events
        if events.connection_string != self._asked:
            return loaded
        events = evolve(events, connection_string=self.url.with_password())
        return evolve(loaded, config=evolve(loaded.config, events=events), embedded=True)

    def _take_place(self) -> None:
        """Choose a free port and keep it: else it were anybody's while the broker starts again.

        A socket that does not listen leaves the port to those who say SO_REUSEADDR, as the broker.
        """
        place = socket.socket(socket.AF_INET6 if ":" in self._listen.host else socket.AF_INET)
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            place.bind((self._listen.host, 0))
        except OSError:  # the broker itself says best what is wrong with the host
            place.close()
            return
        self._place = place
        self._listen = evolve(self._listen, port=place.getsockname()[1])

    # -- the child --------------------------------------------------------------------------------

    def _launch(self) -> int:
        """Start the child. Returns its port."""
        if self._file:
            Path(self._file).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        password, writer = os.pipe()
        try:
            os.write(writer, self._password.encode())
            _close(writer)
            process: Any = subprocess.Popen(
                self._command(password),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=[password],
                start_new_session=True,  # Ctrl-C in a terminal is for the server
            )
        finally:
            _close(password)
        self._process = process
        line = self._first_line(process)
        if not line.startswith(b"ready "):
            code = _end(process)
            where = self._file or "in memory"
            raise BrokerError(
                f"the embedded broker ({where}) did not start: exit code {code}; see above why"
            )
        return int(line.rpartition(b":")[2])

    def _first_line(self, process: Any) -> bytes:
        """Return what the child says when it is ready; empty if it ends before."""
        line = gevent.spawn(process.stdout.readline)
        try:
            for waited in itertools.count(1):
                line.join(PATIENCE)
                if line.ready():
                    break
                log.warning(
                    "embedded broker is still reading its file",
                    extra={"file": self._file, "seconds": waited * PATIENCE},
                )
            return bytes(line.get())
        finally:
            line.kill()

    def _command(self, password: int) -> list[str]:
        listen = f"{self._listen.host}:{self._listen.port}"
        command = [*interpreter(), "-m", "limehub.broker", "--until-eof", "--listen", listen]
        command += ["--user", f"{USER}:/dev/fd/{password}", "--log-level", self._log.level]
        command += ["--log-format", self._log.format] if self._log.format else []
        command += ["--memory-share", str(self._memory_share)]
        return command + (["--data", self._file] if self._file else [])

    def _watch(self) -> None:
        """Start it again if it dies; with a file nothing that was confirmed is lost."""
        pause = 0.1
        while True:
            code = self._process.wait()
            kept = "its file is kept" if self._file else "it had no file: its messages are lost"
            log.error(
                "embedded broker ended; starting it again", extra={"code": code, "kept": kept}
            )
            _end(self._process)
            while not self._is_back():
                gevent.sleep(pause)
                pause = min(LONGEST_PAUSE, pause * 2)

    def _is_back(self) -> bool:
        try:
            self._launch()
        except (BrokerError, OSError) as error:
            log.error("embedded broker does not start", extra={"cause": str(error)})
            return False
        return True


def _end(process: Any) -> int:
    """Close its standard input, wait, kill it if that does not help. Returns its exit code."""
    process.stdin.close()
    try:
        process.wait(timeout=STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
    process.stdout.close()
    return int(process.returncode)
