"""The policy crash: the server ends with 6, and no event can keep it down for ever."""

from __future__ import annotations

import json
import signal
from collections import Counter
from itertools import pairwise

import pytest

from tests.support.probe import Probe
from tests.support.process import LimehubProcess, Workplace
from tests.support.vhost import Vhost
from tests.support.waiting import wait_until

HANDLER_CRASH = 6
PARALLEL = """
[event_handler]
prefetch_count = 4
{more}
[event_handler.workers.default]
concurrency = 4
"""


def install(workplace: Workplace, vhost: Vhost, more: str = "") -> Probe:
    return Probe.install(workplace, vhost, PARALLEL.replace("{more}", more))


def ends(process: LimehubProcess, code: int) -> None:
    assert process.wait() == code


def serve_again(workplace: Workplace) -> LimehubProcess:
    """Start a server which finds the poison that felled the last one: it may never be ready."""
    return workplace.serve(ready=False)


def delays(process: LimehubProcess) -> list[float]:
    """Seconds that *process* lets events wait which were in flight in a crash."""
    records = process.records()
    return [r["limehub.delay"] for r in records if r["message"].startswith("event was in flight")]


def pauses(probe: Probe, n: int) -> list[float]:
    """Seconds from the start of one run of the event *n* to that of the next."""
    at = [r["at"] for r in probe.runs if r["n"] == n and r["what"] == "start"]
    return [later - earlier for earlier, later in pairwise(at)]


def test_a_crash_lets_the_others_finish_names_the_culprit_and_keeps_its_event(
    workplace: Workplace, vhost: Vhost
) -> None:
    probe = install(workplace, vhost)
    process = workplace.serve()
    probe.publish([{"n": n, "do": "hold", "value": "release"} for n in (1, 2, 3)])
    wait_until(lambda: len(probe.started) == 3)
    probe.publish([{"n": 4, "do": "raise", "value": "no such deal"}])
    process.wait_for_line('"stopping"')
    # Given back now, the event would fell the next server: it stays unacked until the end.
    probe.wait_depth(ready=0, unacked=4)
    probe.publish([{"n": 5}])
    probe.wait_depth(ready=1, unacked=4)

    probe.release()
    assert process.wait() == HANDLER_CRASH
    assert probe.ended == Counter([1, 2, 3])
    probe.wait_depth(ready=2)
    assert probe.depths()["dlq"] == (0, 0)
    (stopping,) = [r for r in process.records() if r["message"] == "stopping"]
    cause = stopping["limehub.cause"]
    for part in ("solution-probe.handle", probe.queue, "id-4", "ValueError: no such deal"):
        assert part in cause
    assert stopping["log.level"] == "error"
    (failed,) = [r for r in process.records() if r["message"] == "handler failed"]
    assert "raise ValueError(value)" in failed["error.stack_trace"]


def test_a_signal_during_the_end_after_a_crash_keeps_its_exit_code(
    workplace: Workplace, vhost: Vhost
) -> None:
    probe = install(workplace, vhost)
    process = workplace.serve()
    probe.publish([{"n": 1, "do": "hold", "value": "release"}])
    probe.wait_started(1)
    probe.publish([{"n": 2, "do": "raise", "value": "boom"}])
    process.wait_for_line('"stopping"')
    process.send(signal.SIGTERM)
    probe.release()
    assert process.wait() == HANDLER_CRASH
    assert probe.ended == Counter([1])


def test_an_exception_that_comes_again_is_given_up_at_the_limit(
    workplace: Workplace, vhost: Vhost
) -> None:
    probe = install(workplace, vhost, "crash_limit = 3")
    process = workplace.serve()
    probe.publish([{"n": 1, "do": "raise", "value": "poison"}])
    for round_ in (2, 3):
        ends(process, HANDLER_CRASH)
        probe.publish([{"n": round_}])
        process = serve_again(workplace)
        process.wait_for_line("event was in flight in a crash")
        probe.wait_started(1, times=round_)
        assert delays(process) == [2 ** (round_ - 2)]
    ends(process, HANDLER_CRASH)
    assert set(probe.ended) == {2, 3}, "others must not wait for the one that waits"

    last = workplace.serve()
    last.wait_for_line("crash-loop")
    probe.publish([{"n": 4}])
    wait_until(lambda: probe.ended[4])
    assert last.stop() == 0
    assert probe.started[1] == 3
    first, second = pauses(probe, 1)
    assert first >= 1
    assert second >= 2
    (letter,) = probe.dead_letters()
    assert (letter["n"], letter["reason"]) == (1, "crash-loop")
    assert letter["headers"]["x-limehub-handler"] == "solution-probe.handle"
    assert "3 crashes" in letter["headers"]["x-limehub-exception-text"]
    probe.wait_depth(ready=0)


