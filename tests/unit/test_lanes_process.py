"""The lane `process`: handlers in child processes, without a broker."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import gevent
import psutil
import pytest

from limehub import Discard, Reject, Retry
from limehub.config import Config
from limehub.decoding import UndecodableBody
from limehub.errors import AlreadySettled, PluginError, Unroutable
from limehub.workers.lanes.child_process import ChildEnded
from tests.support.waiting import wait_until
from tests.unit.lane_site import APP, LaneSite
from tests.unit.plugin_site import Site

METHOD_OF_A_LOCK = """
import threading
class Holder:
    def __init__(self): self.lock = threading.Lock()
    def on(self, body): pass
handle = Holder().on
"""
HIDDEN_BY_A_DECORATOR = """
def real(body): pass
def wrap(function):
    def inner(body): function(body)
    inner.__qualname__ = function.__qualname__
    return inner
handle = wrap(real)
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LaneSite]:
    monkeypatch.syspath_prepend(str(tmp_path))
    place = LaneSite(Site(tmp_path))
    yield place
    if hasattr(place, "lanes"):
        place.lanes.close()
    place.site.forget()


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_handler_runs_in_another_process_where_nothing_is_patched(site: LaneSite) -> None:
    site.install("""
        import socket, sys
        def handle(body):
            note(os.getpid(), socket.socket.__module__, "gevent" in sys.modules, body)
    """)
    site.call("handle", "process")({"a": 1})
    (line,) = site.noted
    pid, module, patched, *body = line.split(" ", 3)
    assert int(pid) in site.lanes.child_pids
    assert int(pid) != os.getpid()
    assert (module, patched, body) == ("socket", "False", ["{'a': 1}"])


def test_an_event_arrives_whole(site: LaneSite) -> None:
    site.install("""
        def handle(event, settings, application, config):
            note(event.id, event.attempt, event.redelivered, event.routing_key, event.exchange,
                 event.headers["h"], event.content_type, event.raw_body, application.identifier,
                 config.applications, event.application)
    """)
    site.call("handle", "process")(
        b"[1]",
        attempt=3,
        redelivered=True,
        headers={"h": b"\xff"},
        properties={"message_id": "m", "content_type": "application/json"},
        routing_key="t.x",
    )
    assert site.noted == [
        "m 3 True t.x lime.default b'\\xff' application/json b'[1]' default ('default',) default"
    ]


def test_settings_reach_the_child(site: LaneSite) -> None:
    config = Config(plugins={APP: {"url": "https://crm.example"}})
    site.install(
        """
        def default_config():
            return {"url": "", "limit": 5}
        def handle(settings):
            note(settings["url"], settings["limit"])
        """,
        config,
    )
    site.call("handle", "process")()
    assert site.noted == ["https://crm.example 5"]


def test_a_body_of_ten_megabytes_crosses(site: LaneSite) -> None:
    site.install("""
        def handle(event):
            note(len(event.raw_body))
    """)
    site.call("handle", "process")(b"x" * 10_000_000)
    assert site.noted == ["10000000"]


def test_settlements_travel_and_a_second_one_raises(site: LaneSite) -> None:
    site.install("""
        from limehub.errors import AlreadySettled
        def acks(event):
            event.ack()
            note(event.acknowledged)
            try:
                event.ack()
            except AlreadySettled as error:
                note(error)
        def of_lime(worker, body, message):
            message.requeue()
        def rejects(message):
            message.reject()
    """)
    event = site.call("acks", "process")()
    assert event.acknowledged
    assert site.noted == ["True", "ack after ack"]
    assert site.call("of_lime", "process")().acknowledged
    assert site.call("rejects", "process")().acknowledged


def test_an_event_that_was_acked_before_the_run_is_acked_in_the_child(site: LaneSite) -> None:
    site.install("""
        def handle(event):
            note(event.acknowledged)
    """)
    handler = site.registry.handlers[f"lime.event_handler.{APP}.handle"]
    from limehub.testing import make_event

    event, message = make_event("")
    event.ack()
    site.lanes.call_of(handler, "group", "process", None)(event, message)
    assert site.noted == ["True"]


def test_what_is_published_in_a_child_leaves_by_the_parent(site: LaneSite) -> None:
    site.install("""
        def handle(publisher, application):
            note(publisher.publish("t.a", {"n": 1}, headers={"x": 1}, message_id="mine"))
            note(application.publish("t.b", "text"))
            try:
                publisher.publish("t.c", object())
            except TypeError as error:
                note("TypeError")
    """)
    site.call("handle", "process")()
    first, second = site.outbox.published
    assert (first.routing_key, first.body, first.application) == ("t.a", b'{"n": 1}', "default")
    assert (first.headers, first.message_id) == ({"x": 1}, "mine")
    assert (second.routing_key, second.mandatory) == ("t.b", False)
    assert site.noted == ["mine", "test-2", "TypeError"]


