"""SIGHUP: what can change live does, the rest is named, and a broken file changes nothing."""

from __future__ import annotations

import signal
from collections import Counter
from typing import Any

from limehub.config import runfile
from tests.support.probe import Probe
from tests.support.process import LimehubProcess, Workplace
from tests.support.vhost import Vhost
from tests.support.waiting import wait_until

NARROW = """
[log]
level = "info"
[event_handler]
shutdown_grace = 5
[event_handler.workers.default]
prefetch_count = 2
concurrency = 1
"""
WIDE = NARROW.replace("prefetch_count = 2", "prefetch_count = 6").replace(
    "concurrency = 1", "concurrency = 4"
)
READ_AGAIN = "configuration read again"


def hold(numbers: range, name: str = "release") -> list[dict[str, object]]:
    return [{"n": n, "do": "hold", "value": name} for n in numbers]


def reload(process: LimehubProcess, toml: str, workplace: Workplace) -> dict[str, Any]:
    """Change the file, send SIGHUP; returns the record that says what changed."""
    before = len(process.lines_with(READ_AGAIN))
    workplace.configure(toml)
    process.send(signal.SIGHUP)
    wait_until(lambda: len(process.lines_with(READ_AGAIN)) > before)
    return [r for r in process.records() if r["message"] == READ_AGAIN][-1]


def unacked(probe: Probe) -> int:
    return probe.depths()["handle"][1]


def test_a_broken_file_changes_nothing_and_every_problem_is_logged(
    workplace: Workplace, vhost: Vhost
) -> None:
    probe = Probe.install(workplace, vhost, NARROW)
    process = workplace.serve()
    workplace.configure('[log]\nlevel = "loud"\n[event_handler]\nprefetch = 3\n')
    process.send(signal.SIGHUP)
    process.wait_for_line("new configuration is broken")
    (record,) = [r for r in process.records() if r["message"].startswith("new configuration")]
    assert record["log.level"] == "error"
    assert "limehub.toml:2:" in record["limehub.cause"]
    assert "limehub.toml:4:" in record["limehub.cause"]
    assert "prefetch_count" in record["limehub.cause"]  # did you mean

    probe.publish(hold(range(5)))
    wait_until(lambda: (unacked(probe), len(probe.started)) == (2, 1))
    probe.release()
    wait_until(lambda: len(probe.ended) == 5)

    # What is mended is taken up by the next signal.
    assert reload(process, NARROW, workplace)["limehub.changed"] == []
    assert process.stop() == 0


def test_a_file_that_is_no_toml_or_is_gone_changes_nothing(
    workplace: Workplace, vhost: Vhost
) -> None:
    Probe.install(workplace, vhost, NARROW)
    process = workplace.serve()
    workplace.configure("[event_handler\n")
    process.send(signal.SIGHUP)
    process.wait_for_line("limehub.toml:1:")
    assert reload(process, NARROW, workplace)["limehub.changed"] == []
    assert process.stop() == 0


def test_a_package_that_changes_the_working_directory_leads_nothing_astray(
    workplace: Workplace, vhost: Vhost
) -> None:
    probe = Probe.install(workplace, vhost, NARROW)
    process = workplace.start(["-m", "limehub", "serve"])  # on the limehub.toml of its folder
    process.wait_ready()
    (workplace.folder / "elsewhere").mkdir()
    probe.publish([{"n": 1, "do": "chdir", "value": str(workplace.folder / "elsewhere")}])
    wait_until(lambda: len(probe.ended) == 1)
    assert reload(process, WIDE, workplace)["limehub.changed"] != []
    assert runfile.read(workplace.config_file) is not None
    assert process.stop() == 0
    assert runfile.read(workplace.config_file) is None
    assert list((workplace.folder / "elsewhere").iterdir()) == []


def test_prefetch_and_concurrency_grow_and_shrink_under_load(
    workplace: Workplace, vhost: Vhost
) -> None:
    probe = Probe.install(workplace, vhost, NARROW)
    process = workplace.serve()
    probe.publish(hold(range(20)))
    wait_until(lambda: (unacked(probe), len(probe.started)) == (2, 1))

    changed = reload(process, WIDE, workplace)["limehub.changed"]
    assert set(changed) == {
        "event_handler.workers.default.concurrency",
        "event_handler.workers.default.prefetch_count",
    }
    wait_until(lambda: unacked(probe) >= 6)
    wait_until(lambda: len(probe.started) == 4)
    probe.release()
    wait_until(lambda: len(probe.ended) == 20)
    probe.publish(hold(range(100, 120), "again"))
    wait_until(lambda: unacked(probe) == 6)
    wait_until(lambda: len(probe.started) == 24)

    reload(process, NARROW, workplace)
    probe.release("again")
    wait_until(lambda: len(probe.ended) == 40)
    probe.publish(hold(range(200, 220), "at last"))
    wait_until(lambda: (unacked(probe), len(probe.started)) == (2, 41))
    probe.release("at last")
    wait_until(lambda: len(probe.ended) == 60)
    probe.wait_depth(ready=0)
    assert process.stop() == 0
    assert set(probe.started.values()) == {1}, "a new consumer must not run anything again"


def test_the_log_level_changes_both_ways(workplace: Workplace, vhost: Vhost) -> None:
    probe = Probe.install(workplace, vhost, NARROW)
    process = workplace.serve()

    for n, level in enumerate(("info", "debug", "info")):
        reload(process, NARROW.replace('"info"', f'"{level}"'), workplace)
        probe.publish([{"n": n}])
        wait_until(lambda: probe.ended == Counter(range(n + 1)))  # noqa: B023
    assert process.stop() == 0
    assert [r["message"] for r in process.records() if r["log.logger"] == "probe"] == ["runs 1"]


def test_keys_that_cannot_change_live_are_named_and_keep_their_old_value(
    workplace: Workplace, vhost: Vhost
) -> None:
    probe = Probe.install(workplace, vhost, NARROW)
    process = workplace.serve()
    new = WIDE.replace("shutdown_grace = 5", "shutdown_grace = 60\ncatch_handler_exceptions = true")
    changed = reload(process, new, workplace)["limehub.changed"]
    assert "event_handler.workers.default.concurrency" in changed
    (restart,) = [r for r in process.records() if r["message"] == "needs a restart to change"]
    assert restart["log.level"] == "warning"
    assert set(restart["limehub.keys"]) == {
        "event_handler.catch_handler_exceptions",
        "event_handler.shutdown_grace",
    }
    probe.publish([{"n": 1, "do": "raise", "value": "still the policy crash"}])
    assert process.wait() == 6


def test_many_hangups_under_load_lose_nothing_and_run_nothing_twice(
    workplace: Workplace, vhost: Vhost
) -> None:
    probe = Probe.install(workplace, vhost, NARROW)
    process = workplace.serve()
    total = 600
    probe.publish({"n": n, "do": "sleep", "value": 0.005} for n in range(total))
    for toml in (WIDE, NARROW) * 4 + (WIDE,):
        reload(process, toml, workplace)
    wait_until(lambda: len(probe.ended) == total, 60)
    probe.wait_depth(ready=0)
    assert process.stop() == 0
    assert probe.started == Counter(range(total))
