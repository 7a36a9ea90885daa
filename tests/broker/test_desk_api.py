"""The dead-letter desk over HTTP, on a real broker behind a real listener."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gevent
import pytest
from attrs import evolve, field, frozen

from limehub.amqp.connection import BrokerConnection, ConnectionSettings
from limehub.amqp.publisher import Publisher
from limehub.amqp.topology import declare_queue, dlq_spec
from limehub.config import Config, Events, Web
from limehub.config.url import BrokerUrl
from limehub.deadletters.walk import LOCK_PATIENCE, lock_of
from limehub.web.api.deadletters import PATIENCE, _chunks
from limehub.web.site import Site
from tests.support.letters import APP, DLQ, QUEUE, dead, fill, ready
from tests.support.vhost import Vhost
from tests.support.waiting import wait_until
from tests.unit.web_server import NoRoutes, ShownServer

ROOT = "/api/v1/dead-letters/"
LIST = f"{ROOT}{APP}/"
MANY = 1500  # letters; to move them takes a while
A_WHILE = 60.0  # seconds that nothing needs
TOKENS = "watch read reader-token\nanna operate anna-token\n"
NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@frozen(kw_only=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)


@frozen(kw_only=True)
class Desk:
    """A running site; call it as a client does."""

    url: str
    connection: BrokerConnection
    publisher: Publisher
    audit: Path
    headers: Mapping[str, str] = field(factory=dict)

    def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        data = None if body is None else json.dumps(body).encode()
        sent = {"Content-Type": "application/json", **self.headers, **headers}
        request = urllib.request.Request(self.url + path, data=data, headers=sent, method=method)
        try:
            with NO_PROXY.open(request, timeout=90) as got:
                return Answer(status=got.status, headers=got.headers, content=got.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(status=error.code, headers=error.headers, content=error.read())

    def ready(self, queue: str) -> int:
        return ready(self.connection, queue)

    def fill(self, count: int, **changes: Any) -> None:
        fill(self.connection, [dead(number, **changes) for number in range(1, count + 1)])


class Installed(NoRoutes):
    plugins: Mapping[str, Any] = MappingProxyType({APP: None, "solution-quiet": None})


def config_of(vhost: Vhost, folder: Path, **web: Any) -> Config:
    settings: dict[str, Any] = {"bind": "127.0.0.1:0", "audit_file": str(folder / "audit.jsonl")}
    return Config(
        applications=("acme",),
        events=Events(connection_string=vhost.url, management_url=vhost.management_url),
        web=Web(**(settings | web)),
    )


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests wait for each other, the broker and their own end, however slow this machine is."""
    monkeypatch.setattr("limehub.web.api.deadletters.PATIENCE", A_WHILE)
    monkeypatch.setattr("limehub.deadletters.office.LOCK_PATIENCE", A_WHILE)
    monkeypatch.setattr("limehub.management.TIMEOUT", A_WHILE)


@pytest.fixture
def web() -> dict[str, Any]:
    """What the site is configured with; tests may change it by parametrizing."""
    return {"edit_dead_letters": True}


@pytest.fixture
def desk(vhost: Vhost, tmp_path: Path, web: dict[str, Any]) -> Iterator[Desk]:
    if "token_file" in web:
        (tmp_path / "tokens").write_text(TOKENS)
        web["token_file"] = str(tmp_path / "tokens")
    unlisted = web.pop("unlisted", False)
    config = config_of(vhost, tmp_path, **web)
    if unlisted:  # neither installed nor to be asked for
        config = evolve(config, events=evolve(config.events, management_url=None))
    site = Site(ShownServer(config=config, registry=NoRoutes() if unlisted else Installed()))
    site.start()
    settings = ConnectionSettings(url=BrokerUrl.parse(vhost.url))
    connection = BrokerConnection.open(settings, "test")
    publisher = Publisher(settings)
    yield Desk(
        url=str(site.web_url),
        connection=connection,
        publisher=publisher,
        audit=tmp_path / "audit.jsonl",
    )
    site.stop()
    publisher.close()
    connection.close()


# -- looking ----------------------------------------------------------------------------------


