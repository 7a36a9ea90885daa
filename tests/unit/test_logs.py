"""Log lines as an operator, a log shipper and an attacker see them."""

from __future__ import annotations

import io
import json
import logging
import os
import pty
import re
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gevent
import pytest

from limehub.observe import logs, sink, strays
from tests.support.waiting import wait_until

log = logging.getLogger("limehub.workers.runner")


class Log:
    """The configured log over an io.StringIO."""

    def __init__(self, kind: str, level: str = "info") -> None:
        self.stream = io.StringIO()
        logs.configure(level, kind, self.stream)  # type: ignore[arg-type]

    @property
    def lines(self) -> list[str]:
        return self.stream.getvalue().splitlines()

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stream.getvalue().split("\n") if line]


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root, names = logging.getLogger(), ("pika", "werkzeug")
    before = root.level, [logging.getLogger(name).level for name in names]
    yield
    for handler in [each for each in root.handlers if isinstance(each, logs.LineHandler)]:
        root.removeHandler(handler)
    root.setLevel(before[0])
    for name, level in zip(names, before[1], strict=True):
        logging.getLogger(name).setLevel(level)


@contextmanager
def only_ours() -> Iterator[None]:
    """Without pytest's own handlers, which raise, and whose gevent locks threads wait for."""
    root = logging.getLogger()
    handlers = [*root.handlers]
    root.handlers[:] = [each for each in handlers if isinstance(each, logs.LineHandler)]
    yield
    root.handlers[:] = handlers


@pytest.fixture
def json_log() -> Log:
    return Log("json")


@pytest.fixture
def text_log() -> Log:
    return Log("text")


def fail(message: str) -> None:
    raise ValueError(message)


# --- JSON


def test_a_json_line_has_the_documented_fields(json_log: Log) -> None:
    log.warning(
        "handler failed",
        extra={
            "message_id": "m-1",
            "routing_key": "core.limeobject.deal.update.v1",
            "queue": "lime.event_handler.x.deal",
            "exchange": "lime.acme",
            "handler": "x.deal",
            "application": "acme",
            "attempt": 2,
            "missing": None,
        },
    )
    (record,) = json_log.records
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", record.pop("@timestamp"))
    assert record == {
        "log.level": "warning",
        "log.logger": "limehub.workers.runner",
        "message": "handler failed",
        "process.pid": os.getpid(),
        "event.id": "m-1",
        "rabbitmq.routing_key": "core.limeobject.deal.update.v1",
        "rabbitmq.queue": "lime.event_handler.x.deal",
        "rabbitmq.exchange": "lime.acme",
        "limehub.handler": "x.deal",
        "limehub.application": "acme",
        "limehub.attempt": 2,
    }


def test_an_exception_is_part_of_its_json_line(json_log: Log) -> None:
    try:
        fail("two\nlines")
    except ValueError as error:
        log.error("handler failed", exc_info=error)
    (record,) = json_log.records
    assert len(json_log.lines) == 1
    assert record["error.type"] == "builtins.ValueError"
    assert record["error.message"] == "two\nlines"
    assert record["error.stack_trace"].startswith("Traceback (most recent call last):\n")
    assert record["error.stack_trace"].endswith("ValueError: two\nlines")


def test_the_ready_line_keeps_its_fields_at_the_top_in_json(json_log: Log) -> None:
    extra = {"event": "ready", "web": None, "groups": ["default"], "queues": 3}
    log.info("ready", extra=extra)
    log.info("declared", extra={"queues": 3})
    ready, declared = json_log.records
    assert {name: ready[name] for name in extra} == extra
    assert declared["limehub.queues"] == 3
    assert "event" not in declared


def test_the_ready_line_reads_well_as_text(text_log: Log) -> None:
    extra = {"event": "ready", "web": "http://127.0.0.1:8080", "groups": ["default"], "queues": 3}
    log.info("ready", extra=extra)
    (line,) = text_log.lines
    assert line.endswith("ready  web=http://127.0.0.1:8080 groups=default queues=3")


class Broken:
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Odd:
    def __repr__(self) -> str:
        return "<odd>"


