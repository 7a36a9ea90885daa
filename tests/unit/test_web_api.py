"""The contract and the reading of requests, from the same classes; sessions; who may pass."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pytest
from attrs import field, frozen
from flask import Flask
from werkzeug.exceptions import BadRequest

from limehub.config import Config, Web
from limehub.deadletters.item import DeadLetter, WholeDeadLetter
from limehub.deadletters.results import Failed, Moved
from limehub.deadletters.wire import FLAT, to_json
from limehub.web.api.requests import (
    DeleteQuery,
    ItemChange,
    ListQuery,
    RequeueQuery,
    read,
)
from limehub.web.api.schemas import Schemas
from limehub.web.gatekeeper import Gatekeeper
from limehub.web.sessions import COOKIE, MOST, SECONDS, Sessions
from limehub.web.tokens import Identity, Tokens

ANNA = Identity(name="anna", role="operate", digest=b"a")


@frozen(kw_only=True)
class Inner:
    """An inner one. It has more to say."""

    number: int
    when: datetime | None


@frozen(kw_only=True)
class Outer:
    """An outer one."""

    inner: Inner = field(metadata=FLAT)
    many: tuple[Inner, ...]
    word: Literal["a", "b"]
    note: str | None = None


def test_a_schema_has_what_json_has() -> None:
    schemas = Schemas()
    assert schemas.of(Outer) == {"$ref": "#/components/schemas/Outer"}
    when = {"anyOf": [{"type": "string", "format": "date-time"}, {"type": "null"}]}
    outer = schemas.components["Outer"]
    assert outer["properties"] == {
        "number": {"type": "integer"},
        "when": when,
        "many": {"type": "array", "items": {"$ref": "#/components/schemas/Inner"}},
        "word": {"enum": ["a", "b"]},
        "note": {"type": "string"},
    }
    assert outer["required"] == ["number", "when", "many", "word"]
    assert schemas.components["Inner"]["description"] == "An inner one"
    inner = Inner(number=1, when=None)
    value = to_json(Outer(inner=inner, many=(inner,), word="a"))
    assert value == {"number": 1, "when": None, "many": [{"number": 1, "when": None}], "word": "a"}
    assert set(outer["required"]) == set(value)


def test_what_moved_is_one_count_and_at_most_a_thousand_failures() -> None:
    failed = [Failed(id=str(number), reason="stays") for number in range(1500)]
    moved = Moved.of("deleted", 2, failed, operation="o", remaining=7)
    value = to_json(moved)
    assert (value["deleted"], len(value["failed"]), value["failed_total"]) == (2, 1000, 1500)
    assert not value.keys() & {"requeued", "restored", "undo_until"}
    assert (moved.verb, moved.count) == ("deleted", 2)


def test_a_whole_letter_says_all_that_an_item_says() -> None:
    schemas = Schemas()
    schemas.of(WholeDeadLetter)
    schemas.of(DeadLetter)
    whole, item = (schemas.components[name] for name in ("WholeDeadLetter", "DeadLetter"))
    assert item["properties"].items() <= whole["properties"].items()


def test_a_query_is_read_strictly_and_every_problem_named() -> None:
    query = read(ListQuery, {"limit": "7", "since": "2030-01-31T12:00Z", "group": "g"})
    assert (query.limit, query.since) == (7, datetime(2030, 1, 31, 12, tzinfo=UTC))
    assert query.filter.group == "g"
    with pytest.raises(BadRequest) as caught:
        read(ListQuery, {"limit": "0", "until": "never", "textt": "x"})
    said = str(caught.value.description)
    for part in ("limit: must be", "until: 'never'", "'textt' is unknown; did you mean text?"):
        assert part in said


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (RequeueQuery, {"ids": ["id-1", "and", "more"]} | {"limit": True}),
        (RequeueQuery, {"ids": [1]}),
        (RequeueQuery, {"ids": []}),
        (RequeueQuery, {"to": "a b"}),
        (RequeueQuery, {"to": "x" * 201}),
        (RequeueQuery, {"limit": 1.5}),
        (RequeueQuery, {"text": None}),
        (RequeueQuery, {"text": "x" * 301}),
        (RequeueQuery, {"since": "0001-01-01T00:00+14:00"}),
        (DeleteQuery, {"for_good": "yes"}),
        (DeleteQuery, {"to": "queue"}),
        (ItemChange, {"body_text": 1}),
    ],
)
def test_what_is_not_as_documented_is_refused(kind: Any, given: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        read(kind, given)


def test_one_id_or_many_become_a_filter() -> None:
    assert read(DeleteQuery, {"ids": "a"}).filter.ids == frozenset("a")
    assert read(DeleteQuery, {"ids": ["a", "b"], "for_good": True}).filter.ids == frozenset("ab")
    assert read(RequeueQuery, {}).filter.is_everything


# -- sessions ---------------------------------------------------------------------------------


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_session_lasts_twelve_hours_or_until_its_token_is_gone() -> None:
    clock, valid = Clock(), {ANNA}
    sessions = Sessions(lambda identity: identity in valid, clock=clock)
    value = sessions.begin(ANNA)
    assert sessions.identify(value) == ANNA
    assert sessions.identify(value + "x") is None
    assert sessions.identify(None) is None
    valid.clear()
    assert sessions.identify(value) is None
    valid.add(ANNA)
    clock.now = timedelta(hours=12).total_seconds()
    assert clock.now == SECONDS
    assert sessions.identify(value) is None


def test_a_session_ends_by_logging_out_and_the_oldest_when_there_are_too_many() -> None:
    sessions = Sessions(lambda _identity: True)
    first, second = sessions.begin(ANNA), sessions.begin(ANNA)
    sessions.end(second)
    assert (sessions.identify(first), sessions.identify(second)) == (ANNA, None)
    for _ in range(MOST):
        last = sessions.begin(ANNA)
    assert (sessions.identify(first), sessions.identify(last)) == (None, ANNA)


@pytest.fixture
def gate(tmp_path: Path) -> Gatekeeper:
    file = tmp_path / "tokens"
    file.write_text("watch read reader-token\nanna operate anna-token\n")
    web = Web(token_file=str(file), metrics_public=True)
    return Gatekeeper(Config(web=web), Tokens(str(file)))


@pytest.fixture
def app(gate: Gatekeeper) -> Flask:
    app = Flask("x")
    app.before_request(gate.check)
    for path in ("/page", "/login", "/static/a.css", "/metrics"):
        app.add_url_rule(path, path, lambda: "here", methods=["GET", "POST"])
    return app


def test_a_cookie_is_as_good_as_the_token_it_was_exchanged_for(
    gate: Gatekeeper, app: Flask
) -> None:
    client = app.test_client()
    assert client.get("/page").status_code == 401
    for token, status in (("reader-token", 403), ("anna-token", 200)):
        identity = gate.tokens.identify(f"Bearer {token}")
        assert identity is not None
        client.set_cookie(COOKIE, gate.sessions.begin(identity))
        assert client.get("/page").status_code == 200
        assert client.post("/page").status_code == status
    foreign = {"Origin": "http://evil.example"}
    assert client.post("/page", headers=foreign).status_code == 403
    wrong = {"Authorization": "Bearer wrong"}
    assert client.get("/page", headers=wrong).status_code == 401


def test_open_paths_ask_for_no_token_but_for_the_right_host(gate: Gatekeeper, app: Flask) -> None:
    gate.open_to_all("/login", "/static/")
    client = app.test_client()
    for path in ("/login", "/static/a.css", "/metrics"):
        assert client.get(path).status_code == 200
        assert client.get(path, headers={"Host": "evil.example"}).status_code == 421
    assert client.post("/login", headers={"Origin": "http://evil.example"}).status_code == 403
    assert client.get("/page").status_code == 401
