"""The lane `thread`: handlers in native threads of their own, without a broker."""

from __future__ import annotations

import logging
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent import monkey

from limehub import Retry
from limehub.amqp.publisher import current_application
from limehub.config import Config
from limehub.plugins.registry import load_registry
from limehub.testing import Outbox, make_event
from limehub.workers.lanes.lanes import Lanes
from limehub.workers.lanes.locks import mend_locks
from limehub.workers.lanes.native_threads import NativeThreads
from limehub.workers.lanes.thread_lane import ThreadLane
from limehub.workers.lanes.watch import Call, TimeLimit
from tests.support.waiting import wait_until

native_ident = monkey.get_original("_thread", "get_ident")
native_sleep = monkey.get_original("time", "sleep")
start_native = monkey.get_original("_thread", "start_new_thread")


@pytest.fixture
def lane() -> Iterator[ThreadLane]:
    lane = ThreadLane()
    yield lane
    lane.close()


CHILDREN = """
import multiprocessing, os, subprocess, sys

def runs(code):
    assert subprocess.run(["sh", "-c", f"exit {code}"]).returncode == code
    piped = subprocess.run(["cat"], input=str(code), capture_output=True, text=True)
    assert (piped.returncode, piped.stdout) == (0, str(code))

def forks(code):
    pid = os.fork()
    if pid == 0:
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == code

def multiprocesses(code):
    child = multiprocessing.get_context("fork").Process(target=sys.exit, args=(code,))
    child.start()
    child.join()
    assert child.exitcode == code
"""


def limit(seconds: float) -> TimeLimit:
    return TimeLimit(handler="app.q", lane="thread", seconds=seconds)


def run(call: Call, body: object = "") -> None:
    event, message = make_event(body)
    call(event, message)


