"""Dead letters read, filtered and prepared for their way back: pure functions, no broker."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from attrs import evolve, frozen
from hypothesis import given
from hypothesis import strategies as st

from limehub.amqp import headers as own
from limehub.amqp import moves
from limehub.amqp.message import Outgoing
from limehub.deadletters.filters import Filter, moment
from limehub.deadletters.item import EXPIRES_AT, FOREIGN, DeadLetter, read, read_whole
from limehub.deadletters.plain import PREVIEW_CHARS, body_of, plain, preview_of
from limehub.deadletters.targets import is_too_large, objection, requeued
from limehub.deadletters.trash import (
    DELETED_AT,
    DELETED_BY,
    DELETION,
    Deleting,
    deletion_of,
    restored,
    trashed,
)

APP = "solution-deals"
DLQ = f"lime.event_handler.{APP}.dlq"
QUEUE = f"lime.event_handler.{APP}.totals"
AT = datetime(2030, 1, 31, 12, 0, tzinfo=UTC)


@frozen(kw_only=True)
class Message:
    """A message in our hands, as `moves.Movable` describes it."""

    body: bytes = b'{"id": 1}'
    exchange: str = "lime.acme"
    routing_key: Any = "core.limeobject.deal.update.v1"
    queue: str = QUEUE
    headers: Mapping[Any, Any] = {}
    properties: Mapping[str, Any] = {}
    is_moved: bool = False


def arrived(message: Outgoing, *, queue: str = DLQ) -> Message:
    """What a consumer of *queue* gets of a message that limehub sent there."""
    return Message(
        body=message.body,
        exchange=str(message.headers["x-limehub-exchange"]),
        routing_key=message.headers["x-limehub-routing-key"],
        queue=queue,
        headers=message.headers,
        properties=message.properties,
        is_moved=True,
    )


def dead(original: Message | None = None, *, ttl: float = 60.0, **changes: Any) -> Message:
    """A message as limehub dead-letters it."""
    failure = moves.Failure(
        handler=f"{APP}.totals",
        reason="exception",
        exception_type="shop.errors.NoPrice",
        exception_text="deal 1 has no price",
        traceback="Traceback ...",
        where="/site/shop.py:12 in totals",
        attempts=3,
        at=AT,
    )
    failure = evolve(failure, **changes)
    original = original or Message(properties={"message_id": "m-1", "content_type": "text/json"})
    return arrived(moves.dead_letter(original, failure, dlq=DLQ, ttl=ttl, frame_max=131072))


def foreign(**changes: Any) -> Message:
    """A message that the broker dead-lettered because of the queue's own arguments."""
    death = {
        "count": 2,
        "reason": "rejected",
        "queue": QUEUE,
        "time": AT,
        "exchange": "lime.acme",
        "routing-keys": ["core.limeobject.deal.new.v1"],
    }
    return evolve(Message(exchange="", routing_key=DLQ, headers={"x-death": [death]}), **changes)


def application_of(exchange: str) -> str | None:
    return {"lime.acme": "acme", "special": "beta"}.get(exchange)


def letter(message: Message | None = None) -> DeadLetter:
    return read(message or dead(), application_of)


# -- reading ----------------------------------------------------------------------------------


def test_a_dead_letter_tells_its_whole_story_as_json() -> None:
    item = letter().as_item()
    identity = item.pop("id")
    assert len(identity) == 36
    assert json.loads(json.dumps(item)) == {
        "message_id": "m-1",
        "application": "acme",
        "exchange": "lime.acme",
        "routing_key": "core.limeobject.deal.update.v1",
        "queue": QUEUE,
        "handler": f"{APP}.totals",
        "exception": {
            "type": "shop.errors.NoPrice",
            "message": "deal 1 has no price",
            "where": "/site/shop.py:12 in totals",
        },
        "reason": "exception",
        "attempts": 3,
        "first_failed_at": "2030-01-31T12:00:00.000Z",
        "last_failed_at": "2030-01-31T12:00:00.000Z",
        "expires_at": "2030-01-31T12:01:00.000Z",
        "size": 9,
        "content_type": "text/json",
        "preview": '{"id": 1}',
    }


def test_a_dead_letter_without_ttl_never_expires() -> None:
    assert letter(dead(ttl=0)).expires_at is None


def test_the_first_failure_survives_a_second_one() -> None:
    again = dead(dead(), at=AT + timedelta(hours=1), attempts=4)
    seen = letter(again)
    assert (seen.first_failed_at, seen.last_failed_at) == (AT, AT + timedelta(hours=1))
    assert (seen.attempts, seen.exchange) == (4, "lime.acme")


