"""The dead-letter desk: list, show, requeue and delete what is in the apps' dead letter queues.

A requeue is a confirmed publish to the queue of the handler that failed, then the ack: if we die
between the two there is a duplicate, never a loss.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime

from attrs import evolve

from limehub.amqp.connection import BrokerConnection
from limehub.amqp.delivery import Delivery
from limehub.amqp.publisher import Publisher
from limehub.config import QUEUE_NAMESPACE, name_problem, suggestion
from limehub.config.names import find_alike
from limehub.deadletters.filters import Filter
from limehub.deadletters.item import ApplicationOf, DeadLetter, WholeDeadLetter, read, read_whole
from limehub.deadletters.movers import Mover, Remover, Sender, Tally
from limehub.deadletters.results import AppCount, Moved, Page, Verb
from limehub.deadletters.search import Search
from limehub.deadletters.walk import LOCK_PATIENCE, Walk, count, is_busy, walking
from limehub.errors import BrokerError, ConnectionLost, NothingMatched, QueueMissing

__all__ = ["DeadLetterDesk", "UnknownApp", "UnknownDeadLetter", "dlq_of"]

log = logging.getLogger(__name__)

LIST_BUDGET = 60.0
EVERYTHING = Filter()


class UnknownApp(NothingMatched):
    """No installed package and no dead letter queue has this name."""


class UnknownDeadLetter(NothingMatched):
    """No dead letter of the app has this id (any more)."""


def dlq_of(app: str) -> str:
    """Return the name of an app's dead letter queue."""
    return f"{QUEUE_NAMESPACE}{app}.dlq"


