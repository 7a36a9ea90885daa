"""`limehub serve` with burners behind a recorder, and what is found when an experiment is over."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from attrs import define, frozen

from tests.support.burners import Burners, Lane, Run
from tests.support.process import LimehubProcess, Workplace
from tests.support.recorder import Recorder, Sighting
from tests.support.vhost import Vhost
from tests.support.waiting import wait_until

__all__ = ["ACK", "Finding", "Stand", "standing"]

ACK = "Basic.Ack"
DELIVER = "Basic.Deliver"
TOML = """
[web]
bind = "127.0.0.1:0"
[log]
format = "json"
[events]
"""


@frozen(kw_only=True)
class Finding:
    """What an experiment left. Times: seconds, monotonic; *begun* and *over*: its two ends.

    *left*: (ready, unacked) of the queue; *code*: the exit code after SIGTERM.
    """

    begun: float
    over: float
    runs: list[Run]
    sightings: list[Sighting]
    log: str
    left: tuple[int, int]
    code: int

    def count(self, what: str) -> Counter[int]:
        """How often each event did *what* (start, end)."""
        return Counter(run.n for run in self.runs if run.what == what)

    def at(self, what: str, n: int = 1) -> float:
        """When event *n* first did *what*."""
        return next(run.at for run in self.runs if (run.what, run.n) == (what, n))

    def seen(self, what: str, direction: str = "up") -> list[Sighting]:
        """The sightings of *what* while the experiment went on."""
        return [
            each
            for each in self.sightings
            if (each.what, each.direction) == (what, direction)
            and self.begun <= each.at <= self.over
        ]

    @property
    def losses(self) -> list[Sighting]:
        """Ends of connections while the experiment went on."""
        return self.seen("end", "up") + self.seen("end", "down")

    @property
    def consuming(self) -> int:
        """The link that the first delivery came on."""
        return next(each.link for each in self.sightings if each.what == DELIVER)

    def longest_silence(self, link: int) -> float:
        """The longest time without a frame from the server on *link*, in seconds."""
        moments = [
            each.at
            for each in self.sightings
            if each.link == link and each.direction == "up" and self.begun <= each.at <= self.over
        ]
        ends = [self.begun, *moments, self.over]
        return max(after - before for before, after in itertools.pairwise(ends))


@define(eq=False, kw_only=True)
class Stand:
    """A running server with all that watches it."""

    vhost: Vhost
    workplace: Workplace
    recorder: Recorder
    burners: Burners
    process: LimehubProcess
    begun: float = 0.0

    def begin(self) -> None:
        """The experiment begins now: what was before does not count."""
        self.begun = time.monotonic()

    @property
    def pid(self) -> int:
        """The server's own process id, also behind `unshare --fork`."""
        forked = "--fork" in self.workplace.prefix
        return children_of(self.process.pid)[0] if forked else self.process.pid

    def finish(self, lane: Lane = "greenlet") -> Finding:
        """Wait until nothing is left in the *lane*'s queue, stop the server, tell all."""
        with contextlib.suppress(AssertionError):  # the test shows what is left
            self.burners.wait_empty(lane)
        over, left = time.monotonic(), self.burners.depth(lane)
        os.kill(self.pid, signal.SIGTERM)
        return Finding(
            begun=self.begun,
            over=over,
            runs=self.burners.runs,
            sightings=self.recorder.sightings(),
            log=self.process.text,
            left=left,
            code=self.process.wait(),
        )

    def status(self) -> Any:
        """The server's resources: (descriptors, threads, children)."""
        folder = Path(f"/proc/{self.pid}")
        count = [len(list((folder / name).iterdir())) for name in ("fd", "task")]
        return (*count, len(children_of(self.pid)))

    def consumers(self) -> int:
        """How many consumers the broker has on the greenlet lane's queue."""
        row = self.vhost.queues().get(Burners.queue("greenlet"))
        return row["consumers"] if row else 0


@contextlib.contextmanager
def standing(
    vhost: Vhost,
    folder: Path,
    python: Path,
    *,
    toml: str = "",
    heartbeat: int = 4,
    events: str = "",
    lanes: Sequence[Lane] = ("greenlet",),
    prefix: tuple[str, ...] = (),
    **recorder: Any,
) -> Iterator[Stand]:
    """Run a server; it is ready when this yields. *recorder*: options of the Recorder.

    *toml*: keys of `event_handler`, then other tables; *events*: more keys of `events`.
    """
    workplace = Workplace(folder=folder, python=python, prefix=prefix)
    with (
        contextlib.closing(workplace),
        Recorder(target=vhost.url, folder=folder / "recorder", **recorder) as watch,
    ):
        tls = f'tls.ca_file = "{watch.ca_file}"\n' if watch.tls else ""
        workplace.environ["LIMEHUB_EVENTS__CONNECTION_STRING"] = watch.url
        events = f"consumer_heartbeat = {heartbeat}\n{tls}{events}"
        text = f"{TOML}{events}[event_handler]\n{toml}"
        burners = Burners.install(workplace, vhost, text, lanes)
        process = workplace.serve(ready=False)
        process.wait_ready(300.0)  # many start at the same time
        yield Stand(
            vhost=vhost, workplace=workplace, recorder=watch, burners=burners, process=process
        )


def children_of(pid: int) -> list[int]:
    """The process ids of *pid*'s children."""
    found: list[int] = []
    for task in wait_until(lambda: list(Path(f"/proc/{pid}/task").iterdir())):
        with contextlib.suppress(OSError):  # the thread has ended meanwhile
            found += map(int, (task / "children").read_text().split())
    return found