def test_apps_are_listed_also_those_that_are_no_longer_installed(desk: Desk, vhost: Vhost) -> None:
    desk.fill(2)
    gone = dlq_spec("lime.event_handler.solution-gone.dlq")
    declare_queue(desk.connection, gone)
    counts = {one["app"]: (one["total"], one["installed"]) for one in desk("GET", ROOT).json}
    # AMQP itself lists no queues: who is gone is known where there is a management API.
    left_over = {"solution-gone": (0, False)} if vhost.management_url else {}
    assert counts == {APP: (2, True), "solution-quiet": (0, True), **left_over}
    assert desk("GET", f"{ROOT}solution-gone/").json["total"] == 0


def test_a_list_has_pages_and_filters(desk: Desk) -> None:
    desk.fill(5)
    first = desk("GET", f"{LIST}?limit=3").json
    second = desk("GET", f"{LIST}?limit=3&after={first['next']}").json
    assert [item["id"] for item in first["items"]] == ["id-1", "id-2", "id-3"]
    assert ([item["id"] for item in second["items"]], second["next"]) == (["id-4", "id-5"], None)
    found = desk("GET", f"{LIST}?text=deal+4&exception_type=NoPrice&since=1h&handler=totals").json
    assert ([item["id"] for item in found["items"]], found["matched"]) == (["id-4"], 1)
    assert desk("GET", f"{LIST}?until=2020-01-01").json["matched"] == 0


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("limit=0", "limit: must be a whole number from 1 to 500"),
        ("limit=1.5", "limit: must be a whole number"),
        ("since=soon", "since: 'soon' is no time"),
        ("handlr=x", "'handlr' is unknown; did you mean handler?"),
        ("limit=1&limit=2", "given twice"),
    ],
)
def test_a_wrong_query_is_explained(desk: Desk, query: str, problem: str) -> None:
    answer = desk("GET", f"{LIST}?{query}")
    assert (answer.status, answer.headers["Content-Type"]) == (400, "application/problem+json")
    assert problem in answer.json["detail"]


@pytest.mark.parametrize(
    "path",
    [
        f"{ROOT}no-such-app/",
        f"{ROOT}amq.gen-x/",
        f"{ROOT}..%2F..%2Fx/",
        f"{ROOT}a%0D%0Ab/",
        f"{LIST}id-99/",
        f"{LIST}id-99/body",
        "/api/v1/operations/none",
    ],
)
def test_only_what_is_known_by_lookup_is_found(desk: Desk, path: str) -> None:
    desk.fill(1)
    assert desk("GET", path).status == 404
    assert desk.ready(DLQ) == 1


def test_groups_gather_what_failed_alike_and_a_group_can_be_asked_for(desk: Desk) -> None:
    desk.fill(3)
    fill(desk.connection, [dead(number, kind="shop.Gone") for number in (7, 8)])
    groups = desk("GET", f"{LIST}groups/").json
    assert [(one["exception_type"], one["count"]) for one in groups["groups"]] == [
        ("shop.NoPrice", 3),
        ("shop.Gone", 2),
    ]
    assert (groups["total"], groups["complete"], groups["ungrouped"]) == (5, True, 0)
    assert groups["groups"][1]["message"] == "deal 8 has no price"
    which = groups["groups"][1]["group"]
    assert desk("GET", f"{LIST}?group={which}").json["matched"] == 2
    assert desk("PUT", LIST, {"group": which}).json["requeued"] == 2


def test_one_is_shown_whole_and_its_body_downloaded_inert(desk: Desk) -> None:
    html = b"<script>alert(1)</script>"
    fill(desk.connection, [dead(1), dead(2, body=html, properties={"content_type": "text/html"})])
    whole = desk("GET", f"{LIST}id-1/").json
    assert (whole["body"], whole["body_encoding"], whole["body_truncated"]) == (
        {"id": 1},
        "json",
        False,
    )
    assert whole["traceback"].startswith("Traceback")
    body = desk("GET", f"{LIST}id-2/body")
    assert (body.content, body.headers["Content-Type"]) == (html, "application/octet-stream")
    assert body.headers["X-Content-Type-Options"] == "nosniff"
    assert body.headers["Content-Disposition"] == f'attachment; filename="{APP}-id-2.bin"'


