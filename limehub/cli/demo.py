"""`limehub publish --demo`: an invented CRM at work, event after event, until it is enough."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import cycle
from typing import TYPE_CHECKING

import gevent
from attrs import define, field, frozen
from gevent.pool import Pool

from limehub.cli.loading import broker_of, open_publisher
from limehub.cli.output import print_json, say
from limehub.cli.progress import Progress
from limehub.config import Config, Loaded
from limehub.demo.crm import DemoCrm, DemoEvent
from limehub.errors import ExchangeMissing, LimehubError, NothingMatched, Unroutable

if TYPE_CHECKING:
    from limehub.amqp.publisher import Publisher

__all__ = ["Demo", "play"]

ON_THE_WAY = 100
"""Events that may wait for their confirm; they are written in their order."""

LOOK = 0.05
"""Seconds that an event may be early: between two there is no shorter sleep."""


@frozen(kw_only=True)
class Demo:
    """*rate*: events a second; *count*: None = without end; *fail_rate*: 0 to 1."""

    rate: float
    count: int | None
    fail_rate: float
    seed: int


@define(eq=False)
class _Tally:
    published: int = 0
    failing: int = 0
    unroutable: int = 0
    error: LimehubError | None = None
    started: float = field(factory=time.monotonic)

    def as_json(self) -> dict[str, float]:
        seconds = time.monotonic() - self.started
        return {
            "published": self.published,
            "failing": self.failing,
            "unroutable": self.unroutable,
            "seconds": round(seconds, 1),
        }


def play(loaded: Loaded, demo: Demo, *, application: str | None, as_json: bool) -> None:
    """Publish and print what was published. Raises NothingMatched if nobody took any of it."""
    applications = [application] if application else list(loaded.config.applications)
    for each in applications:
        loaded.config.exchange_of(each)  # a ConfigError now, not in the middle
    publisher = open_publisher(loaded.config, broker_of(loaded))
    tally = _Tally()
    try:
        with Progress() as progress:
            shown = progress.of("events", demo.count, lambda: tally.published)
            with shown:
                _publish_all(publisher, _story(applications, demo), demo, tally)
    finally:
        publisher.close()
        _report(tally, as_json=as_json)
    _judge(loaded.config, tally)


def _story(applications: list[str], demo: Demo) -> Iterator[tuple[str, DemoEvent]]:
    """Yield (application, event), the applications in turn, each with a story of its own."""
    now = datetime.now(UTC)
    stories = [
        (name, DemoCrm(seed=demo.seed + index, fail_rate=demo.fail_rate, start=now).events())
        for index, name in enumerate(applications)
    ]
    for name, events in cycle(stories):
        yield name, next(events)


def _publish_all(
    publisher: Publisher, story: Iterator[tuple[str, DemoEvent]], demo: Demo, tally: _Tally
) -> None:
    pool = Pool(ON_THE_WAY)
    try:
        for number, (application, event) in enumerate(story):
            if tally.error is not None or number == demo.count:
                break
            early = tally.started + number / demo.rate - time.monotonic()
            if early > LOOK or demo.rate < 1 / LOOK:
                gevent.sleep(max(0.0, early))
            pool.spawn(_publish, publisher, application, event, tally)
            if number == 0:
                pool.join()  # the first finds out whether there is an exchange
    finally:
        pool.join(timeout=publisher.timeout)
    if tally.error is not None:
        raise tally.error


def _publish(publisher: Publisher, application: str, event: DemoEvent, tally: _Tally) -> None:
    headers = {"application": application, "origin": "limehub-demo"}
    try:
        publisher.publish(
            event.routing_key, dict(event.body), application=application, headers=headers
        )
    except Unroutable:
        tally.unroutable += 1
    except ExchangeMissing as error:
        text = f"{error}; the server creates its own at its first start: `limehub serve`"
        tally.error = tally.error or NothingMatched(text)
    except LimehubError as error:
        tally.error = tally.error or error
    else:
        tally.published += 1
        tally.failing += event.fails


def _report(tally: _Tally, *, as_json: bool) -> None:
    if as_json:
        print_json(tally.as_json())
        return
    seconds = time.monotonic() - tally.started
    say(f"published {tally.published} events in {seconds:.1f} s")
    if tally.failing:
        say(
            f"{tally.failing} of them with a value that is no number: `limehub dlq list` shows them"
        )
    if tally.unroutable:
        say(f"{tally.unroutable} more reached no queue: no handler asks for them")


def _judge(config: Config, tally: _Tally) -> None:
    if not tally.published and tally.unroutable:
        raise NothingMatched(
            f"no queue is bound for any of it in {', '.join(config.applications)}: is the server "
            "running, and are packages installed? See `limehub plugins`"
        )
