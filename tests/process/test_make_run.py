"""`make run` with the real server: broker, server, an event, Ctrl-C, and nothing is left."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from scripts.rabbitmq_node import RabbitNode
from tests.support.process import REPOSITORY, Workplace, alive, make_interpreter
from tests.support.waiting import wait_until

CONSOLE_SCRIPT = """#!{python}
import sys
from limehub.__main__ import main
sys.exit(main())
"""
HANDLER = """
import logging
def totals(event):
    logging.getLogger("totals").info("counted deal %s", event.body["id"])
def register_event_handlers(worker, config):
    worker.register_event_handler(totals, "core.limeobject.deal.*.v1")
"""
NOBODY = "amqp://guest@127.0.0.1:1//"


@pytest.fixture
def place(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    """A folder with a configuration and a package, and a python with the console script."""
    python = make_interpreter(tmp_path_factory.mktemp("make-run"))
    script = python.with_name("limehub")
    script.write_text(CONSOLE_SCRIPT.format(python=python))
    script.chmod(0o755)
    place = Workplace(folder=tmp_path, python=python)
    place.environ.update(LIMEHUB_WEB__BIND="127.0.0.1:0", LIMEHUB_LOG__FORMAT="json")
    place.configure(f'[events]\nconnection_string = "{NOBODY}"\n')
    place.install("solution-totals", HANDLER)
    yield place
    place.close()


def family(pid: int) -> dict[int, str]:
    """A process and all that came from it: process id -> name."""
    found = {}
    process = psutil.Process(pid)
    for each in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):  # RabbitMQ starts short ones now and then
            found[each.pid] = each.name()
    return found


def left_of(processes: dict[int, str]) -> list[str]:
    return [name for pid, name in processes.items() if alive(pid)]


def test_make_run_needs_nothing_but_python(place: Workplace) -> None:
    place.configure((REPOSITORY / "limehub.toml").read_text())
    tools = place.folder / "tools"  # no RabbitMQ, nothing at all but what starts the processes
    tools.mkdir()
    if (setpriv := shutil.which("setpriv")) is not None:
        (tools / "setpriv").symlink_to(setpriv)
    place.environ["PATH"] = str(tools)
    run = place.start(["-m", "scripts.run"])
    run.wait_ready()
    processes = family(run.pid)
    assert not set(processes.values()) & {"beam.smp", "epmd"}

    event = json.dumps({"id": 7, "limetype": "deal", "values": {}})
    assert place.run("publish", "core.limeobject.deal.update.v1", event).returncode == 0
    run.wait_for_line("counted deal 7")

    os.killpg(run.pid, signal.SIGINT)
    assert run.wait() == 0
    wait_until(lambda: not left_of(processes), message="all to be gone")
    left = {path.name for path in (place.folder / ".limehub").iterdir()}
    assert "broker.db" in left
    assert not left & {"rabbitmq", "run.json"}
    assert "Traceback" not in run.text


def test_make_run_serves_an_event_from_the_second_shell_and_ctrl_c_leaves_nothing(
    place: Workplace, rabbit_node: RabbitNode
) -> None:
    run = place.start(["-m", "scripts.run"])
    ready = run.wait_ready()
    assert ready["queues"] == 1
    processes = family(run.pid)
    assert {"beam.smp", "epmd"} <= set(processes.values())

    # The second shell knows nothing of the private broker but what run.json says.
    event = json.dumps({"id": 7, "limetype": "deal", "values": {}})
    published = place.run("publish", "core.limeobject.deal.update.v1", event)
    assert published.returncode == 0, published.stderr
    assert "solution-totals.totals" in published.stdout
    run.wait_for_line("counted deal 7")

    os.killpg(run.pid, signal.SIGINT)
    assert run.wait() == 0
    (stopped,) = [r for r in run.records() if r["message"] == "stopped"]
    assert stopped["limehub.exit_code"] == 0
    wait_until(lambda: not left_of(processes), message="all to be gone")
    assert not (place.folder / ".limehub" / "run.json").exists()
    assert "Traceback" not in run.text
