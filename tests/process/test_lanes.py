"""Lanes and timeouts in a running server: real processes, a real broker."""

from __future__ import annotations

import json
import os
import signal
import urllib.request
from typing import Any

import psutil
import pytest

from tests.support.probe import Probe
from tests.support.process import LimehubProcess, Workplace, alive
from tests.support.vhost import Vhost
from tests.support.waiting import wait_until

SOURCE_OF_MORE = """
import re, signal, subprocess

_act = act

def act(event, body, publisher):
    do, value = body.get("do", "pass"), body.get("value")
    if do == "regex":
        # One C call that holds the GIL: each further letter doubles its time.
        re.match(r"(a+)+$", "a" * value + "b")
    elif do == "hold-lock":
        # One C call that holds the GIL until somebody reads from the pipe.
        ctypes.PyDLL(None).open(os.fsencode(FOLDER + "/" + value), os.O_WRONLY)
    elif do == "publish":
        publisher.publish("t.other", dict(n=value))
    elif do == "ack-and-raise":
        event.ack()
        raise ValueError("after ack")
    elif do == "log":
        logging.getLogger("probe").warning("says %s", value, extra={"word": value})
    elif do == "kill-self":
        os.kill(os.getpid(), signal.SIGKILL)
    elif do == "swallow":
        try:
            time.sleep(60)
        except TimeoutError:
            note(body, "interrupted")
            wait_for(value)
    else:
        _act(event, body, publisher)
"""

LETTERS_OF_DEAD = """
[event_handler]
catch_handler_exceptions = true
prefetch_count = 4
[event_handler.workers.default]
concurrency = 4
[event_handler.workers.others]
queue_prefix = "solution-probe.other"
"""


@pytest.fixture
def install(workplace: Workplace, vhost: Vhost) -> Any:
    """`install(options, toml)`: the probe, with more that it can do."""

    def make(options: str = "", toml: str = LETTERS_OF_DEAD) -> Probe:
        probe = Probe.install(workplace, vhost, toml, options=options)
        module = workplace.site / "solution_probe.py"
        module.write_text(module.read_text() + SOURCE_OF_MORE)
        return probe

    return make


def status_of(process: LimehubProcess) -> dict[str, Any]:
    ready = process.records("ready")[0]
    with urllib.request.urlopen(f"{ready['web']}/api/v1/status", timeout=30) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def running(process: LimehubProcess) -> list[dict[str, Any]]:
    return [run for group in status_of(process)["groups"] for run in group["running"]]


def children(process: LimehubProcess) -> list[psutil.Process]:
    found = psutil.Process(process.pid).children()
    return [each for each in found if "limehub.workers.lanes.child" in each.cmdline()]


def wait_ended(pids: list[int]) -> None:
    wait_until(lambda: not [pid for pid in pids if alive(pid)], message="the children to end")


@pytest.mark.parametrize("lane", ["greenlet", "thread", "process"])
def test_every_lane_settles_publishes_retries_and_dead_letters_alike(
    install: Any, workplace: Workplace, lane: str
) -> None:
    probe = install(f"lane={lane!r}, retry=[0.1]")
    process = workplace.serve()
    probe.publish(
        [
            {"n": 1},
            {"n": 2, "do": "publish", "value": 20},
            {"n": 3, "do": "ack-and-raise"},
            {"n": 4, "do": "fail", "value": [1, "raise"]},
            {"n": 5, "do": "fail", "value": [1, "reject"]},
            {"n": 6, "do": "retry-once", "value": 0.1},
            {"n": 7, "do": "raise", "value": "twice"},
            {"n": 8, "do": "log", "value": "hello"},
        ]
    )
    wait_until(lambda: {1, 2, 4, 6, 8, 20} <= set(probe.ended))
    wait_until(lambda: probe.depths()["dlq"] == (3, 0))
    letters = {each["n"]: each for each in probe.dead_letters()}
    assert {n: each["reason"] for n, each in letters.items()} == {
        3: "after-ack",
        5: "rejected",
        7: "retries-exhausted",
    }
    headers = letters[7]["headers"]
    assert headers["x-limehub-exception-type"] == "ValueError"
    assert "raise ValueError(value)" in headers["x-limehub-traceback"]
    assert "solution_probe.py" in headers["x-limehub-where"]
    assert (probe.started[4], probe.started[6], probe.started[7]) == (2, 2, 2)
    process.wait_for_line("says hello")
    (said,) = [r for r in process.records() if r["message"] == "says hello"]
    assert (said["log.logger"], said["limehub.word"]) == ("probe", "hello")
    pids = {run["pid"] for run in probe.runs}
    assert (process.pid in pids) is (lane != "process")
    probe.wait_depth(ready=0)
    assert process.stop() == 0


