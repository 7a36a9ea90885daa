"""The endpoints, and who may ask them what."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flask
import pytest
from flask.testing import FlaskClient

from limehub.config import Address, Config, Web
from limehub.web.app import MAX_BODY, create_app
from limehub.web.hosts import is_allowed_host
from limehub.web.tokens import Tokens
from tests.unit.plugin_site import Site as PluginSite
from tests.unit.web_server import ShownServer, office_of

READER = "reader-" + "r" * 32
OPERATOR = "operator-" + "o" * 32
Build = Callable[..., FlaskClient]


def client_of(server: ShownServer, tokens: Tokens | None = None) -> FlaskClient:
    app = create_app(server, tokens or Tokens(), office_of(server))
    add_change(app)
    server.registry.add_routes(app)
    return app.test_client()


def add_change(app: flask.Flask) -> None:
    """One route that changes something; the product's own come later."""

    @app.post("/plugins/x/change")
    def change() -> Any:
        return {"got": len(flask.request.get_data())}

    @app.get("/plugins/x/broken")
    def broken() -> Any:
        raise RuntimeError("the secret is hunter2")


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    file = tmp_path / "tokens"
    file.write_text(f"monitor read {READER}\nadmin operate {OPERATOR}\n")
    return Tokens(str(file))


@pytest.fixture
def server() -> ShownServer:
    return ShownServer()


@pytest.fixture
def client(server: ShownServer) -> FlaskClient:
    return client_of(server)


@pytest.fixture
def guarded(server: ShownServer, tokens: Tokens) -> FlaskClient:
    return client_of(server, tokens)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


# --- endpoints


def test_healthz_is_ok_until_the_longest_stall_is_passed(
    server: ShownServer, client: FlaskClient
) -> None:
    server.stalled = 600.0
    answer = client.get("/healthz")
    assert answer.status_code == 200
    assert answer.json == {"status": "ok", "stalled_for": 600.0, "culprit": None}
    server.stalled = 600.1
    answer = client.get("/healthz")
    assert answer.status_code == 503
    assert answer.json == {"status": "stalled", "stalled_for": 600.1, "culprit": None}


def test_readyz_says_what_is_missing(server: ShownServer, client: FlaskClient) -> None:
    assert (client.get("/readyz").status_code, client.get("/readyz").json) == (200, {"ready": True})
    server.causes = ["queue lime.event_handler.x.deal: no consumer"]
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json == {"ready": False, "missing": server.causes}


def test_the_status_is_what_the_server_says_in_its_order(
    server: ShownServer, client: FlaskClient
) -> None:
    server.details = {"version": "1", "groups": [{"name": "default"}], "a": None}
    answer = client.get("/api/v1/status")
    assert answer.json == server.details
    assert list(answer.json) == ["version", "groups", "a"]


def test_answers_may_neither_be_cached_nor_guessed_nor_framed(client: FlaskClient) -> None:
    for path in ("/healthz", "/readyz", "/api/v1/status", "/nothing"):
        headers = client.get(path).headers
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Content-Security-Policy"].startswith("default-src 'none'")


def test_every_endpoint_and_every_header_is_documented(server: ShownServer) -> None:
    text = (Path(__file__).parents[2] / "docs" / "http.md").read_text()
    app = create_app(server, Tokens(), office_of(server))
    asked = [
        f"`{method} {rule.rule.replace('<letter:', '<').replace('<', '{').replace('>', '}')}`"
        for rule in app.url_map.iter_rules()
        for method in rule.methods - {"HEAD", "OPTIONS"}
    ]
    assert [each for each in asked if each not in text] == []
    headers = app.test_client().get("/api/v1/status").headers.keys()
    assert [each for each in headers if each not in text and not each.startswith("Content-")] == []


# --- errors


@pytest.mark.parametrize(
    ("method", "path", "status", "title"),
    [
        ("GET", "/nothing", 404, "Not Found"),
        ("POST", "/healthz", 405, "Method Not Allowed"),
        ("GET", "/plugins/x/broken", 500, "Internal Server Error"),
    ],
)
def test_errors_are_problems_of_rfc_9457(
    client: FlaskClient, method: str, path: str, status: int, title: str
) -> None:
    answer = client.open(path, method=method)
    assert answer.status_code == status
    assert answer.content_type == "application/problem+json"
    problem = answer.get_json(force=True)
    assert (problem["type"], problem["title"], problem["status"]) == ("about:blank", title, status)


