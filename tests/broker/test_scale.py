"""200 applications with 30 handlers: 6,000 bindings at the start, none in the way later."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from scripts.rabbitmq_node import RabbitNode
from tests.support.hub import Hub
from tests.support.vhost import Vhost
from tests.support.waiting import wait_until

Serve = Callable[..., Hub]

APPLICATIONS = [f"tenant{number:03}" for number in range(200)]
HANDLERS = 30


def test_two_hundred_applications_are_ready_in_15_s_and_back_within_2_s_of_the_broker(
    killable_node: RabbitNode, killable_vhost: Vhost, serve: Serve
) -> None:
    seen: list[tuple[str, str]] = []

    def register(worker: Any, _config: Any) -> None:
        for number in range(HANDLERS):
            worker.register_event_handler(
                lambda event: seen.append((event.application, event.queue)),
                f"scale.{number}.#",
                f"handler{number:02}",
            )

    toml = (
        f"applications = {APPLICATIONS}\n"
        '[event_handler.workers.a]\nqueue_prefix = "solution-x.handler0"\n'
        '[event_handler.workers.b]\nqueue_prefix = "solution-x.handler1"\n'
    )
    started = time.monotonic()
    hub = serve({"solution-x": register}, toml, url=killable_vhost.url, ready=False)
    wait_until(lambda: not hub.server.missing(), 15, "ready")
    print(f"ready after {time.monotonic() - started:.1f} s")
    assert len(killable_vhost.bindings()) == len(APPLICATIONS) * HANDLERS

    killable_node.settle()
    killable_node.kill()
    wait_until(lambda: len(hub.server.missing()) == 3, message="three groups without a broker")
    killable_node.start()
    back = time.monotonic()
    wait_until(lambda: not hub.server.missing(), 2, "all groups consume again")
    print(f"back after {time.monotonic() - back:.2f} s")

    for number in (0, 15, 29):
        hub.publish(f"scale.{number}.x", {}, application=APPLICATIONS[number])
    expected = {
        (APPLICATIONS[number], f"lime.event_handler.solution-x.handler{number:02}")
        for number in (0, 15, 29)
    }
    wait_until(lambda: set(seen) == expected)
