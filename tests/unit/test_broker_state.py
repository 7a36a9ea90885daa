"""The embedded broker's state, without sockets and with a clock that the test turns."""

from __future__ import annotations

from typing import Any

import pika
import pytest
from attrs import define, field
from hypothesis import given
from hypothesis import strategies as st

from limehub.broker.state.backlog import Backlog
from limehub.broker.state.channel import Channel
from limehub.broker.state.confirms import Confirms
from limehub.broker.state.consumers import Consumer
from limehub.broker.state.message import Message, address_of, read_address
from limehub.broker.state.publication import Publication
from limehub.broker.state.store import NoStore
from limehub.broker.state.timers import Timers
from limehub.broker.state.topics import TopicTree
from limehub.broker.state.vhost import VirtualHost
from limehub.broker.tables import Field, longstr

PERSISTENT = b"\x10\x00\x02"


@define(eq=False)
class Client:
    """A connection and its outlet: what a client of the state sees."""

    user: str = "guest"
    congested: bool = False
    got: list[tuple[str, int, bytes]] = field(factory=list)
    returned: list[bytes] = field(factory=list)
    gone: list[str] = field(factory=list)

    def deliver(self, consumer: Consumer, tag: int, message: Message) -> None:
        self.got.append((consumer.tag, tag, message.body or b""))

    def give_back(self, publication: Publication) -> None:
        self.returned.append(publication.body)

    def cancelled(self, consumer: Consumer) -> None:
        self.gone.append(consumer.tag)

    def confirms_ready(self) -> None:
        """Asked for at the end of a turn."""


@define(eq=False)
class World:
    """A virtual host, the time in it, and one channel."""

    now: float = 1000.0
    client: Client = field(factory=Client)
    vhost: VirtualHost = field(init=False)
    channel: Channel = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.vhost = VirtualHost("/", store=NoStore(), timers=Timers(lambda: self.now))
        self.channel = Channel(self.vhost, self.client, self.client)

    def publish(self, key: str, body: bytes, raw: bytes = PERSISTENT) -> None:
        self.channel.publish(Publication("", key, address_of("", key), raw, body))
        self.vhost.settle()

    def advance(self, seconds: float) -> None:
        self.now += seconds
        self.vhost.timers.due()
        self.vhost.settle()

    def depth(self, name: str) -> int:
        return len(self.vhost.queues[name].backlog)


@pytest.fixture
def world() -> World:
    return World()


def test_time_expires_messages_at_the_head_only(world: World) -> None:
    world.vhost.declare_queue("q")
    world.publish("q", b"stays")
    raw = b"".join(pika.BasicProperties(expiration="5000").encode())
    world.publish("q", b"behind it", raw)
    world.advance(10)
    assert world.depth("q") == 2
    got = world.channel.get(world.vhost.queues["q"], no_ack=True)
    assert got is not None and got[1].body == b"stays"
    assert world.channel.get(world.vhost.queues["q"], no_ack=True) is None


def test_an_expired_message_goes_on_to_its_dead_letter_queue(world: World) -> None:
    world.vhost.declare_queue("dead")
    arguments = {
        "x-message-ttl": Field(b"I", 30_000),
        "x-dead-letter-exchange": longstr(""),
        "x-dead-letter-routing-key": longstr("dead"),
    }
    world.vhost.declare_queue("q", arguments=arguments)
    world.publish("q", b"x")
    world.advance(29)
    assert (world.depth("q"), world.depth("dead")) == (1, 0)
    world.advance(1)
    assert (world.depth("q"), world.depth("dead")) == (0, 1)


def test_a_queue_expires_when_nobody_used_it(world: World) -> None:
    world.vhost.declare_queue("q", arguments={"x-expires": Field(b"I", 60_000)})
    world.advance(50)
    world.vhost.declare_queue("q", arguments={"x-expires": Field(b"I", 60_000)})
    world.advance(50)
    consumer = world.channel.consume(world.vhost.queues["q"])
    world.advance(500)
    world.channel.cancel(consumer.tag)
    world.advance(59)
    assert "q" in world.vhost.queues
    world.advance(1)
    assert "q" not in world.vhost.queues


def test_dead_letters_of_the_strict_kind_wait_for_their_queue(world: World) -> None:
    arguments = {
        "x-queue-type": longstr("quorum"),
        "x-overflow": longstr("reject-publish"),
        "x-dead-letter-strategy": longstr("at-least-once"),
        "x-dead-letter-exchange": longstr(""),
        "x-dead-letter-routing-key": longstr("later"),
    }
    queue = world.vhost.declare_queue("q", durable=True, arguments=arguments)
    world.publish("q", b"x")
    got = world.channel.get(queue, no_ack=False)
    assert got is not None
    world.channel.nack(got[0], requeue=False)
    world.vhost.declare_queue("later")
    world.advance(10)
    assert (queue.unacked, world.depth("later")) == (0, 1)


