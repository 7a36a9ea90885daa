"""Handlers that fork: the child is no second server, whatever it does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from limehub import Publisher
from tests.support.process import Workplace, alive, whole_lines
from tests.support.vhost import Vhost
from tests.support.waiting import wait_until

APP = "solution-forks"
QUEUE = f"lime.event_handler.{APP}.handle"
TOML = """
[event_handler]
prefetch_count = 5
catch_handler_exceptions = true
crash_limit = 0
"""
SOURCE = """
import json, multiprocessing, os, sys, time

NOTES = {notes!r}

def note(body, what):
    file = os.open(NOTES, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(file, (json.dumps([body["n"], what, os.getpid()]) + "\\n").encode())
    os.close(file)

def ends(how):
    if how == "raises":
        raise ValueError("in the child")
    if how == "exits":
        sys.exit(3)

def forks(body):
    if os.fork() == 0:
        time.sleep(0.5)  # with gevent: the loop would turn, and the server with it
        note(body, "child")
        ends(body["how"])
        return
    note(body, "parent")

def child_of(body):
    time.sleep(0.5)
    note(body, "child")

def uses_multiprocessing(body):
    child = multiprocessing.get_context("fork").Process(target=child_of, args=(body,))
    child.start()
    child.join()
    assert child.exitcode == 0
    note(body, "parent")

def handle(body):
    if body.get("how") == "uses multiprocessing":
        uses_multiprocessing(body)
    elif "how" in body:
        forks(body)
    else:
        time.sleep(0.1)
        note(body, "parent")

def register_event_handlers(worker, config):
    worker.register_event_handler(handle, "t.#", lane={lane!r})
"""


def notes_of(file: Path) -> list[list[Any]]:
    return [json.loads(line) for line in whole_lines(file)]


@pytest.mark.parametrize(
    ("lane", "how"),
    [
        ("greenlet", "returns"),
        ("greenlet", "raises"),
        ("greenlet", "exits"),
        ("greenlet", "uses multiprocessing"),
        ("process", "returns"),
        ("process", "uses multiprocessing"),
    ],
)
def test_a_child_that_a_handler_forks_runs_no_event_and_settles_none(
    workplace: Workplace, vhost: Vhost, lane: str, how: str
) -> None:
    file = workplace.folder / "notes"
    workplace.install(APP, SOURCE.format(notes=str(file), lane=lane))
    workplace.configure(TOML)
    server = workplace.serve()
    publisher = Publisher(vhost.url)
    for n in range(12):
        publisher.publish("t.a", {"n": n, "how": how} if n == 2 else {"n": n})
    publisher.close()
    wait_until(lambda: vhost.depth(QUEUE) == 0)
    wait_until(lambda: [n for n, what, _ in notes_of(file) if what == "child"] == [2])
    child = next(pid for _, what, pid in notes_of(file) if what == "child")
    wait_until(lambda: not alive(child), message="the forked process to end")
    assert sorted(n for n, what, _ in notes_of(file) if what == "parent") == list(range(12))
    assert {what for _, what, pid in notes_of(file) if pid == child} == {"child"}
    assert server.stop() == 0
    assert "connection lost" not in server.text
