"""The pages without a broker: headers, roles, errors, the stream and its cap."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from attrs import evolve
from flask.testing import FlaskClient

from limehub.config import Config, Events, Loaded, Web
from limehub.web import live as live_module
from limehub.web.app import create_app
from limehub.web.live import Live, TooManyWatchers
from limehub.web.pages.showing import POLICY
from limehub.web.tokens import Tokens
from tests.unit.web_server import ShownServer, office_of

HOST = {"Host": "localhost:8080"}
STATUS = {"ready": True, "missing": [], "groups": [], "handlers": [], "version": "1.2.3"}


def server(**web: Any) -> ShownServer:
    config = Config(web=Web(bind="127.0.0.1:8080", **web))
    shown = ShownServer(config=config, details=dict(STATUS))
    path = Path("/etc/limehub.toml")
    shown.loaded = Loaded(config=config, origins={}, warnings=(), path=path)  # type: ignore[attr-defined]
    return shown


def client_of(shown: ShownServer, live: Live | None = None) -> FlaskClient:
    tokens = Tokens(shown.config.web.token_file)
    return create_app(shown, tokens, office_of(shown), live).test_client()


@pytest.fixture
def client() -> FlaskClient:
    return client_of(server())


@pytest.fixture
def guarded(tmp_path: Path) -> FlaskClient:
    file = tmp_path / "tokens"
    file.write_text("watch read reader-token\nanna operate anna-token\n")
    return client_of(server(token_file=str(file)))


def log_in(client: FlaskClient, token: str, **headers: str) -> Any:
    form = {"token": token, "next": "/configuration/"}
    return client.post("/login", data=form, headers=HOST | headers)


@pytest.mark.parametrize("path", ["/", "/configuration/", "/dead-letters/x/confirm?action=no"])
def test_every_page_is_sealed(client: FlaskClient, path: str) -> None:
    headers = client.get(path, headers=HOST).headers
    assert headers["Content-Security-Policy"] == POLICY
    assert "unsafe" not in POLICY
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "same-origin"
    assert headers["Cache-Control"] == "no-store"


def test_a_page_has_no_inline_script_style_or_handler(client: FlaskClient) -> None:
    text = client.get("/", headers=HOST).text
    assert "<script>" not in text
    assert "<style" not in text
    assert " style=" not in text
    assert " onclick" not in text


def test_static_files_may_be_kept_for_ever_and_change_their_address(client: FlaskClient) -> None:
    answer = client.get("/static/limehub.css", headers=HOST)
    assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert answer.content_type == "text/css; charset=utf-8"
    assert "/static/limehub.css?v=" in client.get("/", headers=HOST).text


@pytest.mark.parametrize(
    "name", ["../routes.py", "vendor/../../routes.py", "missing.css", "vendor/README.md"]
)
def test_only_listed_files_are_served(client: FlaskClient, name: str) -> None:
    assert client.get(f"/static/{name}", headers=HOST).status_code == 404


def test_the_configuration_hides_secrets() -> None:
    shown = server()
    config = Config(plugins={"mail": {"api_key": "hunter2", "host": "mail.example"}})
    path = Path("/etc/limehub.toml")
    origins = {"plugins.mail.host": "limehub.toml:9"}
    shown.loaded = Loaded(config=config, origins=origins, warnings=(), path=path)  # type: ignore[attr-defined]
    text = client_of(shown).get("/configuration/", headers=HOST).text
    assert "hunter2" not in text
    assert "mail.example" in text
    assert "limehub.toml:9" in text


def test_an_error_of_a_page_is_a_page(client: FlaskClient) -> None:
    answer = client.get("/operations/none/", headers=HOST)
    assert answer.status_code == 404
    assert "<h1>Not Found</h1>" in answer.text


@pytest.mark.parametrize(
    ("path", "accept", "kind"),
    [
        ("/nothing", "text/html,*/*;q=0.8", "text/html; charset=utf-8"),
        ("/nothing", "*/*", "application/problem+json"),
        ("/nothing", "application/json", "application/problem+json"),
        ("/api/v1/nothing", "text/html,*/*;q=0.8", "application/problem+json"),
        ("/plugins/x/nothing", "text/html,*/*;q=0.8", "application/problem+json"),
    ],
)
def test_who_mistypes_an_address_in_a_browser_gets_a_page(
    client: FlaskClient, path: str, accept: str, kind: str
) -> None:
    answer = client.get(path, headers=HOST | {"Accept": accept})
    assert (answer.status_code, answer.content_type) == (404, kind)
    policy = POLICY if "html" in kind else "default-src"
    assert answer.headers["Content-Security-Policy"].startswith(policy)


def test_more_ids_than_a_page_has_are_refused(client: FlaskClient) -> None:
    form = {"ids": [f"id-{number}" for number in range(1001)], "action": "delete"}
    answer = client.post("/dead-letters/x/confirm", data=form, headers=HOST)
    assert (answer.status_code, "at most 1000" in answer.text) == (400, True)


def test_a_confirmed_count_is_the_most_that_is_moved(client: FlaskClient) -> None:
    page = client.get("/dead-letters/x/confirm?action=delete&about=7", headers=HOST).text
    assert re.search(r'name="limit" value="7"[^>]*>Delete 7<', page)
    page = client.get("/dead-letters/x/confirm?action=delete", headers=HOST).text
    assert 'name="limit"' not in page


def test_a_bug_is_shown_without_detail_and_logged_with_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    shown = server()
    shown.details = {"handlers": None}
    answer = client_of(shown).get("/", headers=HOST)
    assert (answer.status_code, "NoneType" in answer.text) == (500, False)
    assert "page failed" in caplog.text


def test_who_lacks_a_token_is_led_to_the_login_and_back(guarded: FlaskClient) -> None:
    answer = guarded.get("/configuration/?a=b", headers=HOST)
    assert answer.status_code == 303
    assert answer.location == "/login?next=%2Fconfiguration%2F%3Fa%3Db"
    assert guarded.get("/login", headers=HOST).status_code == 200
    assert guarded.get("/static/limehub.css", headers=HOST).status_code == 200


def test_a_login_gives_a_cookie_that_scripts_and_other_sites_do_not_get(
    guarded: FlaskClient,
) -> None:
    answer = log_in(guarded, "anna-token")
    assert (answer.status_code, answer.location) == (303, "/configuration/")
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert "Max-Age=43200" in cookie
    assert "Secure" not in cookie
    assert "anna-token" not in cookie
    assert guarded.get("/configuration/", headers=HOST).status_code == 200


def test_behind_https_the_cookie_is_secure(guarded: FlaskClient) -> None:
    answer = log_in(guarded, "anna-token", **{"X-Forwarded-Proto": "https"})
    assert "Secure" in answer.headers["Set-Cookie"]


def test_a_wrong_token_is_refused_and_noted(
    guarded: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    answer = log_in(guarded, "wrong")
    assert (answer.status_code, "Set-Cookie" in answer.headers) == (401, False)
    assert "login refused" in caplog.text
    assert "wrong" not in caplog.text


def test_a_login_from_another_site_is_refused(guarded: FlaskClient) -> None:
    assert log_in(guarded, "anna-token", Origin="http://evil.test").status_code == 403


def test_who_may_only_look_may_log_out_but_change_nothing(guarded: FlaskClient) -> None:
    log_in(guarded, "reader-token")
    assert guarded.get("/", headers=HOST).status_code == 200
    for path in ("/dead-letters/x/requeue", "/dead-letters/x/delete", "/operations/x/stop"):
        assert guarded.post(path, headers=HOST).status_code == 403
    confirm = "/dead-letters/x/confirm?action=delete"
    assert guarded.get(confirm, headers=HOST).status_code == 403
    assert guarded.post("/logout", headers=HOST).location == "/login"
    assert guarded.get("/", headers=HOST).status_code == 303


def test_a_link_from_another_site_asks_once_more_from_a_page_of_ours(guarded: FlaskClient) -> None:
    answer = guarded.get("/", headers=HOST | {"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 401
    assert '<meta http-equiv="refresh" content="0">' in answer.text


def test_without_tokens_the_login_leads_on(client: FlaskClient) -> None:
    assert client.get("/login?next=/plugins/", headers=HOST).location == "/plugins/"


def test_editing_is_off_unless_it_is_switched_on(client: FlaskClient) -> None:
    assert client.get("/dead-letters/x/events/y/edit", headers=HOST).status_code == 403


@pytest.fixture
def live() -> Iterator[Live]:
    shown = server()
    live = Live(shown.status, office_of(shown))
    yield live
    live.stop()


def test_the_stream_sends_numbers_at_once(live: Live) -> None:
    answer = client_of(server(), live).get("/live", headers=HOST, buffered=False)
    assert answer.content_type == "text/event-stream"
    chunks = answer.iter_encoded()
    assert next(chunks) == b"retry: 5000\n\n"
    data = next(chunks).decode()
    assert json.loads(data.removeprefix("data: "))["cells"]["in_flight"] == "0"
    answer.close()


def test_watchers_beyond_the_cap_are_refused_until_one_leaves(live: Live) -> None:
    client = client_of(server(), live)
    answers = [
        client.get("/live", headers=HOST, buffered=False) for _ in range(live_module.MOST_WATCHERS)
    ]
    assert {answer.status_code for answer in answers} == {200}
    assert client.get("/live", headers=HOST).status_code == 503
    answers.pop().close()
    last = client.get("/live", headers=HOST, buffered=False)
    assert last.status_code == 200
    for answer in (*answers, last):
        answer.close()


def test_leaving_twice_counts_once(live: Live) -> None:
    leave = live.admit()
    leave()
    leave()
    for _ in range(live_module.MOST_WATCHERS):
        live.admit()
    with pytest.raises(TooManyWatchers):
        live.admit()


def test_many_watchers_cost_one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "OFTEN", 0.05)
    looks: list[int] = []

    def status() -> dict[str, Any]:
        looks.append(1)
        return dict(STATUS)

    live = Live(status, office_of(server()))
    live.start()
    leaves = [live.admit() for _ in range(10)]

    def three(readings: Iterator[Any]) -> list[Any]:
        return [next(readings) for _ in range(3)]

    jobs = [gevent.spawn(three, live.readings()) for _ in leaves]
    gevent.joinall(jobs, timeout=60, raise_error=True)
    live.stop()
    seen = {id(each) for job in jobs for each in job.value}
    assert 1 < len(seen) <= len(looks) <= 10


def test_stopping_lets_watchers_go(live: Live) -> None:
    live.start()
    readings = live.readings()
    next(readings)
    job = gevent.spawn(list, readings)
    gevent.sleep(0)
    live.stop()
    job.join(live_module.SELDOM / 2)
    assert job.dead


def test_a_broker_that_does_not_answer_is_named_on_the_page() -> None:
    shown = server()
    nowhere = Events(connection_string="amqp://guest:guest@127.0.0.1:1//")
    shown.config = evolve(shown.config, events=nowhere)
    answer = client_of(shown).get("/dead-letters/", headers=HOST)
    assert answer.status_code == 503
    assert "<h1>The broker does not answer</h1>" in answer.text
    assert "127.0.0.1:1: Connection refused" in answer.text
