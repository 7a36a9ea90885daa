"""Worker groups: a slow one delays no other; prefetch and concurrency are two things."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gevent.event import Event as Signal
from gevent.lock import Semaphore

from limehub.config import Loaded, load
from limehub.server import ServeOptions
from tests.support.hub import Hub
from tests.support.serving import APP, QUEUE, handles, publish_all, queue_of, together
from tests.support.vhost import Vhost
from tests.support.waiting import wait_until

Serve = Callable[..., Hub]

WEBHOOKS = "lime.event_handler.lime-webhooks.handler"


class Peak:
    """A handler that counts how many of it run side by side, and ends when told to."""

    def __init__(self) -> None:
        self.running = self.most = self.done = 0
        self.permits = Semaphore(0)

    def __call__(self, body: Any) -> None:
        self.running += 1
        self.most = max(self.most, self.running)
        self.permits.acquire()
        self.running -= 1
        self.done += 1

    def let(self, number: int) -> None:
        """Let *number* runs end."""
        for _ in range(number):
            self.permits.release()


def latencies(hub: Hub, arrived: list[float], count: int) -> float:
    """Publish *count* events one after the other; the least seconds until a handler ran."""
    arrived.clear()
    for _ in range(count):
        hub.publish("client.click", {"sent": time.perf_counter()})
    wait_until(lambda: len(arrived) == count)
    return min(arrived)


@pytest.mark.parametrize("prefetch", [1, 10])
def test_slow_webhooks_do_not_delay_the_web_client(
    serve: Serve, vhost: Vhost, prefetch: int
) -> None:
    arrived: list[float] = []
    webhook = Peak()
    plugins = {
        "lime-webhooks": handles(webhook, "hook.#"),
        "lime_webclient": handles(
            lambda body: arrived.append(time.perf_counter() - body["sent"]), "client.#"
        ),
    }
    toml = f"""
        [event_handler.workers.webhooks]
        queue_prefix = "lime-webhooks"
        prefetch_count = {prefetch}
        [event_handler.workers.webclient]
        queue_prefix = "lime_webclient"
        prefetch_count = 1000
    """
    hub = serve(plugins, toml)
    quiet = latencies(hub, arrived, 100)
    publish_all(hub.publisher, "hook.call", range(300))
    wait_until(lambda: webhook.running == prefetch)
    busy = latencies(hub, arrived, 100)
    backlog = vhost.queues()[WEBHOOKS]
    print(f"latency: {quiet * 1000:.1f} ms alone, {busy * 1000:.1f} ms beside the backlog")
    assert (backlog["ready"], backlog["unacked"]) == (300 - prefetch, prefetch)
    assert busy < 3 * max(quiet, 0.003)  # below 3 ms the ratio measures the machine's mood
    webhook.let(300)


def test_two_slow_queues_of_one_group_share_it_fairly(serve: Serve) -> None:
    runs: list[str] = []
    gate = Signal()

    def handler(name: str) -> Callable[[Any], None]:
        def run(body: Any) -> None:
            gate.wait()
            runs.append(name)

        return run

    plugins = {
        APP: together(handles(handler("a"), "a", "one"), handles(handler("b"), "b", "other"))
    }
    toml = "[event_handler]\nprefetch_count = 100\nworkers.default.concurrency = 1\n"
    hub = serve(plugins, toml)
    publish_all(hub.publisher, "a", range(100))
    publish_all(hub.publisher, "b", range(20))
    wait_until(lambda: hub.server.groups[0].status()["waiting"] == 119)
    gate.set()
    wait_until(lambda: len(runs) == 120)
    assert runs[:42].count("b") == 20, "they take turns until one is empty"


def test_a_group_whose_supervisor_was_killed_ends_the_server(serve: Serve) -> None:
    hub = serve({APP: handles(print)})
    hub.server.groups[0]._supervisor.kill()
    assert hub.server._ending.requested.wait(30)
    assert "supervisor" in str(hub.server._ending.error)


def test_concurrency_limits_how_many_handlers_run_at_once(serve: Serve, vhost: Vhost) -> None:
    peak = Peak()
    hub = serve(
        {APP: handles(peak)},
        "[event_handler.workers.default]\nprefetch_count = 20\nconcurrency = 3\n",
    )
    publish_all(hub.publisher, "t.a", range(30))
    wait_until(lambda: vhost.queues()[QUEUE]["unacked"] == 20 and peak.running == 3)
    peak.let(30)
    wait_until(lambda: peak.done == 30)
    assert peak.most == 3


def test_concurrency_is_by_default_what_the_queues_of_the_group_may_hold(
    serve: Serve, vhost: Vhost
) -> None:
    peak = Peak()
    plugins = {APP: together(handles(peak, "t.#", "one"), handles(peak, "t.#", "other"))}
    hub = serve(plugins, "[event_handler]\nprefetch_count = 4\n")
    publish_all(hub.publisher, "t.a", range(10))
    wait_until(lambda: peak.running == 8)
    peak.let(20)
    wait_until(lambda: peak.done == 20)
    assert peak.most == 8


def test_prefetch_holds_per_queue_and_a_handlers_own_comes_first(
    serve: Serve, vhost: Vhost
) -> None:
    peak = Peak()
    plugins = {
        APP: together(
            handles(peak, "t.#", "of_the_group"),
            handles(peak, "t.#", "its_own", prefetch_count=5),
        )
    }
    toml = "[event_handler.workers.default]\nprefetch_count = 2\nconcurrency = 1\n"
    hub = serve(plugins, toml)
    publish_all(hub.publisher, "t.a", range(20))

    def held() -> dict[str, int]:
        queues = vhost.queues()
        return {name: queues[queue_of(name)]["unacked"] for name in ("of_the_group", "its_own")}

    wait_until(lambda: held() == {"of_the_group": 2, "its_own": 5})
    peak.let(40)
    wait_until(lambda: peak.done == 40)


@pytest.fixture
def reloading(tmp_path: Path, broker_url: str, caplog: pytest.LogCaptureFixture) -> ServeOptions:
    """Options of a server that reads its file again as `serve` does."""
    caplog.set_level(logging.WARNING)  # at the end it is what it was, whatever the file says
    environ = {"LIMEHUB_EVENTS__CONNECTION_STRING": broker_url, "LIMEHUB_WEB__BIND": "none"}

    def read() -> Loaded:
        return load(tmp_path / "limehub.toml", environ)

    return ServeOptions(reload=read)


def configured(prefetch: int, concurrency: int) -> str:
    return (
        "[event_handler.workers.default]\n"
        f"prefetch_count = {prefetch}\nconcurrency = {concurrency}\n"
    )


def test_prefetch_and_concurrency_change_on_a_live_consumer_and_no_event_is_lost(
    serve: Serve, vhost: Vhost, tmp_path: Path, reloading: ServeOptions
) -> None:
    peak = Peak()
    seen: Counter[int] = Counter()

    def handler(body: Any) -> None:
        seen[body] += 1
        peak(body)

    hub = serve({APP: handles(handler)}, configured(10, 4), options=reloading)
    publish_all(hub.publisher, "t.a", range(200))

    def settles_at(prefetch: int, concurrency: int) -> bool:
        return vhost.queues()[QUEUE]["unacked"] == prefetch and peak.running == concurrency

    wait_until(lambda: settles_at(10, 4))
    for prefetch, concurrency in [(3, 2), (25, 8), (1, 1), (7, 7)]:
        (tmp_path / "limehub.toml").write_text(configured(prefetch, concurrency))
        hub.server._reload()
        peak.let(40)  # what was held before the change counts until it is settled
        wait_until(lambda p=prefetch, c=concurrency: settles_at(p, c))
        assert vhost.queues()[QUEUE]["consumers"] == 1
    assert hub.server.groups[0].reconnects == 0
    peak.let(200)
    wait_until(lambda: peak.done == 200)
    assert seen == Counter(range(200)), "each event ran exactly once"
    wait_until(lambda: vhost.depth(QUEUE) == 0)
