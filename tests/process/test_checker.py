"""The checker: what was confirmed is handled, dead-lettered or still queued, whatever breaks."""

from __future__ import annotations

import contextlib
import json
import os
import random
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from attrs import define, field

from limehub import Publisher
from limehub.errors import BrokerError
from scripts.rabbitmq_node import RabbitNode
from tests.process.conftest import connected
from tests.support.probe import Probe
from tests.support.process import LimehubProcess, Workplace
from tests.support.vhost import Vhost
from tests.support.waiting import wait_until

CATCHING = """
[event_handler]
catch_handler_exceptions = true
crash_limit = 0
prefetch_count = 20
[event_handler.workers.default]
concurrency = 10
"""
RETRIES = 'retry={"attempts": 3, "delay": 0.05}'
WINDOW = 150  # events under way: publishing never runs so far ahead that faults would hit nothing
PLANNED = ("fail for ever", "reject")


def events_of(seed: int, count: int) -> list[dict[str, Any]]:
    """Most succeed, some after retries; those of PLANNED end in the dead letter queue."""
    rng = random.Random(seed)
    makers: dict[str, tuple[int, dict[str, Any]]] = {
        "pass": (40, {}),
        "sleep": (40, {"do": "sleep", "value": 0.02}),
        "fail once": (8, {"do": "fail", "value": [1, "raise"]}),
        "fail twice": (4, {"do": "fail", "value": [2, "raise"]}),
        "fail for ever": (4, {"do": "fail", "value": [99, "raise"]}),
        "reject": (3, {"do": "fail", "value": [99, "reject"]}),
        "later": (1, {"do": "retry-once", "value": 11}),
    }
    kinds = rng.choices(list(makers), [weight for weight, _ in makers.values()], k=count)
    return [{"n": n, "kind": kind, **makers[kind][1]} for n, kind in enumerate(kinds)]


@define(eq=False)
class Traffic:
    """Publishes *events* from a greenlet, each until it is confirmed."""

    probe: Probe
    events: list[dict[str, Any]]
    confirmed: set[int] = field(factory=set)
    repeated: int = 0
    _seen: set[int] = field(factory=set)
    _read: int = 0

    def run(self) -> None:
        publisher = Publisher(self.probe.vhost.url)
        for event in self.events:
            wait_until(lambda: len(self.confirmed) < self.done + WINDOW, 90, "room to publish")
            self._publish(publisher, event)
        publisher.close()

    def _publish(self, publisher: Publisher, event: dict[str, Any]) -> None:
        while event["n"] not in self.confirmed:
            try:
                publisher.publish("t.handle", event, message_id=f"id-{event['n']}")
            except BrokerError:
                self.repeated += 1
            else:
                self.confirmed.add(event["n"])

    @property
    def done(self) -> int:
        """How many have been started at least once: what fails or waits counts, too."""
        if not self.probe.file.exists():
            return 0
        with self.probe.file.open("rb") as file:  # from where the last look ended: it grows long
            file.seek(self._read)
            new = file.read()
        lines = new[: new.rfind(b"\n") + 1]
        self._read += len(lines)
        self._seen.update(json.loads(line)["n"] for line in lines.splitlines())
        return len(self._seen)


@define(eq=False)
class Site:
    """The server and the broker, and what can happen to them."""

    workplace: Workplace
    node: RabbitNode
    vhost: Vhost
    queue: str
    process: LimehubProcess

    def kill_server(self) -> None:
        self.process.kill()
        self.process = self.workplace.serve()

    def kill_node(self) -> None:
        self.node.settle()
        self.node.restart()

    def close_connections(self) -> None:
        wait_until(self.vhost.close_connections, message="connections to close")

    def close_channels(self) -> None:
        self.vhost.close_channels(self.queue)

    def stop_and_start(self) -> None:
        assert self.process.stop() == 0
        self.process = self.workplace.serve()

    def faults(self) -> list[Callable[[], None]]:
        return [
            self.kill_server,
            self.kill_node,
            self.close_connections,
            self.kill_server,
            self.close_channels,
            self.stop_and_start,
            self.close_connections,
        ]


def schedule(site: Site, rng: random.Random, rounds: int, count: int) -> Iterator[tuple[int, Any]]:
    """(after how many events, fault), in order."""
    faults = [fault for _ in range(rounds) for fault in rng.sample(site.faults(), 7)]
    moments = sorted(rng.sample(range(count // 20, count * 19 // 20), len(faults)))
    return zip(moments, faults, strict=True)


@pytest.mark.timeout(1800 if os.environ.get("LIMEHUB_SOAK") == "1" else 400)
def test_no_confirmed_event_vanishes_whatever_breaks(
    bare_workplace: Workplace, killable_node: RabbitNode, killable_vhost: Vhost, soak: bool
) -> None:
    seed = int(os.environ.get("LIMEHUB_SEED") or (random.randrange(2**32) if soak else 1))
    count, rounds = (20_000, 6) if soak else (1000, 1)
    print(f"seed {seed}: {count} events; repeat with LIMEHUB_SEED={seed}")
    workplace = connected(bare_workplace, killable_vhost.url)
    probe = Probe.install(workplace, killable_vhost, CATCHING, RETRIES)
    site = Site(workplace, killable_node, killable_vhost, probe.queue, workplace.serve())
    traffic = Traffic(probe, events_of(seed, count))
    publishing = gevent.spawn(traffic.run)
    for moment, fault in schedule(site, random.Random(seed), rounds, count):
        wait_until(lambda: traffic.done >= moment, 120, f"{moment} events", 0.05)  # noqa: B023
        print(f"at {traffic.done} of {len(traffic.confirmed)} confirmed: {fault.__name__}")
        fault()
    publishing.get(timeout=600 if soak else 120)
    assert traffic.confirmed == set(range(count))
    with contextlib.suppress(AssertionError):  # then `judge` says which event hangs where
        wait_until(lambda: all_empty(killable_vhost), 90, interval=0.2)
    assert site.process.stop() == 0
    judge(probe, traffic)


def queued(vhost: Vhost) -> list[str]:
    """The queues that hold anything but dead letters."""
    rows = vhost.queues()
    return [n for n, r in rows.items() if r["ready"] + r["unacked"] and not n.endswith(".dlq")]


def all_empty(vhost: Vhost) -> bool:
    """Twice: between the looks at two queues a retry may go from the second to the first."""
    return not queued(vhost) and not queued(vhost)


def judge(probe: Probe, traffic: Traffic) -> None:
    handled, letters = probe.ended, probe.dead_letters()
    still_queued = {event["n"] for queue in queued(probe.vhost) for event in probe.take(queue)}
    dead = {letter["n"] for letter in letters}
    planned = {event["n"] for event in traffic.events if event["kind"] in PLANNED}
    print(
        f"confirmed {len(traffic.confirmed)}, handled {len(handled)}, dead-lettered {len(dead)};"
        f" twice: {sum(handled.values()) - len(handled)} handled, {len(letters) - len(dead)}"
        f" dead-lettered, {traffic.repeated} publishes repeated"
    )
    assert traffic.confirmed - handled.keys() - dead - still_queued == set(), "lost"
    assert still_queued == set(), "stuck"
    assert handled.keys().isdisjoint(planned)
    assert dead == planned
    assert {letter["reason"] for letter in letters} == {"retries-exhausted", "rejected"}
