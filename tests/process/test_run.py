"""`make run`: the broker that it finds or starts, and the order in which all of it stops."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.rabbitmq_node import RabbitNode, answers_amqp
from scripts.run import address_of, answers, configured_url
from tests.support.process import LimehubProcess, Workplace, alive, make_interpreter
from tests.support.vhost import Vhost
from tests.support.waiting import wait_until

NOBODY = "amqp://guest@127.0.0.1:1//"

# Stands where the console script is installed: tells what it was given and how it was ended.
CONSOLE_SCRIPT = """#!{python}
import json, os, signal, sys
url = os.environ.get("LIMEHUB_EVENTS__CONNECTION_STRING")
stops = {{signal.SIGINT, signal.SIGTERM}}
signal.pthread_sigmask(signal.SIG_BLOCK, stops)
print(json.dumps({{"event": "ready", "argv": sys.argv[1:], "url": url, "pid": os.getpid()}}),
      flush=True)
print(json.dumps({{"event": "ended", "signal": signal.sigwait(stops)}}), flush=True)
"""


@pytest.fixture
def place(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    python = make_interpreter(tmp_path_factory.mktemp("run"))
    script = python.with_name("limehub")
    script.write_text(CONSOLE_SCRIPT.format(python=python))
    script.chmod(0o755)
    place = Workplace(folder=tmp_path, python=python, environ={"RABBIT_URL": NOBODY})
    yield place
    place.close()


def start(place: Workplace, *args: str) -> LimehubProcess:
    return place.start(["-m", "scripts.run", *args])


def node_pids(place: Workplace) -> list[int]:
    state: dict[str, Any] = json.loads(
        (place.folder / ".limehub" / "rabbitmq" / "node.json").read_text()
    )
    return list(state["pids"])


def port_of(ready: dict[str, Any]) -> int:
    return int(ready["url"].rpartition(":")[2].partition("/")[0])


def test_a_broker_that_answers_is_used_as_it_is(place: Workplace, vhost: Vhost) -> None:
    place.environ["RABBIT_URL"] = vhost.url
    process = start(place, "--worker", "hooks")
    ready = process.wait_ready()
    assert (ready["argv"], ready["url"]) == (["serve", "--worker", "hooks"], None)
    assert process.stop(signal.SIGINT) == 0
    assert not (place.folder / ".limehub").exists()


def test_ctrl_c_stops_limehub_first_and_leaves_no_broker_behind(
    place: Workplace, rabbit_node: RabbitNode
) -> None:
    process = start(place)
    ready = process.wait_ready()
    port = port_of(ready)
    server, epmd = node_pids(place)
    assert answers_amqp("127.0.0.1", port)
    assert port != rabbit_node.ports.amqp

    second = start(place)
    assert second.wait() == 1
    assert "another `make run`" in second.text

    # A broker that dies is started again under the running server, on the same port.
    os.kill(server, signal.SIGKILL)
    process.wait_for_line("starting it again")
    wait_until(lambda: answers_amqp("127.0.0.1", port), timeout=60, message="the broker again")

    os.killpg(process.pid, signal.SIGINT)
    assert process.wait() == 0
    assert process.records("ended") == [{"event": "ended", "signal": signal.SIGINT}]
    assert process.text.index('"ended"') < process.text.index("stopping RabbitMQ")
    assert not [pid for pid in (server, epmd, *node_pids(place)) if alive(pid)]


def test_a_run_that_was_killed_takes_all_with_it_and_can_be_repeated(
    place: Workplace, rabbit_node: RabbitNode
) -> None:
    process = start(place)
    ready = process.wait_ready()
    pids = [ready["pid"], *node_pids(place)]
    process.kill()
    wait_until(lambda: not [p for p in pids if alive(p)], message="limehub and broker to end")

    again = start(place)
    assert again.wait_ready()["url"] == ready["url"]
    assert again.stop(signal.SIGHUP) == 0  # the terminal was closed
    assert again.records("ended") == [{"event": "ended", "signal": signal.SIGTERM}]
    assert not [pid for pid in node_pids(place) if alive(pid)]


def test_a_stop_while_the_broker_starts_leaves_nothing(
    place: Workplace, rabbit_node: RabbitNode
) -> None:
    process = start(place)
    process.wait_for_line("starting a private RabbitMQ")
    node_file = place.folder / ".limehub/rabbitmq/node.json"
    wait_until(lambda: node_file.exists() and node_file.read_text())
    assert process.stop(signal.SIGTERM) == 128 + signal.SIGTERM
    assert not [pid for pid in node_pids(place) if alive(pid)]


def test_the_configured_broker_is_found_by_limehubs_precedence(tmp_path: Path) -> None:
    file = tmp_path / "limehub.toml"
    assert configured_url(file, {}) == "amqp://guest@localhost//"
    file.write_text("[events")
    assert configured_url(file, {}) == "amqp://guest@localhost//"
    file.write_text("events = 1")
    assert configured_url(file, {}) == "amqp://guest@localhost//"
    file.write_text('[events]\nconnection_string = "amqp://file"')
    assert configured_url(file, {}) == "amqp://file"
    assert configured_url(file, {"RABBIT_URL": "amqp://seed"}) == "amqp://seed"
    both = {"RABBIT_URL": "amqp://seed", "LIMEHUB_EVENTS__CONNECTION_STRING": "amqp://ours"}
    assert configured_url(file, both) == "amqp://ours"


def test_what_needs_no_broker_or_is_broken_is_left_to_limehub() -> None:
    assert answers("embedded://")
    assert answers("amqp://host:notaport/")
    assert not answers(NOBODY)
    assert not answers("amqps://127.0.0.1:1/")
    assert address_of("amqp://user:secret@host:1/x") == "amqp://host:1"
