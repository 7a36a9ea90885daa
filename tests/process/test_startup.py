"""The start: waiting for the broker, exit codes, the ready line, run.json, two servers."""

from __future__ import annotations

import json
import signal
import socket
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.conftest import connected
from tests.support.probe import Probe
from tests.support.process import LimehubProcess, Workplace
from tests.support.proxy import Proxy
from tests.support.vhost import Vhost
from tests.support.waiting import wait_until

NOBODY = "amqp://guest@127.0.0.1:1//"
NOT_AVAILABLE = "broker not available"
HOOKS = """
def server_started(server):
    print("told of the start", flush=True)


def server_stopping(server):
    print("told of the stop", flush=True)
"""
CONFIGURATION, PLUGIN, BROKER, TOPOLOGY = 2, 3, 4, 5
GROUPS = """
[event_handler.workers.slow]
queue_prefix = "solution-probe.other"
"""


@pytest.fixture
def elsewhere(workplace: Workplace, interpreter: Path, vhost: Vhost) -> Iterator[Workplace]:
    """A second folder, as on another machine: the same packages and broker."""
    folder = workplace.folder / "elsewhere"
    folder.mkdir()
    (folder / "site").symlink_to(workplace.site)
    second = connected(Workplace(folder=folder, python=interpreter), vhost.url)
    yield second
    second.close()


def ends(process: LimehubProcess, code: int) -> str:
    """Wait for the end; returns all that was written, line breaks of records undone."""
    assert process.wait() == code, process.text
    return process.text.replace("\\n", "\n")


# The broker


def test_a_server_that_comes_before_its_broker_waits_says_so_once_and_then_consumes(
    bare_workplace: Workplace, vhost: Vhost, proxy: Proxy
) -> None:
    proxy.refuse()
    probe = Probe.install(connected(bare_workplace, proxy.url), vhost)
    bare_workplace.install("hooked", HOOKS)
    process = bare_workplace.serve(ready=False)
    process.wait_for_line(NOT_AVAILABLE)
    assert not process.lines_with("told of the start")
    proxy.cut_on(b"AMQP", times=4)  # it listens, but is not up yet: more attempts fail
    proxy.listen()
    process.wait_ready()
    assert proxy.cuts == 4
    assert len(process.lines_with(NOT_AVAILABLE)) == 1
    assert len(process.lines_with("broker is back")) == 1
    assert len(process.lines_with("told of the start")) == 1
    probe.publish([{"n": 1}])
    wait_until(lambda: probe.ended == Counter([1]))
    assert process.stop() == 0
    assert len(process.lines_with("told of the stop")) == 1


def test_a_server_that_never_consumed_tells_plugins_neither_of_its_start_nor_of_its_stop(
    bare_workplace: Workplace,
) -> None:
    connected(bare_workplace, NOBODY).install("hooked", HOOKS + WITH_HANDLER)
    process = bare_workplace.serve(ready=False)
    process.wait_for_line(NOT_AVAILABLE)
    assert process.stop() == 0
    assert not process.lines_with("told of")


def test_with_fail_fast_a_missing_broker_is_exit_code_4(bare_workplace: Workplace) -> None:
    connected(bare_workplace, NOBODY).install("one", WITH_HANDLER)
    text = ends(bare_workplace.serve("--fail-fast", ready=False), BROKER)
    assert "127.0.0.1:1: Connection refused" in text


def test_with_fail_fast_a_refusal_is_exit_code_4_and_shows_no_password(
    bare_workplace: Workplace, vhost: Vhost
) -> None:
    url = vhost.url.replace("guest:guest@", "guest:S3CRET@")
    connected(bare_workplace, url).install("one", WITH_HANDLER)
    text = ends(bare_workplace.serve("--fail-fast", ready=False), BROKER)
    assert "403" in text
    assert "S3CRET" not in text


def test_a_refusal_without_fail_fast_is_said_and_waited_for(
    bare_workplace: Workplace, vhost: Vhost
) -> None:
    url = vhost.url.replace("guest:guest@", "guest:wrong@")
    connected(bare_workplace, url).install("one", WITH_HANDLER)
    process = bare_workplace.serve(ready=False)
    assert "403" in process.wait_for_line(NOT_AVAILABLE)
    assert process.stop() == 0


# Configuration

WITH_HANDLER = """
def handle(event): pass
def register_event_handlers(worker, config):
    worker.register_event_handler(handle, "t.handle", "handle")
"""


def test_every_mistake_of_the_configuration_is_named_with_its_place(workplace: Workplace) -> None:
    workplace.configure('[event_handler]\nprefetch_count = "15"\ncrash_limt = 3\n[web]\nx = 1\n')
    text = ends(workplace.serve(ready=False), CONFIGURATION)
    assert "limehub.toml:2:1: event_handler.prefetch_count" in text
    assert "limehub.toml:3:1: event_handler.crash_limt" in text
    assert "crash_limit" in text
    assert "limehub.toml:5:1: web.x" in text
    assert "Traceback" not in text


def test_without_a_configuration_it_says_what_to_do(workplace: Workplace) -> None:
    workplace.config_file.unlink()
    assert "limehub init" in ends(workplace.serve(ready=False), CONFIGURATION)


