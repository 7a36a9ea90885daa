"""/metrics of a server that handles events."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families

from limehub import Reject
from limehub.amqp.settings import connection_settings
from limehub.deadletters.office import Office
from limehub.web.app import create_app
from limehub.web.tokens import Tokens
from tests.support.hub import Hub
from tests.support.serving import APP, DLQ, QUEUE, handles
from tests.support.waiting import wait_until

Serve = Callable[..., Hub]
HANDLER = f"{APP}.handler"
TENANTS = 'applications = ["acme", "zoo"]\n'


@pytest.fixture
def page_of() -> Iterator[Callable[[Hub], FlaskClient]]:
    """A client for the pages of a hub."""
    offices: list[Office] = []

    def page(hub: Hub) -> FlaskClient:
        config = hub.server.config
        offices.append(Office.of(config, connection_settings(config), [APP]))
        return create_app(hub.server, Tokens(), offices[-1]).test_client()

    yield page
    for office in offices:
        office.close()


def metrics(client: FlaskClient) -> dict[tuple[str, tuple[str, ...]], float]:
    text = client.get("/metrics", headers={"Host": "127.0.0.1"}).text
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def with_depths(client: FlaskClient) -> dict[tuple[str, tuple[str, ...]], float]:
    """Scrape until it tells how deep the queues are: a scrape waits for the broker 2 s only."""
    known = "limehub_queue_ready_messages", ("default", HANDLER, QUEUE)
    return wait_until(lambda: found if known in (found := metrics(client)) else {})


def picky(body: Any) -> None:
    if body["bad"]:
        raise Reject("bad")


def test_a_scrape_tells_what_became_of_each_tenants_events(
    serve: Serve, page_of: Callable[[Hub], FlaskClient]
) -> None:
    hub = serve({APP: handles(picky)}, TENANTS)
    for application, bad in (("acme", False), ("acme", True), ("zoo", False)):
        hub.publish("t.x", {"bad": bad}, application=application)
    stats = hub.server._plans["default"][0].handler.stats
    wait_until(lambda: hub.server.mover.moved and sum(stats.outcomes.values()) == 3)
    found = with_depths(page_of(hub))
    name = "limehub_deliveries_total"
    assert found[name, ("acme", HANDLER, "ack")] == 1
    assert found[name, ("acme", HANDLER, "dead-letter")] == 1
    assert found[name, ("zoo", HANDLER, "ack")] == 1
    assert found["limehub_handler_duration_seconds_count", (HANDLER,)] == 3
    assert found["limehub_ready", ()] == 1
    assert found["limehub_dead_letters", (APP,)] == 1
    assert found["limehub_queue_consumers", ("default", HANDLER, QUEUE)] == 1
    assert found["limehub_publishes_total", ("dead_letters",)] == 1
    assert found["limehub_group_connected", ("default",)] == 1


def test_a_queue_that_is_gone_hides_no_other(
    serve: Serve, page_of: Callable[[Hub], FlaskClient], amqp: Any
) -> None:
    hub = serve({APP: handles(picky)}, TENANTS)
    amqp.queue_delete(DLQ)
    found = with_depths(page_of(hub))
    assert ("limehub_dead_letters", (APP,)) not in found
    assert found["limehub_queue_ready_messages", ("default", HANDLER, QUEUE)] == 0