def test_errors_of_the_publisher_are_raised_in_the_child(site: LaneSite) -> None:
    class Nobody:
        def publish(self, *_: object, **__: object) -> str:
            raise Unroutable("reaches no queue")

    site.outbox = Nobody()  # type: ignore[assignment] # a publisher all the same
    site.install("""
        from limehub.errors import Unroutable
        def handle(publisher):
            try:
                publisher.publish("t.a", 1)
            except Unroutable as error:
                note(error)
    """)
    site.call("handle", "process")()
    assert site.noted == ["reaches no queue"]


@pytest.mark.parametrize(
    ("statement", "kind", "text"),
    [
        ("raise Retry(7.5)", Retry, "retry in 7.5 s"),
        ("raise Retry(reason='busy')", Retry, "busy"),
        ("raise Reject('no')", Reject, "no"),
        ("raise Discard('nothing')", Discard, "nothing"),
        ("{}['key']", KeyError, "'key'"),
        ("open('/nowhere/x')", FileNotFoundError, "No such file"),
        ("b'\\xff'.decode()", UnicodeDecodeError, "invalid start byte"),
        ("event.body", UndecodableBody, "is neither JSON nor text"),
        ("raise SystemExit(3)", SystemExit, "3"),
        ("raise KeyboardInterrupt", KeyboardInterrupt, ""),
    ],
)
def test_exceptions_come_back_as_what_they_were(
    site: LaneSite, statement: str, kind: type[BaseException], text: str
) -> None:
    site.install(f"""
        from limehub import Discard, Reject, Retry
        def handle(event):
            {statement}
    """)
    call = site.call("handle", "process")
    with pytest.raises(kind, match=text or None) as caught:
        call(b"x", properties={"content_type": "image/png"})
    assert type(caught.value) is kind
    if statement == "raise Retry(7.5)":
        assert caught.value.delay == 7.5
    frames = [(entry.path, entry.name) for entry in caught.traceback]
    assert any(str(path).endswith("__init__.py") and name == "handle" for path, name in frames)


def test_an_exception_that_cannot_be_pickled_keeps_its_name_and_text(site: LaneSite) -> None:
    site.install("""
        import threading
        class Broken(Exception):
            def __init__(self):
                super().__init__("it holds a lock")
                self.lock = threading.Lock()
        def handle(body):
            try:
                raise Broken
            except Broken as error:
                raise RuntimeError("outer") from error
        def alone(body):
            raise Broken
    """)
    with pytest.raises(RuntimeError, match="outer") as caught:
        site.call("handle", "process")()
    cause = caught.value.__cause__
    assert (type(cause).__module__, type(cause).__qualname__) == ("solution_lanes", "Broken")
    assert str(cause) == "it holds a lock"
    with pytest.raises(Exception, match="it holds a lock") as lonely:
        site.call("alone", "process")()
    assert type(lonely.value).__name__ == "Broken"


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("ctypes.string_at(0)", "was killed by SIGSEGV"),
        ("os._exit(7)", "ended with exit code 7"),
        ("os.kill(os.getpid(), 9)", "was killed by SIGKILL"),
        ("os.abort()", "was killed by SIGABRT"),
    ],
)
def test_the_end_of_a_child_is_its_handlers_failure_and_the_next_event_gets_a_new_one(
    site: LaneSite, statement: str, words: str
) -> None:
    site.install(f"""
        import ctypes
        def handle(body):
            if body == "die":
                {statement}
            note(os.getpid())
    """)
    call = site.call("handle", "process")
    call("live")
    with pytest.raises(ChildEnded, match=words) as caught:
        call("die")
    call("live")
    first, second = site.noted
    assert first != second
    assert site.lanes.child_pids == [int(second)]
    if "SIGSEGV" in words or "SIGABRT" in words:
        assert "in handle" in str(caught.value), "its last stack says where it was"


def test_a_child_is_replaced_after_its_number_of_runs(site: LaneSite) -> None:
    site.install("def handle(): note(os.getpid())", runs=2)
    call = site.call("handle", "process")
    for _ in range(5):
        call()
    a, b, c, d, e = site.noted
    assert a == b
    assert c == d
    assert len({a, c, e}) == 3
    wait_until(lambda: site.lanes.child_pids == [int(e)], message="the old ones to end")