CYCLE: list[Any] = []
CYCLE.append(CYCLE)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (Odd(), "<odd>"),
        (Broken(), "<Broken whose text failed: RuntimeError>"),
        (b"\xff", r"b'\xff'"),
        (float("nan"), "nan"),
        (1 << 20_000, "<20001 bit number>"),
        ({1: Odd(), (2, 3): [Broken]}, {"1": "<odd>", "(2, 3)": [str(Broken)]}),
        ((1, "two", None, True), [1, "two", None, True]),
        ("a\ud800b", "a\ud800b"),
    ],
    ids=["object", "broken", "bytes", "nan", "huge", "dict", "tuple", "surrogate"],
)
def test_any_object_can_be_logged(json_log: Log, value: object, written: object) -> None:
    log.info("odd", extra={"thing": value})
    (record,) = json_log.records
    assert record["limehub.thing"] == written


def test_what_contains_itself_and_what_is_endless_is_cut(json_log: Log) -> None:
    log.info("odd", extra={"cycle": CYCLE, "long": "x" * 1_000_000})
    log.info("y" * 1_000_000)
    odd, long = json_log.records
    assert len(str(odd["limehub.cycle"])) < 100
    assert odd["limehub.long"].endswith("xxx ... (983616 more characters)")
    assert len(long["message"]) < 20_000


def test_arguments_that_do_not_fit_do_not_cost_the_line(json_log: Log) -> None:
    with only_ours():
        log.info("%d apples", "no")
    assert json_log.records[0]["message"] == "%d apples ('no',)"


def test_a_record_whose_formatting_fails_leaves_a_line_that_says_where(json_log: Log) -> None:
    class Hostile(dict[str, str]):
        def items(self) -> Any:
            raise RuntimeError("no items")

    log.info("odd", extra={"thing": Hostile(a="b")})
    (record,) = json_log.records
    assert record["message"] == "cannot format a log record"
    assert record["limehub.cause"] == "RuntimeError"
    assert "test_logs.py:" in record["limehub.place"]


def test_every_field_is_documented(json_log: Log) -> None:
    text = (Path(__file__).parents[2] / "docs" / "logging.md").read_text()
    known = dict.fromkeys(("application", "exchange", "handler", "message_id", "queue"), "x")
    try:
        fail("boom")
    except ValueError:
        log.exception("all", extra=known | {"routing_key": "x", "event": "x"})
    log.info("ready", extra={"event": "ready", "web": "x", "groups": [], "queues": 1})
    fields = {name for record in json_log.records for name in record}
    assert [name for name in fields if f"`{name}`" not in text] == []


# --- text


def test_a_text_line_is_time_level_logger_message_and_pairs(text_log: Log) -> None:
    extra = {"queue": "q", "cause": "it is full", "n": 3, "none": None, "keys": ["a.b", "c"]}
    log.warning("cannot consume", extra=extra)
    (line,) = text_log.lines
    time_of_day, rest = line.split(" ", 1)
    assert re.fullmatch(r"\d\d:\d\d:\d\d", time_of_day)
    assert rest == (
        'WARNING workers.runner cannot consume  queue=q cause="it is full" n=3 keys=a.b,c'
    )


def test_lines_of_a_traceback_cannot_pass_for_lines_of_the_log(text_log: Log) -> None:
    try:
        fail("boom\n12:00:00 INFO    server all is well\x1b[2J\r\u2028x")
    except ValueError:
        log.exception("handler failed")
    first, *rest = text_log.stream.getvalue().rstrip("\n").split("\n")
    assert first.endswith("ERROR   workers.runner handler failed")
    assert all(line.startswith("  | ") for line in rest)
    assert rest[-1] == r"  | 12:00:00 INFO    server all is well\x1b[2J\r\u2028x"


@pytest.mark.parametrize("kind", ["text", "json"])
def test_nothing_that_is_logged_can_begin_a_second_line(kind: str) -> None:
    log_ = Log(kind)
    evil = "a\r\n12:00:00 INFO    server forged\x85\u2028\x0b\x0c\x1c\x00\x7f\u202e"
    logging.getLogger(evil).warning(evil, extra={"queue": evil, evil: evil, "list": [evil]})
    assert len(log_.lines) == 1
    assert log_.lines[0].isprintable()


