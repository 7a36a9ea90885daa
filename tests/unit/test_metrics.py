"""Metrics made of a status; the page that tells what they mean."""

from __future__ import annotations

import re
import time
from itertools import pairwise
from pathlib import Path

import gevent
import pytest
from attrs import evolve
from prometheus_client.parser import text_string_to_metric_families

from limehub.observe.metrics import exposition, families
from limehub.web.app import create_app
from limehub.web.tokens import Tokens
from limehub.workers.handling import BOUNDS, HandlerStats
from limehub.workers.settlement import Fate
from tests.support.monitored import metric_names, reading, status
from tests.support.waiting import quickest
from tests.unit.web_server import ShownServer, office_of

DOCS = (Path(__file__).parents[2] / "docs" / "monitoring.md").read_text()


def samples(**changes: object) -> dict[tuple[str, tuple[str, ...]], float]:
    """(name, label values in the order of their names) -> value, as Prometheus reads them."""
    text, _ = exposition(reading(**changes), "")
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_deliveries_are_counted_by_application_handler_and_outcome() -> None:
    found = samples()
    name = "limehub_deliveries_total"
    assert found[name, ("acme", "solution-x.deal", "ack")] == 3
    assert found[name, ("acme", "solution-x.deal", "dead-letter")] == 1
    assert found[name, ("zoo", "solution-x.deal", "ack")] == 1


def test_the_histogram_adds_up() -> None:
    found = samples()
    name = "limehub_handler_duration_seconds"
    steps = [found[f"{name}_bucket", ("solution-x.deal", f"{float(b)}")] for b in BOUNDS]
    assert steps == sorted(steps)
    assert steps[0] == 3
    assert found[f"{name}_bucket", ("solution-x.deal", "+Inf")] == 4
    assert found[f"{name}_count", ("solution-x.deal",)] == 4
    assert found[f"{name}_sum", ("solution-x.deal",)] == 0.75


def test_depths_are_left_out_where_the_broker_said_nothing() -> None:
    known = samples()
    assert known["limehub_dead_letters", ("solution-x",)] == 11
    unknown = samples(dead_letters={"moved": 0, "trouble": {}, "queues": {"other": "q"}})
    assert not [key for key in unknown if key[0] == "limehub_dead_letters"]


def test_a_blocked_publisher_and_a_crash_loop_show() -> None:
    found = samples()
    assert found["limehub_publisher_blocked", ("dead_letters",)] == 1
    assert found["limehub_publisher_blocked", ("events",)] == 0
    assert found["limehub_crash_suspects", ()] == 2
    assert found["limehub_crash_suspect_crashes", ()] == 2
    assert samples(crashes={})["limehub_crash_suspect_crashes", ()] == 0


def test_every_metric_has_a_help_text_and_a_name_with_its_unit() -> None:
    for family in families(reading()):
        assert family.name.startswith("limehub_")
        assert family.documentation.endswith(".")
        assert not re.search(r"_(ms|millis|minutes|hours)\b", family.name)


def test_the_page_describes_every_metric_and_no_other() -> None:
    documented = set(re.findall(r"^\| `(limehub_[a-z_]+)", DOCS, re.MULTILINE))
    names = {re.sub(r"_(bucket|count|sum)$", "", name) for name in metric_names()}
    assert documented == names


def test_openmetrics_is_spoken_to_who_asks_for_it() -> None:
    text, content_type = exposition(reading(), "application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert text.endswith(b"# EOF\n")


def test_a_scrape_of_thousands_of_queues_lets_others_work_meanwhile() -> None:
    (group,) = status()["groups"]
    (queue,) = group["queues"]
    group["queues"] = [{**queue, "queue": f"q{number}"} for number in range(3000)]

    def longest_turn() -> float:
        """As a part of the whole, in CPU time: others on the machine do not count."""
        turns = [time.thread_time()]

        def turn() -> None:
            while True:
                turns.append(time.thread_time())
                gevent.sleep(0)

        turning = gevent.spawn(turn)
        exposition(reading(groups=[group]), "")
        turning.kill()
        return max(after - before for before, after in pairwise(turns)) / (turns[-1] - turns[0])

    assert quickest(longest_turn, 0.1, tries=10) < 0.1


def test_counts_of_runs_are_kept_by_application() -> None:
    stats = HandlerStats()
    stats.acked_after(0.002, "acme")
    stats.add(Fate.ACK, 0.002, "zoo")
    stats.add(Fate.RETRY, 0.002, "acme")
    stats.add_unrun("crash-loop", "acme")
    assert stats.acked == 2
    assert stats.outcomes == {Fate.ACK: 2, Fate.RETRY: 1, Fate.DEAD_LETTER: 1}
    assert stats.by_application["acme", Fate.DEAD_LETTER] == 1
    assert sum(stats.durations) == 3, "what did not run took no time"


@pytest.mark.parametrize("public", [True, False])
def test_metrics_need_a_token_unless_they_are_public(tmp_path: Path, public: bool) -> None:
    file = tmp_path / "tokens"
    file.write_text("monitor read reader-token\n")
    server = ShownServer(
        details=status(
            groups=[], handlers=[], dead_letters={"moved": 0, "trouble": {}, "queues": {}}
        )
    )
    server.config = evolve(server.config, web=evolve(server.config.web, metrics_public=public))
    client = create_app(server, Tokens(str(file)), office_of(server)).test_client()
    assert client.get("/metrics").status_code == (200 if public else 401)
    answer = client.get("/metrics", headers={"Authorization": "Bearer reader-token"})
    assert answer.status_code == 200
    assert answer.content_type.startswith("text/plain")
    assert "process_resident_memory_bytes" in answer.text
