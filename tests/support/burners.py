"""A package whose handlers keep the process busy in every way that a handler can."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import pika
from attrs import define, frozen

from tests.support.process import Workplace, whole_lines
from tests.support.vhost import Vhost
from tests.support.waiting import wait_until

__all__ = ["APP", "Burners", "Lane", "Run"]

APP = "solution-burners"
EXCHANGE = "lime.default"
Lane = Literal["greenlet", "thread", "process"]

# Appends with O_APPEND, so runs of several processes do not mix, and kill -9 loses no line.
SOURCE = '''
import ctypes, hashlib, json, math, os, re, time
from gevent import monkey

FOLDER = {folder!r}
RUNS = os.open(FOLDER + "/runs.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
native_sleep = monkey.get_original("time", "sleep")

def note(body, what, event):
    line = dict(n=body["n"], what=what, pid=os.getpid(), at=time.monotonic(),
                redelivered=event.redelivered)
    os.write(RUNS, (json.dumps(line) + "\\n").encode())

def burn(seconds):
    """Pure Python."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(1000))

def wait(seconds):
    """Lets others run."""
    time.sleep(seconds)

def let_go(seconds):
    """One C call that releases the GIL."""
    native_sleep(seconds)

def digest(seconds):
    """One C call that releases the GIL and computes."""
    hashlib.pbkdf2_hmac("sha256", b"x", b"y", math.ceil(seconds / cost_of_digest()))

def hold(seconds):
    """One C call that holds the GIL: PyDLL does not release it around a call."""
    end = time.monotonic() + seconds
    while (rest := end - time.monotonic()) > 0:  # a signal ends it early
        ctypes.PyDLL(None).usleep(int(rest * 1e6) + 1)

BACKTRACKS = re.compile("(?:a+)+b")
TEXT = "a" * 16 + "c"

def backtrack(seconds):
    """One C call that holds the GIL and computes: 2^16 ways to fail, again and again."""
    BACKTRACKS.findall(TEXT * math.ceil(seconds / cost_of_backtracking()))

def cost_of(call, times):
    begin = time.thread_time()
    call()
    return (time.thread_time() - begin) / times

def cost_of_digest():
    return cost_of(lambda: hashlib.pbkdf2_hmac("sha256", b"x", b"y", 20000), 20000)

def cost_of_backtracking():
    return cost_of(lambda: BACKTRACKS.findall(TEXT * 20), 20)

def hold_for(name):
    """Lets others run, until the test says so."""
    while not os.path.exists(FOLDER + "/" + name):
        time.sleep(0.01)

WAYS = {f.__name__: f for f in (burn, wait, let_go, digest, hold, backtrack, hold_for)}

def act(event, body, publisher):
    note(body, "start", event)
    if body.get("ack_first"):
        event.ack()
    if size := body.get("publish"):
        publisher.publish("b.kept", dict(n=body["n"], filler="x" * size))
        note(body, "published", event)
    if way := body.get("do"):
        WAYS[way](body["value"])
    note(body, "end", event)

def greenlet(event, body, publisher):
    act(event, body, publisher)

def thread(event, body, publisher):
    act(event, body, publisher)

def process(event, body, publisher):
    act(event, body, publisher)

LANES = dict(greenlet=greenlet, thread=thread, process=process)

def register_event_handlers(worker, config):
    for lane in {lanes!r}:
        worker.register_event_handler(LANES[lane], f"b.{lane}.#", lane, lane=lane)
'''


@frozen(kw_only=True)
class Run:
    """A line of the package's notes. *what*: start, published, end; *at*: seconds, monotonic."""

    n: int
    what: str
    pid: int
    at: float
    redelivered: bool


@define(eq=False, kw_only=True)
class Burners:
    """The package `solution-burners` in *workplace*: a queue and a handler for each lane.

    An event is `{"n": number, "do": way, "value": with what}`; ways are the functions in `WAYS`.
    `"ack_first": true` acks before, `"publish": bytes` publishes before that much to `b.kept`.
    Event n comes with the routing key `b.<lane>.<n>`.
    """

    workplace: Workplace
    vhost: Vhost

    @classmethod
    def install(
        cls, workplace: Workplace, vhost: Vhost, toml: str, lanes: Sequence[Lane] = ("greenlet",)
    ) -> Self:
        """Install it with handlers in *lanes* and configure *toml*."""
        source = SOURCE.replace("{folder!r}", repr(str(workplace.folder)))
        workplace.install(APP, source.replace("{lanes!r}", repr(tuple(lanes))))
        workplace.configure(toml)
        return cls(workplace=workplace, vhost=vhost)

    @staticmethod
    def queue(lane: Lane) -> str:
        """The full name of a lane's queue."""
        return f"lime.event_handler.{APP}.{lane}"

    def publish(self, *events: dict[str, Any], lane: Lane = "greenlet") -> None:
        """Publish *events* to the handler of *lane*, each confirmed."""
        connection = self.vhost.connect()
        channel = connection.channel()
        channel.confirm_delivery()
        properties = pika.BasicProperties(content_type="application/json", delivery_mode=2)
        for event in events:
            key = f"b.{lane}.{event['n']}"
            body = json.dumps(event).encode()
            channel.basic_publish(EXCHANGE, key, body, properties, mandatory=True)
        connection.close()

    def release(self, name: str) -> None:
        """Let the handlers that hold for *name* go on."""
        (self.workplace.folder / name).touch()

    @property
    def runs(self) -> list[Run]:
        """All that the handlers noted, in order."""
        return [Run(**json.loads(line)) for line in whole_lines(self._file)]

    def count(self, what: str) -> Counter[int]:
        """How often each event did *what*."""
        return Counter(run.n for run in self.runs if run.what == what)

    def first(self, what: str, n: int = 1) -> Run:
        """The first time that event *n* did *what*."""
        return next(run for run in self.runs if (run.what, run.n) == (what, n))

    def wait_for(self, what: str, numbers: Iterable[int] = (1,), timeout: float = 30.0) -> None:
        """Wait until each of *numbers* has done *what*."""
        wanted = set(numbers)
        wait_until(
            lambda: wanted <= self.count(what).keys(), timeout, f"{what} of {sorted(wanted)}"
        )

    def depth(self, lane: Lane = "greenlet") -> tuple[int, int]:
        """(ready, unacked) of a lane's queue."""
        row = self.vhost.queues()[self.queue(lane)]
        return row["ready"], row["unacked"]

    def wait_empty(self, lane: Lane = "greenlet", timeout: float = 30.0) -> None:
        """Wait until nothing is left in a lane's queue, ready or unacked."""
        wait_until(lambda: self.depth(lane) == (0, 0), timeout, f"{self.queue(lane)} to be empty")

    @property
    def _file(self) -> Path:
        return self.workplace.folder / "runs.jsonl"
