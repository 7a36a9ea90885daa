"""What moves on the pages: one look at the server every two seconds, shared by all who watch.

One greenlet looks; nobody's page makes it look more often. While a page is open it asks the broker
too, how deep the queues are. Who watches gets the latest reading: a slow reader misses some, and
costs nothing.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import gevent
from attrs import define, field, frozen
from gevent import Greenlet
from gevent.event import Event as Signal

from limehub.deadletters.office import Office
from limehub.deadletters.results import AppCount
from limehub.errors import BrokerError
from limehub.observe.depths import Depth, Depths
from limehub.web.tempo import Pace, Tempo, Totals

__all__ = ["Broker", "Live", "Reading", "TooManyWatchers"]

log = logging.getLogger(__name__)

OFTEN, SELDOM = 2.0, 10.0
"""Seconds between looks, with somebody watching and without."""
BROKER_EVERY = 4.0
FIRST_PATIENCE = 1.5
"""Seconds that the first page waits for the broker, so as not to say that all is well too soon."""
INTEREST = 30.0
"""Seconds that a page counts as watched after it was asked for."""
MOST_WATCHERS = 20
LONGEST_WATCH = 300.0
"""Seconds after which a watcher has to come again, and show its token."""
POINTS = 180


class TooManyWatchers(Exception):
    """So many pages are live already; another one still works, but does not move."""


@frozen(kw_only=True)
class Broker:
    """What the broker said last. *queues*: those that it knows; *dead*: per app; *trouble*: why it
    cannot be asked; *at*: None = never asked."""

    queues: Mapping[str, Depth] = field(factory=dict)
    dead: tuple[AppCount, ...] = ()
    trouble: str = ""
    at: datetime | None = None

    @property
    def dead_total(self) -> int | None:
        """Dead letters of all apps, None if nobody has asked."""
        return sum(each.total for each in self.dead) if self.at is not None else None


@frozen(kw_only=True)
class Reading:
    """The server as it was at one moment. *status*: of /api/v1/status; *points*: for charts."""

    at: datetime
    status: Mapping[str, Any]
    broker: Broker
    paces: Mapping[str, Pace]
    points: tuple[Totals, ...]


@define(eq=False)
class _Watching:
    watchers: int = 0
    until: float = 0.0
    turned: Signal = field(factory=Signal)


class Live:
    """*status*: the server's; *office*: asks the broker. Whoever starts it stops it."""

    def __init__(self, status: Callable[[], dict[str, Any]], office: Office) -> None:
        self._status = status
        self._office = office
        self._tempo = Tempo()
        self._points: deque[Totals] = deque(maxlen=POINTS)
        self._broker = Broker()
        self._watching = _Watching()
        self._stopped = False
        self._reading: Reading | None = None
        self._wake, self._wanted, self._answered = Signal(), Signal(), Signal()
        self._depths = Depths(office.publisher.call)
        self._greenlets = [Greenlet(self._look_again), Greenlet(self._ask_again)]

    def start(self) -> None:
        """Begin to look."""
        for name, greenlet in zip(("status", "broker"), self._greenlets, strict=True):
            greenlet.name = f"pages: {name}"
            greenlet.start()

    def stop(self) -> None:
        """Look no more, and let all watchers go; harmless if it never began."""
        self._stopped = True
        self._watching.turned.set()
        gevent.killall([each for each in self._greenlets if each.started], timeout=1)

    # -- for pages --------------------------------------------------------------------------------

    def reading(self) -> Reading:
        """Return the server as it was a moment ago; a page that asks is a page that is watched."""
        self._touch()
        if self._is_behind:
            self._answered.clear()
            self._answered.wait(FIRST_PATIENCE)
            return self._look()
        last = self._reading
        is_fresh = last is not None and _age(last.at) < OFTEN
        return last if last is not None and is_fresh else self._look()

    @property
    def broker(self) -> Broker:
        """What the broker said last, without asking for more."""
        return self._broker

    def note_dead(self, apps: Iterable[AppCount]) -> None:
        """Take over counts that a page has just asked for."""
        found = tuple(apps)
        self._broker = Broker(queues=self._broker.queues, dead=found, at=datetime.now(UTC))

    def admit(self) -> Callable[[], None]:
        """Count one more watcher. Returns what lets it go. Raises TooManyWatchers."""
        if self._watching.watchers >= MOST_WATCHERS:
            raise TooManyWatchers
        self._watching.watchers += 1
        self._touch()
        left = [self._leave]

        def leave() -> None:
            if left:
                left.pop()()

        return leave

    def readings(self) -> Iterator[Reading]:
        """Yield a reading now and whenever there is a newer one, for some minutes."""
        until = time.monotonic() + LONGEST_WATCH
        yield self._reading or self._look()
        while time.monotonic() < until:
            self._watching.turned.wait(SELDOM)
            if self._stopped:
                return
            yield self._reading or self._look()

    # -- the looks --------------------------------------------------------------------------------

    @property
    def _is_watched(self) -> bool:
        return self._watching.watchers > 0 or time.monotonic() < self._watching.until

    def _leave(self) -> None:
        self._watching.watchers -= 1

    def _touch(self) -> None:
        was_watched = self._is_watched
        self._watching.until = time.monotonic() + INTEREST
        self._wanted.set()
        if not was_watched:
            self._wake.set()

    def _look(self) -> Reading:
        now, status = time.monotonic(), self._status()
        paces = self._tempo.note(now, status.get("handlers", ()))
        waiting = [each.ready for each in self._broker.queues.values()]
        point = self._tempo.totals(
            datetime.now(UTC).timestamp(),
            in_flight=sum(each["in_flight"] for each in status.get("handlers", ())),
            waiting=sum(waiting) if self._broker.queues else None,
        )
        if not self._points or point.at - self._points[-1].at >= OFTEN / 2:
            self._points.append(point)
        self._reading = Reading(
            at=datetime.now(UTC),
            status=status,
            broker=self._broker,
            paces=paces,
            points=tuple(self._points),
        )
        return self._reading

    def _look_again(self) -> None:
        while not self._stopped:
            try:
                self._look()
            except Exception:  # border of a greenlet: a page that stands still must say why
                log.exception("cannot look at the server for the pages")
            turned, self._watching.turned = self._watching.turned, Signal()
            turned.set()
            self._pause(OFTEN if self._is_watched else SELDOM)

    def _pause(self, seconds: float) -> None:
        self._wake.wait(seconds)
        self._wake.clear()

    def _ask_again(self) -> None:
        while not self._stopped:
            self._wanted.wait()
            if not self._is_watched:
                self._wanted.clear()
                continue
            self._ask()
            self._answered.set()
            gevent.sleep(BROKER_EVERY)

    @property
    def _is_behind(self) -> bool:
        """Whether what the broker said is old, and an answer is to be had."""
        said = self._broker
        if said.trouble or not self._greenlets[1].started:
            return False
        return said.at is None or _age(said.at) > INTEREST

    def _queues(self) -> list[str]:
        groups = self._status().get("groups", ())
        return [queue["queue"] for group in groups for queue in group["queues"]]

    def _ask(self) -> None:
        try:
            dead = self._office.desk.apps()
            queues = self._depths.of(self._queues())
        except BrokerError as error:
            self._broker = Broker(dead=self._broker.dead, trouble=str(error), at=self._broker.at)
        except Exception:  # border of a greenlet
            log.exception("cannot ask the broker for the pages")
        else:
            self._broker = Broker(queues=queues, dead=dead, at=datetime.now(UTC))


def _age(moment: datetime) -> float:
    """Seconds since *moment*; a clock that was set back makes it old, not new."""
    return abs((datetime.now(UTC) - moment).total_seconds())