def test_an_unknown_worker_is_a_configuration_error_with_a_suggestion(
    workplace: Workplace, vhost: Vhost
) -> None:
    Probe.install(workplace, vhost, GROUPS)
    text = ends(workplace.serve("--worker", "slwo", ready=False), CONFIGURATION)
    assert "--worker slwo" in text
    assert "slow" in text.replace("slwo", "")
    assert "Traceback" not in text


def test_an_address_that_is_taken_is_a_configuration_error(workplace: Workplace) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        text = ends(workplace.serve("--bind", address, ready=False), CONFIGURATION)
    assert address in text
    assert "Traceback" not in text
    assert not (workplace.folder / ".limehub" / "run.json").exists()


# Plugins

BROKEN = "import limehub\n\nlimehub.no_such_name\n"


def test_a_broken_plugin_is_named_with_distribution_entry_point_file_and_line(
    workplace: Workplace,
) -> None:
    workplace.install("solution-broken", BROKEN, version="2.5")
    text = ends(workplace.serve(ready=False), PLUGIN)
    assert "distribution solution-broken 2.5" in text
    assert "entry point limehub: solution-broken = solution_broken" in text
    assert f"{workplace.site / 'solution_broken.py'}:3" in text
    assert "no_such_name" in text


def test_skipping_broken_plugins_serves_the_rest(workplace: Workplace, vhost: Vhost) -> None:
    workplace.install("solution-broken", BROKEN)
    probe = Probe.install(workplace, vhost)
    process = workplace.serve("--skip-broken-plugins")
    probe.publish([{"n": 1}])
    wait_until(lambda: probe.ended == Counter([1]))
    assert len(process.lines_with("plugin skipped")) == 1
    assert process.stop() == 0


# Topology


def test_a_queue_with_other_arguments_is_consumed_with_one_warning_or_refused_when_strict(
    workplace: Workplace, vhost: Vhost
) -> None:
    probe = Probe.install(workplace, vhost)
    connection = vhost.connect()
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "lime.dlq"}
    connection.channel().queue_declare(probe.queue, durable=True, arguments=arguments)
    connection.close()

    process = workplace.serve()
    probe.publish([{"n": 1}])
    wait_until(lambda: probe.ended == Counter([1]))
    assert process.stop() == 0
    warnings = [r for r in process.records() if r["message"].startswith("queue differs")]
    assert {r["rabbitmq.queue"] for r in warnings} == {probe.queue}
    assert len(warnings) == len({r["limehub.argument"] for r in warnings})

    text = ends(workplace.serve("--strict-topology", ready=False), TOPOLOGY)
    assert probe.queue in text
    assert "x-dead-letter-exchange" in text
    assert vhost.queues()[probe.queue]["arguments"].keys() >= arguments.keys()


# The ready line, run.json


def test_the_ready_line_and_the_run_file_tell_where_the_server_is(
    workplace: Workplace, vhost: Vhost
) -> None:
    probe = Probe.install(workplace, vhost, GROUPS)
    process = workplace.serve()
    (ready,) = process.records("ready")
    assert ready["message"] == "ready"
    assert ready["web"].startswith("http://127.0.0.1:")
    assert ready["groups"] == ["default", "slow"]
    assert ready["queues"] == 2
    consumers = {name: row["consumers"] for name, row in vhost.queues().items()}
    assert consumers[probe.queue] == consumers[probe.other] == 1

    file = probe.state_folder / "run.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    run = json.loads(file.read_text())
    assert (run["pid"], run["amqp_url"], run["web_url"]) == (process.pid, vhost.url, ready["web"])
    assert process.stop(signal.SIGINT) == 0
    assert not file.exists()


def test_bind_none_serves_without_a_web_address(workplace: Workplace, vhost: Vhost) -> None:
    probe = Probe.install(workplace, vhost)
    process = workplace.serve("--bind", "none")
    assert process.wait_ready()["web"] is None
    assert json.loads((probe.state_folder / "run.json").read_text())["web_url"] is None
    assert process.stop() == 0


# More than one


def test_two_servers_on_the_same_queues_share_the_work(
    workplace: Workplace, elsewhere: Workplace, vhost: Vhost
) -> None:
    probe = Probe.install(workplace, vhost)
    first, second = workplace.serve(), elsewhere.serve()
    probe.publish({"n": n, "do": "hold", "value": "release"} for n in range(4))
    wait_until(lambda: len(probe.started) == 2)
    assert len(probe.count("start", first.pid)) == len(probe.count("start", second.pid)) == 1
    probe.wait_depth(ready=2, unacked=2)
    probe.release()
    wait_until(lambda: probe.ended == Counter(range(4)))
    assert (first.stop(), second.stop()) == (0, 0)


def test_worker_runs_only_the_groups_that_it_names(
    workplace: Workplace, elsewhere: Workplace, vhost: Vhost
) -> None:
    probe = Probe.install(workplace, vhost, GROUPS)
    elsewhere.configure(GROUPS)
    slow = workplace.serve("--worker", "slow")
    assert slow.wait_ready()["groups"] == ["slow"]
    assert probe.other in vhost.queues()
    assert probe.queue not in vhost.queues()

    rest = elsewhere.serve("--worker", "default")
    probe.publish([{"n": 1}])
    probe.publish([{"n": 2}], key="t.other")
    wait_until(lambda: probe.ended == Counter([1, 2]))
    assert probe.count("end", slow.pid) == Counter([2])
    assert probe.count("end", rest.pid) == Counter([1])
    assert (slow.stop(), rest.stop()) == (0, 0)
