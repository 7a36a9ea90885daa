"""The handler posts to a real server on loopback."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import socket
from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from attrs import define, field
from gevent.pywsgi import WSGIServer
from lime_webhooks.posting import WebhookPoster
from lime_webhooks.targets import Target, parse_targets

from limehub import Reject, Retry
from limehub.errors import PluginError
from limehub.testing import load_plugin, run_handler

DEAL = {"id": 7, "limetype": "deal", "values": {"name": "Å"}, "original_values": {"name": "A"}}


@define
class Receiver:
    """A web server that answers *status* after *delay* seconds and keeps what it got."""

    status: str = "200 OK"
    delay: float = 0.0
    got: list[tuple[dict[str, str], bytes]] = field(factory=list)
    url: str = ""

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        body = environ["wsgi.input"].read()
        self.got.append(({k: v for k, v in environ.items() if isinstance(v, str)}, body))
        gevent.sleep(self.delay)
        start_response(self.status, [("Location", self.url), ("Content-Length", "0")])
        return []


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    application = Receiver()
    server = WSGIServer(("127.0.0.1", 0), application, log=None)
    server.start()
    application.url = f"http://127.0.0.1:{server.server_port}/hook"
    yield application
    server.stop(timeout=1)


def poster(*targets: Any, timeout: float = 30.0) -> WebhookPoster:
    return WebhookPoster.of(parse_targets(targets), timeout=timeout, connections=2)


def test_an_event_is_posted_with_its_name_and_its_whole_body(receiver: Receiver) -> None:
    run = run_handler(poster(receiver.url).post, DEAL)
    ((headers, body),) = receiver.got
    assert json.loads(body) == {"event": "deal.update", "body": DEAL}
    assert headers["CONTENT_TYPE"] == "application/json"
    assert headers["REQUEST_METHOD"] == "POST"
    assert "HTTP_X_LIME_SIGNATURE" not in headers
    assert run.settled == ("ack",)


def test_a_secret_signs_the_raw_body(receiver: Receiver) -> None:
    run_handler(poster({"url": receiver.url, "secret": "s3cret"}).post, DEAL)
    ((headers, body),) = receiver.got
    expected = hmac.new(b"s3cret", body, hashlib.sha256).hexdigest()
    assert headers["HTTP_X_LIME_SIGNATURE"] == f"sha256={expected}"


def test_the_delivery_id_is_the_events_own_or_else_the_same_for_the_same_event(
    receiver: Receiver,
) -> None:
    post = poster(receiver.url).post
    run_handler(post, DEAL, properties={"message_id": "m-1"})
    run_handler(post, DEAL)
    run_handler(post, DEAL)
    first, second, third = [headers["HTTP_X_LIME_DELIVERY_ID"] for headers, _ in receiver.got]
    assert first == "m-1"
    assert second == third != first


def test_the_name_comes_from_the_routing_key(receiver: Receiver) -> None:
    body = {"id": 3, "limetype": "person"}
    run_handler(poster(receiver.url).post, body, routing_key="core.limeobject.person.delete.v1")
    assert json.loads(receiver.got[0][1])["event"] == "person.delete"


@pytest.mark.parametrize("status", ["500 Oops", "503 Busy", "429 Slow", "408 Late"])
def test_a_receiver_in_trouble_means_another_try(receiver: Receiver, status: str) -> None:
    receiver.status = status
    with pytest.raises(Retry, match=f"127.0.0.1:.* answered {status[:3]}"):
        run_handler(poster(receiver.url).post, DEAL)


@pytest.mark.parametrize("status", ["400 Bad", "404 Gone", "302 Elsewhere", "308 There"])
def test_a_refusal_is_dead_lettered_and_redirects_are_not_followed(
    receiver: Receiver, status: str
) -> None:
    receiver.status = status
    with pytest.raises(Reject, match=f"answered {status[:3]}"):
        run_handler(poster(receiver.url).post, DEAL)
    assert len(receiver.got) == 1


def test_a_slow_receiver_times_out_and_means_another_try(receiver: Receiver) -> None:
    receiver.delay = 30.0
    with pytest.raises(Retry, match="ReadTimeoutError"):
        run_handler(poster(receiver.url, timeout=1.0).post, DEAL)


def test_nobody_at_the_address_means_another_try() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/"
        with pytest.raises(Retry, match="NewConnectionError"):
            run_handler(poster(url).post, DEAL)


def test_all_targets_are_tried_and_the_one_worth_another_try_wins(receiver: Receiver) -> None:
    post = poster("http://127.0.0.1:1/", receiver.url).post
    receiver.status = "400 Bad"
    with pytest.raises(Retry):
        run_handler(post, DEAL)
    assert len(receiver.got) == 1


def test_targets_get_only_what_they_want(receiver: Receiver) -> None:
    run = poster(
        {"url": receiver.url, "events": ["person.*"]},
        {"url": receiver.url, "events": ["deal.new", "deal.update"], "applications": ["acme"]},
    ).post
    run_handler(run, DEAL, application="acme")
    run_handler(run, DEAL, application="globex")
    assert len(receiver.got) == 1


def test_without_targets_one_line_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        run_handler(poster().post, DEAL)
    (record,) = [one for one in caplog.records if one.name.startswith("lime_webhooks")]
    assert (record.webhook_event, record.targets) == ("deal.update", 0)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (3, "neither an address nor a table"),
        ({}, "targets[0].url is not text"),
        ("ftp://example.com", "no http or https address"),
        ("https://", "no http or https address"),
        ("https://me:pw@example.com/", "holds credentials"),
        ({"url": "https://a", "sercet": "x"}, "unknown sercet; known: url, secret"),
        ({"url": "https://a", "events": "deal.*"}, "targets[0].events is not a list"),
    ],
)
def test_a_wrong_target_is_named(entry: Any, words: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_targets([entry])
    assert words in str(caught.value)


def test_secrets_and_paths_of_targets_are_not_shown() -> None:
    target = Target(url="https://example.com:8443/hook?key=abc", secret="s3cret")
    assert "s3cret" not in repr(target)
    assert target.host == "example.com:8443"


def test_the_plugin_registers_one_retried_handler_with_its_settings() -> None:
    plugin = ("lime-webhooks", "lime_webhooks")
    (handler,) = load_plugin(*plugin, settings={"retry": ["1s", "2s"]}).values()
    assert handler.queue_name == "post"
    assert handler.keys == ("core.limeobject.*.*.v1",)
    assert handler.options.retry.attempts == 3


def test_a_wrong_target_makes_the_plugin_unusable_at_start() -> None:
    with pytest.raises(PluginError, match=r"targets\[0\].url is no http or https address"):
        load_plugin("lime-webhooks", "lime_webhooks", settings={"targets": ["nowhere"]})