def test_an_explicit_exchange_has_the_application_of_the_configuration() -> None:
    assert letter(dead(Message(exchange="special"))).application == "beta"


def test_an_application_that_is_no_longer_configured_is_still_named() -> None:
    assert letter(dead(Message(exchange="lime.gone"))).application == "gone"


def test_a_foreign_dead_letter_tells_what_x_death_knows() -> None:
    item = letter(foreign())
    assert (item.reason, item.queue, item.attempts) == ("rejected", QUEUE, 2)
    assert (item.exchange, item.application) == ("lime.acme", "acme")
    assert item.routing_key == "core.limeobject.deal.new.v1"
    assert (item.handler, item.last_failed_at) == (f"{APP}.totals", AT)


def test_the_newest_death_names_the_queue_and_the_oldest_the_exchange() -> None:
    first = {"queue": "a", "reason": "expired", "exchange": "lime.acme", "routing-keys": ["k"]}
    last = {"queue": QUEUE, "reason": "rejected", "exchange": "", "routing-keys": [QUEUE]}
    item = letter(foreign(headers={"x-death": [last, first]}))
    assert (item.queue, item.reason, item.exchange) == (QUEUE, "rejected", "lime.acme")
    assert item.routing_key == "k"


def test_forged_headers_on_a_foreign_message_are_not_believed() -> None:
    forged = Message(headers={"x-limehub-id": "mine", "x-limehub-exchange": "lime.other"})
    item = letter(forged)
    assert item.id != "mine"
    assert item.application == "acme"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-death": "nonsense"},
        {"x-death": []},
        {"x-death": [1, None]},
        {"x-death": [{}]},
        {"x-death": [{"time": "yesterday", "count": "many", "routing-keys": []}]},
        {b"\xff\xfe": b"\xff", "nested": {"a": [b"\xff", AT, None, True]}},
    ],
)
def test_whatever_a_foreign_message_has_for_headers_is_readable(headers: dict[Any, Any]) -> None:
    message = foreign(headers=headers, routing_key=b"\xff\r\n")
    whole = read_whole(message, letter(message)).as_whole()
    assert json.loads(json.dumps(whole))["id"] == letter(message).id


