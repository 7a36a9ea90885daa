"""`make bench` computes what it says: reports, tables, goals, and names that exist."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from pytest import CaptureFixture

from benchmarks import embedded
from benchmarks.catalog import PEERS, Peer
from benchmarks.goals import GOALS, Goal, print_goals
from benchmarks.meter import JOB_VARIABLE, STAMP, Job, Meter, work_of
from benchmarks.peers.event import BODY
from benchmarks.report import print_section
from benchmarks.runs import Report, together
from benchmarks.sections import SECTIONS
from benchmarks.wire import packed

DOCUMENT = (Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text()


def report(rate: float = 1000.0, cpu_us: float = 10.0, count: int = 1001) -> Report:
    return Report(
        count=count,
        began=5.0,
        ended=5.0 + (count - 1) / rate,
        cpu=cpu_us * count / 1e6,
        broker_cpu=0.02,
        rss_mb=30.0,
    )


def table_under(heading: str) -> list[str]:
    part = DOCUMENT.split(f"## {heading}\n")[1].split("\n## ")[0]
    cells = re.findall(r"^\| (`.*?`) \|", part, re.MULTILINE)
    return [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]


def test_a_report_gives_messages_a_second_and_microseconds_a_message() -> None:
    one = report(rate=2000.0, cpu_us=7.5)
    assert one.rate == pytest.approx(2000)
    assert one.cpu_us == pytest.approx(7.5)
    assert one.broker_us == pytest.approx(20, rel=0.01)


def test_processes_side_by_side_count_until_the_last_has_ended() -> None:
    both = together([report(rate=1000.0), report(rate=500.0)])
    assert both.count == 2002
    assert both.rate == pytest.approx(2001 / 2.0)
    assert both.cpu_us == pytest.approx(10)
    assert both.broker_cpu == 0.02
    assert both.rss_mb == 60


def test_a_section_is_printed_with_medians_spreads_and_ratios(capsys: CaptureFixture[str]) -> None:
    results = {
        "limehub": [report(rate=800.0), report(rate=900.0), report(rate=700.0)],
        "c_raw_multi": [report(rate=1000.0)],
    }
    print_section(SECTIONS["p1000"], results)
    lines = [line.split("|") for line in capsys.readouterr().out.splitlines() if "|" in line]
    rows = [[cell.strip() for cell in line[1:-1]] for line in lines]
    assert [row[0] for row in rows] == ["peer", "-----------", "c_raw_multi", "limehub"]
    assert rows[3][1] == "800 (700-900)"
    assert rows[3][-2:] == ["0.80", "0.80"]


def test_goals_are_met_missed_or_left_out_when_somebody_was_missing(
    capsys: CaptureFixture[str],
) -> None:
    results = {
        "p1000": {
            "limehub": [report(rate=900.0, cpu_us=9.0)],
            "c_raw_multi": [report(rate=1000.0)],
            "celery_gevent": [report(rate=90.0, cpu_us=500.0)],
        }
    }
    assert not print_goals(results)
    printed = capsys.readouterr().out
    assert re.search(r"client CPU us a message .* at most 11 .* 9 .* met", printed)
    assert re.search(r"msg/s : C with multiple acks .* 0\.9 .* met", printed)
    assert re.search(r"msg/s : Celery .* at least 12 .* 10 .* 11\.11 .* MISSED", printed)
    assert "yapw" not in printed


@pytest.mark.parametrize(
    ("how", "value", "met"),
    [("at least", 2, True), ("at most", 2, True), ("above", 2, False), ("at least", 1.9, False)],
)
def test_a_goal_on_its_limit_is_met_unless_it_has_to_be_above(
    how: str, value: float, met: bool
) -> None:
    goal = Goal(section="p1", what="x", measure=lambda _results: value, how=how, limit=2)
    assert goal.met(value) is met


def test_sections_and_goals_name_peers_and_sections_that_exist() -> None:
    assert {goal.section for goal in GOALS} <= {*SECTIONS, embedded.NAME}
    assert {name for section in SECTIONS.values() for name in section.peers} <= set(PEERS)


def test_every_section_and_peer_is_documented() -> None:
    assert sorted(table_under("Sections")) == sorted([*SECTIONS, embedded.NAME])
    publishers = {name for name in PEERS if name.startswith("publish_")}
    assert sorted(table_under("Peers")) == sorted(set(PEERS) - publishers - {"imports"})


@pytest.mark.parametrize("name", SECTIONS)
def test_every_peer_of_a_section_gets_a_whole_job(name: str) -> None:
    section = SECTIONS[name]
    for peer in (PEERS[each] for each in section.peers):
        job = section.job(peer, "amqp://guest:guest@127.0.0.1:1234/%2F", None)
        assert job.total >= section.queues
        assert len(job.keys) == len(job.queues) == section.queues
        assert job.address == ("127.0.0.1", 1234)
        if section.kind == "publish":  # each of those at a time publishes an equal share
            assert job.messages % job.concurrency == 0


def test_the_meter_prints_its_span_when_the_last_message_is_handled(
    monkeypatch: pytest.MonkeyPatch, capfd: CaptureFixture[str]
) -> None:
    job = SECTIONS["latency"].job(PEERS["limehub"], "amqp://x/", None)._replace(messages=3)
    monkeypatch.setenv(JOB_VARIABLE, json.dumps(job._asdict()))
    assert Job.of_environment() == job
    work = work_of(job, Meter(job.total))
    for _ in range(2):
        work(BODY)
    assert capfd.readouterr().out == ""
    work(BODY)
    found = json.loads(capfd.readouterr().out)
    assert found["count"] == 3
    assert found["ended"] >= found["began"]
    assert len(found["latencies_ms"]) == 3


@pytest.mark.parametrize("peer", PEERS.values(), ids=lambda peer: peer.name)
def test_the_stamp_of_a_packed_message_leaves_it_readable(peer: Peer) -> None:
    message = peer.message("q")
    raw = bytearray(packed("x", "k", message.body, message.properties))
    at = raw.find(BODY)
    if at < 0:  # Celery and Dramatiq wrap it, and are in no section with stamps
        assert peer.name not in SECTIONS["latency"].peers
        return
    raw[at + STAMP.start : at + STAMP.stop] = b"%019d" % 1_700_000_000_123_456_789
    body = bytes(raw[at : at + len(BODY)])
    assert json.loads(body)["ts"] == 1_700_000_000_123_456_789