def burn(seconds: float) -> None:
    """Compute: interruptible between bytecodes."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(100))


def test_a_handler_runs_in_a_native_thread_while_the_hub_goes_on(lane: ThreadLane) -> None:
    ran: list[int] = []
    turns: list[int] = []

    def block(_event: object, _message: object) -> None:
        patience = 3_000
        while len(turns) < 10 and (patience := patience - 1):
            native_sleep(0.01)
        ran.append(native_ident())

    job = gevent.spawn(run, lane.bind(block, None))
    while not job.ready():
        gevent.sleep(0.01)
        turns.append(1)
    job.get()
    assert ran != [native_ident()]
    assert len(turns) >= 10, "a thread that blocks must not hold the hub"


def test_threads_are_used_again_and_are_as_many_as_run_at_once() -> None:
    threads = NativeThreads()
    seen: set[int] = set()

    def note() -> None:
        seen.add(native_ident())

    for _ in range(10):
        threads.start(note).wait()
    assert (threads.size, len(seen)) == (1, 1)
    jobs = [threads.start(lambda: native_sleep(0.1)) for _ in range(3)]
    for job in jobs:
        job.wait()
    assert threads.size == 3
    threads.close()


def test_what_the_handler_raises_comes_back_with_its_traceback(lane: ThreadLane) -> None:
    def fail(_event: object, _message: object) -> None:
        raise Retry(3)

    with pytest.raises(Retry) as caught:
        run(lane.bind(fail, None))
    assert caught.value.delay == 3
    assert caught.traceback[-1].name == "fail"
    for error in (SystemExit(1), gevent.GreenletExit(), KeyboardInterrupt()):

        def leave(_event: object, _message: object, error: BaseException = error) -> None:
            raise error

        with pytest.raises(type(error)):
            run(lane.bind(leave, None))


def test_settlements_happen_in_the_thread_of_the_hub(lane: ThreadLane) -> None:
    home = native_ident()
    told: list[tuple[str, bool]] = []

    class Settler:
        settled = False

        def ack(self) -> None:
            told.append(("ack", native_ident() == home))
            self.settled = True

        def reject(self, reason: str) -> None:
            told.append((reason, native_ident() == home))

        def requeue(self) -> None:
            told.append(("requeue", native_ident() == home))

    def settle(event: object, message: object) -> None:
        event.ack()  # type: ignore[attr-defined]
        message.reject()  # type: ignore[attr-defined]
        message.requeue()  # type: ignore[attr-defined]
        told.append(("acknowledged", message.acknowledged))  # type: ignore[attr-defined]

    event, message = make_event("")
    event._settler = Settler()
    lane.bind(settle, None)(event, message)
    assert told == [
        ("ack", True),
        ("message.reject()", True),
        ("requeue", True),
        ("acknowledged", True),
    ]


def test_the_application_of_the_event_is_known_in_the_thread(lane: ThreadLane) -> None:
    seen: list[str | None] = []
    token = current_application.set("acme")
    try:
        run(lane.bind(lambda _event, _message: seen.append(current_application.get()), None))
    finally:
        current_application.reset(token)
    assert seen == ["acme"]


def test_settings_logger_and_publisher_reach_the_handler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from tests.unit.plugin_site import Site

    monkeypatch.syspath_prepend(str(tmp_path))
    site = Site(tmp_path)
    site.install(
        "solution-t",
        """
        def default_config():
            return {"x": 1}
        def handle(settings, logger, publisher, application):
            logger.warning("runs %s", settings["x"])
            publisher.publish("t.a", 1)
            application.publish("t.b", 2)
        def register_event_handlers(worker, config):
            worker.register_event_handler(handle, "t.#", lane="thread")
        """,
    )
    registry = load_registry(Config(), entry_points=site.entry_points())
    outbox = Outbox()
    lanes = Lanes(registry, outbox)
    (handler,) = registry.handlers.values()
    run(lanes.call_of(handler, "g", "thread", None))
    lanes.close()
    site.forget()
    assert [(p.routing_key, p.application) for p in outbox.published] == [
        ("t.a", "default"),
        ("t.b", "default"),
    ]
    assert "runs 1" in caplog.messages


def test_a_timeout_strikes_between_two_bytecodes(
    lane: ThreadLane, caplog: pytest.LogCaptureFixture
) -> None:
    def endless(_event: object, _message: object) -> None:
        burn(30)

    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(TimeoutError, match="ran longer than 2 s") as caught,
    ):
        run(lane.bind(endless, limit(2)))
    assert type(caught.value) is TimeoutError
    assert "endless" in [entry.name for entry in caught.traceback]
    (warning,) = [r for r in caplog.records if "half of its timeout" in r.getMessage()]
    assert "burn" in str(warning.stack_info)
    assert "native_threads" not in str(warning.stack_info)


def test_a_timeout_strikes_a_thread_that_waits_with_gevent(
    lane: ThreadLane, caplog: pytest.LogCaptureFixture
) -> None:
    def waits(_event: object, _message: object) -> None:
        time.sleep(30)

    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(TimeoutError, match="ran longer than 2 s") as caught,
    ):
        run(lane.bind(waits, limit(2)))
    assert "waits" in [entry.name for entry in caught.traceback]
    (warning,) = [r for r in caplog.records if "half of its timeout" in r.getMessage()]
    assert "time.sleep(30)" in str(warning.stack_info)


def test_a_timeout_never_strikes_the_next_run_of_the_thread(lane: ThreadLane) -> None:
    timeouts = ends = 0

    def work(_event: object, _message: object) -> None:
        burn(0.02)

    limited = lane.bind(work, limit(0.02))
    innocent = lane.bind(lambda _event, _message: burn(0.002), None)
    for _ in range(60):
        try:
            run(limited)
        except TimeoutError:
            timeouts += 1
        run(innocent)  # raises what strikes it
        ends += 1
    assert ends == 60
    assert timeouts > 0


def test_a_run_that_cannot_be_interrupted_takes_the_timeouts_outcome_when_it_ends(
    lane: ThreadLane,
) -> None:
    def in_c(_event: object, _message: object) -> None:
        native_sleep(0.5)

    started = time.monotonic()
    with pytest.raises(TimeoutError):
        run(lane.bind(in_c, limit(0.1)))
    assert time.monotonic() - started >= 0.5, "its slot is kept until it really ends"


def test_a_handler_that_acked_and_returns_late_has_done_its_work(lane: ThreadLane) -> None:
    def swallows(event: object, _message: object) -> None:
        event.ack()  # type: ignore[attr-defined]
        try:
            time.sleep(30)
        except TimeoutError:
            native_sleep(0.1)

    event, message = make_event("")
    lane.bind(swallows, limit(1))(event, message)
    assert event.acknowledged


def test_a_handler_may_answer_its_timeout_with_a_decision(lane: ThreadLane) -> None:
    def decides(_event: object, _message: object) -> None:
        try:
            time.sleep(30)
        except TimeoutError:
            raise Retry(60) from None

    with pytest.raises(Retry):
        run(lane.bind(decides, limit(1)))


def test_a_killed_run_is_told_to_end(lane: ThreadLane) -> None:
    steps: list[str] = []

    def waits(_event: object, _message: object) -> None:
        try:
            steps.append("begun")
            time.sleep(60)
        finally:
            steps.append("ended")

    job = gevent.spawn(run, lane.bind(waits, None))
    wait_until(lambda: steps)
    job.kill(timeout=30)
    assert job.dead
    wait_until(lambda: steps == ["begun", "ended"])


@pytest.mark.parametrize("kind", ["Lock", "RLock", "Semaphore", "logging"])
def test_patched_locks_work_between_threads_and_greenlets(kind: str) -> None:
    mend_locks()
    mend_locks()
    lock = threading.Lock() if kind == "logging" else getattr(threading, kind)()
    logger = logging.getLogger("test.locks")
    done: list[int] = []

    def hammer() -> None:
        for n in range(1_500):
            if kind == "logging":
                logger.warning("x")
                continue
            with lock:
                if n % 300 == 0:
                    time.sleep(0)
        done.append(1)

    for _ in range(3):
        start_native(hammer, ())
    jobs = [gevent.spawn(hammer) for _ in range(2)]
    gevent.joinall(jobs, timeout=60, raise_error=True)
    wait_until(lambda: len(done) == 5, message="all to end")


def test_a_patched_lock_that_is_held_keeps_its_patience_and_its_signature() -> None:
    mend_locks()
    lock = threading.Lock()
    with lock:
        assert lock.acquire(blocking=False) is False
        started = time.monotonic()
        assert lock.acquire(timeout=0.1) is False
        assert time.monotonic() - started >= 0.1
        with pytest.raises(ValueError, match="positive"):
            lock.acquire(timeout=-2)
        with pytest.raises(ValueError, match="timeout"):
            lock.acquire(False, 1)
    assert lock.acquire(timeout=0.1) is True


def test_a_thread_that_never_ends_does_not_keep_the_process() -> None:
    source = """
        from gevent import monkey; monkey.patch_all()
        import gevent, time
        from limehub.workers.lanes.thread_lane import ThreadLane
        from limehub.testing import make_event
        native_sleep = monkey.get_original("time", "sleep")
        lane = ThreadLane()
        for wait in (native_sleep, time.sleep):
            def stuck(event, message):
                while True:
                    try:
                        wait(100)
                    except BaseException:
                        pass
            job = gevent.spawn(lane.bind(stuck, None), *make_event(""))
            gevent.sleep(0.2)
            job.kill()
        lane.close()
        print("end", flush=True)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(source)],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("end\n", 0), done.stderr


@pytest.mark.parametrize("name", ["runs", "forks", "multiprocesses"])
def test_a_handler_in_a_thread_may_start_processes(lane: ThreadLane, name: str) -> None:
    space: dict[str, Any] = {}
    exec(textwrap.dedent(CHILDREN), space)
    call = lane.bind(lambda event, _message: space[name](event.body), None)
    runs = [gevent.spawn(run, call, code) for _ in range(10) for code in (0, 1, 7, 42)]
    assert len(gevent.joinall(runs, timeout=100)) == len(runs)
    for each in runs:
        each.get()