OWN_HEADERS = [getattr(own, name) for name in dir(own) if name.isupper() and name != "MOST_RUNS"]
MOMENTS = st.sampled_from([
    "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00", "9999-12-31T23:59:59+00:00", "soon",
])  # fmt: skip
ANYTHING = st.recursive(
    MOMENTS | st.none() | st.booleans() | st.integers() | st.binary() | st.text() | st.datetimes(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
NAMES = [*OWN_HEADERS, EXPIRES_AT, FOREIGN, DELETION, DELETED_AT, DELETED_BY, "x-death"]


@given(
    st.dictionaries(st.sampled_from(NAMES), ANYTHING),
    st.dictionaries(st.sampled_from(["expiration", "message_id", "content_type"]), st.text()),
)
def test_whatever_forged_headers_say_a_letter_can_be_shown_deleted_and_brought_back(
    headers: dict[str, Any], properties: dict[str, Any]
) -> None:
    forged = Message(headers=headers, properties=properties, is_moved=True)
    item = letter(forged)
    assert json.loads(json.dumps(read_whole(forged, item).as_whole()))["id"] == item.id
    there = trashed(forged, item, DLQ, Deleting(operation="o", at=AT), 131072)
    back = restored(forged, item, DLQ, AT)
    for sent in (there, back):
        assert 0 < int(sent.properties.get("expiration", "1")) < 2**32
    deleting = deletion_of(headers)
    assert deleting is None or deleting.undo_until


def test_a_letter_that_would_expire_beyond_all_counting_is_kept_for_ever() -> None:
    endless = evolve(dead(), headers={**dead().headers, EXPIRES_AT: "9999-12-31T23:59:59+00:00"})
    back = restored(endless, letter(endless), DLQ, AT)
    assert "expiration" not in back.properties


def test_the_end_of_the_calendar_ends_no_list() -> None:
    last = {**dead().headers, "x-limehub-last-failure": "9999-12-31T23:59:59+00:00"}
    item = letter(evolve(dead(), headers=last))
    assert item.expires_at is not None
    assert item.expires_at.year == 9999
    headers = {DELETION: "o", DELETED_AT: "9999-12-31T23:59:59+00:00"}
    deleting = deletion_of(headers)
    assert deleting is not None
    assert deleting.undo_until.year == 9999


def test_the_id_of_a_foreign_message_is_stable_however_often_it_is_looked_at() -> None:
    once = foreign(headers={"a": 1, "b": {"c": 2, "d": 3}, "x-delivery-count": 1})
    twice = foreign(headers={"b": {"d": 3, "c": 2}, "a": 1, "x-delivery-count": 7})
    assert letter(once).id == letter(twice).id


@pytest.mark.parametrize(
    "change",
    [
        {"body": b"other"},
        {"routing_key": "other"},
        {"headers": {"a": 1}},
        {"properties": {"priority": 1}},
    ],
)
def test_the_id_of_a_foreign_message_depends_on_all_of_it(change: dict[str, Any]) -> None:
    assert letter(foreign(**change)).id != letter(foreign()).id


@pytest.mark.parametrize("name", ["groups", "deletions", "export", "id-1.2", "..", "a/b", "é", ""])
def test_an_id_that_an_address_or_another_letter_could_have_gives_way_to_a_hash(name: str) -> None:
    message = evolve(dead(), headers={**dead().headers, "x-limehub-id": name})
    assert re.fullmatch("[0-9a-f]{32}", letter(message).id)


# -- bodies -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "content_type", "expected"),
    [
        (b'{"a": 1}', None, ({"a": 1}, "json")),
        (b'"words"', "application/json", ("words", "json")),
        (b"words", "text/plain; charset=utf-8", ("words", "text")),
        (b"<script>alert(1)</script>", None, ("<script>alert(1)</script>", "text")),
        (b"not\r\njson", None, ("not\r\njson", "text")),
        (b"\xff\xfe", "application/json", ("//4=", "base64")),
        (b"\x1b[2Jgone", None, ("G1sySmdvbmU=", "base64")),
        (b"", None, ("", "text")),
        (b"[1e999]", None, ("[1e999]", "text")),
        (b'["\\ud800"]', None, ('["\\ud800"]', "text")),
        (b"[" * 100_000, None, ("[" * 100_000, "text")),
        (b"\x00\x01", "image/png", ("AAE=", "base64")),
    ],
)
def test_a_body_is_shown_as_json_text_or_base64(
    body: bytes, content_type: str | None, expected: tuple[Any, str]
) -> None:
    assert body_of(body, content_type, None) == expected


@given(st.binary(max_size=2000))
def test_any_body_can_be_shown_and_previewed(body: bytes) -> None:
    shown, encoding = body_of(body, None, None)
    assert json.dumps(shown, allow_nan=False).encode()
    assert encoding in ("json", "text", "base64")
    preview = preview_of(body)
    assert preview.isprintable()
    assert len(preview) <= PREVIEW_CHARS


def test_a_preview_cuts_between_letters_and_escapes_what_does_not_print() -> None:
    assert preview_of("å".encode() * 1000) == "å" * PREVIEW_CHARS
    assert preview_of(b"a\r\n\x1b[31m\xff") == "a\\r\\n\\x1b[31m\\xff"
    assert preview_of("\u202egnp.exe".encode()) == "\\u202egnp.exe"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.binary() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.binary(), inner),
    )
)
def test_any_header_value_becomes_json(value: Any) -> None:
    assert json.dumps(plain(value), allow_nan=False, ensure_ascii=False).encode()


# -- filters ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "matches"),
    [
        ({}, True),
        ({"handler": f"{APP}.totals"}, True),
        ({"handler": "totals"}, True),
        ({"handler": "solution_deals.totals"}, True),
        ({"handler": QUEUE}, True),
        ({"handler": "otals"}, False),
        ({"application": "acme"}, True),
        ({"application": "acm"}, False),
        ({"routing_key": "core.limeobject.deal.update.v1"}, True),
        ({"routing_key": "core.limeobject.*.update.v1"}, True),
        ({"routing_key": "core.#"}, True),
        ({"routing_key": "#.deal.#"}, True),
        ({"routing_key": "#"}, True),
        ({"routing_key": "core.*"}, False),
        ({"routing_key": "*"}, False),
        ({"routing_key": "x.#"}, False),
        ({"exception_type": "shop.errors.NoPrice"}, True),
        ({"exception_type": "NoPrice"}, True),
        ({"exception_type": "Price"}, False),
        ({"text": "NO PRICE"}, True),
        ({"text": '"id": 1'}, True),
        ({"text": "m-1"}, True),
        ({"text": "absent"}, False),
        ({"since": AT}, True),
        ({"since": AT + timedelta(seconds=1)}, False),
        ({"until": AT}, False),
        ({"until": AT + timedelta(seconds=1)}, True),
        ({"ids": frozenset(["other"])}, False),
        ({"application": "acme", "text": "absent"}, False),
    ],
)
def test_a_filter_means_what_it_says(condition: dict[str, Any], matches: bool) -> None:
    assert Filter(**condition).matches(letter(), b'{"id": 1}') is matches