def test_a_child_that_has_grown_is_replaced(site: LaneSite) -> None:
    site.install(
        """
        KEPT = []
        def handle(body):
            note(os.getpid())
            KEPT.append(bytearray(os.urandom(1024)) * (1024 * body))
        """,
        growth=48 * 1024 * 1024,
    )
    call = site.call("handle", "process")
    for size in (1, 64, 1):
        call(size)
    first, second, third = site.noted
    assert first == second != third


def test_as_many_children_as_handlers_run_at_once_and_none_before(site: LaneSite) -> None:
    site.install("""
        import time
        def handle():
            note("start")
            while not os.path.exists(NOTES + ".go"):
                time.sleep(0.01)
    """)
    call = site.call("handle", "process")
    assert site.lanes.child_pids == []
    jobs = [gevent.spawn(call) for _ in range(3)]
    wait_until(lambda: len(site.noted) == 3)
    assert len(set(site.lanes.child_pids)) == 3
    Path(f"{site.notes}.go").touch()
    gevent.joinall(jobs, timeout=60, raise_error=True)
    call()
    assert len(site.lanes.child_pids) == 3


def test_what_a_child_logs_is_in_the_log_of_the_parent(
    site: LaneSite, caplog: pytest.LogCaptureFixture
) -> None:
    site.install("""
        import logging
        def handle(logger):
            logger.debug("hidden")
            logger.info("took %s s", 5, extra={"order": "A-1"})
            try:
                1 / 0
            except ZeroDivisionError:
                logger.exception("100% failed")
    """)
    with caplog.at_level(logging.INFO):
        site.call("handle", "process")()
    took, failed = [r for r in caplog.records if r.name == "solution_lanes"]
    assert (took.getMessage(), took.__dict__["order"]) == ("took 5 s", "A-1")
    assert took.process in site.lanes.child_pids
    assert failed.getMessage() == "100% failed"
    assert failed.exc_info is not None
    assert failed.exc_info[0] is ZeroDivisionError
    assert not [r for r in caplog.records if r.getMessage() == "hidden"]


def test_a_child_whose_logging_a_package_takes_over_is_heard_in_the_next_run(
    site: LaneSite, caplog: pytest.LogCaptureFixture
) -> None:
    site.install("""
        import logging.config
        def handle(logger, body):
            logger.warning("in run %s", body)
            if body == 1:
                logging.config.dictConfig({"version": 1, "root": {"level": "CRITICAL"}})
                logger.warning("to nobody")
    """)
    call = site.call("handle", "process")
    call(1)
    call(2)
    heard = [each.getMessage() for each in caplog.records if each.name == "solution_lanes"]
    assert heard == ["in run 1", "in run 2"]


def test_a_run_beyond_its_timeout_is_killed_with_what_it_has_started(
    site: LaneSite, caplog: pytest.LogCaptureFixture
) -> None:
    site.install("""
        import re, subprocess
        def handle(body):
            if body == "quick":
                return
            note(subprocess.Popen(["sleep", "60"]).pid)
            re.match(r"(a+)+$", "a" * 40 + "b")
    """)
    call = site.call("handle", "process", timeout=3.0)
    call("quick")  # the child has loaded all that it needs
    with caplog.at_level(logging.WARNING), pytest.raises(TimeoutError, match="ran longer than 3 s"):
        call("slow")
    grandchild = int(site.noted[0])
    wait_until(lambda: not runs(grandchild))
    (warning,) = [r for r in caplog.records if "half of its timeout" in r.getMessage()]
    assert warning.stack_info is not None
    assert "in child process" in warning.stack_info
    assert "in handle" in warning.stack_info, "C code that holds the GIL is seen, too"
    call("quick")


def test_a_manual_handler_may_settle_from_a_thread_after_its_return(site: LaneSite) -> None:
    site.install("""
        import threading, time
        def of_lime(worker, body, message):
            def later():
                while not os.path.exists(NOTES + ".go"):
                    time.sleep(0.01)
                message.ack()
                note("acked")
            threading.Thread(target=later).start()
    """)
    event = site.call("of_lime", "process")()
    assert not event.acknowledged
    Path(f"{site.notes}.go").touch()
    wait_until(lambda: event.acknowledged)
    wait_until(lambda: site.noted == ["acked"])


def test_events_that_a_dead_child_kept_open_go_back(site: LaneSite) -> None:
    site.install("def of_lime(worker, body, message): note(os.getpid())")
    event = site.call("of_lime", "process")()
    assert not event.acknowledged
    os.kill(int(site.noted[0]), signal.SIGKILL)
    wait_until(lambda: event.acknowledged)
    with pytest.raises(AlreadySettled, match="after requeue"):
        event.ack()


