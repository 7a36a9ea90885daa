"""The dead-letter desk on a real broker: look, requeue, delete; nothing lost, order kept."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import gevent
import pytest
from attrs import evolve, field, frozen

from limehub.amqp import moves
from limehub.amqp.channel import Channel
from limehub.amqp.connection import BrokerConnection, ConnectionSettings
from limehub.amqp.delivery import Delivery
from limehub.amqp.message import Outgoing
from limehub.amqp.moves import Failure
from limehub.amqp.publisher import Publisher
from limehub.config.url import BrokerUrl
from limehub.deadletters import (
    DeadLetterDesk,
    DeskBusy,
    Filter,
    UnknownApp,
    UnknownDeadLetter,
)
from limehub.deadletters.walk import lock_of
from limehub.errors import BrokerError
from tests.support.vhost import Vhost
from tests.support.waiting import wait_until

APP = "solution-deals"
DLQ = f"lime.event_handler.{APP}.dlq"
QUEUE = f"lime.event_handler.{APP}.totals"
KEY = "core.limeobject.deal.update.v1"
TYPED = {"classic": {"x-queue-type": "classic"}, "quorum": {"x-queue-type": "quorum"}}


@frozen(kw_only=True)
class Site:
    """A broker with one package: its handler's queue, its dead letter queue, and the desk."""

    vhost: Vhost
    settings: ConnectionSettings
    connection: BrokerConnection
    channel: Channel
    publisher: Publisher
    applications: Mapping[str, str] = field(factory=lambda: {"lime.acme": "acme"})

    @property
    def desk(self) -> DeadLetterDesk:
        return self.desk_with()

    def desk_with(self, **changes: Any) -> DeadLetterDesk:
        given: dict[str, Any] = {
            "connect": lambda: BrokerConnection.open(self.settings, "desk"),
            "publisher": self.publisher,
            "apps": [APP, "solution-quiet"],
            "application_of": self.applications.get,
            "patience": 60.0,
        }
        return DeadLetterDesk(**{**given, **changes})

    def declare(self, *queues: str, kind: str = "classic") -> None:
        for queue in queues:
            self.channel.declare_queue(queue, TYPED[kind])

    def publish(self, message: Outgoing) -> None:
        """Send it as it is, without waiting: `ready` tells when all have arrived."""
        self.channel.publish(evolve(message, mandatory=False))

    def event(self, body: Any = None, *, key: str = KEY, **properties: Any) -> Delivery:
        """An event that came to the handler's queue by its exchange, in our hands."""
        self.channel.declare_exchange("lime.acme")
        self.declare(QUEUE)
        self.channel.bind(QUEUE, "lime.acme", "#")
        raw = body if isinstance(body, bytes) else json.dumps(body or {"id": 1}).encode()
        headers = properties.pop("headers", {})
        message = Outgoing(
            exchange="lime.acme", routing_key=key, body=raw, headers=headers, properties=properties
        )
        self.publish(message)
        return self.take(QUEUE)

    def take(self, queue: str) -> Delivery:
        """The next message of *queue*, unacked."""
        return wait_until(lambda: self.channel.get(queue), message=f"a message in {queue}")

    def kill(self, delivery: Delivery, **failure: Any) -> str:
        """Dead-letter *delivery* as a handler's failure does; returns the dead letter's id."""
        message = dead_letter(delivery, **failure)
        self.publisher.send(message)
        delivery.ack()
        return str(message.headers["x-limehub-id"])

    def fill(self, count: int, *, size: int = 0, start: int = 0) -> list[str]:
        """Put numbered dead letters into the queue; returns their ids in order."""
        template = dead_letter(self.event())
        ids = []
        for number in range(start, start + count):
            body = json.dumps({"number": number, "filler": "x" * size}).encode()
            ids.append(f"id-{number:06}")
            headers = {**template.headers, "x-limehub-id": ids[-1]}
            self.publish(evolve(template, body=body, headers=headers))
        # Before its channel closes: a quorum queue's unconfirmed messages would go with that.
        wait_until(lambda: self.ready(DLQ) >= count, message="the dead letters")
        self.take_away(QUEUE)
        return ids

    def take_away(self, queue: str) -> None:
        """Empty *queue* of ready and of our own unacked messages: `event` leaves one."""
        self.channel.close()
        object.__setattr__(self, "channel", self.connection.open_channel())
        self.channel.purge_queue(queue)

    def ready(self, queue: str) -> int:
        return self.channel.check_queue(queue)[0]

    def numbers(self, queue: str, count: int) -> list[int]:
        """The numbers in the bodies of the next *count* messages, which are acked."""
        deliveries = [self.take(queue) for _ in range(count)]
        for delivery in deliveries:
            delivery.ack()
        return [json.loads(delivery.body)["number"] for delivery in deliveries]


