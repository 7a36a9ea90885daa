"""The desk while things break: nothing is lost, and only what was on its way may be there twice."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from attrs import evolve, frozen
from gevent.event import Event
from gevent.pool import Pool

from limehub.amqp.connection import BrokerConnection, ConnectionSettings
from limehub.amqp.publisher import Publisher
from limehub.config.url import BrokerUrl
from limehub.deadletters import DeadLetterDesk, Filter, Progress
from limehub.deadletters.movers import PIPELINE
from limehub.deadletters.results import Moved
from limehub.deadletters.trash import trash_of
from limehub.errors import BrokerError
from tests.support.letters import APP, DLQ, QUEUE, dead, fill, ready
from tests.support.vhost import Vhost
from tests.support.waiting import wait_until

COUNT = 1500
TRASH = trash_of(DLQ)
VERBS = ["requeue", "delete", "undo"]


@frozen(eq=False)
class Scene:
    """A desk on a broker that somebody hurts. *verb* runs in a greenlet, half done when hurt."""

    vhost: Vhost
    settings: ConnectionSettings
    publisher: Publisher

    @property
    def desk(self) -> DeadLetterDesk:
        return self.desk_with(lambda _exchange: "acme")

    def desk_with(self, application_of: Callable[[str], str]) -> DeadLetterDesk:
        return DeadLetterDesk(
            connect=lambda: BrokerConnection.open(self.settings, "desk"),
            publisher=self.publisher,
            apps=[APP],
            application_of=application_of,
            patience=60.0,
        )

    def prepare(self, verb: str, desk: DeadLetterDesk) -> Callable[[Progress], Moved]:
        """Fill the queue; return what does *verb* to all."""
        with_connection(self.settings, lambda connection: fill(connection, []))
        pool = Pool(100)
        for each in letters():  # confirmed: a broker that is killed must not lose the question
            pool.spawn(self.publisher.send, each)
        pool.join(raise_error=True)
        if verb == "requeue":
            return lambda progress: desk.requeue(APP, progress=progress)
        if verb == "delete":
            return lambda progress: desk.delete(APP, progress=progress)
        deletion = self.desk.delete(APP).operation
        return lambda progress: desk.undo(deletion, app=APP, progress=progress)

    def hurt(self, verb: str, fault: Callable[[], Any]) -> tuple[Any, Progress, int]:
        """Do *verb*, break something in the middle; return what came of it, how far it was in the
        end, and how many were moved before.

        The last letters are not read before it is broken, however long that takes.
        """
        progress, broken = Progress(), Event()

        def application_of(_exchange: str) -> str:
            if progress.seen > COUNT - 300:
                broken.wait()
            return "acme"

        work = self.prepare(verb, self.desk_with(application_of))
        job = gevent.spawn(outcome, work, progress)
        wait_until(lambda: progress.done > 100, message="some to be moved")
        before = progress.done
        fault()
        broken.set()
        return job.get(timeout=90), progress, before

    def numbers(self) -> Counter[int]:
        """What is in all queues, how often."""
        wait_until(lambda: not any(row["unacked"] for row in self.vhost.queues().values()))
        return with_connection(self.settings, _numbers)


def letters() -> list[Any]:
    template = dead(0)
    return [
        evolve(
            template,
            headers={**template.headers, "x-limehub-id": f"id-{number}"},
            body=json.dumps({"id": number}).encode(),
        )
        for number in range(COUNT)
    ]


def outcome(work: Callable[[Progress], Moved], progress: Progress) -> Moved | BrokerError:
    try:
        return work(progress)
    except BrokerError as error:
        return error


def with_connection(settings: ConnectionSettings, work: Callable[[BrokerConnection], Any]) -> Any:
    connection = BrokerConnection.open(settings, "test")
    try:
        return work(connection)
    finally:
        connection.close()


def _numbers(connection: BrokerConnection) -> Counter[int]:
    found: Counter[int] = Counter()
    for queue in (DLQ, TRASH, QUEUE):
        channel = connection.open_channel()
        try:
            while (delivery := channel.get(queue)) is not None:
                found[json.loads(delivery.body)["id"]] += 1
        except BrokerError:
            continue  # no such queue
    return found


def assert_none_lost(found: Counter[int], *, doubles: int) -> None:
    assert set(found) == set(range(COUNT))
    assert sum(found.values()) - COUNT <= doubles


@pytest.fixture
def scene(vhost: Vhost) -> Iterator[Scene]:
    yield from _scene(vhost)


@pytest.fixture
def killable(killable_vhost: Vhost) -> Iterator[Scene]:
    yield from _scene(killable_vhost)


def _scene(vhost: Vhost) -> Iterator[Scene]:
    settings = ConnectionSettings(url=BrokerUrl.parse(vhost.url))
    publisher = Publisher(settings, timeout=60)
    yield Scene(vhost, settings, publisher)
    publisher.close()


@pytest.mark.parametrize("verb", VERBS)
def test_connections_cut_under_a_move_lose_nothing_and_it_says_how_far_it_came(
    scene: Scene, verb: str
) -> None:
    error, progress, before = scene.hurt(verb, scene.vhost.close_connections)
    assert isinstance(error, BrokerError)
    assert f"{progress.done} were" in str(error)
    found = scene.numbers()
    assert set(found) == set(range(COUNT))
    # Those on their way are sent again when the publisher is back, which knows nothing of the first
    # time, and stay where they were. How many these are depends on who notices the loss first.
    assert max(found.values()) <= 3
    assert not [number for number in range(before - 2 * PIPELINE) if found[number] > 1]


@pytest.mark.parametrize("verb", VERBS)
def test_a_broker_that_dies_under_a_move_loses_nothing(killable: Scene, verb: str) -> None:
    node = killable.vhost.node

    def die() -> None:
        node.settle()  # else it may forget a queue that it has just declared
        node.restart()

    error, _progress, _before = killable.hurt(verb, die)
    assert isinstance(error, BrokerError)
    # A broker that is killed forgets acks that it had not written down.
    assert_none_lost(killable.numbers(), doubles=COUNT)
    assert killable.desk.apps()[0].busy is False


@pytest.mark.parametrize("verb", VERBS)
def test_a_memory_alarm_only_delays_a_move(killable: Scene, verb: str) -> None:
    def alarm() -> None:
        killable.vhost.memory_alarm(True)
        gevent.sleep(1.0)
        killable.vhost.memory_alarm(False)

    moved, progress, _before = killable.hurt(verb, alarm)
    assert isinstance(moved, Moved)
    assert (moved.count, progress.done, moved.failed_total) == (COUNT, COUNT, 0)
    assert_none_lost(killable.numbers(), doubles=0)


def test_a_target_deleted_under_a_requeue_keeps_the_rest_in_order(scene: Scene) -> None:
    moved, _progress, _before = scene.hurt("requeue", lambda: scene.vhost.delete_queue(QUEUE))
    assert moved.count + moved.remaining == COUNT
    assert moved.remaining == moved.failed_total > 0
    assert {one.reason.partition(";")[0] for one in moved.failed} == {
        f"queue {QUEUE} does not exist"
    }
    left = [item.id for item in scene.desk.list(APP, limit=500).items]
    assert left == [f"id-{COUNT - moved.remaining + number}" for number in range(len(left))]


def test_letters_that_expire_under_a_walk_are_missed_by_nobody(scene: Scene) -> None:
    short = [
        evolve(one, properties={**one.properties, "expiration": "1"}) for one in letters()[::2]
    ]
    with_connection(scene.settings, lambda connection: fill_mixed(connection, short))
    page = scene.desk.list(APP, Filter(text="deal"), limit=500)
    assert page.complete
    assert page.matched >= COUNT // 2
    moved = scene.desk.requeue(APP)
    assert (moved.remaining, moved.failed) == (0, ())
    assert set(scene.numbers()) >= set(range(1, COUNT, 2))


def fill_mixed(connection: BrokerConnection, short: list[Any]) -> None:
    """Put letters that expire at once between others: behind those they expire while walked."""
    fill(connection, letters()[1:2])
    channel = connection.open_channel()
    lasting = letters()[3::2]
    for one, other in zip(short, [*lasting, *lasting[:1]], strict=True):
        channel.publish(evolve(one, mandatory=False))
        channel.publish(evolve(other, mandatory=False))
    wait_until(lambda: ready(connection, DLQ) == COUNT + 1, message="all letters")
    channel.close()


def test_what_fails_again_at_once_is_requeued_once(scene: Scene) -> None:
    work, progress = scene.prepare("requeue", scene.desk), Progress()
    again = gevent.spawn(fail_again, scene.settings)
    moved = work(progress)
    again.kill()
    assert moved.count == progress.total == COUNT
    assert_none_lost(scene.numbers(), doubles=1)  # the one that the handler was killed over


def fail_again(settings: ConnectionSettings) -> None:
    """A handler that fails at once: what comes to its queue is a dead letter again."""
    connection = BrokerConnection.open(settings, "failing handler")
    try:
        channel, publishing = connection.open_channel(), connection.open_channel()
        while True:
            delivery = channel.get(QUEUE)
            if delivery is None:
                gevent.sleep(0.01)
                continue
            number = json.loads(delivery.body)["id"]
            publishing.publish(evolve(dead(number), mandatory=False))
            publishing.sync()
            delivery.ack()
            channel.sync()
    finally:
        connection.close()


def test_an_operator_and_a_second_server_share_the_letters_of_one_filter(scene: Scene) -> None:
    scene.prepare("requeue", scene.desk)
    wanted = Filter(text='": 1')
    one, other = scene.desk, scene.desk
    moves = [
        gevent.spawn(one.requeue, APP, wanted),
        gevent.spawn(other.delete, APP, wanted),
        gevent.spawn(other.requeue, APP, wanted, limit=100),
    ]
    gevent.joinall(moves, raise_error=True)
    matching = sum('": 1' in json.dumps({"id": number}) for number in range(COUNT))
    assert sum(each.value.count for each in moves) == matching
    assert_none_lost(scene.numbers(), doubles=0)