def test_a_large_body_is_listed_by_its_size_shown_by_its_beginning_and_whole_on_demand(
    desk: Desk,
) -> None:
    body = json.dumps({"filler": "x" * 3_000_000}).encode()
    fill(desk.connection, [dead(1, body=body), dead(2)])
    first, second = desk("GET", LIST).json["items"]
    assert (first["size"], second["size"]) == (len(body), 9)
    shown = desk("GET", f"{LIST}id-1/").json
    assert (shown["body_truncated"], shown["body_encoding"]) == (True, "text")
    assert shown["body"] == body[:65536].decode()
    assert desk("GET", f"{LIST}id-1/body").content == body
    assert desk("PUT", f"{LIST}id-1/").json["requeued"] == 1
    delivery = desk.connection.open_channel().get(QUEUE)
    assert delivery is not None
    assert delivery.body == body


def test_an_export_has_one_whole_letter_a_line(desk: Desk) -> None:
    desk.fill(4)
    answer = desk("GET", f"{LIST}export?text=deal")
    lines = [json.loads(line) for line in answer.content.splitlines()]
    assert [(line["id"], line["body"]) for line in lines] == [
        (f"id-{number}", {"id": number}) for number in range(1, 5)
    ]
    assert answer.headers["Content-Disposition"].startswith("attachment")
    assert len(desk("GET", f"{LIST}export?limit=2").content.splitlines()) == 2
    assert desk.ready(DLQ) == 4


# -- changing ---------------------------------------------------------------------------------


def test_a_fast_reader_of_an_export_leaves_the_hub_to_others() -> None:
    spool, turns = tempfile.TemporaryFile(), [0]  # noqa: SIM115 - closed by who sends it
    spool.write(bytes(10 * 256 * 1024))
    spool.seek(0)

    def others() -> None:
        while True:
            turns[0] += 1
            gevent.sleep(0)

    counting = gevent.spawn(others)
    assert sum(map(len, _chunks(spool))) == 10 * 256 * 1024
    counting.kill()
    assert turns[0] >= 10
    assert spool.closed


def test_the_three_verbs_of_an_app(desk: Desk) -> None:
    desk.fill(3)
    assert desk("GET", LIST).json["total"] == 3
    answer = desk("PUT", LIST)
    moved = answer.json
    assert (answer.status, moved["requeued"], moved["failed"], moved["remaining"]) == (
        200,
        3,
        [],
        0,
    )
    assert desk.ready(QUEUE) == 3
    desk.fill(2)
    assert desk("DELETE", LIST).json["deleted"] == 2
    assert desk.ready(DLQ) == 0


def test_a_selection_and_a_trial_of_the_first_few(desk: Desk) -> None:
    desk.fill(5)
    assert desk("PUT", LIST, {"ids": ["id-2", "id-4", "id-9"]}).json["failed"] == [
        {"id": "id-9", "reason": f"no dead letter 'id-9' of {APP} (any more)"}
    ]
    trial = desk("PUT", LIST, {"limit": 1, "exception_type": "NoPrice"}).json
    assert (trial["requeued"], trial["remaining"]) == (1, 2)
    assert [item["id"] for item in desk("GET", LIST).json["items"]] == ["id-3", "id-5"]


def test_the_verbs_of_one(desk: Desk) -> None:
    desk.fill(3)
    assert desk("PUT", f"{LIST}id-1/").json["requeued"] == 1
    assert desk("DELETE", f"{LIST}id-2/").json["deleted"] == 1
    assert desk("PUT", f"{LIST}id-1/").status == 404
    assert desk("DELETE", f"{LIST}id-2/").status == 404
    assert [item["id"] for item in desk("GET", LIST).json["items"]] == ["id-3"]


def test_what_cannot_go_back_stays_says_why_and_can_go_elsewhere(desk: Desk) -> None:
    gone = f"lime.event_handler.{APP}.gone"
    fill(desk.connection, [dead(1, queue=gone)])
    answer = desk("PUT", f"{LIST}id-1/").json
    assert (answer["requeued"], answer["remaining"]) == (0, 1)
    assert "does not exist" in answer["failed"][0]["reason"]
    assert desk("PUT", f"{LIST}id-1/", {"to": QUEUE}).json["requeued"] == 1
    assert desk("PUT", LIST, {"to": "a\r\nb"}).status == 400