def test_a_congested_client_gets_nothing_until_it_reads(world: World) -> None:
    world.vhost.declare_queue("q")
    world.channel.consume(world.vhost.queues["q"], tag="c")
    world.client.congested = True
    world.publish("q", b"x")
    assert world.client.got == []
    world.client.congested = False
    world.channel.wake_all()
    world.vhost.settle()
    assert world.client.got == [("c", 1, b"x")]


def test_deleting_a_queue_tells_its_consumers(world: World) -> None:
    world.vhost.declare_queue("q")
    world.channel.consume(world.vhost.queues["q"], tag="c")
    world.vhost.delete_queue("q", None)
    assert world.client.gone == ["c"]
    assert world.channel.consumers == {}


def test_routes_are_forgotten_when_bindings_change(world: World) -> None:
    queue = world.vhost.declare_queue("q")
    exchange = world.vhost.exchanges["amq.topic"]
    assert world.vhost.route(exchange, ["a.b"], PERSISTENT) == ()
    world.vhost.bind("amq.topic", queue, "a.#", {})
    assert world.vhost.route(exchange, ["a.b"], PERSISTENT) == (queue,)
    world.vhost.delete_queue("q", None)
    assert world.vhost.route(exchange, ["a.b"], PERSISTENT) == ()


WORDS = st.lists(st.sampled_from(["a", "b", ""]), max_size=4).map(".".join)
PATTERNS = st.lists(st.sampled_from(["a", "b", "", "*", "#"]), max_size=4).map(".".join)


def matches(pattern: list[str], words: list[str]) -> bool:
    """The definition, word by word."""
    if not pattern:
        return not words
    if pattern[0] == "#":
        return any(matches(pattern[1:], words[at:]) for at in range(len(words) + 1))
    return bool(words) and pattern[0] in ("*", words[0]) and matches(pattern[1:], words[1:])


@given(st.lists(PATTERNS, max_size=6), st.lists(PATTERNS, max_size=3), WORDS)
def test_the_tree_of_topics_matches_as_defined(stay: list[str], gone: list[str], key: str) -> None:
    tree: TopicTree[str] = TopicTree()
    for pattern in [*gone, *stay]:
        tree.add(pattern, pattern)
    for pattern in gone:
        tree.remove(pattern, pattern)
    words = key.split(".") if key else []
    expected = {one for one in stay if matches(one.split(".") if one else [], words)}
    assert set(tree.matches(key)) == expected


def test_many_wildcards_do_not_take_for_ever() -> None:
    tree: TopicTree[str] = TopicTree()
    tree.add(".".join("#" * 30), "x")
    tree.add(".".join(["#", "a"] * 15), "y")
    assert set(tree.matches(".".join("a" * 120))) == {"x", "y"}


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=30))
def test_the_backlog_keeps_priority_and_age(steps: list[tuple[int, bool]]) -> None:
    backlog, held, model = Backlog(3), [], []
    for number, (priority, take) in enumerate(steps):
        message = Message(number, b"", b"", b"", number, priority)
        backlog.push(message)
        model.append(message)
        if take:
            held.append(backlog.pop())
            model.remove(held[-1])
    for message in held[::2]:
        backlog.put_back(message)
        model.append(message)
    assert backlog.size == sum(message.size for message in model)
    model.sort(key=lambda message: (-min(message.priority, 3), message.number))
    assert [backlog.pop() for _ in range(len(backlog))] == model


@given(st.lists(st.tuples(st.integers(1, 60), st.booleans(), st.booleans()), max_size=60))
def test_every_publication_is_told_once_and_never_wrongly(
    steps: list[tuple[int, bool, bool]],
) -> None:
    confirms, settled, refused = Confirms(), set[int](), set[int]()
    told: dict[int, bool] = {}
    for _ in range(60):
        confirms.begin()
    for tag, accept, collect in steps:
        if tag not in settled | refused:
            (settled if accept else refused).add(tag)
            (confirms.settle if accept else confirms.refuse)(tag)
        if collect:
            _take(confirms, told)
    _take(confirms, told)
    assert {tag for tag, accepted in told.items() if accepted} == settled
    assert {tag for tag, accepted in told.items() if not accepted} == refused


def _take(confirms: Confirms, told: dict[int, bool]) -> None:
    for tag, multiple, refused in confirms.collect():
        tags: Any = [one for one in range(1, tag + 1) if one not in told] if multiple else [tag]
        for one in tags:
            assert told.setdefault(one, not refused) is not refused


def test_an_address_is_two_short_strings() -> None:
    assert read_address(address_of("ö", "a.b")) == ("ö", "a.b")
    assert read_address(address_of("", "")) == ("", "")
