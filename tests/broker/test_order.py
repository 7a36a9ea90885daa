"""`order`: one at a time per queue, per object, or free; retries do not break it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent.event import Event as Signal

from limehub import Event
from limehub.workers.schedule import Order
from tests.support.hub import Hub
from tests.support.serving import APP, DLQ, QUEUE, handles
from tests.support.vhost import Vhost
from tests.support.waiting import wait_until

Serve = Callable[..., Hub]

WIDE = "[event_handler]\nprefetch_count = 50\ncatch_handler_exceptions = true\n"


def deal(identity: int, step: int, **values: Any) -> dict[str, Any]:
    return {"id": identity, "limetype": "deal", "step": step, **values}


def test_order_queue_runs_one_at_a_time_in_order_even_over_a_retry(
    serve: Serve, vhost: Vhost
) -> None:
    runs: list[tuple[int, int]] = []
    running = most = 0

    def handler(event: Event) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        runs.append((event.body["n"], event.attempt))
        gevent.sleep(0.001)
        running -= 1
        if event.body["n"] in (0, 7) and event.attempt < 3:
            raise ValueError("not yet")

    hub = serve({APP: handles(handler, order="queue", retry=[0.05, 0.1])}, WIDE)
    for number in range(20):
        hub.publish("t.a", {"n": number})
    wait_until(lambda: len(runs) == 24)
    wait_until(lambda: vhost.depth(QUEUE) == 0)
    again = [(n, attempt) for n in range(20) for attempt in ((1, 2, 3) if n in (0, 7) else (1,))]
    assert runs == again
    assert most == 1


def test_limes_form_runs_one_at_a_time_unless_it_says_otherwise(serve: Serve) -> None:
    running = most = 0
    seen: list[int] = []

    def handler(worker: Any, body: Any, message: Any) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        gevent.sleep(0.002)
        seen.append(body["n"])
        running -= 1
        message.ack()

    hub = serve({APP: handles(handler)}, WIDE)
    for number in range(20):
        hub.publish("t.a", {"n": number})
    wait_until(lambda: len(seen) == 20)
    assert (seen, most) == (list(range(20)), 1)


def test_order_object_keeps_each_objects_order_while_objects_pass_each_other(
    serve: Serve, vhost: Vhost
) -> None:
    runs: list[tuple[int, int]] = []
    running: set[int] = set()
    b_is_through = Signal()

    def handler(event: Event) -> None:
        body = event.body
        assert body["id"] not in running, "two events of one object side by side"
        running.add(body["id"])
        if body == deal(1, 0):
            b_is_through.wait()
        gevent.sleep(0.001 * (body["step"] % 3))
        running.discard(body["id"])
        if body == deal(2, 3) and event.attempt == 1:
            raise ValueError("once")
        runs.append((body["id"], body["step"]))
        if body == deal(2, 9):
            b_is_through.set()

    hub = serve({APP: handles(handler, order="object", retry=[0.1])}, WIDE)
    for step in range(10):
        for identity in (1, 2):
            hub.publish("t.a", deal(identity, step))
    wait_until(lambda: len(runs) == 20, message="object 2 to pass object 1, which waits for it")
    assert runs == [(2, step) for step in range(10)] + [(1, step) for step in range(10)]
    wait_until(lambda: vhost.depth(QUEUE) == 0)


def test_an_event_settled_late_does_not_end_the_turn_of_the_next_one_of_its_object(
    serve: Serve, vhost: Vhost
) -> None:
    running, most = 0, 0
    open_one: list[Any] = []
    release = Signal()

    def handler(worker: Any, body: Any, message: Any) -> None:
        nonlocal running, most
        if body["step"] == 0:
            open_one.append(message)
            return
        running += 1
        most = max(most, running)
        release.wait()
        running -= 1
        message.ack()

    hub = serve({APP: handles(handler, order="object")}, WIDE)
    for step in range(3):
        hub.publish("t.a", deal(1, step))
    wait_until(lambda: running == 1)
    open_one[0].reject()
    wait_until(lambda: vhost.depth(DLQ) == 1)
    assert running == 1
    release.set()
    wait_until(lambda: vhost.depth(QUEUE) == 0)
    assert most == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("acme", deal(1, 0)), ("globex", deal(1, 0))),
        (("acme", deal(1, 0)), ("acme", {"id": 1, "limetype": "person"})),
        (("acme", {"text": "no object"}), ("acme", {"text": "no object"})),
    ],
    ids=["same-id-of-another-tenant", "same-id-of-another-limetype", "no-object"],
)
def test_order_object_holds_back_nothing_else(
    serve: Serve, one: tuple[str, Any], other: tuple[str, Any]
) -> None:
    running = 0
    release = Signal()

    def handler(body: Any) -> None:
        nonlocal running
        running += 1
        release.wait()

    toml = f'applications = ["acme", "globex"]\n{WIDE}'
    hub = serve({APP: handles(handler, order="object")}, toml)
    for application, body in (one, other):
        hub.publish("t.a", body, application=application)
    wait_until(lambda: running == 2, message="both to run side by side")
    release.set()


@pytest.mark.parametrize("order", ["none", None])
def test_free_handlers_run_side_by_side(serve: Serve, order: Order | None) -> None:
    running = 0
    release = Signal()

    def handler(body: Any) -> None:
        nonlocal running
        running += 1
        release.wait()

    hub = serve({APP: handles(handler, order=order)}, WIDE)
    for number in range(10):
        hub.publish("t.a", deal(1, number))
    wait_until(lambda: running == 10, message="ten events of one object to run side by side")
    release.set()