@pytest.mark.parametrize(
    ("do", "code"), [("segfault", -signal.SIGSEGV), ("exit", 9)], ids=["segfault", "os._exit"]
)
def test_an_event_that_kills_the_process_is_given_up_and_innocents_are_not(
    workplace: Workplace, vhost: Vhost, do: str, code: int
) -> None:
    probe = install(workplace, vhost, "crash_limit = 3")
    process = workplace.serve()
    innocents = [{"n": n, "do": "hold", "value": "release"} for n in (2, 3, 4)]
    probe.publish(innocents)
    wait_until(lambda: len(probe.started) == 3)
    probe.publish([{"n": 1, "do": do, "value": code}])
    ends(process, code)
    probe.release()
    for times in (2, 3):
        ends(serve_again(workplace), code)
        assert probe.started[1] == times

    last = workplace.serve()
    last.wait_for_line("crash-loop")
    wait_until(lambda: len(probe.ended) == 3)
    assert last.stop() == 0
    assert set(probe.ended) == {2, 3, 4}  # an ack that left just before a kill may be lost
    assert [(letter["n"], letter["reason"]) for letter in probe.dead_letters()] == [
        (1, "crash-loop")
    ]
    first, second = pauses(probe, 1)
    assert first >= 1
    assert second >= 2
    probe.wait_depth(ready=0)


def test_innocents_that_are_always_beside_the_poison_are_handled(
    workplace: Workplace, vhost: Vhost
) -> None:
    probe = install(workplace, vhost, "crash_limit = 2")
    process = workplace.serve()
    slow = [{"n": n, "do": "sleep", "value": 0.3} for n in range(2, 8)]
    probe.publish([{"n": 1, "do": "sleep-exit", "value": 0.1}, *slow])
    ends(process, 9)
    ends(serve_again(workplace), 9)
    last = workplace.serve()
    wait_until(lambda: set(probe.ended) == set(range(2, 8)))
    last.wait_for_line("crash-loop")
    assert last.stop() == 0
    assert [letter["n"] for letter in probe.dead_letters()] == [1]
    probe.wait_depth(ready=0)


def test_a_crash_limit_of_0_never_gives_up(workplace: Workplace, vhost: Vhost) -> None:
    probe = install(workplace, vhost, "crash_limit = 0")
    process = workplace.serve()
    probe.publish([{"n": 1, "do": "raise", "value": "poison"}])
    ends(process, HANDLER_CRASH)
    for times in (2, 3, 4):  # the default limit would give up before the last one
        ends(serve_again(workplace), HANDLER_CRASH)
        assert probe.started[1] == times
    first, second, third = pauses(probe, 1)
    assert first >= 1
    assert second >= 2
    assert third >= 4
    # A stop need not wait for it.
    count_crashes(probe, 100)
    process = workplace.serve()
    record = json.loads(process.wait_for_line("event was in flight in a crash"))
    assert (record["limehub.crashes"], record["limehub.delay"]) == (100, 60)
    assert process.stop() == 0
    probe.wait_depth(ready=1)
    assert probe.depths()["dlq"] == (0, 0)


def count_crashes(probe: Probe, count: int) -> None:
    """Make the one event that the server remembers one of *count* crashes."""
    file = probe.state_folder / "crashes.json"
    ((key, entry),) = json.loads(file.read_text()).items()
    file.write_text(json.dumps({key: entry | {"count": count}}))


def test_an_event_that_succeeds_after_crashes_starts_from_zero_again(
    workplace: Workplace, vhost: Vhost
) -> None:
    probe = install(workplace, vhost, "crash_limit = 2")
    process = workplace.serve()
    event = {"n": 1, "do": "crash-unless", "value": "mended"}
    probe.publish([event])
    ends(process, HANDLER_CRASH)
    probe.release("mended")
    process = workplace.serve()
    wait_until(lambda: probe.ended[1])
    probe.wait_depth(ready=0)
    (workplace.folder / "mended").unlink()
    probe.publish([event])
    ends(process, HANDLER_CRASH)
    probe.release("mended")
    process = workplace.serve()
    wait_until(lambda: probe.ended[1] == 2)
    assert process.stop() == 0
    assert probe.depths()["dlq"] == (0, 0)
