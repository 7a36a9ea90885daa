"""A package whose handlers do what each event tells them, and write down every run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import pika
from attrs import field, frozen

from tests.support.process import Workplace, whole_lines
from tests.support.vhost import Vhost
from tests.support.waiting import wait_until

__all__ = ["APP", "Probe"]

APP = "solution-probe"

# Appends with O_APPEND, so runs of several processes do not mix, and kill -9 loses no line.
SOURCE = """
import ctypes, json, logging, os, signal, time
from limehub import Discard, Reject, Retry

FOLDER = {folder!r}
RUNS = os.open(FOLDER + "/runs.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

def note(body, what, event=None):
    line = dict(n=body["n"], what=what, pid=os.getpid(), at=time.monotonic())
    if event is not None:
        line.update(redelivered=event.redelivered, attempt=event.attempt)
    os.write(RUNS, (json.dumps(line) + "\\n").encode())

def wait_for(name):
    while not os.path.exists(FOLDER + "/" + name):
        time.sleep(0.01)

def burn(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(1000))

def spin(name):
    while not os.path.exists(FOLDER + "/" + name):
        sum(range(1000))

def stubborn(name):
    while not os.path.exists(FOLDER + "/" + name):
        try:
            time.sleep(0.01)
        except BaseException:
            pass

def act(event, body, publisher):
    do, value = body.get("do", "pass"), body.get("value")
    if do == "hold": wait_for(value)
    elif do == "sleep": time.sleep(value)
    elif do == "burn": burn(value)
    elif do == "spin": spin(value)
    elif do == "stubborn": stubborn(value)
    elif do == "raise": raise ValueError(value)
    elif do == "fail": fail(event, value)
    elif do == "retry": raise Retry(value)
    elif do == "retry-once":
        if event.attempt == 1:
            raise Retry(value)
    elif do == "publish-later":
        wait_for("release")
        note(body, "publishing")
        publisher.publish("t.other", dict(n=value))
    elif do == "segfault": ctypes.string_at(0)
    elif do == "exit": os._exit(value)
    elif do == "deaf": signal.signal(signal.SIGTERM, signal.SIG_IGN)
    elif do == "chdir": os.chdir(value)
    elif do == "sleep-exit":
        time.sleep(value)
        os._exit(9)
    elif do == "crash-unless":
        if not os.path.exists(FOLDER + "/" + value):
            raise ValueError(value)
    elif do != "pass": raise LookupError(do)

def fail(event, value):
    times, how = value
    if event.attempt <= times:
        raise RuntimeError("planned") if how == "raise" else Reject("planned")

def handle(event, body, publisher):
    note(body, "start", event)
    logging.getLogger("probe").debug("runs %s", body["n"])
    act(event, body, publisher)
    note(body, "end")

def other(event, body, publisher):
    handle(event, body, publisher)

def register_event_handlers(worker, config):
    worker.register_event_handler(handle, "t.handle", {options})
    worker.register_event_handler(other, "t.other", {options})
"""


@frozen(kw_only=True)
class Probe:
    """The package `solution-probe` in *workplace*: queues `handle` and `other`.

    An event is `{"n": number, "do": what, "value": with what}`; its message id is `id-<n>`.
    """

    workplace: Workplace
    vhost: Vhost
    exchange: str = "lime.default"
    queue: str = field(default=f"lime.event_handler.{APP}.handle", init=False)
    other: str = field(default=f"lime.event_handler.{APP}.other", init=False)
    dlq: str = field(default=f"lime.event_handler.{APP}.dlq", init=False)

    @classmethod
    def install(cls, workplace: Workplace, vhost: Vhost, toml: str = "", options: str = "") -> Self:
        """Install it with the *options* of both handlers (source text) and configure *toml*."""
        folder = str(workplace.folder)
        source = SOURCE.replace("{folder!r}", repr(folder)).replace("{options}", options)
        workplace.install(APP, source)
        workplace.configure(toml)
        return cls(workplace=workplace, vhost=vhost)

    # What it is given

    def publish(self, events: Iterable[dict[str, Any]], key: str = "t.handle") -> None:
        """Publish *events*, each confirmed."""
        connection = self.vhost.connect()
        channel = connection.channel()
        channel.confirm_delivery()
        for event in events:
            channel.basic_publish(
                self.exchange,
                key,
                json.dumps(event).encode(),
                pika.BasicProperties(
                    message_id=f"id-{event['n']}", content_type="application/json", delivery_mode=2
                ),
                mandatory=True,
            )
        connection.close()

    def release(self, name: str = "release") -> None:
        """Let the handlers that hold for *name* go on."""
        (self.workplace.folder / name).touch()

    # What it did

    @property
    def runs(self) -> list[dict[str, Any]]:
        """Each line: `n`, `what` (start, end), `pid`, `at` (monotonic seconds)."""
        return [json.loads(line) for line in whole_lines(self.file)]

    @property
    def file(self) -> Path:
        """Where the runs are written down."""
        return self.workplace.folder / "runs.jsonl"

    def count(self, what: str, pid: int | None = None) -> Counter[int]:
        """How often each event did *what*, in the process *pid* or in all."""
        return Counter(r["n"] for r in self.runs if r["what"] == what and pid in (None, r["pid"]))

    @property
    def started(self) -> Counter[int]:
        """How many runs of each event began."""
        return self.count("start")

    @property
    def ended(self) -> Counter[int]:
        """How many runs of each event came to their end."""
        return self.count("end")

    def wait_started(self, n: int, times: int = 1) -> None:
        """Wait until the event *n* has been started *times* times."""
        message = f"event {n} to start {times} times"
        wait_until(lambda: self.started[n] >= times, message=message)

    def depths(self) -> dict[str, tuple[int, int]]:
        """(ready, unacked) of handle's queue, other's and the dead letter queue, by short name."""
        rows = self.vhost.queues()
        names = {"handle": self.queue, "other": self.other, "dlq": self.dlq}
        return {
            short: (rows[name]["ready"], rows[name]["unacked"])
            for short, name in names.items()
            if name in rows
        }

    def wait_depth(self, ready: int, unacked: int = 0, short: str = "handle") -> None:
        """Wait until that queue holds exactly this."""
        try:
            wait_until(
                lambda: self.depths().get(short) == (ready, unacked),
                message=f"{short} to hold {ready} ready and {unacked} unacked",
            )
        except AssertionError as error:
            raise AssertionError(f"{error}; depths now {self.depths()}") from None

    def take(self, queue: str) -> list[dict[str, Any]]:
        """Take all out of *queue*: each event with its `headers`."""
        connection = self.vhost.connect()
        channel = connection.channel()
        found = []
        while (got := channel.basic_get(queue, auto_ack=True))[0] is not None:
            found.append(json.loads(got[2]) | {"headers": dict(got[1].headers or {})})
        connection.close()
        return found

    def dead_letters(self) -> list[dict[str, Any]]:
        """Take all out of the dead letter queue: as `take`, with the `reason`."""
        taken = self.take(self.dlq)
        return [event | {"reason": event["headers"]["x-limehub-reason"]} for event in taken]

    @property
    def state_folder(self) -> Path:
        """Where the server keeps run.json and the crash ledger."""
        return self.workplace.folder / ".limehub"
