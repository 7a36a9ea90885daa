"""Every row of the settlement table, on a real broker."""

from __future__ import annotations

import contextlib
import struct
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import gevent
import pika
import pytest
from gevent.event import Event as Signal
from pika.adapters.blocking_connection import BlockingChannel

from limehub import Discard, Event, Reject, Retry
from limehub.workers import fates
from tests.support.embedded_node import EmbeddedNode, only_rabbitmq
from tests.support.hub import Hub
from tests.support.vhost import Vhost
from tests.support.waiting import wait_until

QUEUE = "lime.event_handler.solution-x.handler"
DLQ = "lime.event_handler.solution-x.dlq"
CATCH = "[event_handler]\ncatch_handler_exceptions = true\nprefetch_count = 10\n"

Start = Callable[..., Hub]


@pytest.fixture
def start(vhost: Vhost, tmp_path: Path) -> Iterator[Start]:
    """Start a hub with one handler, bound to `t.#`."""
    with contextlib.ExitStack() as running:

        def begin(handler: Callable[..., Any], toml: str = CATCH, **options: Any) -> Hub:
            def register(worker: Any, _config: Any) -> None:
                worker.register_event_handler(handler, "t.#", "handler", **options)

            hub = Hub(vhost.url, tmp_path, plugins={"solution-x": register}, toml=toml)
            return running.enter_context(hub)

        yield begin


def outcomes(hub: Hub) -> dict[str, int]:
    return {str(k): v for k, v in hub.server._plans["default"][0].handler.stats.outcomes.items()}


def settled(hub: Hub, vhost: Vhost, *, in_dlq: int) -> dict[str, Any]:
    """Wait until the handler's queue is empty and the DLQ holds *in_dlq*."""

    def quiet() -> bool:
        queues = vhost.queues()
        return (
            queues[QUEUE]["ready"] + queues[QUEUE]["unacked"] == 0
            and queues[DLQ]["ready"] == in_dlq
        )

    wait_until(quiet, message=f"the queue to be empty and {in_dlq} dead letters")
    return outcomes(hub)


def dead_letter(amqp: BlockingChannel) -> tuple[pika.BasicProperties, bytes]:
    method, properties, body = amqp.basic_get(DLQ, auto_ack=True)
    assert method is not None, "the dead letter queue is empty"
    return properties, body


def test_a_handler_that_returns_is_acked_after_it_returned(start: Start, vhost: Vhost) -> None:
    release = gevent.event.Event()
    seen: list[Any] = []

    def handler(body: Any) -> None:
        seen.append(body)
        release.wait()

    hub = start(handler)
    hub.publish("t.a", {"id": 1})
    wait_until(lambda: seen == [{"id": 1}])
    assert vhost.queues()[QUEUE]["unacked"] == 1
    release.set()
    assert settled(hub, vhost, in_dlq=0) == {"ack": 1}


def test_an_exception_is_dead_lettered_with_its_whole_story(
    start: Start, vhost: Vhost, amqp: BlockingChannel
) -> None:
    def handler(body: Any) -> None:
        raise KeyError(f"no field in {body}")

    hub = start(handler)
    hub.publish("t.a", {"id": 1}, headers={"mine": "kept"}, message_id="m-1")
    assert settled(hub, vhost, in_dlq=1) == {"dead-letter": 1}
    properties, body = dead_letter(amqp)
    headers = properties.headers
    assert body == b'{"id": 1}'
    assert properties.message_id == "m-1"
    assert properties.delivery_mode == 2
    assert properties.expiration == "2592000000"
    assert headers["mine"] == "kept"
    assert headers["x-limehub-exchange"] == "lime.default"
    assert headers["x-limehub-routing-key"] == "t.a"
    assert headers["x-limehub-queue"] == QUEUE
    assert headers["x-limehub-handler"] == "solution-x.handler"
    assert headers["x-limehub-exception-type"] == "KeyError"
    assert "no field in" in headers["x-limehub-exception-text"]
    assert "raise KeyError" in headers["x-limehub-traceback"]
    assert "limehub/workers" not in headers["x-limehub-traceback"]
    assert "in handler" in headers["x-limehub-where"]
    assert headers["x-limehub-attempts"] == 1
    assert headers["x-limehub-reason"] == "exception"
    assert len(headers["x-limehub-id"]) == 36


