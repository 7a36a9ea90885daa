"""`limehub serve` on its own broker: nothing else is installed, and nothing confirmed is lost."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pika
import psutil
import pytest

from limehub import Publisher
from limehub.config import runfile
from tests.support.probe import APP, SOURCE
from tests.support.process import LimehubProcess, Workplace, alive, whole_lines
from tests.support.waiting import wait_until

CATCH = "[event_handler]\ncatch_handler_exceptions = true\n"


@pytest.fixture
def place(bare_workplace: Workplace) -> Workplace:
    """A folder whose server keeps its broker in a file."""
    return embedded(bare_workplace)


def embedded(place: Workplace, toml: str = CATCH) -> Workplace:
    source = SOURCE.replace("{folder!r}", repr(str(place.folder))).replace("{options}", "")
    place.install(APP, source)
    place.configure(f'{toml}\n[broker]\npath = "broker.db"\n')
    place.environ.update(
        LIMEHUB_EVENTS__CONNECTION_STRING="embedded://",
        LIMEHUB_WEB__BIND="127.0.0.1:0",
        LIMEHUB_LOG__FORMAT="json",
    )
    return place


@pytest.fixture
def publisher(place: Workplace) -> Iterator[Any]:
    """Publishes to the broker of the running server."""
    made: list[Publisher] = []

    def publish(number: int, **event: Any) -> None:
        if not made:
            made.append(Publisher(url_of(place)))
        made[0].publish("t.handle", {"n": number, **event}, message_id=f"id-{number}")

    yield publish
    for each in made:
        each.close()


def url_of(place: Workplace) -> str:
    info = runfile.read(place.config_file)
    assert info is not None
    return info.amqp_url


def ended(place: Workplace) -> list[int]:
    """The numbers of the events whose handler has returned."""
    return numbers(place, "end")


def started(place: Workplace) -> list[int]:
    """The numbers of the events whose handler has begun."""
    return numbers(place, "start")


def numbers(place: Workplace, what: str) -> list[int]:
    lines = whole_lines(place.folder / "runs.jsonl")
    return [run["n"] for run in map(json.loads, lines) if run["what"] == what]


def broker_of(server: LimehubProcess) -> psutil.Process:
    (found,) = [
        child
        for child in psutil.Process(server.pid).children()
        if "limehub.broker" in child.cmdline()
    ]
    return found


def test_events_are_handled_and_dead_letters_kept_without_any_rabbitmq(
    place: Workplace, publisher: Any
) -> None:
    server = place.serve()
    publisher(1)
    publisher(2, do="raise", value="planned")
    wait_until(lambda: ended(place) == [1])
    wait_until(lambda: place.run("dlq", "list", APP, "--json").stdout.count("planned") > 0)
    assert place.run("dlq", "requeue", APP, "--all", "--yes").returncode == 0
    assert server.stop() == 0


def test_the_broker_ends_with_the_server_and_the_file_keeps_what_waited(
    place: Workplace, publisher: Any
) -> None:
    server = place.serve()
    broker = broker_of(server)
    publisher(1, do="hold", value="release")
    publisher(2)
    wait_until(lambda: 1 in started(place))
    server.kill()
    wait_until(lambda: not alive(broker.pid))
    (place.folder / "release").touch()
    again = place.serve()
    wait_until(lambda: sorted(ended(place)) == [1, 2])
    assert again.stop() == 0


def test_a_broker_that_is_killed_comes_back_at_the_same_address_with_what_was_confirmed(
    place: Workplace, publisher: Any
) -> None:
    server = place.serve()
    address = url_of(place)
    publisher(1, do="hold", value="release")
    for number in range(2, 30):
        publisher(number)
    broker_of(server).kill()
    server.wait_for_line("embedded broker ended")
    (place.folder / "release").touch()
    wait_until(lambda: set(ended(place)) == set(range(1, 30)))
    publisher(30)
    wait_until(lambda: 30 in ended(place))
    assert url_of(place) == address
    assert server.stop() == 0


def test_a_second_server_on_the_same_file_is_refused_with_a_clear_line(
    place: Workplace, interpreter: Path
) -> None:
    server = place.serve()
    folder = place.folder / "second"
    folder.mkdir()
    second = Workplace(folder=folder, python=interpreter)
    (folder / "limehub.toml").write_text(f'[broker]\npath = "{place.folder}/broker.db"\n')
    second.environ.update(place.environ)
    refused = second.run("serve")
    assert refused.returncode == 4
    assert "broker.db" in refused.stderr
    assert "another process" in refused.stderr or "in use" in refused.stderr
    assert server.stop() == 0


def test_a_signal_to_all_processes_of_the_group_still_stops_in_order(
    place: Workplace, publisher: Any
) -> None:
    server = place.serve()
    broker = broker_of(server)
    publisher(1, do="sleep", value=1.0)
    wait_until(lambda: 1 in started(place))
    broker.send_signal(signal.SIGTERM)
    broker.send_signal(signal.SIGINT)
    assert server.stop() == 0
    assert ended(place) == [1]
    assert not server.lines_with("connection lost")


def test_a_busy_handler_does_not_stall_the_broker(place: Workplace, publisher: Any) -> None:
    server = place.serve()
    publisher(1, do="spin", value="release")
    wait_until(lambda: 1 in started(place))
    connection = pika.BlockingConnection(pika.URLParameters(url_of(place)))
    connection.channel().queue_declare("somewhere", auto_delete=True)
    connection.close()
    assert ended(place) == []
    (place.folder / "release").touch()
    assert server.stop() == 0
    assert ended(place) == [1]


def test_in_memory_nothing_is_written(bare_workplace: Workplace) -> None:
    place = embedded(bare_workplace)
    place.configure("")
    server = place.serve()
    assert place.run("publish", "t.handle", '{"n": 1}').returncode == 0
    wait_until(lambda: ended(place) == [1])
    assert not list(place.folder.glob("**/*.db"))
    assert server.stop() == 0


def test_the_broker_alone_serves_those_who_know_its_password(bare_workplace: Workplace) -> None:
    secret = bare_workplace.folder / "crm.password"
    secret.write_text("s3cret\n")
    command = ["-m", "limehub", "broker", "--listen", "127.0.0.1:0", "--user", f"crm:{secret}"]
    broker = bare_workplace.start(command)
    port = broker.wait_for_line("ready ").rpartition(":")[2]
    with pytest.raises(pika.exceptions.AMQPError):
        pika.BlockingConnection(pika.URLParameters(f"amqp://crm:wrong@127.0.0.1:{port}/%2F"))
    connection = pika.BlockingConnection(
        pika.URLParameters(f"amqp://crm:s3cret@127.0.0.1:{port}/%2F")
    )
    connection.channel().queue_declare("q")
    connection.close()
    os.kill(broker.pid, signal.SIGTERM)
    assert broker.wait() == 0


def test_what_the_broker_logs_is_json_among_the_servers_lines(place: Workplace) -> None:
    server = place.serve()
    stranger = url_of(place).replace("limehub:", "stranger:")
    with pytest.raises(pika.exceptions.AMQPError):
        pika.BlockingConnection(pika.URLParameters(stranger))
    line = json.loads(server.wait_for_line('"limehub.code": 403'))
    assert line["log.level"] == "warning"
    assert line["log.logger"].startswith("limehub.broker.session")
    assert server.stop() == 0
