"""kill -9: nothing is lost, and what the dead server left behind misleads nobody."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from tests.process.conftest import connected
from tests.support.probe import Probe
from tests.support.process import Workplace
from tests.support.vhost import Vhost
from tests.support.waiting import wait_until

WIDE = """
[event_handler]
prefetch_count = 20
[event_handler.workers.default]
concurrency = 5
"""
NOBODY = "amqp://guest@127.0.0.1:1//"
AT_ONCE = 10.0  # seconds; by its missing heartbeats RabbitMQ would notice after 30 at least


def hold(*numbers: int) -> list[dict[str, object]]:
    return [{"n": n, "do": "hold", "value": "release"} for n in numbers]


def started_at(probe: Probe, pid: int) -> dict[int, float]:
    return {r["n"]: r["at"] for r in probe.runs if r["what"] == "start" and r["pid"] == pid}


def test_another_server_gets_what_a_killed_one_held_at_once(
    workplace: Workplace, interpreter: Path, vhost: Vhost
) -> None:
    probe = Probe.install(workplace, vhost, WIDE)
    elsewhere = Workplace(folder=workplace.folder / "elsewhere", python=interpreter)
    elsewhere.folder.mkdir()
    (elsewhere.folder / "site").symlink_to(workplace.site)
    connected(elsewhere, vhost.url).configure(WIDE)
    try:
        first = workplace.serve()
        probe.publish(hold(*range(5)))
        wait_until(lambda: len(probe.started) == 5)
        second = elsewhere.serve()
        first.kill()
        wait_until(lambda: len(probe.count("start", second.pid)) == 5, AT_ONCE)
        probe.release()
        wait_until(lambda: len(probe.ended) == 5)
        probe.wait_depth(ready=0)
        assert second.stop() == 0
    finally:
        elsewhere.close()
    assert probe.ended == Counter(range(5))
    starts = [r for r in probe.runs if r["what"] == "start"]
    assert {r["redelivered"] for r in starts if r["pid"] == second.pid} == {True}


def test_the_next_server_of_the_folder_runs_all_that_was_in_flight(
    workplace: Workplace, vhost: Vhost
) -> None:
    probe = Probe.install(workplace, vhost, WIDE)
    process = workplace.serve()
    probe.publish(hold(*range(30)))
    wait_until(lambda: len(probe.started) == 5)
    probe.wait_depth(ready=10, unacked=20)
    process.kill()
    probe.wait_depth(ready=30)

    probe.release()
    again = workplace.serve()
    wait_until(lambda: len(probe.ended) == 30)
    probe.wait_depth(ready=0)
    assert again.stop() == 0
    assert probe.ended == Counter(range(30))
    assert probe.depths()["dlq"] == (0, 0)
    # Those that ran in the dead server are suspects and wait a second; the others do not.
    assert len(again.lines_with("event was in flight in a crash")) == 5
    at = started_at(probe, again.pid)
    assert min(at[n] for n in range(5, 30)) < min(at[n] for n in range(5))


def test_a_kill_leaves_no_journal_behind_after_the_next_start(
    workplace: Workplace, vhost: Vhost
) -> None:
    probe = Probe.install(workplace, vhost, WIDE)
    process = workplace.serve()
    probe.publish(hold(1))
    probe.wait_started(1)
    process.kill()
    assert len(journals(probe)) == 1
    again = workplace.serve()
    assert len(journals(probe)) == 1
    probe.release()
    wait_until(lambda: probe.ended[1])
    assert again.stop() == 0
    assert journals(probe) == []
    assert json.loads((probe.state_folder / "crashes.json").read_text()) == {}


def journals(probe: Probe) -> list[Path]:
    return sorted(probe.state_folder.glob("inflight-*.journal"))


def test_commands_ask_the_running_server_for_its_broker_but_not_a_killed_one(
    workplace: Workplace, vhost: Vhost
) -> None:
    probe = Probe.install(workplace, vhost)
    process = workplace.serve()
    workplace.environ["LIMEHUB_EVENTS__CONNECTION_STRING"] = NOBODY
    found = workplace.run("publish", "t.handle", '{"n": 1}')
    assert found.returncode == 0, found.stderr
    wait_until(lambda: probe.ended[1])
    probe.wait_depth(ready=0)

    process.kill()
    run_file = probe.state_folder / "run.json"
    assert json.loads(run_file.read_text())["pid"] == process.pid
    refused = workplace.run("publish", "t.handle", '{"n": 2}')
    assert refused.returncode == 4, refused.stdout
    assert "127.0.0.1:1" in refused.stderr
    assert probe.depths()["handle"] == (0, 0)

    # The pid may be taken by another process: only the pair of pid and start time counts.
    stale = json.loads(run_file.read_text()) | {"pid": 1}
    run_file.write_text(json.dumps(stale))
    assert workplace.run("publish", "t.handle", '{"n": 3}').returncode == 4


def test_the_next_server_replaces_the_run_file_of_a_killed_one(
    workplace: Workplace, vhost: Vhost
) -> None:
    probe = Probe.install(workplace, vhost)
    process = workplace.serve()
    process.kill()
    again = workplace.serve()
    assert json.loads((probe.state_folder / "run.json").read_text())["pid"] == again.pid
    assert again.stop() == 0
    assert not (probe.state_folder / "run.json").exists()