def test_text_is_found_in_json_that_escapes_what_is_not_ascii() -> None:
    assert Filter(text="Åsa").matches(letter(), b'{"name": "\\u00c5sa"}')
    assert Filter(text="åsa").matches(letter(), '{"name": "ÅSA"}'.encode())


def test_a_dead_letter_without_time_is_in_no_period() -> None:
    timeless = letter(foreign(headers={}))
    assert not Filter(since=AT - timedelta(days=9999)).matches(timeless, b"")


def test_only_a_filter_without_conditions_is_everything() -> None:
    assert Filter().is_everything
    assert not Filter(ids=frozenset()).is_everything
    assert not Filter(text="").is_everything


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30m", AT - timedelta(minutes=30)),
        ("7d", AT - timedelta(days=7)),
        ("99999d", AT - timedelta(days=99999)),
        ("2030-01-30", datetime(2030, 1, 30, tzinfo=UTC)),
        ("2030-01-30T10:00Z", datetime(2030, 1, 30, 10, tzinfo=UTC)),
        ("2030-01-30T10:00+02:00", datetime(2030, 1, 30, 8, tzinfo=UTC)),
    ],
)
def test_a_time_can_be_given_as_date_or_as_how_long_ago(text: str, expected: datetime) -> None:
    assert moment(text, now=AT) == expected


@pytest.mark.parametrize("text", ["", "yesterday", "5", "-3h", "2030-13-01", "1" * 99 + "d"])
def test_what_is_no_time_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match="2h"):
        moment(text, now=AT)


# -- the way back -----------------------------------------------------------------------------


def way_back(message: Message, to: str | None = None, *, ours: bool = True) -> str:
    foreign_ = not message.is_moved
    return objection(letter(message), to, app=APP, is_foreign=foreign_, ours=ours)


def test_a_dead_letter_may_go_back_to_its_handler() -> None:
    assert way_back(dead()) == ""


def test_a_foreign_one_needs_a_confirmed_queue() -> None:
    assert f"--to {QUEUE}" in way_back(foreign())
    assert way_back(foreign(), QUEUE) == ""


def test_without_any_queue_a_person_must_name_one() -> None:
    assert "name one" in way_back(foreign(headers={}))


def test_a_queue_of_another_package_is_not_taken_from_the_headers() -> None:
    stray = dead(Message(queue="lime.event_handler.other.q"))
    assert "no queue of solution-deals" in way_back(stray)
    assert way_back(stray, "lime.event_handler.other.q") == ""


def test_the_dead_letter_queue_itself_is_no_way_back() -> None:
    assert "that it is in" in way_back(dead(), DLQ)


@pytest.mark.parametrize("queue", [f"{DLQ}.lock", f"{DLQ}.trash"])
def test_a_queue_whose_messages_do_not_stay_is_no_way_back(queue: str) -> None:
    assert "would not stay" in way_back(dead(), queue)
    assert "would not stay" in way_back(dead(Message(queue=queue)))


def test_an_unknown_application_goes_to_no_handler_but_may_be_parked() -> None:
    assert "no configured application" in way_back(dead(), ours=False)
    assert way_back(dead(), "parking", ours=False) == ""


def test_a_foreign_one_takes_its_origin_along() -> None:
    message = foreign()
    sent = requeued(message, letter(message), QUEUE)
    assert (sent.exchange, sent.routing_key, sent.mandatory) == ("", QUEUE, True)
    assert sent.headers["x-limehub-exchange"] == "lime.acme"
    assert sent.headers["x-limehub-routing-key"] == "core.limeobject.deal.new.v1"
    assert "x-death" not in sent.headers


def test_headers_that_fill_a_frame_are_noticed() -> None:
    message = dead(Message(headers={"big": "x" * 5000}))
    sent = requeued(message, letter(message), QUEUE)
    assert is_too_large(sent, 4096)
    assert not is_too_large(sent, 131072)
