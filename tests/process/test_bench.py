"""`limehub bench` on a real broker: what it measures, and that nothing of it stays behind."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess

import pytest

from tests.support.process import PATIENCE, Workplace
from tests.support.vhost import Vhost
from tests.support.waiting import wait_until

PLUGIN = """
def deal(event):
    print("handled", event.id, flush=True)

def register_event_handlers(worker, config):
    worker.register_event_handler(deal, "core.limeobject.*.*.v1")
"""


def filled(vhost: Vhost) -> int:
    """How many events the benchmark's queue holds."""
    names = [name for name in vhost.queues() if name.endswith(".throughput")]
    return sum(vhost.depth(name) for name in names)


def is_handling(vhost: Vhost) -> bool:
    return any(name.endswith(".dlq") for name in vhost.queues())


def left_behind(vhost: Vhost) -> list[str]:
    return [name for name in (*vhost.queues(), *vhost.exchanges()) if "bench" in name]


def test_it_measures_three_things_and_leaves_nothing_behind(
    workplace: Workplace, vhost: Vhost
) -> None:
    done = workplace.run("bench", "--count", "3000", "--prefetch", "200", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["prefetch"] == 200
    for phase in ("publish", "handle"):
        assert found[phase]["count"] == 3000
        assert found[phase]["rate"] == pytest.approx(3000 / found[phase]["seconds"], rel=0.05)
        assert 0 < found[phase]["cpu_us"] < 5000
    latency = found["latency"]
    assert latency["count"] == 500
    assert 0 < latency["p50_ms"] <= latency["p99_ms"] <= latency["max_ms"]
    assert (vhost.queues(), vhost.exchanges()) == ({}, {})


def test_it_says_what_it_makes_and_prints_a_table_without_secrets(workplace: Workplace) -> None:
    done = workplace.run("bench", "--count", "500")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^MEASURE +EVENTS +PER SECOND", done.stdout, re.MULTILINE)
    assert re.search(r"^publish, confirmed +500 +[\d,]+ ", done.stdout, re.MULTILINE)
    assert re.search(r"^handle and ack +500 +[\d,]+ ", done.stdout, re.MULTILINE)
    names = re.findall(r"^limehub:   (exchange|queue) +(\S+)$", done.stderr, re.MULTILINE)
    assert [kind for kind, _ in names] == ["exchange", "queue", "queue", "queue"]
    assert all("limehub-bench-" in name for _, name in names)
    assert "guest:guest" not in done.stdout + done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_it_publishes_removes_everything(
    workplace: Workplace, vhost: Vhost, number: signal.Signals
) -> None:
    process = workplace.start(["-m", "limehub", "bench", "--count", "5000000"])
    wait_until(lambda: filled(vhost) > 500, PATIENCE, "the filling has begun")
    process.send(number)
    assert process.wait() == 128 + number
    assert "Traceback" not in process.text
    assert (vhost.queues(), vhost.exchanges()) == ({}, {})


def test_a_signal_while_it_handles_removes_everything(workplace: Workplace, vhost: Vhost) -> None:
    process = workplace.start(["-m", "limehub", "bench", "--count", "20000", "--prefetch", "1"])
    wait_until(lambda: is_handling(vhost), PATIENCE, "all is published and it handles")
    process.send(signal.SIGINT)
    assert process.wait() == 130
    assert "Traceback" not in process.text
    assert (vhost.queues(), vhost.exchanges()) == ({}, {})


def test_a_running_server_and_its_queues_do_not_notice(workplace: Workplace, vhost: Vhost) -> None:
    workplace.install("solution-x", PLUGIN)
    server = workplace.serve()
    run_file = workplace.folder / ".limehub" / "run.json"
    before = run_file.read_text()
    queues = set(vhost.queues())
    assert workplace.run("bench", "--count", "300").returncode == 0
    assert run_file.read_text() == before
    assert set(vhost.queues()) == queues
    assert left_behind(vhost) == []
    assert server.stop() == 0
    assert server.lines_with("handled") == []


def test_with_a_url_it_needs_no_configuration(bare_workplace: Workplace, vhost: Vhost) -> None:
    done = bare_workplace.run("bench", "--url", vhost.url, "--count", "200", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["handle"]["count"] == 200
    assert list(bare_workplace.folder.glob("*.toml")) == []


def test_without_a_configuration_and_a_url_it_says_how_to_get_one(
    bare_workplace: Workplace,
) -> None:
    done = bare_workplace.run("bench")
    assert done.returncode == 2
    assert "limehub init" in done.stderr


def test_a_broker_that_nobody_answers_for_is_said_at_once(workplace: Workplace) -> None:
    done = workplace.run("bench", "--url", "amqp://guest@127.0.0.1:1//")
    assert done.returncode == 4
    assert "Traceback" not in done.stderr


def test_on_a_terminal_there_is_a_progress_bar(workplace: Workplace) -> None:
    master, slave = pty.openpty()
    command = [str(workplace.python), "-m", "limehub", "bench", "--count", "4000", "--json"]
    with subprocess.Popen(
        command,
        cwd=workplace.folder,
        env={**workplace._environment, "TERM": "xterm", "COLUMNS": "100"},
        stdout=subprocess.PIPE,
        stderr=slave,
    ) as process:
        shown = shown_by(process, master)
        os.close(slave)
        os.close(master)
        output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert json.loads(output)["publish"]["count"] == 4000
    for phase in ("publishing", "handling", "single events"):
        assert phase in shown
    assert "100%" in shown


def shown_by(process: subprocess.Popen[bytes], terminal: int) -> str:
    """Read what *process* shows until it has ended."""
    parts = []
    while process.poll() is None or select.select([terminal], [], [], 0)[0]:
        if select.select([terminal], [], [], 0.1)[0]:
            parts.append(os.read(terminal, 65536))
    return b"".join(parts).decode(errors="replace")
