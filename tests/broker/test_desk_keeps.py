"""What the desk must not lose: letters deleted within the hour, what is looked at, and memory."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import gevent
import psutil
import pytest
from attrs import evolve

from limehub.amqp.connection import BrokerConnection, ConnectionSettings
from limehub.amqp.publisher import Publisher
from limehub.amqp.topology import declare_queue, dlq_spec
from limehub.config.url import BrokerUrl
from limehub.deadletters import DeadLetterDesk, Filter, Progress, UnknownDeletion
from limehub.deadletters.trash import UNDO_SECONDS, trash_of
from tests.support.letters import APP, DLQ, QUEUE, dead, fill, ready
from tests.support.vhost import Vhost
from tests.support.waiting import wait_until

LOOKS = 50


class Place:
    """A broker and the desk on it."""

    def __init__(self, vhost: Vhost) -> None:
        self.settings = ConnectionSettings(url=BrokerUrl.parse(vhost.url))
        self.connection = BrokerConnection.open(self.settings, "test")
        self.publisher = Publisher(self.settings, timeout=60)
        self.desk = self.desk_with()

    def desk_with(self, **changes: Any) -> DeadLetterDesk:
        given: dict[str, Any] = {
            "connect": lambda: BrokerConnection.open(self.settings, "desk"),
            "publisher": self.publisher,
            "apps": [APP],
            "application_of": {"lime.acme": "acme"}.get,
            "patience": 60.0,
        }
        return DeadLetterDesk(**{**given, **changes})

    def ids(self) -> list[str]:
        return [item.id for item in self.desk.list(APP, limit=500).items]

    def ready(self, queue: str) -> int:
        return ready(self.connection, queue)

    def close(self) -> None:
        self.publisher.close()
        self.connection.close()


@pytest.fixture
def place(vhost: Vhost) -> Iterator[Place]:
    place = Place(vhost)
    yield place
    place.close()


@pytest.fixture
def four(rabbitmq4_vhost: Vhost) -> Iterator[Place]:
    place = Place(rabbitmq4_vhost)
    yield place
    place.close()


# -- undo -------------------------------------------------------------------------------------


def test_a_deleted_letter_comes_back_as_it_was(place: Place) -> None:
    fill(place.connection, [dead(1, headers={"trace": "t"}), dead(2)])
    before = place.desk.show(APP, "id-1").as_whole()
    moved = place.desk.delete(APP, Filter(ids=frozenset(["id-1"])), by="anna")
    assert (moved.deleted, place.ids(), place.ready(trash_of(DLQ))) == (1, ["id-2"], 1)
    assert place.desk.undo(moved.operation, app=APP).restored == 1
    after = place.desk.show(APP, "id-1").as_whole()
    changing = ("headers", "properties")
    assert {k: v for k, v in after.items() if k not in changing} == {
        k: v for k, v in before.items() if k not in changing
    }
    assert after["headers"].items() >= before["headers"].items()
    assert int(after["properties"]["expiration"]) <= int(before["properties"]["expiration"])


def test_a_letter_that_was_brought_back_works_and_can_be_deleted_again(place: Place) -> None:
    fill(place.connection, [dead(1)])
    for _ in range(2):
        moved = place.desk.delete(APP)
        assert place.desk.undo(moved.operation).restored == 1
    assert place.desk.requeue(APP).requeued == 1
    delivery = wait_until(lambda: place.connection.open_channel().get(QUEUE))
    ours = {name for name in delivery.headers if "delet" in name or "expires" in name}
    assert (ours, delivery.body) == (set(), b'{"id": 1}')


def test_deletions_are_told_apart_by_their_operation(place: Place) -> None:
    fill(place.connection, [dead(number) for number in range(1, 6)])
    first = place.desk.delete(APP, limit=2, by="anna")
    second = place.desk.delete(APP, limit=1, by="bert")
    listed = place.desk.deletions(APP)
    assert {(one.operation, one.count, one.by) for one in listed} == {
        (first.operation, 2, "anna"),
        (second.operation, 1, "bert"),
    }
    assert place.desk.undo(second.operation).restored == 1
    assert place.ids() == ["id-4", "id-5", "id-3"]
    with pytest.raises(UnknownDeletion):
        place.desk.undo(second.operation)


def test_the_trash_lets_go_after_its_hour_and_no_later_than_the_letter_would(place: Place) -> None:
    fill(place.connection, [dead(1, ttl=0), dead(2, ttl=60)])
    until = place.desk.delete(APP).undo_until
    assert until is not None
    assert 0 < (until - datetime.now(UTC)).total_seconds() <= UNDO_SECONDS
    channel = place.connection.open_channel()
    first, second = (channel.get(trash_of(DLQ)) for _ in range(2))
    assert first is not None
    assert second is not None
    assert first.properties["expiration"] == str(round(UNDO_SECONDS * 1000))
    assert int(second.properties["expiration"]) <= 60_000


def test_a_foreign_letter_comes_back_with_its_story_and_still_wants_its_queue_confirmed(
    place: Place,
) -> None:
    declare_queue(place.connection, dlq_spec(DLQ))
    channel = place.connection.open_channel()
    channel.declare_exchange("lime.acme")
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": DLQ}
    channel.declare_queue(QUEUE, {**arguments, "x-message-ttl": 1})
    channel.bind(QUEUE, "lime.acme", "#")
    channel.sync()
    place.publisher.publish("core.limeobject.deal.new.v1", {"id": 5}, exchange="lime.acme")
    (before,) = wait_until(lambda: place.desk.list(APP).items)
    moved = place.desk.delete(APP)
    assert place.desk.undo(moved.operation).restored == 1
    (after,) = place.desk.list(APP).items
    assert (after.id, after.reason, after.routing_key, after.queue, after.application) == (
        before.id,
        "expired",
        "core.limeobject.deal.new.v1",
        QUEUE,
        "acme",
    )
    assert "--to" in place.desk.requeue(APP).failed[0].reason
    place.connection.open_channel().declare_queue("elsewhere")
    assert place.desk.requeue(APP, to="elsewhere").requeued == 1


def test_a_deletion_is_undone_by_another_process_that_only_knows_its_id(
    place: Place, vhost: Vhost
) -> None:
    fill(place.connection, [dead(1)])
    moved = place.desk.delete(APP)
    other = Place(vhost)
    assert other.desk.undo(moved.operation).restored == 1
    other.close()


# -- looking does not wear out ----------------------------------------------------------------


def look(place: Place, times: int) -> None:
    for number in range(times):
        if number % 3 == 2:
            assert place.desk.groups(APP).matched == 30
        else:
            assert len(place.desk.list(APP, Filter(text="deal")).items) == 30


@pytest.mark.rabbitmq4
def test_our_own_quorum_queue_can_be_looked_at_for_ever(four: Place) -> None:
    fill(four.connection, [dead(number) for number in range(30)], kind="quorum")
    ids = four.ids()
    look(four, LOOKS)
    assert (four.ids(), four.ready(DLQ)) == (ids, 30)


@pytest.mark.rabbitmq4
@pytest.mark.parametrize("limit", [None, 5])
def test_a_quorum_queue_with_a_delivery_limit_is_renewed_before_it_drops(
    four: Place, limit: int | None
) -> None:
    limits = {} if limit is None else {"x-delivery-limit": limit}
    four.connection.open_channel().declare_queue(DLQ, {"x-queue-type": "quorum", **limits})
    channel = four.connection.open_channel()
    for number in range(30):
        four.publisher.send(dead(number))
    channel.close()
    ids = four.ids()
    look(four, LOOKS)
    assert (four.ids(), four.ready(DLQ)) == (ids, 30)
    expires = four.desk.list(APP, limit=1).items[0].expires_at
    assert expires is not None
    assert 0 < (expires - datetime.now(UTC)).total_seconds() <= 3600


# -- scale ------------------------------------------------------------------------------------


def memory() -> float:
    """MiB of this process."""
    return float(psutil.Process(os.getpid()).memory_info().rss) / 2**20


def watch(peak: list[float]) -> None:
    while True:
        peak[0] = max(peak[0], memory())
        gevent.sleep(0.01)


@pytest.mark.parametrize("size", [300_000, 1_000_000])
def test_looking_through_large_bodies_takes_no_memory_and_finds_what_is_at_their_beginning(
    place: Place, size: int
) -> None:
    body = json.dumps({"needle": "found", "filler": "x" * size}).encode()
    template = dead(0, body=body)
    letters = [
        evolve(template, headers={**template.headers, "x-limehub-id": f"id-{number}"})
        for number in range(150)
    ]
    fill(place.connection, letters)
    idle, peak = memory(), [0.0]
    watcher = gevent.spawn(watch, peak)
    assert place.desk.list(APP, Filter(text="needle"), limit=1).matched == 150
    assert place.desk.groups(APP).groups[0].count == 150
    assert place.desk.requeue(APP).requeued == 150
    watcher.kill()
    assert peak[0] - idle < 70


def test_large_bodies_behind_many_small_ones_take_no_memory_when_they_are_moved(
    place: Place,
) -> None:
    small, large = dead(0), dead(0, body=json.dumps({"filler": "x" * 1_000_000}).encode())
    letters = [
        evolve(each, headers={**each.headers, "x-limehub-id": f"id-{number}"})
        for number, each in enumerate([small] * 1500 + [large] * 150)
    ]
    fill(place.connection, letters)
    del letters
    idle, peak = memory(), [0.0]
    watcher = gevent.spawn(watch, peak)
    # The trial ends where the large ones begin: they come all the same, and go back.
    assert place.desk.requeue(APP, limit=1500).remaining == 150
    deleted = place.desk.delete(APP)
    assert place.desk.undo(deleted.operation, app=APP).restored == 150
    assert sum(1 for _ in place.desk.export(APP)) == 150
    assert place.desk.requeue(APP).requeued == 150
    watcher.kill()
    assert peak[0] - idle < 70


def test_progress_counts_and_a_stop_ends_between_two_letters(place: Place) -> None:
    fill(place.connection, [dead(number) for number in range(400)])
    progress = Progress()

    def stopping(_exchange: str) -> str:
        progress.stop = progress.seen >= 100
        return "acme"

    moved = place.desk_with(application_of=stopping).requeue(APP, progress=progress)
    assert (progress.total, moved.requeued + moved.remaining) == (400, 400)
    # Whoever asks first stops it: who sends the hundredth, or who reads the next one.
    assert moved.requeued == progress.done == place.ready(QUEUE) in (100, 101)


def test_the_progress_of_a_trial_counts_to_its_end(place: Place) -> None:
    fill(place.connection, [dead(number) for number in range(50)])
    progress = Progress()
    assert place.desk.requeue(APP, limit=20, progress=progress).requeued == 20
    assert (progress.total, progress.done) == (20, 20)
    place.desk.requeue(APP, Filter(text="deal"), limit=20, progress=progress)
    assert progress.total == 30