def test_a_deletion_can_be_undone_once(desk: Desk) -> None:
    desk.fill(3)
    moved = desk("DELETE", LIST, {"ids": ["id-1", "id-2"]}).json
    (deletion,) = desk("GET", f"{LIST}deletions/").json
    assert (deletion["operation"], deletion["count"]) == (moved["operation"], 2)
    assert deletion["undo_until"] == moved["undo_until"]
    undo = f"/api/v1/operations/{moved['operation']}/undo"
    assert desk("POST", undo).json["restored"] == 2
    assert sorted(item["id"] for item in desk("GET", LIST).json["items"]) == [
        "id-1",
        "id-2",
        "id-3",
    ]
    assert desk("POST", undo).status == 404
    assert desk("PUT", f"{LIST}id-1/").json["requeued"] == 1


@pytest.mark.parametrize("web", [{"unlisted": True}])
def test_a_deletion_of_an_app_that_nobody_lists_can_be_undone(desk: Desk) -> None:
    desk.fill(4)
    first, second = (desk("DELETE", LIST, {"limit": 2}).json["operation"] for _ in range(2))
    assert desk("POST", f"/api/v1/operations/{first}/undo").json["restored"] == 2
    elsewhere = f"/api/v1/operations/{second}/undo?app={APP}"
    assert desk("POST", elsewhere).json["restored"] == 2
    assert desk("POST", f"/api/v1/operations/{second}/undo?app=a%20b").status == 400


def test_what_is_deleted_for_good_leaves_nothing(desk: Desk) -> None:
    desk.fill(2)
    assert desk("DELETE", f"{LIST}?for_good=true").json["deleted"] == 2
    assert desk("GET", f"{LIST}deletions/").json == []


@pytest.mark.parametrize(
    ("change", "body"),
    [
        ({"body": {"id": 9, "price": 3}}, b'{"id": 9, "price": 3}'),
        ({"body": None}, b"null"),
        ({"body_text": "ä"}, "ä".encode()),
        ({"body_base64": base64.b64encode(b"\xff\0").decode()}, b"\xff\0"),
    ],
)
def test_one_can_be_edited_and_sent_with_its_own_headers(
    desk: Desk, change: dict[str, Any], body: bytes
) -> None:
    fill(desk.connection, [dead(1, headers={"trace": "t-1"})])
    assert desk("PUT", f"{LIST}id-1/", change).json["requeued"] == 1
    delivery = desk.connection.open_channel().get(QUEUE)
    assert delivery is not None
    assert (delivery.body, delivery.headers["trace"], delivery.routing_key) == (
        body,
        "t-1",
        "core.limeobject.deal.update.v1",
    )


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"body": 1, "body_text": "1"}, 409),
        ({"body": float("nan")}, 400),
        ({"body": "\ud800"}, 400),
        ({"body_base64": "no!"}, 400),
        ({"body_text": 1}, 400),
        ({"boddy": 1}, 400),
    ],
)
def test_a_body_that_cannot_be_sent_is_explained(
    desk: Desk, change: dict[str, Any], status: int
) -> None:
    desk.fill(1)
    assert desk("PUT", f"{LIST}id-1/", change).status == status
    assert desk.ready(DLQ) == 1


@pytest.mark.parametrize("web", [{"edit_dead_letters": False}])
def test_editing_is_off_unless_it_is_configured(desk: Desk) -> None:
    desk.fill(1)
    answer = desk("PUT", f"{LIST}id-1/", {"body": {}})
    assert (answer.status, desk.ready(DLQ)) == (403, 1)
    assert "web.edit_dead_letters" in answer.json["detail"]
    assert desk("PUT", f"{LIST}id-1/", {}).json["requeued"] == 1


