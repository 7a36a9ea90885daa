"""Looks that are shared: many who ask cost one look, and nobody sees what is long gone."""

from __future__ import annotations

from collections.abc import Iterator

import gevent
import pytest

from limehub.amqp.connection import BrokerConnection, ConnectionSettings
from limehub.amqp.topology import declare_queue, dlq_spec
from limehub.config import Config, Events
from limehub.config.url import BrokerUrl
from limehub.deadletters import UnknownApp
from limehub.deadletters.filters import Filter
from limehub.deadletters.office import Office
from limehub.deadletters.results import Page
from limehub.web import looks as looks_module
from limehub.web.looks import Looks
from tests.support.letters import APP, dead, fill
from tests.support.vhost import Vhost


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers hold, however slow this machine is."""
    monkeypatch.setattr(looks_module, "HOLDS", 300.0)


@pytest.fixture
def settings(vhost: Vhost) -> ConnectionSettings:
    return ConnectionSettings(url=BrokerUrl.parse(vhost.url))


@pytest.fixture
def office(vhost: Vhost, settings: ConnectionSettings) -> Iterator[Office]:
    config = Config(applications=("acme",), events=Events(connection_string=vhost.url))
    office = Office.of(config, settings, [APP])
    yield office
    office.close()


@pytest.fixture
def connection(settings: ConnectionSettings) -> Iterator[BrokerConnection]:
    connection = BrokerConnection.open(settings, "test")
    fill(connection, [dead(1), dead(2)])
    yield connection
    connection.close()


def page(looks: Looks, *, for_people: bool = False, app: str = APP) -> Page:
    return looks.list(app, Filter(), limit=50, after=None, budget=5, for_people=for_people)


def test_many_who_ask_at_once_get_the_answer_of_one_look(
    office: Office, connection: BrokerConnection
) -> None:
    looks = Looks(office)
    asking = [gevent.spawn(page, looks) for _ in range(20)]
    gevent.joinall(asking, raise_error=True)
    assert len({id(each.value) for each in asking}) == 1
    assert asking[0].value.total == 2


def test_an_answer_holds_as_long_as_the_queue_is_as_deep(
    office: Office, connection: BrokerConnection
) -> None:
    looks = Looks(office)
    first = page(looks)
    assert page(looks) is first
    fill(connection, [dead(3)])
    assert page(looks).total == 3


def test_to_people_a_costly_answer_is_shown_again_though_more_has_failed(
    office: Office, connection: BrokerConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looks_module, "COSTLY", 10_000.0)
    looks = Looks(office)
    first = page(looks)
    fill(connection, [dead(3)])
    assert page(looks, for_people=True) is first
    assert page(looks).total == 3


def test_nothing_holds_after_a_move(office: Office, connection: BrokerConnection) -> None:
    looks = Looks(office)
    page(looks, for_people=True)
    counted = looks.groups(APP, Filter(), "anna", for_people=True)
    assert counted.wait(30)
    assert looks.groups(APP, Filter(), "anna", for_people=True) is counted
    move = office.operations.start("delete", APP, "anna", lambda _: office.desk.delete(APP))
    assert move.wait(30)
    assert page(looks, for_people=True).total == 0
    again = looks.groups(APP, Filter(), "anna", for_people=True)
    assert again.wait(30)
    assert again.take().matched == 0


def test_a_look_that_fails_fails_for_all_who_wait_and_is_not_kept(
    office: Office, connection: BrokerConnection
) -> None:
    looks = Looks(office)
    asking = [gevent.spawn(page, looks, app="solution-new") for _ in range(3)]
    gevent.joinall(asking)
    assert [type(each.exception) for each in asking] == [UnknownApp] * 3
    declare_queue(connection, dlq_spec("lime.event_handler.solution-new.dlq"))
    assert page(looks, app="solution-new").total == 0