class DeadLetterDesk:
    """Works straight on the broker, without a database of its own.

    *connect*: opens a new connection; *apps*: the installed packages; *application_of*: exchange ->
    application or None; *patience*: seconds to wait for another walker of the same queue. *app* may
    also be one that is no longer installed, as long as its queue exists.
    """

    def __init__(
        self,
        *,
        connect: Callable[[], BrokerConnection],
        publisher: Publisher,
        apps: Iterable[str],
        application_of: ApplicationOf,
        patience: float = LOCK_PATIENCE,
    ) -> None:
        self._connect = connect
        self._publisher = publisher
        self._apps = tuple(sorted(app for app in apps if name_problem(app) is None))
        self._application_of = application_of
        self._patience = patience

    def apps(self) -> tuple[AppCount, ...]:
        """Return the installed apps with the number of their dead letters. Raises BrokerError."""
        connection = self._connect()
        try:
            return tuple(_app_count(connection, app) for app in self._apps)
        finally:
            connection.close()

    def list(
        self,
        app: str,
        which: Filter = EVERYTHING,
        *,
        limit: int = 50,
        after: str | None = None,
        budget: float = LIST_BUDGET,
    ) -> Page:
        """Return up to *limit* (at least 1) dead letters, oldest first. *after*: a page's `next`.

        *budget*: seconds to look for matches. Raises UnknownApp, UnknownDeadLetter if *after* is
        gone, DeskBusy, BrokerError.
        """
        deadline = time.monotonic() + budget
        search = Search(which=which, limit=limit, after=after, deadline=deadline)
        app, as_of = self._known(app), datetime.now(UTC)
        with self._walk(app) as walk:
            if walk is not None:
                search.run(self._letters(walk))
            _require_cursor(app, search)
            return _page(app, search, walk, as_of)

    def show(self, app: str, identity: str) -> WholeDeadLetter:
        """Return one dead letter, whole.

        Raises UnknownApp, UnknownDeadLetter, DeskBusy, BrokerError.
        """
        app = self._known(app)
        with self._walk(app) as walk:
            for letter, delivery in self._letters(walk) if walk else ():
                if letter.id == identity:
                    return read_whole(delivery, letter)
        raise UnknownDeadLetter(_gone(app, identity))

    def requeue(
        self,
        app: str,
        which: Filter = EVERYTHING,
        *,
        limit: int | None = None,
        to: str | None = None,
    ) -> Moved:
        """Send dead letters back to the queues of the handlers that failed, or to the queue *to*.

        Of those that are there at the start, the first *limit* that *which* means. What cannot be
        sent stays, in order, and is in `failed`. Raises UnknownApp, DeskBusy, BrokerError.
        """
        app = self._known(app)

        def sender(walk: Walk, tally: Tally) -> Mover:
            return Sender(
                walk,
                tally,
                publisher=self._publisher,
                app=app,
                to=to,
                application_of=self._application_of,
            )

        return self._move("requeued", app, which, limit, sender)

    def delete(self, app: str, which: Filter = EVERYTHING, *, limit: int | None = None) -> Moved:
        """Remove dead letters for good. Arguments and errors as of `requeue`."""
        return self._move("deleted", self._known(app), which, limit, Remover)

    def _move(
        self,
        verb: Verb,
        app: str,
        which: Filter,
        limit: int | None,
        mover_of: Callable[[Walk, Tally], Mover],
    ) -> Moved:
        tally, remaining = Tally(), 0
        with self._walk(app) as walk:
            if walk is not None:
                remaining = self._carry_out(walk, mover_of(walk, tally), tally, which, limit, verb)
        missing = () if len(tally.found) == limit or tally.trouble else which.ids or ()
        for identity in sorted(set(missing) - tally.found):
            tally.fail(identity, _gone(app, identity))
        log.info("moved dead letters", extra=_context(app, verb, tally, remaining))
        return Moved(verb=verb, count=tally.done, failed=tuple(tally.failed), remaining=remaining)

    def _carry_out(
        self, walk: Walk, mover: Mover, tally: Tally, which: Filter, limit: int | None, verb: Verb
    ) -> int:
        """Return how many dead letters remain."""
        try:
            self._pick(walk, mover, tally, which, limit)
            mover.finish()
            return walk.close()
        except BrokerError as error:
            mover.finish()
            raise ConnectionLost(
                f"{error}; {tally.done} were {verb} before, the last of them may still be there too"
            ) from error

    def _pick(
        self, walk: Walk, mover: Mover, tally: Tally, which: Filter, limit: int | None
    ) -> None:
        for letter, delivery in self._letters(walk):
            if not which.matches(letter, delivery.body):
                continue
            tally.found.add(letter.id)
            mover.start(letter, delivery)
            found_all = which.ids is not None and len(tally.found) == len(which.ids)
            if found_all or tally.trouble or len(tally.found) == limit:
                return

    def _letters(self, walk: Walk) -> Iterator[tuple[DeadLetter, Delivery]]:
        """Number what has one id: equal foreign messages are as many events, not one."""
        times: Counter[str] = Counter()
        for delivery in walk:
            letter = read(delivery, self._application_of)
            times[letter.id] += 1
            number = times[letter.id]
            yield (evolve(letter, id=f"{letter.id}.{number}") if number > 1 else letter), delivery

    @contextmanager
    def _walk(self, app: str) -> Iterator[Walk | None]:
        """Walk the queue of *app*; None if a known app has none, because nothing has failed yet."""
        with ExitStack() as stack:
            try:
                walk = stack.enter_context(
                    walking(self._connect, dlq_of(app), patience=self._patience)
                )
            except QueueMissing:
                if app not in self._apps:
                    raise self._unknown(app) from None
                walk = None
            yield walk

    def _known(self, app: str) -> str:
        """Return the app's own spelling; a name that can be no queue's is unknown."""
        if name_problem(app):
            raise self._unknown(app)
        return find_alike(app, self._apps) or app

    def _unknown(self, app: str) -> UnknownApp:
        return UnknownApp(f"no app {app!r} and no dead letters of it{suggestion(app, self._apps)}")


def _app_count(connection: BrokerConnection, app: str) -> AppCount:
    queue = dlq_of(app)
    is_walked = is_busy(connection, queue)
    try:
        total = count(connection, queue)
    except QueueMissing:
        total = 0
    return AppCount(app=app, queue=queue, total=total, is_busy=is_walked)


def _require_cursor(app: str, search: Search) -> None:
    if search.after is not None and not (search.found_cursor or search.ran_out_of_time):
        raise UnknownDeadLetter(f"{_gone(app, search.after)}; list from the start")


def _page(app: str, search: Search, walk: Walk | None, as_of: datetime) -> Page:
    total = walk.total if walk else 0
    counted = not search.which.is_everything
    return Page(
        app=app,
        queue=dlq_of(app),
        total=total,
        matched=search.matched if counted else total,
        items=tuple(search.items),
        next=search.next,
        complete=not search.ran_out_of_time and (search.has_more or not walk or walk.is_complete),
        as_of=as_of,
    )


def _gone(app: str, identity: str) -> str:
    return f"no dead letter {identity!r} of {app} (any more)"


def _context(app: str, verb: Verb, tally: Tally, remaining: int) -> dict[str, object]:
    failed = len(tally.failed)
    return {"app": app, verb: tally.done, "failed": failed, "remaining": remaining}