def test_the_lane_of_a_group_holds_for_its_handlers(install: Any, workplace: Workplace) -> None:
    probe = install("", LETTERS_OF_DEAD + 'lane = "process"\n')
    process = workplace.serve()
    probe.publish([{"n": 1}])
    probe.publish([{"n": 2}], key="t.other")
    wait_until(lambda: probe.ended[1] and probe.ended[2])
    in_server = {run["n"]: run["pid"] == process.pid for run in probe.runs}
    assert in_server == {1: True, 2: False}


def test_many_threads_that_publish_and_log_at_once_all_end(
    install: Any, workplace: Workplace
) -> None:
    toml = LETTERS_OF_DEAD.replace("prefetch_count = 4", "prefetch_count = 50")
    toml = toml.replace("concurrency = 4", "concurrency = 8")
    probe = install("lane='thread', timeout=60", toml)
    process = workplace.serve()
    events = range(1, 301)
    does = ("log", "publish")
    probe.publish([{"n": n, "do": does[n % 2], "value": 1000 + n} for n in events])
    wanted = {*events, *(1000 + n for n in events if n % 2)}
    wait_until(lambda: wanted <= set(probe.ended), 90)
    wait_until(lambda: len(process.lines_with('"says ')) == 150)
    probe.wait_depth(ready=0)
    assert process.stop() == 0


@pytest.mark.parametrize(
    ("do", "value", "words"),
    [
        ("segfault", None, "killed by SIGSEGV"),
        ("exit", 9, "exit code 9"),
        ("kill-self", None, "killed by SIGKILL"),
    ],
)
def test_the_end_of_a_child_is_a_dead_letter_and_the_server_lives(
    install: Any, workplace: Workplace, do: str, value: object, words: str
) -> None:
    probe = install("lane='process'")
    process = workplace.serve()
    probe.publish([{"n": 1, "do": do, "value": value}])
    wait_until(lambda: probe.depths()["dlq"] == (1, 0))
    (letter,) = probe.dead_letters()
    assert words in letter["headers"]["x-limehub-exception-text"]
    assert letter["headers"]["x-limehub-exception-type"].endswith("ChildEnded")
    probe.publish([{"n": 2}])
    wait_until(lambda: probe.ended[2])
    assert process.stop() == 0


def test_a_call_that_holds_the_interpreter_lock_delays_nobody_else(
    install: Any, workplace: Workplace
) -> None:
    probe = install("lane='process'")
    pipe = workplace.folder / "pipe"
    os.mkfifo(pipe)
    process = workplace.serve()
    probe.publish([{"n": 1, "do": "hold-lock", "value": pipe.name}])
    probe.wait_started(1)
    others = range(10, 60)
    probe.publish([{"n": n} for n in others], key="t.other")
    wait_until(lambda: set(others) <= set(probe.ended))
    assert not probe.ended[1]
    with os.fdopen(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)):
        wait_until(lambda: probe.ended[1])
    assert probe.started[1] == 1
    assert not process.lines_with("connection lost")
    assert process.stop() == 0


def test_a_killed_server_leaves_no_child_behind(install: Any, workplace: Workplace) -> None:
    probe = install("lane='process'")
    process = workplace.serve()
    probe.publish([{"n": 1, "do": "regex", "value": 40}, {"n": 2, "do": "sleep", "value": 60}])
    wait_until(lambda: probe.started[1] and probe.started[2])
    pids = [child.pid for child in children(process)]
    assert len(pids) == 2
    process.kill()
    wait_ended(pids)