def dead_letter(delivery: Delivery, *, ttl: float = 3600, **changes: Any) -> Outgoing:
    failure = Failure(
        handler=f"{APP}.totals",
        reason="exception",
        exception_type="ValueError",
        exception_text="no price",
        traceback="Traceback: no price",
        where="shop.py:12 in totals",
        at=datetime.now(UTC),
    )
    return moves.dead_letter(
        delivery, evolve(failure, **changes), dlq=DLQ, ttl=ttl, frame_max=131072
    )


@pytest.fixture
def site(vhost: Vhost) -> Iterator[Site]:
    settings = ConnectionSettings(url=BrokerUrl.parse(vhost.url))
    connection = BrokerConnection.open(settings, "test")
    publisher = Publisher(settings, timeout=60)
    site = Site(
        vhost=vhost,
        settings=settings,
        connection=connection,
        channel=connection.open_channel(),
        publisher=publisher,
    )
    site.declare(DLQ)
    yield site
    publisher.close()
    connection.close()


# -- looking ----------------------------------------------------------------------------------


def test_apps_are_listed_with_the_number_of_their_dead_letters(site: Site) -> None:
    site.fill(3)
    counts = [one.as_dict() for one in site.desk.apps()]
    assert counts == [
        {"app": APP, "queue": DLQ, "total": 3, "busy": False, "installed": True},
        {
            "app": "solution-quiet",
            "queue": "lime.event_handler.solution-quiet.dlq",
            "total": 0,
            "busy": False,
            "installed": True,
        },
    ]


def test_a_list_shows_what_failed_and_changes_nothing(site: Site) -> None:
    identity = site.kill(site.event({"id": 7}, message_id="m-7"), attempts=2)
    page = site.desk.list(APP).as_dict()
    assert (page["app"], page["queue"], page["total"], page["matched"]) == (APP, DLQ, 1, 1)
    assert (page["next"], page["complete"]) == (None, True)
    (item,) = page["items"]
    assert (item["id"], item["message_id"], item["application"]) == (identity, "m-7", "acme")
    assert (item["routing_key"], item["queue"], item["attempts"]) == (KEY, QUEUE, 2)
    assert item["exception"]["message"] == "no price"
    assert item["preview"] == '{"id": 7}'
    assert item["last_failed_at"] < item["expires_at"]
    assert site.ready(DLQ) == 1


def test_an_app_whose_handlers_never_failed_has_an_empty_list(site: Site) -> None:
    page = site.desk.list("solution-quiet")
    assert (page.total, page.items, page.next, page.complete) == (0, (), None, True)
    assert site.desk.requeue("solution-quiet").count == 0


@pytest.mark.parametrize("name", ["solution-deal", "no such\r\napp", "", "../x"])
def test_an_unknown_app_is_refused(site: Site, name: str) -> None:
    with pytest.raises(UnknownApp):
        site.desk.list(name)


def test_an_unknown_app_is_answered_with_the_nearest_name(site: Site) -> None:
    with pytest.raises(UnknownApp, match="did you mean solution-quiet"):
        site.desk.list("solution-quite")


def test_an_app_is_found_with_dash_and_underscore_alike(site: Site) -> None:
    assert site.desk.list("solution_deals").app == APP


