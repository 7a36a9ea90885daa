"""The process runner and the interpreter that it runs."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.support.process import Workplace, alive
from tests.support.waiting import wait_until

LIST_ENTRY_POINTS = """
import json
from importlib.metadata import entry_points
found = {g: [(e.name, e.value) for e in entry_points(group=g)] for g in ("limehub", "lime_plugins")}
print(json.dumps({"event": "ready", **found}), flush=True)
"""

WAIT_FOR_SIGNAL = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
print('{"event": "ready"}', flush=True)
signal.pause()
"""


def test_the_interpreter_sees_installed_test_plugins_and_no_others(
    bare_workplace: Workplace,
) -> None:
    bare_workplace.install("solution-one", "import limehub\n")
    bare_workplace.install("two", "x = 1\n", entry_point_group="lime_plugins", module="two_module")

    ready = bare_workplace.start(["-c", LIST_ENTRY_POINTS]).wait_ready()

    assert ready["limehub"] == [["solution-one", "solution_one"]]
    assert ready["lime_plugins"] == [["two", "two_module"]]


def test_the_interpreter_imports_limehub_and_plugins(bare_workplace: Workplace) -> None:
    bare_workplace.install("solution-one", "import gevent, limehub, pika\nprint('loaded')\n")
    process = bare_workplace.start(["-c", "import solution_one, sys; print(sys.executable)"])
    assert process.wait() == 0
    assert process.text.splitlines() == ["loaded", str(bare_workplace.python)]


def test_a_signal_ends_the_process_with_its_exit_code(bare_workplace: Workplace) -> None:
    process = bare_workplace.start(["-c", WAIT_FOR_SIGNAL])
    process.wait_ready()
    assert process.stop(signal.SIGTERM) == 7


def test_a_process_that_ends_too_early_shows_its_output(bare_workplace: Workplace) -> None:
    process = bare_workplace.start(["-c", "raise SystemExit('no such thing')"])
    with pytest.raises(AssertionError, match=r"ended with 1 before the ready line(?s:.*)no such"):
        process.wait_ready()


def test_closing_the_workplace_kills_what_still_runs(bare_workplace: Workplace) -> None:
    process = bare_workplace.start(["-c", WAIT_FOR_SIGNAL])
    process.wait_ready()
    bare_workplace.close()
    assert process.child.returncode == -signal.SIGKILL


def test_children_die_with_a_killed_test_run(bare_workplace: Workplace, tmp_path: Path) -> None:
    nested = (
        "import subprocess, time\n"
        "from scripts.rabbitmq_node import dies_with_parent\n"
        "command = dies_with_parent(['sh', '-c', 'echo; exec sleep 300'])\n"
        "child = subprocess.Popen(command, stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\n"  # only now it is sure to have asked for the signal
        'print(\'{"event": "ready", "child": %d}\' % child.pid, flush=True)\n'
        "time.sleep(300)\n"
    )
    parent = bare_workplace.start(["-c", nested])
    child = parent.wait_ready()["child"]
    parent.kill()
    wait_until(lambda: not alive(child), message="the grandchild to end")


def test_records_leave_out_what_is_not_json(bare_workplace: Workplace) -> None:
    lines = ["plain text", json.dumps({"event": "a", "n": 1}), '{"broken', json.dumps({"n": 2})]
    process = bare_workplace.start(["-c", f"print({chr(10).join(lines)!r})"])
    assert process.wait() == 0
    assert process.records("a") == [{"event": "a", "n": 1}]
    assert len(process.records()) == 2
    assert process.lines_with("plain") == ["plain text"]