def test_ctrl_c_reaches_the_server_only_and_its_children_end_after_their_handlers(
    install: Any, workplace: Workplace
) -> None:
    probe = install("lane='process'")
    process = workplace.serve()
    probe.publish([{"n": 1, "do": "hold", "value": "release"}])
    probe.wait_started(1)
    (child,) = children(process)
    os.killpg(process.pid, signal.SIGINT)  # it leads its group, as in a terminal
    os.kill(child.pid, signal.SIGTERM)  # as systemd, which signals all
    process.wait_for_line('"stopping"')
    probe.release()
    assert process.wait() == 0
    assert probe.ended[1] == 1
    probe.wait_depth(ready=0)
    wait_ended([child.pid])


@pytest.mark.parametrize(
    ("lane", "event"),
    [
        ("process", {"n": 1, "do": "regex", "value": 40}),
        ("thread", {"n": 1, "do": "stubborn", "value": "never"}),
        ("thread", {"n": 1, "do": "sleep", "value": 600}),
    ],
    ids=["process", "stubborn-thread", "waiting-thread"],
)
def test_what_does_not_end_in_the_grace_time_goes_back_and_keeps_nobody(
    install: Any, workplace: Workplace, lane: str, event: dict[str, Any]
) -> None:
    toml = LETTERS_OF_DEAD.replace("[event_handler]", "[event_handler]\nshutdown_grace = 3")
    probe = install(f"lane={lane!r}", toml)
    process = workplace.serve()
    probe.publish([event])
    probe.wait_started(1)
    pids = [child.pid for child in children(process)]
    assert process.stop() == 0
    wait_ended(pids)
    probe.wait_depth(ready=1)


def test_a_run_that_swallows_its_timeout_is_overdue_and_never_runs_twice_at_once(
    install: Any, workplace: Workplace
) -> None:
    probe = install("lane='thread', timeout=2")
    process = workplace.serve()
    probe.publish([{"n": 1, "do": "swallow", "value": "release"}])
    wait_until(lambda: probe.count("interrupted")[1])
    (run,) = running(process)
    assert (run["handler"], run["overdue"]) == ("solution-probe.handle", True)
    assert probe.depths()["handle"] == (0, 1)
    process.wait_for_line("half of its timeout")
    (warned,) = [r for r in process.records() if "half of its timeout" in r["message"]]
    assert "time.sleep(60)" in warned["error.stack_trace"]
    probe.release()
    wait_until(lambda: probe.depths()["dlq"] == (1, 0))
    (letter,) = probe.dead_letters()
    assert letter["headers"]["x-limehub-exception-type"] == "TimeoutError"
    assert probe.started[1] == 1
    wait_until(lambda: running(process) == [])


@pytest.mark.parametrize(
    ("lane", "do"),
    [("greenlet", "sleep"), ("thread", "burn"), ("thread", "sleep"), ("process", "regex")],
)
def test_a_timeout_is_the_handlers_failure_in_every_lane(
    install: Any, workplace: Workplace, lane: str, do: str
) -> None:
    probe = install(f"lane={lane!r}, timeout=2")
    workplace.serve()
    probe.publish([{"n": 1, "do": do, "value": 60 if do != "regex" else 40}])
    wait_until(lambda: probe.depths()["dlq"] == (1, 0))
    (letter,) = probe.dead_letters()
    headers = letter["headers"]
    assert headers["x-limehub-exception-type"] == "TimeoutError"
    assert headers["x-limehub-exception-text"] == "ran longer than 2 s"
    if lane != "process":
        assert "in act" in headers["x-limehub-traceback"]
    probe.publish([{"n": 2}])
    wait_until(lambda: probe.ended[2])


def test_a_handler_that_no_child_could_find_stops_the_start_with_3(
    install: Any, workplace: Workplace
) -> None:
    install()
    source = (workplace.site / "solution_probe.py").read_text()
    source += (
        "\ndef register_event_handlers(worker, config):\n"
        "    worker.register_event_handler(lambda body: None, 't.#', 'q', lane='process')\n"
    )
    (workplace.site / "solution_probe.py").write_text(source)
    process = workplace.serve(ready=False)
    assert process.wait() == 3
    assert "solution-probe.q" in process.text
    assert "it is a lambda" in process.text
