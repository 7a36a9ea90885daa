"""Five hundred reconnects leave nothing behind: no descriptor, thread, greenlet or memory."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from attrs import frozen
from greenlet import greenlet

from tests.support.hub import Hub
from tests.support.proxy import Proxy
from tests.support.serving import handles, publish_all
from tests.support.waiting import wait_until

Serve = Callable[..., Hub]

MIB = 1024 * 1024
BREATH = 10
"""Of each kind so many come and go: threads of the hub's pool, a guard process that is replaced."""

TWO_GROUPS = '[event_handler.workers.one]\nqueue_prefix = "app-one"\n'


@frozen(kw_only=True)
class Held:
    """What this process holds. *memory*: resident bytes."""

    descriptors: int
    threads: int
    greenlets: int
    memory: int

    @classmethod
    def now(cls) -> Held:
        gc.collect()
        # By type: `isinstance` asks a proxy for its object, and raises if that is gone.
        greenlets = [each for each in gc.get_objects() if issubclass(type(each), greenlet)]
        living = sum(not each.dead for each in greenlets)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return cls(
            descriptors=sum(1 for _ in Path("/proc/self/fd").iterdir()),
            threads=sum(1 for _ in Path("/proc/self/task").iterdir()),
            greenlets=living,
            memory=pages * os.sysconf("SC_PAGE_SIZE"),
        )

    def is_no_more_than(self, before: Held) -> bool:
        """Whether nothing was left since *before*, not even by one reconnect in forty."""
        return (
            self.descriptors < before.descriptors + BREATH
            and self.threads < before.threads + BREATH
            and self.greenlets < before.greenlets + BREATH
            and self.memory - before.memory < 5 * MIB
        )


def reconnect(hub: Hub, proxy: Proxy, times: int) -> None:
    """Lose the connections of both groups *times* times, each time from ready to ready."""
    groups = hub.server.groups
    for _ in range(times):
        before = [group.reconnects for group in groups]
        proxy.reset()
        wait_until(
            lambda b=before: all(g.reconnects > n for g, n in zip(groups, b, strict=True)),
            interval=0.002,
        )
        wait_until(lambda: not hub.server.missing(), interval=0.002)


def come_to_rest(hub: Hub, proxy: Proxy, seen: set[tuple[str, int]]) -> None:
    """Wait until new events have been handled and the proxy has ended the links of lost ones."""
    seen.clear()
    publish_all(hub.publisher, "t.a", range(20))
    wait_until(lambda: len(seen) == 40, message="both groups to handle events")
    wait_until(lambda: proxy.open == 3, message="two groups and the publisher to be connected")


@pytest.mark.timeout(600)
def test_five_hundred_reconnects_leave_nothing_behind(
    serve: Serve, proxy: Proxy, caplog: pytest.LogCaptureFixture, soak: bool
) -> None:
    caplog.set_level(logging.CRITICAL, "")  # pytest would keep every line that is logged
    seen: set[tuple[str, int]] = set()
    plugins = {
        name: handles(lambda body, app=name: seen.add((app, body)))
        for name in ("app-one", "app-two")
    }
    hub = serve(plugins, TWO_GROUPS, url=proxy.url)
    reconnect(hub, proxy, 50)
    come_to_rest(hub, proxy, seen)
    before = Held.now()
    reconnect(hub, proxy, 5000 if soak else 450)
    come_to_rest(hub, proxy, seen)
    print(f"before {before}")

    def is_as_before() -> bool:
        print(f"after  {(after := Held.now())}")
        return after.is_no_more_than(before)

    wait_until(is_as_before, interval=0.5)