def test_a_run_that_is_killed_takes_its_child_along(site: LaneSite) -> None:
    site.install("""
        import time
        def handle():
            note(os.getpid())
            time.sleep(60)
    """)
    job = gevent.spawn(site.call("handle", "process"))
    wait_until(lambda: site.noted)
    job.kill()
    pid = int(site.noted[0])
    wait_until(lambda: not psutil.pid_exists(pid))


def test_a_child_inherits_no_descriptor_of_the_parent(site: LaneSite) -> None:
    site.install("def handle(): note(*sorted(os.listdir('/proc/self/fd')))")
    read, write = os.pipe()
    os.set_inheritable(write, True)
    site.call("handle", "process")()
    os.close(read)
    os.close(write)
    # 0 to 4 are its own; one more is the listing itself, and one the file of notes.
    assert len(site.noted[0].split()) <= 7
    assert str(write) not in site.noted[0].split() or write < 7


def test_signals_to_all_processes_leave_the_children_to_the_server(site: LaneSite) -> None:
    site.install("""
        import signal, subprocess
        def handle():
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                os.kill(os.getpid(), number)
            note(os.getpgrp() == os.getpid())
            note(subprocess.run(["sh", "-c", "kill -TERM $$"]).returncode)
    """)
    site.call("handle", "process")()
    assert site.noted == ["True", "-15"]


def test_a_handler_that_forks_leaves_the_line_to_the_parent_alone(site: LaneSite) -> None:
    site.install("""
        def handle(body):
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            os.waitpid(pid, 0)
            note("done")
    """)
    site.call("handle", "process")()
    assert site.noted == ["done"]


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("handle = lambda body: None", "it is a lambda"),
        (
            "def make():\n    def inner(body): pass\n    return inner\nhandle = make()",
            "it is defined inside another function",
        ),
        (METHOD_OF_A_LOCK, "it cannot be pickled"),
        (HIDDEN_BY_A_DECORATOR, "not the same object"),
    ],
    ids=["lambda", "closure", "method", "decorated"],
)
def test_a_function_that_a_child_cannot_find_is_refused_at_load(
    site: LaneSite, source: str, why: str
) -> None:
    site.install("def other(body): pass")
    site.site.forget()
    text = source + (
        "\ndef register_event_handlers(worker, config):\n"
        "    worker.register_event_handler(handle, 't.#', 'handle')\n"
    )
    site.site.install(APP, text)
    site.registry = site.site.load()
    site.registry.raise_if_broken()
    handler = site.registry.handlers[f"lime.event_handler.{APP}.handle"]
    with pytest.raises(PluginError, match=why) as refused:
        site.lanes.call_of(handler, "group", "process", None)
    assert refused.value.exit_code == 3
    assert f"{APP}.handle" in str(refused.value)


def test_methods_and_partials_of_what_can_be_pickled_are_fine(site: LaneSite) -> None:
    site.install("""
        class Greeter:
            def __init__(self, word): self.word = word
            def greet(self, body): note(self.word, body)
        greet = Greeter("hello").greet
    """)
    site.call("greet", "process")("you")
    assert site.noted == ["hello you"]


def test_a_child_that_cannot_start_is_the_handlers_failure(
    site: LaneSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.install("def handle(): pass")
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(ChildEnded, match="exit code 1"):
        site.call("handle", "process")()


def test_a_child_that_says_what_nobody_can_read_is_the_handlers_failure(site: LaneSite) -> None:
    site.install("""
        class Odd:
            def __reduce__(self):
                return (appears_in_the_child_only, ())
        def appears_in_the_child_only():
            raise LookupError("not here")
        def handle(body, publisher):
            publisher.publish("t.a", {}, headers={"odd": Odd()})
    """)
    call = site.call("handle", "process")
    with gevent.Timeout(60, AssertionError("it waits for ever")), pytest.raises(ChildEnded):
        call()
    wait_until(lambda: not site.lanes.child_pids)


def test_what_cannot_be_started_leaves_no_descriptor(
    site: LaneSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.install("def handle(): pass")
    monkeypatch.setattr("sys.executable", "/nonexistent")
    call = site.call("handle", "process")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with pytest.raises(FileNotFoundError):
            call()
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before)


def test_closing_ends_all_children(site: LaneSite) -> None:
    site.install("def handle(): note(os.getpid())")
    call: Callable[..., object] = site.call("handle", "process")
    call()
    site.lanes.close()
    wait_until(lambda: site.lanes.child_pids == [])
    wait_until(lambda: not psutil.pid_exists(int(site.noted[0])))