@pytest.mark.parametrize(
    ("data", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"[]", "application/json", 400),
        (b'{"ids": "x", "limit": true}', "application/json", 400),
        (b'{"ids": []}', "application/json", 400),
        (b'{"a": 1}', "text/plain", 415),
        (b"x" * 1_048_577, "application/json", 413),
    ],
)
def test_a_body_that_is_not_as_documented_changes_nothing(
    desk: Desk, data: bytes, kind: str, status: int
) -> None:
    desk.fill(1)
    url = desk.url + LIST
    request = urllib.request.Request(url, data=data, headers={"Content-Type": kind}, method="PUT")
    with pytest.raises(urllib.error.HTTPError) as caught:
        NO_PROXY.open(request, timeout=30)
    assert (caught.value.code, desk.ready(DLQ)) == (status, 1)
    caught.value.close()


# -- others -----------------------------------------------------------------------------------


@pytest.fixture
def impatient(patient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests do not wait long for each other; name it before `desk`."""
    monkeypatch.setattr("limehub.deadletters.office.LOCK_PATIENCE", 0.5)


def test_while_somebody_else_walks_the_answer_is_409(impatient: None, desk: Desk) -> None:
    desk.fill(1)
    settings = desk.connection.settings
    other = BrokerConnection.open(settings, "another walker")
    other.open_channel().declare_lock(lock_of(DLQ))
    both = [gevent.spawn(desk, method, LIST) for method in ("GET", "PUT")]
    gevent.joinall(both, raise_error=True)
    assert [one.value.status for one in both] == [409, 409]
    assert PATIENCE > LOCK_PATIENCE, "else it would be 202"
    assert both[0].value.headers["Retry-After"] == "5"
    other.close()
    free = wait_until(lambda: (now := desk("GET", LIST)).status == 200 and now)
    assert free.json["total"] == 1


def test_two_operators_at_once_move_each_event_once(desk: Desk) -> None:
    desk.fill(50)
    both = [gevent.spawn(desk, "PUT", LIST) for _ in range(2)]
    gevent.joinall(both, raise_error=True)
    assert sorted(one.value.json["requeued"] for one in both) == [0, 50]
    assert desk.ready(QUEUE) == 50


@pytest.fixture
def hurried(patient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests wait a moment only; name it before `desk`."""
    monkeypatch.setattr("limehub.web.api.deadletters.PATIENCE", 0.05)


def ended(desk: Desk, where: str) -> Any:
    """What an operation came to, None while it runs."""
    now = desk("GET", where).json
    return now if now["state"] != "running" else None


def test_a_long_move_is_an_operation_with_progress(hurried: None, desk: Desk) -> None:
    desk.fill(MANY)
    answer = desk("PUT", LIST)
    assert (answer.status, answer.json["state"]) == (202, "running")
    where = answer.headers["Location"]
    wait_until(lambda: desk("GET", where).json["total"] == MANY)
    done = wait_until(lambda: ended(desk, where), 60, "the end of the move")
    assert (done["state"], done["succeeded"], done["failures"]) == ("done", MANY, 0)
    assert done["result"]["requeued"] == MANY
    listed = desk("GET", "/api/v1/operations/").json
    assert [(one["operation"], one["result"]) for one in listed] == [(done["operation"], None)]


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A move of MANY takes minutes, unless it is stopped; name it before `desk`."""

    def application_of(_config: Config, _exchange: str) -> str:
        gevent.sleep(0.1)
        return "acme"

    monkeypatch.setattr(Config, "application_of", application_of)


def test_a_long_move_can_be_stopped_and_says_how_far_it_came(
    hurried: None, slow: None, desk: Desk
) -> None:
    desk.fill(MANY)
    where = desk("PUT", LIST).headers["Location"]
    wait_until(lambda: desk("GET", where).json["succeeded"], message="some to be moved")
    assert desk("POST", f"{where}/stop").status == 200
    done = wait_until(lambda: ended(desk, where), 60, "the end of the move")
    moved = done["result"]
    assert (done["state"], moved["stopped"], moved["failed"]) == ("done", True, [])
    assert 0 < moved["requeued"] == desk.ready(QUEUE) == MANY - moved["remaining"] < MANY
    assert desk("POST", "/api/v1/operations/none/stop").status == 404


def test_a_server_that_stops_answers_who_waits_and_leaves_the_rest_in_its_place(
    vhost: Vhost, tmp_path: Path, slow: None, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("limehub.deadletters.operations.STOP_PATIENCE", A_WHILE)
    desk.fill(MANY)
    other = Site(ShownServer(config=config_of(vhost, tmp_path), registry=Installed()))
    other.start()
    waiting = evolve(desk, url=str(other.web_url))
    answer = gevent.spawn(waiting, "PUT", LIST)
    wait_until(lambda: desk.ready(QUEUE), message="some to be moved")
    other.stop()
    moved = answer.get(timeout=60).json
    assert (moved["stopped"], moved["failed_total"]) == (True, 0)
    assert 0 < moved["requeued"] == desk.ready(QUEUE) == MANY - desk.ready(DLQ) < MANY


def test_a_broker_that_is_down_is_503(tmp_path: Path) -> None:
    url = "amqp://guest@127.0.0.1:1//?connection_timeout=1"
    config = Config(events=Events(connection_string=url), web=Web(bind="127.0.0.1:0"))
    site = Site(ShownServer(config=config, registry=Installed()))
    site.start()
    try:
        with pytest.raises(urllib.error.HTTPError) as caught:
            NO_PROXY.open(f"{site.web_url}{LIST}", timeout=60)
        assert caught.value.code == 503
        assert b"127.0.0.1:1" in caught.value.read()
        caught.value.close()
    finally:
        site.stop()


# -- roles and audit --------------------------------------------------------------------------


@pytest.mark.parametrize("web", [{"token_file": "tokens"}])
def test_readers_look_operators_change_and_the_audit_names_them(desk: Desk) -> None:
    desk.fill(2)
    reader = {"Authorization": "Bearer reader-token"}
    anna = {"Authorization": "Bearer anna-token"}
    assert desk("GET", LIST).status == 401
    assert desk("GET", LIST, **reader).status == 200
    for method, path in (("PUT", LIST), ("DELETE", f"{LIST}id-1/")):
        assert desk(method, path, **reader).status == 403
        assert desk(method, path, Origin="http://evil.example", **anna).status == 403
    assert desk.ready(DLQ) == 2
    deleted = desk("DELETE", f"{LIST}id-1/", **anna).json
    assert desk("PUT", LIST, {"text": "deal 2"}, **anna).json["requeued"] == 1
    desk("POST", f"/api/v1/operations/{deleted['operation']}/undo", **anna)
    lines = [json.loads(line) for line in desk.audit.read_text().splitlines()]
    assert [
        (one["actor"], one["action"], one["app"], one["what"], one["count"]) for one in lines
    ] == [
        ("anna", "delete", APP, {"ids": ["id-1"]}, 1),
        ("anna", "requeue", APP, {"text": "deal 2"}, 1),
        ("anna", "undo", APP, {"deletion": deleted["operation"]}, 1),
    ]
    assert desk.audit.stat().st_mode & 0o777 == 0o600


# -- the contract -----------------------------------------------------------------------------


def test_the_contract_names_every_route_and_every_class(desk: Desk) -> None:
    document = desk("GET", "/api/openapi.json").json
    assert document["openapi"] == "3.1.0"
    assert set(document["paths"][LIST.replace(APP, "{app}")]) == {"get", "put", "delete"}
    item = document["components"]["schemas"]["DeadLetter"]
    desk.fill(1)
    assert item["required"] == list(desk("GET", LIST).json["items"][0])


def explored(desk: Desk, folder: Path, *chosen: str) -> subprocess.CompletedProcess[str]:
    """Let schemathesis look for answers that the contract does not allow; one worker: its threads
    run into a fault of CPython 3.11's parser."""
    folder.mkdir()
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{desk.url}/api/openapi.json"),
        *("--phases", "coverage,fuzzing", "--max-examples", "3", "--seed", "1"),
        *("--request-timeout", "60", "--suppress-health-check", "too_slow"),
        *("--max-failures", "20", "--no-color", *chosen),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, cwd=folder)


def test_schemathesis_finds_no_answer_that_the_contract_does_not_know(
    desk: Desk, tmp_path: Path
) -> None:
    desk.fill(3)
    looks = gevent.spawn(explored, desk, tmp_path / "looks", "--include-method", "GET")
    changes = gevent.spawn(explored, desk, tmp_path / "changes", "--exclude-method", "GET")
    for done in (looks.get(), changes.get()):
        assert done.returncode == 0, done.stdout[-20000:] + done.stderr[-2000:]