@pytest.mark.parametrize(
    "error",
    [
        SystemExit(3),
        KeyboardInterrupt(),
        gevent.GreenletExit(),
        gevent.Timeout(1),
        RecursionError("deep"),
        MemoryError(),
        BaseException("base"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_a_handler_raises_is_its_failure(
    start: Start, vhost: Vhost, error: BaseException
) -> None:
    def handler(body: Any) -> None:
        raise error

    hub = start(handler)
    hub.publish("t.a", {})
    assert settled(hub, vhost, in_dlq=1) == {"dead-letter": 1}


def test_a_timeout_that_one_event_leaves_running_fails_no_other(start: Start, vhost: Vhost) -> None:
    runs: list[str] = []
    both_there = Signal()

    def handler(body: Any) -> None:
        runs.append(body["do"])
        if body["do"] == "leave":
            both_there.wait()
            gevent.Timeout(4).start()
            gevent.sleep(2)
        elif runs.count("wait") == 1:
            gevent.sleep(10)

    hub = start(handler, f"{CATCH}[event_handler.workers.default]\nconcurrency = 1\n")
    for do in ("leave", "wait"):
        hub.publish("t.a", {"do": do})
    both_there.set()
    settled(hub, vhost, in_dlq=0)
    assert outcomes(hub) == {"ack": 2}
    assert runs == ["leave", "wait", "wait"]


def test_a_retry_that_waits_here_counts_its_attempts_and_ends_in_the_dead_letters(
    start: Start, vhost: Vhost, amqp: BlockingChannel
) -> None:
    attempts: list[int] = []

    def handler(event: Event) -> None:
        attempts.append(event.attempt)
        raise ValueError("again")

    hub = start(handler, retry=[0.05, 0.05])
    hub.publish("t.a", {})
    assert settled(hub, vhost, in_dlq=1) == {"retry": 2, "dead-letter": 1}
    assert attempts == [1, 2, 3]
    properties, _ = dead_letter(amqp)
    assert properties.headers["x-limehub-attempts"] == 3
    assert properties.headers["x-limehub-reason"] == "retries-exhausted"


def test_a_long_retry_waits_in_a_queue_of_the_broker_and_comes_back_with_its_tenant(
    start: Start, vhost: Vhost
) -> None:
    events: list[tuple[int, str, str, str]] = []

    def handler(event: Event) -> None:
        events.append((event.attempt, event.application, event.exchange, event.routing_key))
        if event.attempt == 1:
            raise Retry(11)

    hub = start(handler)
    hub.publish("t.a", {})
    retry_queue = f"{QUEUE}.retry.15"
    wait_until(lambda: vhost.queues().get(retry_queue, {}).get("ready") == 1)
    assert vhost.queues()[retry_queue]["arguments"]["x-message-ttl"] == 15000
    wait_until(lambda: vhost.depth(QUEUE) == 0)
    wait_until(lambda: len(events) == 2, 60)
    first, second = events
    assert first == (1, "default", "lime.default", "t.a")
    assert second == (2, "default", "lime.default", "t.a")
    assert settled(hub, vhost, in_dlq=0) == {"retry": 1, "ack": 1}


def test_reject_goes_to_the_dead_letters_even_under_the_policy_crash(
    start: Start, vhost: Vhost, amqp: BlockingChannel
) -> None:
    def handler(body: Any) -> None:
        raise Reject("not ours")

    hub = start(handler, toml="")
    hub.publish("t.a", {})
    assert settled(hub, vhost, in_dlq=1) == {"dead-letter": 1}
    properties, _ = dead_letter(amqp)
    assert properties.headers["x-limehub-reason"] == "rejected"
    assert properties.headers["x-limehub-exception-text"] == "not ours"


def test_discard_is_acked_and_leaves_nothing(start: Start, vhost: Vhost) -> None:
    def handler(body: Any) -> None:
        raise Discard("seen before")

    hub = start(handler, toml="")
    hub.publish("t.a", {})
    assert settled(hub, vhost, in_dlq=0) == {"discard": 1}


def test_message_reject_of_limes_form_deletes_nothing(
    start: Start, vhost: Vhost, amqp: BlockingChannel
) -> None:
    def handler(worker: Any, body: Any, message: Any) -> None:
        message.reject()

    hub = start(handler, toml="")
    hub.publish("t.a", {"id": 1})
    assert settled(hub, vhost, in_dlq=1) == {"dead-letter": 1}
    assert dead_letter(amqp)[1] == b'{"id": 1}'


def test_message_requeue_comes_back_at_once_and_then_slower(
    start: Start, vhost: Vhost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fates, "REQUEUE_WINDOW", 60.0)  # a broker may take long to give it again
    times: dict[int, list[float]] = defaultdict(list)

    def handler(worker: Any, body: Any, message: Any) -> None:
        runs = times[body["id"]]
        runs.append(time.monotonic())
        if len(runs) < body["runs"]:
            message.requeue()
        else:
            message.ack()

    hub = start(handler, toml="")
    for number, runs in enumerate((2, 2, 4)):
        hub.publish("t.a", {"id": number, "runs": runs})
    assert settled(hub, vhost, in_dlq=0) == {"requeue": 5, "ack": 3}
    assert min(second - first for first, second, *_ in times.values()) < 0.9
    _, slower, slower_still = (later - earlier for earlier, later in pairwise(times[2]))
    assert slower > 0.9
    assert slower_still > 1.9


def test_an_unsettled_manual_event_stays_open_and_can_be_acked_later(
    start: Start, vhost: Vhost
) -> None:
    messages: list[Any] = []

    def handler(worker: Any, body: Any, message: Any) -> None:
        messages.append(message)

    hub = start(handler)
    hub.publish("t.a", {})
    wait_until(lambda: outcomes(hub) == {"open": 1})
    assert hub.server.groups[0].status()["open"] == 1
    assert vhost.queues()[QUEUE]["unacked"] == 1
    messages[0].ack()
    assert settled(hub, vhost, in_dlq=0) == {"open": 1}
    assert hub.server.groups[0].status()["open"] == 0


def test_a_manual_event_rejected_after_the_return_is_dead_lettered(
    start: Start, vhost: Vhost
) -> None:
    messages: list[Any] = []

    def handler(worker: Any, body: Any, message: Any) -> None:
        messages.append(message)

    hub = start(handler)
    hub.publish("t.a", {})
    wait_until(lambda: len(messages) == 1 and outcomes(hub) == {"open": 1})
    messages[0].reject()
    settled(hub, vhost, in_dlq=1)


@pytest.mark.parametrize("early", [True, False], ids=["early", "point-of-no-return"])
def test_a_failure_after_the_ack_leaves_a_copy_in_the_dead_letters(
    start: Start, vhost: Vhost, amqp: BlockingChannel, early: bool
) -> None:
    def handler(event: Event) -> None:
        if not early:
            event.ack()
        raise ValueError("too late")

    hub = start(handler, **({"ack": "early"} if early else {}))
    hub.publish("t.a", {"id": 1})
    assert settled(hub, vhost, in_dlq=1) == {"dead-letter": 1}
    properties, body = dead_letter(amqp)
    assert properties.headers["x-limehub-reason"] == "after-ack"
    assert body == b'{"id": 1}'


def test_settling_twice_is_an_error_of_the_handler(start: Start, vhost: Vhost) -> None:
    errors: list[str] = []

    def handler(worker: Any, body: Any, message: Any) -> None:
        message.ack()
        try:
            message.ack()
        except Exception as error:
            errors.append(type(error).__name__)

    hub = start(handler)
    hub.publish("t.a", {})
    assert settled(hub, vhost, in_dlq=0) == {"ack": 1}
    assert errors == ["AlreadySettled"]


UNDECODABLE = [
    (b"", "application/json", None),
    (b"null", "application/json", None),
    (b"{", None, None),
    (b'{"a": NaN}', "application/json", None),
    (b'{"a": 1, "a": 2}', "application/json", None),
    (b"[" * 100_000, "application/json", None),
    (b'{"n": ' + b"9" * 5000 + b"}", "application/json", None),
    (b"\xff\xfe", "application/json", "utf-8"),
    (b"{}", "application/x-python-serialize", None),
    (b"{}", "application/json", "no-such-charset"),
    (b"not gzip", "application/json", "gzip"),
]


def test_undecodable_bodies_go_to_the_dead_letters_byte_for_byte(
    start: Start, vhost: Vhost, amqp: BlockingChannel
) -> None:
    ran: list[Any] = []
    hub = start(ran.append, toml="[event_handler]\nprefetch_count = 20\n", retry=[0.01])
    for body, content_type, encoding in UNDECODABLE:
        properties = pika.BasicProperties(content_type=content_type, content_encoding=encoding)
        amqp.basic_publish("lime.default", "t.a", body, properties, mandatory=True)
    assert settled(hub, vhost, in_dlq=len(UNDECODABLE)) == {"dead-letter": len(UNDECODABLE)}
    assert ran == []
    letters = [dead_letter(amqp) for _ in UNDECODABLE]
    assert sorted(body for _, body in letters) == sorted(body for body, _, _ in UNDECODABLE)
    assert {p.headers["x-limehub-reason"] for p, _ in letters} == {"undecodable"}


def test_hostile_headers_pass_through_the_dead_letters(
    start: Start, vhost: Vhost, amqp: BlockingChannel
) -> None:
    def handler(body: Any) -> None:
        raise ValueError("no")

    hub = start(handler)
    headers = {
        "CC": ["elsewhere"],
        "x-limehub-exchange": "lime.other-tenant",
        "x-death": [{"count": 1}],
        "nested": {"list": [1, {"deep": b"\xff"}], "none": None},
        "k" * 128: "long key",
        "script": "<script>alert(1)</script>\r\nforged",
        "huge": "x" * 60_000,
    }
    properties = pika.BasicProperties(
        headers=headers, user_id="guest", expiration="60000", content_type="application/json"
    )
    amqp.queue_declare("elsewhere")
    amqp.basic_publish("lime.default", "t.a", b"{}", properties, mandatory=True)
    assert settled(hub, vhost, in_dlq=1) == {"dead-letter": 1}
    letter, _ = dead_letter(amqp)
    kept = letter.headers
    assert "CC" not in kept
    assert kept["x-limehub-original-CC"] == ["elsewhere"]
    assert kept["x-limehub-exchange"] == "lime.default"
    assert kept["x-limehub-original-x-limehub-exchange"] == "lime.other-tenant"
    assert kept["x-limehub-user-id"] == "guest"
    assert kept["x-limehub-expiration"] == "60000"
    assert letter.user_id is None
    assert kept["nested"]["list"] == [1, {"deep": b"\xff"}]
    assert len(kept["huge"]) == 60_000
    assert amqp.basic_get("elsewhere", auto_ack=True)[0] is None


def test_the_largest_body_that_the_broker_takes_is_handled(
    start: Start, vhost: Vhost, amqp: BlockingChannel
) -> None:
    sizes: list[int] = []

    def handler(event: Event) -> None:
        sizes.append(len(event.raw_body))

    hub = start(handler)
    body = b'"' + b"x" * (min(vhost.largest_body, 100 * 1024 * 1024) - 2) + b'"'
    amqp.basic_publish("lime.default", "t.a", body, mandatory=True)
    wait_until(lambda: sizes == [len(body)], 60)
    assert settled(hub, vhost, in_dlq=0) == {"ack": 1}


def test_two_equal_events_without_an_id_are_two_runs(
    start: Start, vhost: Vhost, amqp: BlockingChannel
) -> None:
    seen: list[Event] = []

    def handler(event: Event) -> None:
        seen.append(event)

    hub = start(handler)
    for _ in range(2):
        amqp.basic_publish("lime.default", "t.a", b'{"id": 1}', mandatory=True)
    assert settled(hub, vhost, in_dlq=0) == {"ack": 2}
    assert [event.id for event in seen] == [None, None]
    assert seen[0].fingerprint == seen[1].fingerprint


class RawProperties(pika.BasicProperties):
    """Properties as bytes on the wire that pika itself would never write."""

    def __init__(self, raw: bytes) -> None:
        super().__init__()
        self.raw = raw

    def encode(self) -> list[bytes]:
        return [self.raw]


def _headers(table: bytes) -> bytes:
    return struct.pack(">HI", 1 << 13, len(table)) + table


def _nested(depth: int) -> bytes:
    table = b""
    for _ in range(depth):
        table = b"\x01nF" + struct.pack(">I", len(table)) + table
    return table


IN_MILLISECONDS = _headers(b"\x01tT" + struct.pack(">Q", 1_763_720_000_000))
NESTED = _headers(_nested(3000))


@pytest.mark.parametrize(
    "raw", [IN_MILLISECONDS, NESTED], ids=["timestamp-in-milliseconds", "nested-3000-deep"]
)
def test_properties_that_cannot_be_read_cost_their_message_and_not_the_connection(
    start: Start, vhost: Vhost, amqp: BlockingChannel, raw: bytes
) -> None:
    if raw is NESTED and isinstance(vhost.node, EmbeddedNode):
        only_rabbitmq("headers nested 3,000 deep")
    seen: list[Any] = []

    def handler(event: Event) -> None:
        _ = event.headers
        seen.append(event.body)

    hub = start(handler)
    amqp.basic_publish("lime.default", "t.a", b'{"id": 1}', RawProperties(raw), mandatory=True)
    hub.publish("t.a", {"id": 2})
    assert settled(hub, vhost, in_dlq=1) == {"dead-letter": 1, "ack": 1}
    assert seen == [{"id": 2}]
    assert hub.server.groups[0].reconnects == 0
    properties, body = dead_letter(amqp)
    assert body == b'{"id": 1}'
    assert properties.headers["x-limehub-reason"] == "undecodable"
    assert properties.headers["x-limehub-original-properties"] == raw


def test_a_handler_that_needs_no_properties_runs_on_ones_that_cannot_be_read(
    start: Start, vhost: Vhost, amqp: BlockingChannel
) -> None:
    seen: list[Any] = []
    hub = start(seen.append)
    amqp.basic_publish("lime.default", "t.a", b'{"id": 1}', RawProperties(IN_MILLISECONDS))
    assert settled(hub, vhost, in_dlq=0) == {"ack": 1}
    assert seen == [{"id": 1}]


def test_a_handlers_own_timeout_around_a_publish_disturbs_nobody(
    start: Start, vhost: Vhost
) -> None:
    caught: list[str] = []

    def handler(event: Event, publisher: Any) -> None:
        try:
            with gevent.Timeout(0.000001):
                for _ in range(100):
                    publisher.publish("nobody", {}, mandatory=False)
        except gevent.Timeout:
            caught.append("timeout")
        publisher.publish("nobody", {}, mandatory=False)

    hub = start(handler)
    hub.publish("t.a", {})
    assert settled(hub, vhost, in_dlq=0) == {"ack": 1}
    assert caught == ["timeout"]