@pytest.mark.parametrize("kind", ["text", "json"])
def test_credentials_in_urls_are_masked_everywhere(kind: str) -> None:
    log_ = Log(kind)
    url = "amqp://guest:hunter2@rabbit:5672/"
    try:
        fail(f"cannot reach {url}")
    except ValueError:
        log.exception("tried %s", url, extra={"url": url, "nested": {"urls": [url]}})
    written = log_.stream.getvalue()
    assert "hunter2" not in written
    assert written.count("amqp://guest:***@rabbit") == 4 + (kind == "json")


@pytest.mark.parametrize("kind", ["text", "json"])
def test_extras_that_are_secrets_by_name_are_hidden(kind: str) -> None:
    log_ = Log(kind)
    log.info(
        "told", extra={"api_token": "hunter2", "nested": {"password": "hunter2"}, "key": "a.b"}
    )
    written = log_.stream.getvalue()
    assert "hunter2" not in written
    assert "a.b" in written


def test_colours_are_for_terminals_only_and_not_under_no_color(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def written() -> str:
        leader, follower = pty.openpty()
        with os.fdopen(follower, "w") as stream:
            logs.configure("info", None, stream)
            log.error("hello")
            text = os.read(leader, 1000).decode()
        os.close(leader)
        return text

    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[31mERROR  \x1b[0m" in written()
    monkeypatch.setenv("NO_COLOR", "1")
    assert written().rstrip("\r\n").endswith(" ERROR   workers.runner hello")


# --- set-up


def test_without_a_terminal_the_format_is_json() -> None:
    stream = io.StringIO()
    logs.configure("info", None, stream)
    log.info("hello")
    assert json.loads(stream.getvalue())["message"] == "hello"


def test_the_level_can_change_while_running_and_a_second_configure_replaces_the_first() -> None:
    first, second = Log("json"), Log("json")
    log.debug("too quiet")
    logs.set_level("debug")
    log.debug("heard")
    assert first.records == []
    assert [record["message"] for record in second.records] == ["heard"]


def test_pika_is_silent_even_at_debug() -> None:
    log_ = Log("json", "debug")
    logging.getLogger("pika.adapters.utils.connection_workflow").error("a page of traceback")
    assert log_.records == []


def test_importing_sets_up_nothing() -> None:
    code = (
        "import logging, sys; import limehub.observe.logs, limehub.observe.strays;"
        "root = logging.getLogger();"
        "print(root.handlers, root.level, logging.getLogger('pika').level, "
        "sys.unraisablehook is sys.__unraisablehook__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[] 30 0 True\n"


# --- where the lines go


def test_a_broken_pipe_costs_neither_the_process_nor_a_word() -> None:
    code = (
        "import logging, sys; from limehub.observe import logs\n"
        "logs.configure('info', 'json'); sys.stdin.readline()\n"
        "for n in range(1000): logging.getLogger('x').info('line %d', n)\n"
        "print('alive')"
    )
    read, write = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=write,
        text=True,
    )
    os.close(write)
    os.close(read)
    assert process.communicate("go\n", timeout=60) == ("alive\n", None)
    assert process.returncode == 0


def test_a_full_disk_drops_lines_and_says_so_when_there_is_room_again() -> None:
    with Path("/dev/full").open("w") as full, Path(os.devnull).open("w") as room:
        handler = sink.DescriptorSink(full.fileno(), lambda count: f"dropped {count}")
        handler.write("one")
        handler.write("two")
        read, write = os.pipe()
        os.dup2(write, full.fileno())
        handler.write("three")
        assert os.read(read, 1000) == b"dropped 2\nthree\n"
        os.dup2(room.fileno(), full.fileno())
    os.close(read)
    os.close(write)


def test_a_pipe_that_nobody_reads_blocks_nobody_and_loses_no_line_once_read() -> None:
    read, write = os.pipe()
    handler = sink.DescriptorSink(write, lambda count: f"dropped {count}")
    lines = [f"{number} " + "x" * 1000 for number in range(500)]  # half a megabyte
    for line in lines:
        handler.write(line)  # it would wait for ever
    got = b""
    while got.count(b"\n") < 500:
        got += os.read(read, 65_536)
    assert got.decode().splitlines() == lines
    handler.flush(30)
    handler.write("after")
    assert os.read(read, 100) == b"after\n"
    os.close(read)
    os.close(write)


def test_a_forked_process_logs_though_another_thread_was_at_it() -> None:
    read, write = os.pipe()
    handler = sink.DescriptorSink(write, lambda count: f"dropped {count}")
    holding: list[int] = []
    may_end: list[int] = []

    def hold() -> None:  # in a native thread
        with handler._lock:
            holding.append(1)
            while not may_end:
                sink._sleep(0.01)

    sink._start_native(hold, ())
    wait_until(lambda: holding)
    child = os.fork()
    if child == 0:
        handler.write("from the child")
        os._exit(0)
    try:
        wait_until(lambda: os.waitpid(child, os.WNOHANG)[0] == child)
        assert os.read(read, 100) == b"from the child\n"
    finally:
        may_end.append(1)
        os.close(read)
        os.close(write)


def test_lines_beyond_what_may_wait_are_dropped_and_counted() -> None:
    read, write = os.pipe()
    handler = sink.DescriptorSink(write, lambda count: f"dropped {count}")
    for _ in range(2_000):
        handler.write("x" * 1000)
    got = b""
    while b"dropped" not in got:
        got += os.read(read, 65_536)
    kept, _, dropped = got.decode().partition("dropped ")
    assert kept.count("\n") + int(dropped) == 2_000
    assert sink.MAX_WAITING < len(kept) < sink.MAX_WAITING + 100_000
    os.close(read)
    os.close(write)


def test_native_threads_and_greenlets_can_log_at_the_same_time() -> None:
    read, write = os.pipe()
    with os.fdopen(write, "w") as stream:
        logs.configure("info", "json", stream)
        pool = gevent.get_hub().threadpool

        def burst(name: str) -> None:
            for number in range(50):
                log.info("%s %d", name, number)

        with only_ours():
            jobs = [pool.spawn(burst, f"native {n}") for n in range(3)]
            jobs += [gevent.spawn(burst, f"green {n}") for n in range(3)]
            gevent.joinall(jobs, timeout=60, raise_error=True)
        logging.getLogger().handlers[-1].flush()
    got = b""
    while data := os.read(read, 65_536):
        got += data
    os.close(read)
    messages = [json.loads(line)["message"] for line in got.splitlines()]
    ours = [message for message in messages if message.startswith(("native ", "green "))]
    assert len(set(ours)) == len(ours) == 300


# --- what would go to stderr by itself


@pytest.fixture
def adopted(json_log: Log) -> Iterator[Log]:
    hub = gevent.get_hub()
    before = threading.excepthook, sys.unraisablehook
    strays.adopt_strays()
    yield json_log
    del hub.print_exception
    threading.excepthook, sys.unraisablehook = before
    logging.captureWarnings(False)


def test_uncaught_errors_and_warnings_are_lines_of_the_log(
    adopted: Log, capfd: pytest.CaptureFixture[str]
) -> None:
    greenlet = gevent.Greenlet(fail, "in a greenlet")
    greenlet.name = "mover"
    greenlet.start()
    thread = threading.Thread(target=fail, args=("in a thread",), name="mine")
    thread.start()
    thread.join()

    class Finalized:
        def __del__(self) -> None:
            fail("in a finalizer")

    Finalized()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old", stacklevel=1)

    def errors() -> dict[str, dict[str, Any]]:
        """By their texts; garbage of other tests may speak, too."""
        return {record.get("error.message", ""): record for record in adopted.records}

    told = {"in a greenlet", "in a thread", "in a finalizer"}
    wait_until(lambda: told <= errors().keys())
    assert "mover" in errors()["in a greenlet"]["limehub.greenlet"]
    assert errors()["in a thread"]["limehub.thread_name"] == "mine"
    assert "__del__" in errors()["in a finalizer"]["limehub.object"]
    assert any("UserWarning: old" in record["message"] for record in adopted.records)
    assert capfd.readouterr().err == ""