def test_a_failing_route_is_logged_with_its_name_and_shown_without_detail(
    client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    answer = client.get("/plugins/x/broken")
    assert "hunter2" not in answer.text
    (record,) = [each for each in caplog.records if each.getMessage() == "request failed"]
    assert record.__dict__["endpoint"] == "broken"
    assert record.exc_info is not None
    assert "hunter2" in str(record.exc_info[1])


def test_a_405_says_what_is_allowed_and_a_redirect_stays_one(
    server: ShownServer,
) -> None:
    app = create_app(server, Tokens(), office_of(server))
    app.add_url_rule("/pages/", view_func=lambda: "here", endpoint="pages")
    client = app.test_client()
    assert client.post("/healthz").headers["Allow"]
    assert client.get("/pages").status_code == 308


def test_a_body_that_is_too_big_is_refused(client: FlaskClient) -> None:
    assert client.post("/plugins/x/change", data=b"x" * MAX_BODY).json == {"got": MAX_BODY}
    answer = client.post("/plugins/x/change", data=b"x" * (MAX_BODY + 1))
    assert answer.status_code == 413
    assert answer.content_type == "application/problem+json"


# --- Host


@pytest.mark.parametrize(
    ("host", "bound", "allowed", "expected"),
    [
        ("localhost", "127.0.0.1:8080", (), True),
        ("LocalHost:8080", "127.0.0.1:8080", (), True),
        ("127.0.0.1:9999", "127.0.0.1:8080", (), True),
        ("[::1]:8080", "127.0.0.1:8080", (), True),
        ("hub.example.com", "hub.example.com:80", (), True),
        ("hub.example.com.", "hub.example.com:80", (), True),
        ("10.0.0.7:80", "10.0.0.7:80", (), True),
        ("10.0.0.8:80", "10.0.0.7:80", (), False),
        ("10.0.0.8:80", "0.0.0.0:80", (), True),
        ("hub.example.com", "0.0.0.0:80", (), False),
        ("hub.example.com", "0.0.0.0:80", ("hub.example.com",), True),
        ("hub.example.com:81", "127.0.0.1:80", ("hub.example.com",), True),
        ("hub.example.com:81", "127.0.0.1:80", ("hub.example.com:81",), True),
        ("hub.example.com:82", "127.0.0.1:80", ("hub.example.com:81",), False),
        ("evil.example.com", "127.0.0.1:80", ("example.com",), False),
        ("localhost.evil.example", "127.0.0.1:80", (), False),
        ("127.0.0.1.evil.example", "127.0.0.1:80", (), False),
        ("127.0.0.1,evil.example", "127.0.0.1:80", (), False),
        ("localhost:80@evil.example", "127.0.0.1:80", (), False),
        ("localhost@evil.example", "127.0.0.1:80", (), False),
        ("[::1]evil.example", "127.0.0.1:80", (), False),
        ("\uff4cocalhost", "127.0.0.1:80", (), False),
        ("127.1", "127.0.0.1:80", (), False),
        ("", "127.0.0.1:80", (), False),
        ("[", "127.0.0.1:80", (), False),
        ("a b", "127.0.0.1:80", ("",), False),
    ],
)
def test_a_host_header_must_be_one_of_ours(
    host: str, bound: str, allowed: tuple[str, ...], expected: bool
) -> None:
    address = Address.parse(bound)
    assert is_allowed_host(host, bound=address, allowed=allowed) is expected


@pytest.mark.parametrize("host", ["evil.example", "a b", "", "x" * 63, "[::1", "evil:99999"])
def test_a_foreign_host_is_misdirected_except_for_the_probes_which_tell_it_nothing(
    server: ShownServer, client: FlaskClient, host: str
) -> None:
    server.causes = ["queue x"]
    foreign = {"Host": host}
    assert client.get("/api/v1/status", headers=foreign).status_code == 421
    assert client.get("/plugins/x/broken", headers=foreign).status_code == 421
    assert client.get("/healthz", headers=foreign).json == {"status": "ok"}
    assert client.get("/readyz", headers=foreign).json == {"ready": False}


def test_names_in_allowed_hosts_are_served() -> None:
    web = Web(allowed_hosts=("hub.example.com",))
    client = client_of(ShownServer(config=Config(web=web)))
    host = {"Host": "hub.example.com:8080"}
    assert client.get("/api/v1/status", headers=host).status_code == 200


# --- changes from foreign pages


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "http://localhost"}, 200),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": ""}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Origin": "http://localhost"}, 403),
    ],
)
def test_changes_are_refused_from_the_pages_of_other_sites(
    client: FlaskClient, headers: dict[str, str], status: int
) -> None:
    assert client.post("/plugins/x/change", headers=headers).status_code == status