def test_dead_letters_of_a_package_that_is_gone_are_found_by_its_name(site: Site) -> None:
    site.fill(2)
    assert site.desk_with(apps=[]).list(APP).total == 2


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_looking_often_keeps_every_message_and_their_order(site: Site, kind: str) -> None:
    site.channel.delete_queue(DLQ)
    site.declare(DLQ, kind=kind)
    ids = site.fill(400)
    for _ in range(5):
        page = site.desk.list(APP, Filter(text="number"), limit=500)
        assert [item.id for item in page.items] == ids
        assert site.desk.show(APP, ids[123]).item.id == ids[123]
    assert site.ready(DLQ) == 400


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_what_is_left_after_moves_keeps_its_order(site: Site, kind: str) -> None:
    site.channel.delete_queue(DLQ)
    site.declare(DLQ, kind=kind)
    ids = site.fill(500)
    desk = site.desk
    assert desk.delete(APP, Filter(text='7, "filler')).count == 50
    assert desk.requeue(APP, limit=45).count == 45
    assert desk.list(APP, limit=3).items[0].id == ids[50]
    assert desk.show(APP, ids[300]).item.id == ids[300]
    assert desk.delete(APP, Filter(text='9, "filler'), limit=20).count == 20
    left = [ids[n] for n in range(50, 500) if n % 10 not in (7, 9) or (n % 10 == 9 and n > 249)]
    assert [item.id for item in desk.list(APP, limit=500).items] == left
    assert site.numbers(QUEUE, 45) == [n for n in range(50) if n % 10 != 7]


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_a_walk_that_stood_still_takes_what_came_meanwhile_and_gives_it_back_in_its_place(
    site: Site, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr("limehub.deadletters.walk.SETTLE_LIMIT", 0.0)  # as if that had passed
    site.channel.delete_queue(DLQ)
    site.declare(DLQ, kind=kind)
    ids = site.fill(40, size=100_000)
    assert site.desk.show(APP, ids[0]).item.id == ids[0]
    wait_until(lambda: site.ready(DLQ) == 40, message="all to be back")
    assert [item.id for item in site.desk.list(APP).items] == ids


def test_a_walk_that_dies_gives_everything_back(site: Site) -> None:
    ids = site.fill(50)
    desk = site.desk
    walker = gevent.spawn(desk.list, APP, Filter(text="absent"), budget=30)
    wait_until(lambda: site.ready(DLQ) < 50 or walker.ready())
    walker.kill()
    assert [item.id for item in desk.list(APP).items] == ids


def test_who_dies_while_a_consumer_is_cancelled_leaves_that_to_the_next(site: Site) -> None:
    channel = site.connection.open_channel()
    tag = channel.consume(DLQ, prefetch=1, on_deliveries=print, on_cancelled=print)
    first = gevent.spawn(channel.cancel, tag)
    gevent.sleep(0)
    first.kill()
    channel.cancel(tag)
    assert (channel.is_consuming(tag), channel.is_open) == (False, True)


def test_pages_follow_each_other_without_gap_or_repetition(site: Site) -> None:
    ids = site.fill(25)
    seen, cursor = [], None
    while True:
        page = site.desk.list(APP, limit=10, after=cursor)
        assert (page.total, page.matched, page.complete) == (25, 25, True)
        seen += [item.id for item in page.items]
        cursor = page.next
        if cursor is None:
            break
    assert seen == ids


def test_pages_of_a_filter_count_all_that_match(site: Site) -> None:
    site.fill(30)
    which = Filter(text='"number": 1')  # 1 and 10 to 19
    first = site.desk.list(APP, which, limit=6)
    second = site.desk.list(APP, which, limit=6, after=first.next)
    assert (first.matched, first.total, second.matched) == (11, 30, 11)
    assert [item.id for item in (*first.items, *second.items)] == [
        f"id-{number:06}" for number in (1, *range(10, 20))
    ]
    assert second.next is None


def test_a_list_that_runs_out_of_time_says_so_and_can_go_on(site: Site) -> None:
    ids = site.fill(20)
    page = site.desk.list(APP, Filter(text="absent"), budget=0)
    assert (page.complete, page.items, page.next) == (False, (), ids[0])
    assert site.desk.list(APP, after=page.next).items[0].id == ids[1]


def test_a_cursor_that_is_gone_is_named(site: Site) -> None:
    site.fill(2)
    with pytest.raises(UnknownDeadLetter, match="list from the start"):
        site.desk.list(APP, after="id-000099")


def test_one_dead_letter_is_shown_whole(site: Site) -> None:
    identity = site.kill(site.event({"id": 7}, headers={"tenant": "x"}, priority=3))
    whole = site.desk.show(APP, identity).as_whole()
    assert (whole["body"], whole["body_encoding"]) == ({"id": 7}, "json")
    assert whole["headers"]["tenant"] == "x"
    assert whole["properties"]["priority"] == 3
    assert whole["traceback"] == "Traceback: no price"
    with pytest.raises(UnknownDeadLetter):
        site.desk.show(APP, "id-000099")


def test_events_that_arrive_meanwhile_do_not_extend_a_walk(site: Site) -> None:
    site.fill(100)
    desk = site.desk
    moved = desk.requeue(APP)
    assert (moved.count, moved.remaining) == (100, 0)
    site.fill(5, start=100)
    handler = gevent.spawn(_fail_again, site, 60)
    assert desk.requeue(APP).count <= 5
    handler.kill()


def _fail_again(site: Site, seconds: float) -> None:
    """A handler that fails at once, again and again."""
    connection = BrokerConnection.open(site.settings, "failing handler")
    channel = connection.open_channel()
    deadline = time.monotonic() + seconds
    try:
        while time.monotonic() < deadline:
            delivery = channel.get(QUEUE)
            if delivery is None:
                gevent.sleep(0.01)
                continue
            site.publisher.send(dead_letter(delivery))
            delivery.ack()
    finally:
        connection.close()


def test_only_one_walks_a_queue_and_others_wait_or_hear_that_it_is_busy(site: Site) -> None:
    site.fill(3)
    other = BrokerConnection.open(site.settings, "another walker")
    other.open_channel().declare_lock(lock_of(DLQ))
    assert [one.busy for one in site.desk.apps()] == [True, False]
    with pytest.raises(DeskBusy, match="in use"):
        site.desk_with(patience=0.3).list(APP)
    waiting = gevent.spawn(site.desk.list, APP)
    waiting.join(timeout=0.2)
    assert not waiting.ready()
    other.close()
    assert waiting.get(timeout=30).total == 3


def test_two_operators_at_once_move_each_event_once(site: Site) -> None:
    site.fill(200)
    both = [gevent.spawn(site.desk.requeue, APP, limit=150) for _ in range(2)]
    gevent.joinall(both, raise_error=True)
    assert sorted(one.value.count for one in both) == [50, 150]
    assert sorted(site.numbers(QUEUE, 200)) == list(range(200))


def test_a_queue_deleted_under_a_walk_ends_it_in_peace(site: Site) -> None:
    site.fill(2000, size=2000)
    letters = site.desk.export(APP)
    next(letters)
    site.channel.delete_queue(DLQ)
    assert len(list(letters)) < 1999


def test_a_connection_lost_under_a_walk_is_an_error_and_loses_nothing(site: Site) -> None:
    site.fill(2000, size=2000)
    letters = site.desk.export(APP)
    next(letters)
    site.vhost.close_connections()
    with pytest.raises(BrokerError):
        list(letters)
    wait_until(lambda: site.desk.list(APP, limit=1).total == 2000, message="all to be back")


# -- requeue ----------------------------------------------------------------------------------


def test_a_requeued_event_goes_to_its_handler_alone_with_its_origin(site: Site) -> None:
    site.declare("other-handler")
    original = site.event({"id": 7}, message_id="m-7", headers={"x": 1}, expiration="99999")
    site.channel.bind("other-handler", "lime.acme", "#")
    site.channel.sync()
    site.kill(original, attempts=3)
    moved = site.desk.requeue(APP)
    assert (moved.requeued, moved.failed, moved.remaining) == (1, (), 0)
    back = site.take(QUEUE)
    assert (back.exchange, back.routing_key, back.wire_exchange) == ("lime.acme", KEY, "")
    assert (back.body, back.message_id, back.attempts) == (b'{"id": 7}', "m-7", 3)
    assert back.headers["x"] == 1
    assert back.headers["x-limehub-expiration"] == "99999"
    assert "expiration" not in back.properties
    assert back.properties["delivery_mode"] == 2
    assert site.ready("other-handler") == 0


def test_requeued_events_keep_their_order(site: Site) -> None:
    site.fill(300)
    assert site.desk.requeue(APP).count == 300
    assert site.numbers(QUEUE, 300) == list(range(300))


def test_a_cc_header_sends_no_copies_when_requeued(site: Site) -> None:
    site.declare("spy")
    site.kill(site.event(headers={"CC": ["spy"]}))
    site.channel.purge_queue("spy")
    assert site.desk.requeue(APP).count == 1
    back = site.take(QUEUE)
    assert back.headers["x-limehub-original-CC"] == ["spy"]
    assert site.ready("spy") == 0


def test_a_cc_header_cannot_hide_that_the_queue_is_gone(site: Site) -> None:
    site.declare("spy")
    message = dead_letter(site.event())
    site.publish(evolve(message, headers={**message.headers, "CC": ["spy"]}))
    site.channel.delete_queue(QUEUE)
    wait_until(lambda: site.ready(DLQ))
    moved = site.desk.requeue(APP)
    assert (moved.count, moved.remaining) == (0, 1)
    assert "does not exist" in moved.failed[0].reason


def test_a_foreign_user_id_does_not_close_the_channel(site: Site) -> None:
    site.kill(site.event(user_id="guest"))
    assert site.desk.requeue(APP).count == 1
    back = site.take(QUEUE)
    assert "user_id" not in back.properties
    assert back.headers["x-limehub-user-id"] == "guest"


def test_what_cannot_be_requeued_stays_in_its_place_and_says_why(site: Site) -> None:
    first = site.kill(site.event({"number": 0}))
    gone = evolve(dead_letter(site.event({"number": 1})))
    missing = f"lime.event_handler.{APP}.gone"
    headers = {**gone.headers, "x-limehub-queue": missing, "x-limehub-id": "stays"}
    site.take_away(QUEUE)
    site.publisher.send(evolve(gone, headers=headers))
    last = site.kill(site.event({"number": 2}))
    moved = site.desk.requeue(APP)
    assert (moved.count, moved.remaining) == (2, 1)
    assert [(one.id, missing in one.reason) for one in moved.failed] == [("stays", True)]
    assert {first, last}.isdisjoint(item.id for item in site.desk.list(APP).items)
    assert site.desk.requeue(APP, to=QUEUE).count == 1


def test_requeue_and_delete_take_only_what_is_meant(site: Site) -> None:
    ids = site.fill(10)
    assert site.desk.requeue(APP, Filter(ids=frozenset(ids[2:4]))).count == 2
    moved = site.desk.delete(APP, limit=1, for_good=True)
    assert (moved.deleted, moved.failed, moved.undo_until) == (1, (), None)
    assert site.desk.delete(APP, Filter(text='"number": 9')).count == 1
    left = [item.id for item in site.desk.list(APP).items]
    assert left == [ids[number] for number in (1, 4, 5, 6, 7, 8)]
    assert site.numbers(QUEUE, 2) == [2, 3]


def test_ids_that_are_not_there_are_named(site: Site) -> None:
    ids = site.fill(2)
    moved = site.desk.delete(APP, Filter(ids=frozenset([ids[0], "id-000099"])))
    assert (moved.count, moved.remaining) == (1, 1)
    assert [one.id for one in moved.failed] == ["id-000099"]


def test_an_event_of_an_application_that_is_not_ours_stays(site: Site) -> None:
    site.kill(site.event())
    moved = site.desk_with(application_of={}.get).requeue(APP)
    assert (moved.count, moved.remaining) == (0, 1)
    assert "no configured application" in moved.failed[0].reason


def test_a_queue_that_is_full_refuses_and_nothing_is_lost(site: Site) -> None:
    limits = {"max-length": 2, "overflow": "reject-publish"}
    site.vhost.set_policy("small", f"^{QUEUE}$", limits)
    site.fill(5)  # makes the queue, which is small from its beginning
    moved = site.desk.requeue(APP)
    assert moved.count + moved.remaining == 5
    assert moved.remaining == len(moved.failed) > 0


def test_a_thousand_dead_letters_are_listed_requeued_and_deleted_quickly(site: Site) -> None:
    site.fill(1000)
    started = time.monotonic()
    assert len(site.desk.list(APP, Filter(text="number"), limit=500).items) == 500
    assert site.desk.requeue(APP, limit=500).count == 500
    assert site.desk.delete(APP).count == 500
    assert time.monotonic() - started < 30
    assert (site.ready(DLQ), site.ready(QUEUE)) == (0, 500)


def test_large_bodies_do_not_pile_up_in_a_list(site: Site) -> None:
    site.fill(40, size=1024 * 1024)
    page = site.desk.list(APP, Filter(text="number"), limit=500)
    assert [item.size > 1024 * 1024 for item in page.items] == [True] * 40
    assert max(len(json.dumps(item.as_item())) for item in page.items) < 2000
    assert site.desk.requeue(APP).count == 40


def test_large_bodies_that_come_late_are_not_kept_waiting_for_the_answer_behind_them(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("limehub.deadletters.walk.IDLE", 0.0)  # so that it asks at once
    ids = site.fill(20, size=1024 * 1024)
    assert [letter.item.id for letter in site.desk.export(APP)] == ids


# -- foreign and hostile messages -------------------------------------------------------------


@pytest.fixture
def lime_queue(site: Site) -> str:
    """A handler's queue as a site that comes from Lime has it: the broker dead-letters."""
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": DLQ}
    site.channel.declare_queue(QUEUE, arguments)
    site.channel.declare_exchange("lime.acme")
    site.channel.bind(QUEUE, "lime.acme", "#")
    site.channel.sync()
    return QUEUE


def reject_one(site: Site, headers: dict[str, Any] | None = None) -> None:
    before = site.ready(DLQ)
    site.publish(
        Outgoing(exchange="lime.acme", routing_key=KEY, body=b'{"id": 1}', headers=headers or {})
    )
    delivery = site.take(QUEUE)
    site.channel.reject(delivery.tag, requeue=False)
    wait_until(lambda: site.ready(DLQ) > before)


def test_what_the_broker_dead_lettered_is_listed_with_its_reason(
    site: Site, lime_queue: str
) -> None:
    reject_one(site)
    (item,) = site.desk.list(APP).items
    assert (item.reason, item.queue, item.attempts) == ("rejected", lime_queue, 1)
    assert (item.exchange, item.application, item.routing_key) == ("lime.acme", "acme", KEY)
    assert site.desk.list(APP).items == (item,)


def test_what_the_broker_dead_lettered_goes_back_only_to_a_named_queue(
    site: Site, lime_queue: str
) -> None:
    reject_one(site)
    refused = site.desk.requeue(APP)
    assert (refused.count, refused.remaining) == (0, 1)
    assert f"--to {lime_queue}" in refused.failed[0].reason
    assert site.desk.requeue(APP, to=lime_queue).count == 1
    back = site.take(lime_queue)
    assert (back.exchange, back.routing_key, back.body) == ("lime.acme", KEY, b'{"id": 1}')
    assert not [name for name in back.headers if name.startswith("x-death")]


def test_equal_foreign_messages_are_as_many_dead_letters(site: Site) -> None:
    for _ in range(3):
        site.publish(Outgoing(exchange="", routing_key=DLQ, body=b"same"))
    wait_until(lambda: site.ready(DLQ) == 3)
    first, second, third = (item.id for item in site.desk.list(APP).items)
    assert (second, third) == (f"{first}.2", f"{first}.3")
    assert [item.id for item in site.desk.list(APP, limit=1, after=second).items] == [third]
    assert site.desk.delete(APP, Filter(ids=frozenset([second]))).count == 1
    assert site.ready(DLQ) == 2


HOSTILE = "<script>alert(1)</script>\r\n\x1b[2J\u202e"


def test_hostile_messages_are_shown_inert_and_requeued_untouched(site: Site) -> None:
    body = HOSTILE.encode() + b"\xff\x00"
    headers = {"evil": HOSTILE, HOSTILE[:40]: b"\xff\xfe", "deep": {"list": [1, {"x": None}]}}
    event = site.event(body, key=HOSTILE, headers=headers, message_id=HOSTILE)
    identity = site.kill(event, exception_text=HOSTILE)
    whole = site.desk.show(APP, identity).as_whole()
    assert json.loads(json.dumps(whole))["body_encoding"] == "base64"
    assert whole["preview"].isprintable()
    assert site.desk.requeue(APP).count == 1
    back = site.take(QUEUE)
    assert (back.body, back.routing_key, back.message_id) == (body, HOSTILE, HOSTILE)
    assert back.headers["deep"] == {"list": [1, {"x": None}]}
