"""The worst moments for a guarded connection: killed, paused, cut, not read. Nothing is held."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

from tests.support.burners import EXCHANGE
from tests.support.frames import CORRUPT, HEARTBEAT
from tests.support.lab import Lab
from tests.support.stand import Finding, Stand, children_of
from tests.support.waiting import wait_until

GUARDED = 'guard = "process"\n'
CONSUME_OK = "Basic.ConsumeOk"
KEPT = "kept"


def stalled(stand: Stand, do: str, seconds: float) -> None:
    """Begin a stall, and wait for the first beat that comes although the hub stands."""
    stand.burners.publish({"n": 1, "do": do, "value": seconds})
    stand.burners.wait_for("start")
    since = stand.burners.first("start").at + 1.0
    stand.recorder.wait_for(HEARTBEAT, "up", since=since)


# kill -9


@frozen(kw_only=True)
class Killed:
    """Seconds from the kill until the event could be taken again, and until no child was left."""

    back: float
    childless: float
    redelivered: bool

    @property
    def at_once(self) -> bool:
        return self.back < 0.2 and self.childless < 0.5


def killed(do: str) -> Callable[[Lab], list[Killed]]:
    """Kill a server in a stall; up to three times, since a busy machine makes it take longer."""

    def experiment(lab: Lab) -> list[Killed]:
        found = [kill(lab, do)]
        while not found[-1].at_once and len(found) < 3:
            found.append(kill(lab, do))
        return found

    return experiment


def kill(lab: Lab, do: str) -> Killed:
    with lab.stand(f"killed-{do}", toml=GUARDED) as stand, lab.core():
        stalled(stand, do, 60.0)
        children = children_of(stand.pid)
        connection = stand.vhost.connect()
        channel = connection.channel()
        begun = time.monotonic()
        stand.process.send(signal.SIGKILL)
        got = wait_until(
            lambda: [g for g in [channel.basic_get(stand.burners.queue("greenlet"))] if g[0]],
            message="the event to be back",
            interval=0.002,
        )
        back = time.monotonic() - begun
        wait_until(lambda: not any(map(is_alive, children)), message=f"the end of {children}")
        childless = time.monotonic() - begun
        connection.close()
        return Killed(back=back, childless=childless, redelivered=got[0][0].redelivered)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.parametrize(
    "_",
    [
        pytest.param("python", marks=pytest.mark.experiment(of=killed("burn"))),
        pytest.param("c-call", marks=pytest.mark.experiment(of=killed("hold"))),
    ],
)
def test_a_server_killed_in_a_stall_gives_its_events_back_at_once(
    finding: list[Killed], _: str
) -> None:
    assert all(each.redelivered for each in finding)
    assert any(each.at_once for each in finding), finding


# SIGSTOP


@frozen(kw_only=True)
class Paused:
    """*silence*: seconds from SIGSTOP until the broker closed; *late*: beats in it."""

    silence: float
    late: list[Any]
    after: Finding


def paused(do: str) -> Callable[[Lab], Paused]:
    def experiment(lab: Lab) -> Paused:
        with lab.stand(f"paused-{do}", toml=GUARDED) as stand:
            stand.begin()
            stalled(stand, do, 18.0)
            since = time.monotonic()
            stand.process.send(signal.SIGSTOP)
            closed = stand.recorder.wait_for("end", "down", 60.0, since=since)
            # What was on its way has time to arrive; a guard would beat again and again.
            late = stand.recorder.sightings(HEARTBEAT, "up", since=since + 2.0, until=closed.at)
            stand.process.send(signal.SIGCONT)
            stand.recorder.wait_for(CONSUME_OK, "down", since=since)
            stand.burners.wait_for("end")
            stand.burners.wait_empty()
            return Paused(silence=closed.at - since, late=late, after=stand.finish())

    return experiment


@pytest.mark.parametrize(
    "_",
    [
        pytest.param("python", marks=pytest.mark.experiment(of=paused("burn"))),
        pytest.param("c-call", marks=pytest.mark.experiment(of=paused("hold"))),
    ],
)
def test_nobody_beats_for_a_server_that_is_stopped_and_it_returns_when_continued(
    finding: Paused, _: str
) -> None:
    assert finding.late == []
    assert finding.silence > 4.0
    assert finding.after.count("start") == finding.after.count("end") == Counter([1])
    assert finding.after.left == (0, 0)
    assert finding.after.code == 0


# Reconnects


@frozen(kw_only=True)
class Reconnected:
    """Given only when the server had no more of anything in the end than in its first rounds."""

    finding: Finding
    rounds: int


def reconnected(lab: Lab) -> Reconnected:
    """Cut all connections again and again; now and then an event that publishes."""
    rounds, warm = (500, 20) if lab.soak else (60, 10)
    with lab.stand("reconnected", toml=GUARDED) as stand:
        keep(stand)
        seen = []
        for n in range(warm):
            cut(stand, n)
            seen.append(stand.status())
        most = tuple(map(max, zip(*seen, strict=True)))
        for n in range(warm, rounds):
            cut(stand, n)
        wait_until(lambda: within(stand.status(), most), message=f"at most {most} again")
        return Reconnected(finding=stand.finish(), rounds=rounds)


def within(status: tuple[int, ...], most: tuple[int, ...]) -> bool:
    """Whether the server has no more descriptors, threads or children."""
    return all(now <= before for now, before in zip(status, most, strict=True))


def cut(stand: Stand, n: int) -> None:
    """One round: an event (it publishes, so that this connection is there too), then the cut."""
    if n % 10 == 0:
        stand.burners.publish({"n": n, "publish": 10})
        stand.burners.wait_for("end", [n])
        stand.burners.wait_empty()
    since = time.monotonic()
    stand.recorder.cut()
    stand.recorder.wait_for(CONSUME_OK, "down", since=since)


@pytest.mark.experiment(of=reconnected)
def test_many_reconnects_leave_no_descriptor_thread_or_child_behind(finding: Reconnected) -> None:
    expected = Counter(range(0, finding.rounds, 10))
    assert finding.finding.count("end") == expected
    assert finding.finding.left == (0, 0)
    assert finding.finding.code == 0


# A full socket buffer

PATIENT = 8  # seconds: a heartbeat for which the broker bears a silence of 16 s, and we beat thrice


@frozen(kw_only=True)
class Filled:
    """*kept*: what the big publish brought to its queue."""

    kept: list[bytes]
    finding: Finding


def filled(do: str) -> Callable[[Lab], Filled]:
    def experiment(lab: Lab) -> Filled:
        toml = f"prefetch_count = 2\n{GUARDED}"
        options = {"toml": toml, "small": True, "heartbeat": PATIENT}
        with lab.stand(f"filled-{do}", **options) as stand, lab.core(do == "burn"):
            keep(stand)
            stand.burners.publish({"n": 1, "publish": 10})
            stand.burners.wait_for("end")
            stand.begin()
            stand.recorder.pause("up")
            stand.burners.publish({"n": 2, "publish": 8_000_000})
            wait_until(lambda: unsent_to(stand.recorder.port) > 1_000_000, message="a full buffer")
            stand.burners.publish({"n": 3, "do": do, "value": 9.0})
            stand.burners.wait_for("start", [3])
            # Beats are due while nothing can be sent, and more while the rest of it goes out.
            go_on = stand.burners.first("start", 3).at + PATIENT * 0.7
            wait_until(lambda: time.monotonic() > go_on)
            stand.recorder.resume("up")
            stand.burners.wait_for("end", [2, 3])
            finding = stand.finish()
            return Filled(kept=taken(stand), finding=finding)

    return experiment


def keep(stand: Stand) -> None:
    """A queue for what the handlers publish."""
    connection = stand.vhost.connect()
    channel = connection.channel()
    channel.queue_declare(KEPT)
    channel.queue_bind(KEPT, EXCHANGE, "b.kept")
    connection.close()


def taken(stand: Stand) -> list[bytes]:
    """The bodies in that queue."""
    connection = stand.vhost.connect()
    channel = connection.channel()
    bodies = []
    while (got := channel.basic_get(KEPT, auto_ack=True))[0] is not None:
        bodies.append(got[2])
    connection.close()
    return bodies


def unsent_to(port: int) -> int:
    """The most bytes that wait in a socket of this machine to be sent to *port*."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    waiting = [int(row[4].split(":")[0], 16) for row in rows if row[2].endswith(f":{port:04X}")]
    return max(waiting, default=0)


@pytest.mark.parametrize(
    "_",
    [
        pytest.param("python", marks=pytest.mark.experiment(of=filled("burn"))),
        pytest.param("c-call", marks=pytest.mark.experiment(of=filled("hold"))),
    ],
)
def test_a_stall_while_the_peer_does_not_read_tears_no_frame(finding: Filled, _: str) -> None:
    assert finding.finding.losses == []
    assert [each for each in finding.finding.sightings if each.what == CORRUPT] == []
    assert finding.finding.count("end") == Counter([1, 2, 3])
    assert [json.loads(body)["n"] for body in finding.kept] == [1, 2]
    assert len(json.loads(finding.kept[1])["filler"]) == 8_000_000
    ends = [each for each in finding.finding.sightings if each.what == "end"]
    assert {each.size for each in ends} <= {0}
    assert finding.finding.left == (0, 0)