@pytest.mark.parametrize(
    ("site", "mode", "dest", "status"),
    [
        ("cross-site", "navigate", "document", 200),
        ("cross-site", "no-cors", "image", 403),
        ("cross-site", "cors", "empty", 403),
        ("cross-site", "navigate", "iframe", 403),
        ("same-site", "no-cors", "script", 403),
        ("same-origin", "cors", "empty", 200),
        ("none", "navigate", "document", 200),
    ],
)
def test_a_link_of_another_site_may_be_followed_but_its_pages_load_nothing_of_ours(
    client: FlaskClient, site: str, mode: str, dest: str, status: int
) -> None:
    headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": dest}
    assert client.get("/api/v1/status", headers=headers).status_code == status


# --- tokens


def test_with_tokens_the_api_asks_for_one(guarded: FlaskClient) -> None:
    answer = guarded.get("/api/v1/status")
    assert answer.status_code == 401
    assert answer.content_type == "application/problem+json"
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert guarded.get("/api/v1/status", headers=bearer(READER)).status_code == 200
    assert guarded.get("/nothing").status_code == 401


@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", "Bearer ", f"Basic {READER}", "Bearer wrong", f"Bearer {READER}x", "Bearer ä"],
)
def test_anything_but_a_known_token_is_refused(guarded: FlaskClient, authorization: str) -> None:
    headers = {"Authorization": authorization}
    assert guarded.get("/api/v1/status", headers=headers).status_code == 401


def test_a_token_in_the_address_opens_nothing(guarded: FlaskClient) -> None:
    for name in ("token", "access_token", "authorization"):
        assert guarded.get(f"/api/v1/status?{name}={OPERATOR}").status_code == 401


def test_the_role_read_looks_and_the_role_operate_changes(guarded: FlaskClient) -> None:
    path = "/plugins/x/change"
    assert guarded.post(path).status_code == 401
    assert guarded.post(path, headers=bearer(READER)).status_code == 403
    assert guarded.post(path, headers=bearer(OPERATOR)).status_code == 200


def test_probes_need_no_token_but_tell_why_only_with_one(
    server: ShownServer, guarded: FlaskClient
) -> None:
    server.causes = ["queue x"]
    assert guarded.get("/healthz").json == {"status": "ok"}
    assert guarded.get("/readyz").json == {"ready": False}
    with_detail = guarded.get("/readyz", headers=bearer(READER)).json
    assert with_detail == {"ready": False, "missing": ["queue x"]}
    foreign = {"Host": "evil.example"}
    assert guarded.get("/healthz", headers=bearer(READER) | foreign).json["stalled_for"] == 0.0


# --- plugins' pages


def test_pages_of_plugins_are_under_the_same_rules_and_a_failing_hook_is_named(
    tmp_path: Path,
    tokens: Tokens,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    site = PluginSite(tmp_path)
    site.install(
        "good-pages",
        """
        from flask import Blueprint

        def register_routes(app, settings):
            pages = Blueprint("pages", __name__)
            pages.get("/hello")(lambda: "hello")
            return pages
        """,
    )
    site.install("bad-pages", "def register_routes(app, settings): raise RuntimeError('no')\n")
    client = client_of(ShownServer(registry=site.load()), tokens)
    site.forget()
    failures = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert [vars(each)["plugin"] for each in failures if "plugin" in vars(each)] == ["bad-pages"]
    assert client.get("/plugins/good-pages/hello").status_code == 401
    answer = client.get("/plugins/good-pages/hello", headers=bearer(READER))
    assert answer.text == "hello"
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'self'")
    assert client.get("/healthz").status_code == 200
