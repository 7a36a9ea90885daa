"""A handler that keeps the process busy for longer than the broker waits: the connection stays.

RabbitMQ ends a connection after 3 heartbeats of silence: 12 s at heartbeat 4. The long form has
the times of the field report: one handler for 75 s at 20 s, 12 for 5 s each at 26 s.
"""

from __future__ import annotations

import itertools
import subprocess
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from attrs import frozen

from tests.support.lab import Lab
from tests.support.stand import ACK, Finding

GUARDED = 'guard = "process"\n'


@frozen(kw_only=True)
class Times:
    """Seconds: of one handler; of each of twelve; of the heartbeat in each of the two cases."""

    one: float = 15.0
    each: float = 1.25
    heartbeat_one: int = 4
    heartbeat_each: int = 4

    @classmethod
    def of(cls, lab: Lab) -> Times:
        """The short form, or the long one under `make soak`."""
        if not lab.soak:
            return cls()
        return cls(one=75.0, each=5.0, heartbeat_one=20, heartbeat_each=26)


def alone(
    do: str, *, lane: Any = "greenlet", core: bool = False, factor: float = 1.0, **options: Any
) -> Callable[[Lab], Finding]:
    """An experiment: one handler that does *do* in *lane* for *factor* times `Times.one`."""

    def experiment(lab: Lab) -> Finding:
        times = Times.of(lab)
        given = {"heartbeat": times.heartbeat_one, "lanes": (lane,), "toml": GUARDED} | options
        with lab.stand(f"{do}-{lane}", **given) as stand, lab.core(core):
            stand.begin()
            stand.burners.publish({"n": 1, "do": do, "value": factor * times.one}, lane=lane)
            stand.burners.wait_for("start")
            stand.burners.wait_for("end", timeout=600)  # what computes may get a tenth of a core
            return stand.finish(lane)

    return experiment


BURN, BURN_TLS = alone("burn", toml="", core=True), alone("burn", toml="", core=True, tls=True)
WAIT = alone("wait")
LET_GO, DIGEST = alone("let_go", lane="thread"), alone("digest", lane="thread", core=True)
HOLD_IN_CHILD = alone("hold", lane="process")
HOLD = alone("backtrack", core=True)
HOLD_TLS = alone("hold", tls=True, factor=1.5)  # long after the broker gives up
HOLD_AS_FIRST = alone("hold", prefix=("unshare", "--pid", "--fork", "--kill-child", "--mount-proc"))


def assert_kept(finding: Finding) -> None:
    """One run, one ack, no connection ended, nothing left, and the broker never had to wait."""
    assert finding.count("start") == finding.count("end") == Counter([1])
    assert finding.losses == []
    acks = [ack for ack in finding.seen(ACK) if ack.link == finding.consuming]
    assert len(acks) == 1
    assert acks[0].at >= finding.at("end")
    assert finding.left == (0, 0)
    assert finding.code == 0


def assert_beaten(finding: Finding, heartbeat: float = 4.0) -> None:
    """No connection was silent for longer than a heartbeat, though half of one is the rule."""
    for link in {each.link for each in finding.sightings if each.what == "heartbeat"}:
        assert finding.longest_silence(link) < heartbeat


@pytest.mark.experiment(of=BURN)
def test_a_handler_that_computes_in_python_keeps_its_connection(finding: Finding, lab: Lab) -> None:
    assert_kept(finding)
    assert_beaten(finding, Times.of(lab).heartbeat_one)


@pytest.mark.experiment(of=BURN_TLS)
def test_a_handler_that_computes_in_python_keeps_its_connection_over_tls(
    finding: Finding, lab: Lab
) -> None:
    assert_kept(finding)
    assert_beaten(finding, Times.of(lab).heartbeat_one)


def twelve(lab: Lab) -> Finding:
    """Twelve events at once, each of which computes."""
    times = Times.of(lab)
    toml = "prefetch_count = 12\n"
    with lab.stand("twelve", toml=toml, heartbeat=times.heartbeat_each) as stand, lab.core():
        stand.begin()
        stand.burners.publish(*({"n": n, "do": "burn", "value": times.each} for n in range(1, 13)))
        stand.burners.wait_for("end", range(1, 13), timeout=600)
        return stand.finish()


