"""200 applications with 30 handlers: 6,000 bindings at the start, none in the way later."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from scripts.rabbitmq_node import RabbitNode
from tests.support.hub import Hub
from tests.support.proxy import Proxy
from tests.support.vhost import Vhost
from tests.support.waiting import quickest, wait_until

Serve = Callable[..., Hub]

APPLICATIONS = [f"tenant{number:03}" for number in range(200)]
HANDLERS = 30


LATENCY = 0.03
"""Seconds to the broker: to wait for the answer to each binding would take two minutes."""


@pytest.fixture
def far(killable_vhost: Vhost) -> Iterator[str]:
    """The URL of a broker that is far away."""
    with Proxy(killable_vhost.url) as proxy:
        proxy.latency = LATENCY
        yield proxy.url


@pytest.mark.timeout(600)  # 6,000 bindings take a busy broker a minute
def test_two_hundred_applications_wait_for_few_answers_and_are_back_within_2_s_of_the_broker(
    killable_node: RabbitNode, killable_vhost: Vhost, far: str, serve: Serve
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

    def seconds_until_ready() -> float:
        started = time.monotonic()
        wait_until(lambda: not hub.server.missing(), 200, "all groups to consume")
        return time.monotonic() - started

    def death() -> float:
        killable_node.kill()
        wait_until(lambda: len(hub.server.missing()) == 3, message="three groups without a broker")
        killable_node.start()
        return seconds_until_ready()

    hub = serve({"solution-x": register}, toml, url=far, ready=False)
    print(f"ready after {seconds_until_ready():.1f} s")
    assert len(killable_vhost.bindings()) == len(APPLICATIONS) * HANDLERS
    killable_node.settle()
    back = quickest(death, 2)
    print(f"back after {back:.2f} s")
    assert back < 2
    for number in (0, 15, 29):
        hub.publish(f"scale.{number}.x", {}, application=APPLICATIONS[number])
    expected = {
        (APPLICATIONS[number], f"lime.event_handler.solution-x.handler{number:02}")
        for number in (0, 15, 29)
    }
    wait_until(lambda: set(seen) == expected)
