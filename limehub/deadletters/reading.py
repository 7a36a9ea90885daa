"""Letters read off a walk: numbered where they are equal, with turns for others in between."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import gevent
from attrs import evolve, frozen

from limehub.amqp.connection import BrokerConnection
from limehub.amqp.delivery import Delivery
from limehub.amqp.publisher import Publisher
from limehub.deadletters.apps import Apps, dlq_of
from limehub.deadletters.item import ApplicationOf, DeadLetter, read
from limehub.deadletters.plain import HEAD_BYTES
from limehub.deadletters.results import Progress
from limehub.deadletters.trash import trash_of
from limehub.deadletters.walk import Walk, walking
from limehub.deadletters.wear import renew_if_worn
from limehub.errors import QueueMissing

__all__ = ["Reader"]

BREATH = 64
"""After so many letters others get a turn: the hub also serves the handlers."""


@frozen(kw_only=True)
class Reader:
    """*connect*: opens a new connection; *patience*: seconds to wait for another walker."""

    connect: Callable[[], BrokerConnection]
    apps: Apps
    publisher: Publisher
    application_of: ApplicationOf
    patience: float

    @contextmanager
    def walk(
        self, app: str, *, trash: bool = False, heads: int | None = None
    ) -> Iterator[Walk | None]:
        """Walk the queue of *app*; None if a known app has none, because nothing has failed yet."""
        self.apps.require(app)  # costs no connection of its own
        queue = trash_of(dlq_of(app)) if trash else dlq_of(app)
        with ExitStack() as stack:
            try:
                walk = stack.enter_context(
                    walking(self.connect, queue, patience=self.patience, heads=heads)
                )
            except QueueMissing:
                walk = None
            yield walk

    @contextmanager
    def look(
        self, app: str, *, trash: bool = False, heads: int | None = HEAD_BYTES
    ) -> Iterator[Walk | None]:
        """A walk that takes nothing; looking does not wear the messages out."""
        with self.walk(app, trash=trash, heads=heads) as walk:
            yield walk
            if walk is not None:
                walk.close()
                renew_if_worn(walk, self.publisher, self.application_of)

    def letters(
        self, walk: Walk | None, progress: Progress | None = None, *, most: int | None = None
    ) -> Iterator[tuple[DeadLetter, Delivery]]:
        """Yield what *walk* meets; equal foreign messages are as many events, not one.

        *most*: so many at most will be taken, if that is known; for the progress only.
        """
        if walk is None:
            return
        progress = progress or Progress()
        progress.total = walk.total if most is None else min(most, walk.total)
        times: Counter[str] = Counter()
        for delivery in walk:
            if progress.stop:  # perhaps while it waited for its turn
                return
            letter = read(delivery, self.application_of, size=walk.size(delivery))
            times[letter.id] += 1
            number = times[letter.id]
            yield (evolve(letter, id=f"{letter.id}.{number}") if number > 1 else letter), delivery
            progress.seen = walk.seen
            if walk.seen % BREATH == 0:
                gevent.sleep(0)