@pytest.mark.experiment(of=twelve)
def test_each_of_twelve_that_compute_is_acked_when_it_returns(finding: Finding) -> None:
    assert finding.count("start") == finding.count("end") == Counter(range(1, 13))
    assert finding.losses == []
    assert not [run for run in finding.runs if run.redelivered]
    numbers = sorted(range(1, 13), key=lambda n: finding.at("end", n))
    for n, following in itertools.pairwise(numbers):
        assert acked(finding, n) > finding.at("end", n), "acked before its handler returned"
        assert acked(finding, n) < finding.at("end", following), "acked by the next turn of the hub"
    # A busy machine delays some acks, but not all.
    assert min(acked(finding, n) - finding.at("end", n) for n in numbers[:-1]) < 0.1
    assert finding.left == (0, 0)


def acked(finding: Finding, n: int) -> float:
    """When the ack of event *n* was on the wire."""
    deliver = next(
        each
        for each in finding.sightings
        if each.what == "Basic.Deliver" and (each.key or "").endswith(f".{n}")
    )
    assert deliver.tag is not None
    return next(
        ack.at
        for ack in finding.seen(ACK)
        if (ack.link, ack.channel) == (deliver.link, deliver.channel)
        and ack.tag is not None
        and (ack.tag == deliver.tag or (ack.multiple and ack.tag > deliver.tag))
    )


@pytest.mark.experiment(of=WAIT)
def test_a_handler_that_waits_runs_once(finding: Finding, lab: Lab) -> None:
    assert_kept(finding)
    assert_beaten(finding, Times.of(lab).heartbeat_one)


@pytest.mark.parametrize(
    "_",
    [
        pytest.param("waits", marks=pytest.mark.experiment(of=LET_GO)),
        pytest.param("computes", marks=[pytest.mark.experiment(of=DIGEST), pytest.mark.soak]),
    ],
)
def test_a_c_call_that_releases_the_gil_runs_once_in_the_thread_lane(
    finding: Finding, lab: Lab, _: str
) -> None:
    assert_kept(finding)
    assert_beaten(finding, Times.of(lab).heartbeat_one)


@pytest.mark.experiment(of=HOLD_IN_CHILD)
def test_a_c_call_that_holds_the_gil_runs_once_in_the_process_lane(
    finding: Finding, lab: Lab
) -> None:
    assert_kept(finding)
    assert_beaten(finding, Times.of(lab).heartbeat_one)


@pytest.mark.experiment(of=HOLD)
def test_a_c_call_that_holds_the_gil_keeps_its_connection_with_the_guard_process(
    finding: Finding, lab: Lab
) -> None:
    assert_kept(finding)
    assert_beaten(finding, Times.of(lab).heartbeat_one)


@pytest.fixture
def pid_namespaces() -> None:
    """Skip where this user may not make a PID namespace."""
    probe = ["unshare", "--pid", "--fork", "--mount-proc", "true"]
    try:
        subprocess.run(probe, check=True, capture_output=True, timeout=30)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no PID namespaces: {error}")


@pytest.mark.experiment(of=HOLD_AS_FIRST)
@pytest.mark.usefixtures("pid_namespaces")
def test_as_pid_1_of_a_namespace_the_server_is_guarded_and_stops_in_order(
    finding: Finding, lab: Lab
) -> None:
    assert_kept(finding)
    assert_beaten(finding, Times.of(lab).heartbeat_one)


@pytest.mark.experiment(of=HOLD_TLS)
def test_over_tls_a_c_call_that_holds_the_gil_loses_the_connection_and_nothing_else(
    finding: Finding,
) -> None:
    assert [each.direction for each in finding.losses if each.link == finding.consuming] != []
    # The event came again, and must not run again.
    assert finding.count("start") == finding.count("end") == Counter([1])
    assert finding.left == (0, 0)
    assert finding.code == 0
    warnings = [line for line in finding.log.splitlines() if "solution-burners.greenlet" in line]
    assert [line for line in warnings if '"warning"' in line and "stall" in line] != []
