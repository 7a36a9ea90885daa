"""Changes are remembered in order, few enough, and shown by a real Flask app."""

from __future__ import annotations

import logging

import flask
import pytest
from lime_webclient import WebClient, web_client

from limehub.testing import load_plugin, run_handler


def change(client: WebClient, number: int, application: str = "acme", verb: str = "update") -> None:
    run_handler(
        client.remember,
        {"id": number, "limetype": "deal"},
        application=application,
        routing_key=f"core.limeobject.deal.{verb}.v1",
    )


def test_changes_are_remembered_in_order_with_what_happened() -> None:
    client = WebClient()
    change(client, 7)
    change(client, 8, verb="delete")
    first, second = client.changes("acme", 0)
    assert (first.number, first.id, first.limetype, first.verb) == (1, 7, "deal", "update")
    assert (second.number, second.id, second.verb) == (2, 8, "delete")


def test_only_the_last_changes_are_kept() -> None:
    client = WebClient(keep=3)
    for number in range(10):
        change(client, number)
    assert [one.id for one in client.changes(None, 0)] == [7, 8, 9]


def test_a_client_sees_its_own_application_and_what_it_has_not_seen() -> None:
    client = WebClient()
    for number, application in enumerate(["acme", "globex", "acme"], start=1):
        change(client, number, application)
    assert [one.number for one in client.changes("acme", 1)] == [3]
    assert [one.number for one in client.changes("globex", 0)] == [2]
    assert len(client.changes(None, 0)) == 3


def test_the_page_shows_the_changes_as_json() -> None:
    client = WebClient()
    change(client, 7)
    app = flask.Flask("test")
    app.register_blueprint(client.register_routes(app, {}), url_prefix="/plugins/lime_webclient")
    browser = app.test_client()
    answer = browser.get("/plugins/lime_webclient/changes?application=acme&after=0")
    (shown,) = answer.json["changes"]
    assert (shown["id"], shown["application"], shown["verb"]) == (7, "acme", "update")
    assert browser.get("/plugins/lime_webclient/changes?after=1").json == {"changes": []}
    assert browser.get("/plugins/lime_webclient/changes?after=x").status_code == 400


def test_every_change_is_one_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        change(WebClient(), 7)
    (record,) = [one for one in caplog.records if one.name.startswith("lime_webclient")]
    assert (record.limetype, record.verb, record.object_id) == ("deal", "update", 7)


def test_the_plugin_registers_one_handler_that_keeps_as_many_as_the_setting_says() -> None:
    settings = {"keep": 2}
    handler = load_plugin("lime_webclient", "lime_webclient:web_client", settings=settings)[
        "changes"
    ]
    assert handler.options.order == "queue"
    for number in range(3):
        run_handler(handler.function, {"id": number, "limetype": "deal"}, application="acme")
    assert [one.id for one in web_client.changes("acme", 0)] == [1, 2]
