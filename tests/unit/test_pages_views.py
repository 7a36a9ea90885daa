"""What the pages say, as pure functions: problems, numbers, filters, bodies."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from limehub.config.show import Row
from limehub.deadletters.item import Cause, DeadLetter, WholeDeadLetter
from limehub.deadletters.results import AppCount
from limehub.observe.depths import Depth
from limehub.web.live import Broker, Reading
from limehub.web.pages import words
from limehub.web.pages.letters import (
    WrongFilter,
    address,
    body_problem,
    body_text,
    chosen_of,
    place_of,
    rows_of,
)
from limehub.web.pages.login import local
from limehub.web.pages.overview import message_of, overview_of
from limehub.web.pages.settings import tables_of
from limehub.web.tempo import Pace, Totals

NOW = datetime(2030, 1, 31, 12, tzinfo=UTC)
QUEUE = "lime.event_handler.solution-x.totals"


def reading(broker: Broker | None = None, **changes: Any) -> Reading:
    return Reading(
        at=NOW,
        status=status() | changes,
        broker=broker or Broker(at=NOW, queues={QUEUE: Depth(ready=7, consumers=2)}),
        paces={"solution-x.totals": Pace(per_second=2.5, percentiles=(0.01, 0.5, float("inf")))},
        points=(Totals(at=1.0, done=2.5, failed=0.0, in_flight=1, waiting=7),),
    )


def status() -> dict[str, Any]:
    queue = {
        "queue": QUEUE,
        "handler": "solution-x.totals",
        "prefetch": 1,
        "problem": None,
        "mismatches": [],
    }
    group = {
        "name": "default",
        "connected": True,
        "broker": "RabbitMQ 4.0.5",
        "reconnects": 0,
        "concurrency": 1,
        "waiting": 0,
        "queues": [queue],
        "running": [{"handler": "solution-x.totals", "seconds": 3.0, "overdue": False}],
    }
    handler = {
        "name": "solution-x.totals",
        "in_flight": 1,
        "open": 0,
        "outcomes": {"ack": 1200, "dead-letter": 3},
    }
    return {
        "missing": [],
        "groups": [group],
        "handlers": [handler],
        "stalls": {"current": None, "last": []},
        "started_at": "2030-01-31T11:00:00+00:00",
    }


def stall(seconds_ago: float) -> dict[str, Any]:
    began = NOW - timedelta(seconds=seconds_ago)
    return {
        "culprit": "solution-x.totals",
        "where": "totals.py:7",
        "seconds": 12.0,
        "began_at": began.isoformat(),
        "stack": "",
    }


def problems_of(**changes: Any) -> list[tuple[str, str, str]]:
    shown = overview_of(reading(**changes))
    return [(each.level, each.title, each.href) for each in shown.problems]


def test_a_server_without_problems_says_so() -> None:
    shown = overview_of(reading())
    assert (shown.level, shown.problems) == ("good", ())
    assert shown.headline == "All is well: 1 queue is being consumed"


def test_dead_letters_are_a_problem_with_a_button_that_leads_to_them() -> None:
    some = AppCount(app="solution-x", queue="q", total=3, busy=False, installed=True)
    none = AppCount(app="solution-y", queue="q", total=0, busy=False, installed=True)
    assert problems_of(broker=Broker(dead=(none, some), at=NOW)) == [
        ("warn", "3 events of solution-x failed", "/dead-letters/solution-x/")
    ]


@pytest.mark.parametrize(
    ("changes", "title"),
    [
        ({"missing": [f"{QUEUE}: gone"]}, "1 queue is not being consumed"),
        ({"broken_plugins": ["x", "y"]}, "2 packages cannot be used"),
        ({"dead_letters": {"trouble": {"q": "full"}}}, "Dead letters cannot be stored"),
        (
            {"stalls": {"current": stall(12), "last": []}},
            "solution-x.totals keeps the whole server busy",
        ),
    ],
)
def test_what_stops_events_is_bad(changes: dict[str, Any], title: str) -> None:
    assert [problem[:2] for problem in problems_of(**changes)] == [("bad", title)]
    assert overview_of(reading(**changes)).level == "bad"


def test_a_lost_connection_is_named_instead_of_its_queues() -> None:
    groups = [status()["groups"][0] | {"connected": False, "broker": None}]
    missing = ["default: not connected: refused"]
    for broker, name in (
        ({"embedded": False, "address": "mq.test:5672"}, "the broker at mq.test:5672"),
        ({"embedded": True, "address": "127.0.0.1:40001"}, "the embedded broker"),
    ):
        lost = status() | {"groups": groups, "missing": missing, "broker": broker}
        found = overview_of(evolve(reading(), status=lost)).problems
        assert [each.title for each in found] == [f"No connection to {name}"]


def test_a_group_without_connection_among_others_is_named() -> None:
    fine = status()["groups"][0]
    groups = [fine, fine | {"name": "slow", "connected": False, "broker": None}]
    broker = {"embedded": False, "address": "mq.test:5672"}
    lost = status() | {"groups": groups, "missing": ["slow: not connected"], "broker": broker}
    (found,) = overview_of(evolve(reading(), status=lost)).problems
    assert found.title == "No connection of slow to the broker at mq.test:5672"


def test_a_stall_is_news_for_ten_minutes() -> None:
    fresh, old = stall(60), stall(3600)
    assert "busy for 12 s" in problems_of(stalls={"current": None, "last": [fresh, old]})[0][1]
    assert problems_of(stalls={"current": None, "last": [old]}) == []


def test_crashes_overdue_runs_and_open_events_are_worth_a_look() -> None:
    run = {"handler": "solution-x.totals", "seconds": 900.0, "overdue": True}
    groups = [status()["groups"][0] | {"running": [run]}]
    handlers = [status()["handlers"][0] | {"open": 2}]
    assert [
        each[1] for each in problems_of(groups=groups, handlers=handlers, crashes={"a": 2})
    ] == [
        "1 run takes longer than allowed",
        "1 event may have felled the server",
        "Handlers returned without settling their events",
    ]


def test_what_the_broker_does_not_tell_is_a_dash_and_said() -> None:
    shown = overview_of(reading(broker=Broker(trouble="connection refused")))
    assert shown.cells[f"q:{QUEUE}:ready"] == shown.cells["dead"] == words.NOTHING
    assert [each.causes for each in shown.problems] == [("connection refused",)]


def test_cells_hold_every_number_that_moves() -> None:
    cells = overview_of(reading()).cells
    key = "h:solution-x.totals:"
    assert {name.removeprefix(key): text for name, text in cells.items() if key in name} == {
        "rate": "2.5/s",
        "p50": "≤ 10 ms",
        "p95": "≤ 500 ms",
        "p99": "> 5 min",
        "done": "1\u202f203",
        "failed": "3",
        "in_flight": "1",
        "oldest": "3 s",
    }
    assert (cells[f"q:{QUEUE}:ready"], cells[f"q:{QUEUE}:consumers"]) == ("7", "2")


def test_the_shape_changes_with_problems_and_rows_but_not_with_numbers() -> None:
    def with_dead(total: int) -> Broker:
        count = AppCount(app="solution-x", queue="q", total=total, busy=False, installed=True)
        return Broker(dead=(count,), at=NOW)

    shapes = [overview_of(reading(broker=with_dead(total))).shape for total in (0, 1, 2)]
    assert shapes[0] != shapes[1] == shapes[2]
    assert overview_of(reading(handlers=[])).shape != shapes[0]


def test_a_message_of_the_stream_is_one_line_of_json() -> None:
    text = message_of(reading())
    message = json.loads(text)
    assert "\n" not in text
    assert message["charts"]["waiting"] == [7]
    assert message["cells"]["rate"] == "2.5/s"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.0031, "3.1 ms"),
        (0.25, "250 ms"),
        (1.5, "1.5 s"),
        (59.0, "59 s"),
        (119.0, "119 s"),
        (150.0, "2.5 min"),
        (3600.0 * 5, "5 h"),
        (86400.0 * 30, "30 d"),
        (None, words.NOTHING),
    ],
)
def test_durations_read_well(seconds: float | None, said: str) -> None:
    assert words.duration(seconds) == said


@pytest.mark.parametrize(
    ("per_second", "said"),
    [(0.0, "0/s"), (0.012, "0.012/s"), (3.14, "3.1/s"), (12345.6, "12\u202f346/s")],
)
def test_rates_read_well(per_second: float, said: str) -> None:
    assert words.rate(per_second) == said


@pytest.mark.parametrize(
    ("octets", "said"), [(812, "812 bytes"), (1536, "1.5 KiB"), (1 << 20, "1 MiB")]
)
def test_sizes_read_well(octets: int, said: str) -> None:
    assert words.size(octets) == said


def test_a_filter_means_what_was_typed_and_stays_in_links() -> None:
    typed = {"handler": " totals ", "since": "2h", "text": "", "next": "x"}
    chosen = chosen_of(typed, now=NOW)
    assert (chosen.filter.handler, chosen.filter.since) == ("totals", NOW - timedelta(hours=2))
    assert chosen.query(group="a&b") == "?handler=totals&since=2h&group=a%26b"
    assert not chosen.is_everything


@pytest.mark.parametrize(
    ("fields", "limit", "said"),
    [
        ({"since": "yesterday"}, "", "since: 'yesterday' is no time"),
        ({"text": "x" * 301}, "", "text: at most 300"),
        ({}, "0", "limit: a whole number"),
        ({}, "-1", "limit: a whole number"),
        ({}, "²", "limit: a whole number"),
    ],
)
def test_a_field_that_cannot_be_understood_is_named(
    fields: dict[str, str], limit: str, said: str
) -> None:
    with pytest.raises(WrongFilter, match=said):
        chosen_of(fields, limit=limit, now=NOW)


def test_a_selection_is_a_condition_even_beside_a_filter() -> None:
    chosen = chosen_of({"text": "x"}, ("a", "b"), limit="1", now=NOW)
    assert (chosen.filter.ids, chosen.limit) == (frozenset("ab"), 1)
    assert [*chosen.hidden()] == [("text", "x"), ("ids", "a"), ("ids", "b")]
    assert chosen.what() == {"text": "x", "ids": ["a", "b"], "limit": 1}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"id": 1}', ""),
        ('{"id": }', "line 1, column 8: Expecting value"),
        ("NaN", "NaN is no JSON"),
        ("[" * 100_000, "recursion"),
    ],
)
def test_an_edited_body_that_was_json_must_be_json(text: str, said: str) -> None:
    assert said in body_problem(text, is_json=True)
    assert bool(body_problem(text, is_json=True)) is bool(said)
    assert body_problem(text, is_json=False) == ""


@pytest.mark.parametrize(
    ("target", "leads_to"),
    [
        ("/plugins/?a=b", "/plugins/?a=b"),
        ("", "/"),
        ("//evil.test/", "/"),
        ("/\\evil.test/", "/"),
        ("https://evil.test/", "/"),
        ("/\tevil", "/"),
        ("/\n/evil.test", "/"),
    ],
)
def test_a_login_leads_to_paths_of_ours_only(target: str, leads_to: str) -> None:
    assert local(target) == leads_to


def test_addresses_quote_what_they_are_given() -> None:
    assert address("a b", "events", "x/y") == "/dead-letters/a%20b/events/x%2Fy/"


def test_headers_are_shown_by_name_and_tables_as_json() -> None:
    assert rows_of({"b": "text", "a": {"n": [1, None]}}) == [
        ("a", '{"n": [1, null]}'),
        ("b", "text"),
    ]


def test_settings_stand_in_their_tables_with_who_set_them() -> None:
    file = Path("/etc/limehub/limehub.toml")
    rows = [
        Row("applications", ["acme"], f"{file}:1"),
        Row("events.connection_string", "amqp://127.0.0.1:40001//", f"{file}:2"),
        Row("web.token_file", None, "default"),
        Row('plugins."a.b".host', "x", "env HOST"),
    ]
    first, events, web, plugin = tables_of(rows, file, embedded=True)
    assert events.settings[0].origin == "limehub.toml:2: the embedded broker"
    assert (first.name, first.settings[0].origin) == ("", "limehub.toml:1")
    assert (web.name, web.settings[0].value, web.settings[0].is_set) == ("web", "not set", False)
    assert (plugin.name, plugin.settings[0].value) == ('plugins."a.b"', '"x"')


def whole(body: Any, size: int) -> WholeDeadLetter:
    item = DeadLetter(
        id="x",
        message_id=None,
        application=None,
        exchange="",
        routing_key="",
        queue="",
        handler="",
        exception=Cause(),
        reason="",
        attempts=1,
        first_failed_at=None,
        last_failed_at=None,
        expires_at=None,
        size=size,
        content_type=None,
        preview="",
    )
    return WholeDeadLetter(
        item=item,
        body=body,
        body_encoding="json",
        body_truncated=False,
        headers={},
        properties={},
        traceback="",
    )


def test_only_a_small_body_gets_line_breaks_which_keep_the_hub_busy() -> None:
    assert body_text(whole({"a": [1]}, 7)) == '{\n  "a": [\n    1\n  ]\n}'
    assert body_text(whole({"a": [1]}, 100_000)) == '{"a": [1]}'


def test_the_folders_of_an_installation_are_not_shown() -> None:
    assert place_of("/srv/lib/site-packages/shop/deals.py:7 in sum") == "shop/deals.py:7 in sum"
    assert place_of("/srv/shop/deals.py:7 in sum") == "/srv/shop/deals.py:7 in sum"
