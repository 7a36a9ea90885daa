"""A recording proxy: what really was on the wire, and when, told by a process of its own.

The fault proxy (`tests.support.proxy`) lives in the test's process; this one keeps its clock and
its reading however busy server and test are. Over TLS it is the TLS peer, so it sees frames too.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit, urlunsplit

from attrs import define, field, frozen

from scripts.rabbitmq_node import dies_with_parent
from tests.support.waiting import wait_until

__all__ = ["Recorder", "Sighting", "self_signed"]

REPOSITORY = Path(__file__).parents[2]
Direction = Literal["up", "down"]  # up: from the client to the broker


@frozen(kw_only=True)
class Sighting:
    """A frame that passed, or `begin` and `end` of a link. *at*: seconds, monotonic.

    *what* is as in `tests.support.frames`; *size* of an `end`: bytes of an unfinished frame.
    """

    at: float
    link: int
    direction: Direction
    what: str
    channel: int = 0
    size: int = 0
    tag: int | None = None
    multiple: bool | None = None
    key: str | None = None
    redelivered: bool | None = None
    code: int | None = None
    error: str | None = None


@define(eq=False, kw_only=True)
class Recorder:
    """Before *target* (an AMQP URL); `with Recorder(target=url, folder=tmp_path) as recorder`.

    *tls*: speak TLS to the client, with the certificate `ca_file`. *small*: tiny buffers, so that
    a paused client cannot send more than its own buffer holds. *host*: the address to listen on.
    """

    target: str
    folder: Path
    host: str = "127.0.0.1"
    tls: bool = False
    small: bool = False
    _child: subprocess.Popen[bytes] = field(init=False)
    port: int = field(init=False)
    _read: int = field(default=0, init=False)
    _seen: list[Sighting] = field(factory=list, init=False)

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.tls:
            self_signed(self.ca_file, self.host)
        parts = urlsplit(self.target)
        options = {
            "target": (parts.hostname, parts.port),
            "host": self.host,
            "journal": str(self._journal),
            "certificate": str(self.ca_file) if self.tls else None,
            "small": self.small,
        }
        self._child = subprocess.Popen(
            dies_with_parent(
                [sys.executable, "-m", "tests.support.recorder_process", json.dumps(options)]
            ),
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self.port = self._answer()["port"]
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None:
                pipe.close()

    @property
    def url(self) -> str:
        """The target's URL, through this recorder."""
        parts = urlsplit(self.target)
        user = parts.netloc.rpartition("@")[0]
        scheme = "amqps" if self.tls else parts.scheme
        return urlunsplit(parts._replace(scheme=scheme, netloc=f"{user}@{self.host}:{self.port}"))

    @property
    def ca_file(self) -> Path:
        """The certificate to trust, with its key, PEM."""
        return self.folder / "recorder.pem"

    # What it saw

    def sightings(
        self,
        what: str | None = None,
        direction: Direction | None = None,
        *,
        link: int | None = None,
        since: float = 0.0,
        until: float = float("inf"),
    ) -> list[Sighting]:
        """All that passed, in order; narrowed down by what is given."""
        return [
            seen
            for seen in self._all()
            if what in (None, seen.what)
            and direction in (None, seen.direction)
            and link in (None, seen.link)
            and since <= seen.at <= until
        ]

    def wait_for(
        self, what: str, direction: Direction, timeout: float = 30.0, **narrow: Any
    ) -> Sighting:
        """Wait for the first sighting of *what*; returns it."""
        return wait_until(
            lambda: self.sightings(what, direction, **narrow), timeout, f"{what} {direction}"
        )[0]

    def links_with(self, what: str, direction: Direction) -> list[int]:
        """The links on which *what* passed, in the order of their first."""
        return list(dict.fromkeys(seen.link for seen in self.sightings(what, direction)))

    def _all(self) -> list[Sighting]:
        if self._journal.exists():
            with self._journal.open("rb") as journal:
                journal.seek(self._read)
                # The last line may still be on its way.
                whole = journal.read().rpartition(b"\n")[0]
            self._read += len(whole) + 1 if whole else 0
            self._seen += [Sighting(**json.loads(line)) for line in whole.splitlines()]
        return self._seen

    # What it does

    def pause(self, direction: Direction) -> None:
        """Stop passing on, and soon stop reading, what comes in *direction*."""
        self._command(do="pause", direction=direction)

    def resume(self, direction: Direction) -> None:
        """Pass on again, beginning with what was held back."""
        self._command(do="resume", direction=direction)

    def cut(self) -> int:
        """Reset all connections, both ends; returns how many there were."""
        return int(self._command(do="cut")["open"])

    def _command(self, **command: str) -> dict[str, Any]:
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps(command).encode() + b"\n")
        self._child.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        assert line, f"the recorder ended with {self._child.wait()}"
        answer: dict[str, Any] = json.loads(line)
        return answer

    @property
    def _journal(self) -> Path:
        return self.folder / "frames.jsonl"


def self_signed(file: Path, host: str) -> None:
    """Write a certificate for *host*, which is its own authority, and its key into *file*."""
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
            "-nodes", "-days", "2", "-subj", "/CN=recorder", "-addext", f"subjectAltName=IP:{host}",
            "-keyout", str(file), "-out", str(file.with_suffix(".crt")),
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
    file.write_text(file.read_text() + file.with_suffix(".crt").read_text())
