"""The dead-letter desk: list, group, show, requeue, delete, bring back what is in the apps' queues.

A move is a confirmed publish, then the ack: if we die between the two there is a duplicate, never a
loss. What is deleted waits in a queue of its own until its undo window is over.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from datetime import UTC, datetime
from uuid import uuid4

from attrs import evolve

from limehub.amqp.connection import BrokerConnection
from limehub.amqp.delivery import Delivery
from limehub.amqp.publisher import Publisher
from limehub.amqp.topology import declare_queue, dlq_spec
from limehub.deadletters.apps import Apps, UnknownApp, dlq_of
from limehub.deadletters.filters import Filter
from limehub.deadletters.groups import Grouping
from limehub.deadletters.item import ApplicationOf, DeadLetter, WholeDeadLetter, read_whole
from limehub.deadletters.movers import Mover, Prepare, Remover, Sender, Tally
from limehub.deadletters.moving import Chosen, Move
from limehub.deadletters.preparing import Requeue, restoring, trashing
from limehub.deadletters.reading import Reader
from limehub.deadletters.results import AppCount, Deletion, GroupList, Moved, Page, Progress, Verb
from limehub.deadletters.search import Search
from limehub.deadletters.trash import Deleting, deletion_of, trash_of
from limehub.deadletters.walk import LOCK_PATIENCE, Walk, count
from limehub.errors import NothingMatched

__all__ = ["DeadLetterDesk", "UnknownApp", "UnknownDeadLetter", "UnknownDeletion", "dlq_of"]

log = logging.getLogger(__name__)

LIST_BUDGET = 60.0
EVERYTHING = Filter()


class UnknownDeadLetter(NothingMatched):
    """No dead letter of the app has this id (any more)."""


class UnknownDeletion(NothingMatched):
    """Nothing of this deletion is there (any more)."""


def _no_others() -> Iterable[str]:
    return ()


class DeadLetterDesk:
    """Works straight on the broker, without a database of its own.

    *connect*: opens a new connection; *apps*: the installed packages; *others*: asks which apps
    have a dead letter queue besides; *application_of*: exchange -> application or None; *patience*:
    seconds to wait for another walker of the same queue; *queue_type*: of the queues for deleted
    letters. *app* may also be one that nobody lists, as long as its queue exists.
    """

    def __init__(
        self,
        *,
        connect: Callable[[], BrokerConnection],
        publisher: Publisher,
        apps: Iterable[str],
        application_of: ApplicationOf,
        others: Callable[[], Iterable[str]] = _no_others,
        patience: float = LOCK_PATIENCE,
        queue_type: str = "classic",
    ) -> None:
        self._publisher = publisher
        self._application_of = application_of
        self._queue_type = queue_type
        self._apps = Apps(apps, others, publisher)
        self._reader = Reader(
            connect=connect,
            apps=self._apps,
            publisher=publisher,
            application_of=application_of,
            patience=patience,
        )

    # -- looking ----------------------------------------------------------------------------------

    def apps(self) -> tuple[AppCount, ...]:
        """Return the apps with the number of their dead letters. Raises BrokerError."""
        return self._apps.counts()

    def list(
        self,
        app: str,
        which: Filter = EVERYTHING,
        *,
        limit: int = 50,
        after: str | None = None,
        budget: float = LIST_BUDGET,
        progress: Progress | None = None,
    ) -> Page:
        """Return up to *limit* (at least 1) dead letters, oldest first. *after*: a page's `next`.

        *budget*: seconds to look for matches, from *after* on. Raises UnknownApp,
        UnknownDeadLetter if *after* is gone, DeskBusy, BrokerError.
        """
        search = Search(which=which, limit=limit, after=after, budget=budget)
        app, as_of = self._apps.spelled(app), datetime.now(UTC)
        with self._reader.look(app) as walk:
            search.run(self._reader.letters(walk, progress))
            _require_cursor(app, search)
            return _page(app, search, walk, as_of)

    def groups(
        self, app: str, which: Filter = EVERYTHING, *, progress: Progress | None = None
    ) -> GroupList:
        """Return the dead letters by exception type and place. Raises as `list`."""
        grouping, app, as_of = Grouping(), self._apps.spelled(app), datetime.now(UTC)
        progress = progress or Progress()
        with self._reader.look(app) as walk:
            for letter, delivery in self._reader.letters(walk, progress):
                if which.matches(letter, delivery.body):
                    grouping.add(letter)
                    progress.done += 1
            return GroupList(
                app=app,
                queue=dlq_of(app),
                total=walk.total if walk else 0,
                matched=grouping.matched,
                groups=grouping.groups(),
                ungrouped=grouping.ungrouped,
                complete=not progress.stop and (not walk or walk.is_complete),
                as_of=as_of,
            )

    def show(self, app: str, identity: str) -> WholeDeadLetter:
        """Return one dead letter, whole.

        Raises UnknownApp, UnknownDeadLetter, DeskBusy, BrokerError.
        """
        letter, delivery = self._find(app, identity)
        return read_whole(delivery, letter)

    def body(self, app: str, identity: str) -> bytes:
        """Return the body of one dead letter, byte for byte. Raises as `show`."""
        return self._find(app, identity)[1].body

    def export(
        self, app: str, which: Filter = EVERYTHING, *, progress: Progress | None = None
    ) -> Generator[WholeDeadLetter, None, None]:
        """Yield the dead letters whole, oldest first; the queue is held until the last is taken.

        Raises UnknownApp, DeskBusy, BrokerError.
        """
        with self._reader.look(self._apps.spelled(app), heads=None) as walk:
            for letter, delivery in self._reader.letters(walk, progress):
                if which.matches(letter, delivery.body):
                    yield read_whole(delivery, letter)

    def deletions(self, app: str) -> tuple[Deletion, ...]:
        """Return what can be brought back, the newest first. Raises UnknownApp, BrokerError."""
        app = self._apps.spelled(app)
        counts: Counter[Deleting] = Counter()
        with self._reader.look(app, trash=True) as walk:
            for _, delivery in self._reader.letters(walk):
                deleting = deletion_of(delivery.headers)
                counts.update([deleting] if deleting else [])
        return tuple(
            Deletion(
                operation=one.operation,
                app=app,
                count=number,
                by=one.by,
                deleted_at=one.at,
                undo_until=one.undo_until,
            )
            for one, number in sorted(counts.items(), key=lambda pair: pair[0].at, reverse=True)
        )

    # -- moving -----------------------------------------------------------------------------------

    def requeue(
        self,
        app: str,
        which: Filter = EVERYTHING,
        *,
        limit: int | None = None,
        to: str | None = None,
        body: bytes | None = None,
        must_exist: bool = False,
        operation: str | None = None,
        progress: Progress | None = None,
    ) -> Moved:
        """Send dead letters back to the queues of the handlers that failed, or to the queue *to*.

        Of those that are there at the start, the first *limit* that *which* means; with *body* in
        place of their own. What cannot be sent stays, in order, and is in `failed`. *operation*:
        an id for it; *must_exist*: raises UnknownDeadLetter if none is there. Raises UnknownApp,
        DeskBusy, BrokerError.
        """
        app = self._apps.spelled(app)
        prepare = Requeue(app=app, to=to, body=body, application_of=self._application_of)
        sending = self._sending(prepare)
        moved = self._move("requeued", app, which, limit, sending, operation, progress)
        return _required(moved, app, which) if must_exist else moved

    def delete(
        self,
        app: str,
        which: Filter = EVERYTHING,
        *,
        limit: int | None = None,
        for_good: bool = False,
        must_exist: bool = False,
        by: str = "",
        operation: str | None = None,
        progress: Progress | None = None,
    ) -> Moved:
        """Remove dead letters; unless *for_good* they can be brought back for an hour.

        *by*: who does it. The rest, and the errors, as of `requeue`.
        """
        app, operation = self._apps.spelled(app), operation or str(uuid4())
        self._apps.require(app)  # before there is a queue for what it deletes
        if for_good:
            moved = self._move("deleted", app, which, limit, Remover, operation, progress)
            return _required(moved, app, which) if must_exist else moved
        deleting = Deleting(operation=operation, at=datetime.now(UTC), by=by)
        sending = self._sending(trashing(dlq_of(app), deleting, self._publisher))
        self._declare_trash(app)
        moved = self._move("deleted", app, which, limit, sending, operation, progress)
        if must_exist:
            _required(moved, app, which)
        return evolve(moved, undo_until=deleting.undo_until) if moved.count else moved

    def undo(
        self, deletion: str, *, app: str | None = None, progress: Progress | None = None
    ) -> Moved:
        """Bring back what the operation *deletion* deleted; to the end of its queue.

        *app*: None looks through all apps. Raises UnknownDeletion, UnknownApp, DeskBusy,
        BrokerError.
        """
        for name in [self._apps.spelled(app)] if app else self._apps.with_trash():
            moved = self._bring_back(name, deletion, progress)
            if moved.stopped or not moved.found_nothing:
                return moved
        hint = "" if app else "; if its app is neither installed nor listed, name the app, too"
        raise UnknownDeletion(
            f"nothing can be brought back of operation {deletion!r} (any more){hint}"
        )

    # -- how --------------------------------------------------------------------------------------

    def _move(
        self,
        verb: Verb,
        app: str,
        which: Filter,
        limit: int | None,
        mover_of: Callable[[Walk, Tally], Mover],
        operation: str | None,
        progress: Progress | None,
    ) -> Moved:
        tally, remaining = Tally(progress=progress or Progress()), 0

        def chosen(letter: DeadLetter, delivery: Delivery) -> bool:
            return which.matches(letter, delivery.body)

        most = _lowest(limit, None if which.ids is None else len(which.ids))
        move = self._moving(verb, None if which.is_everything else chosen, mover_of, most)
        with self._reader.walk(app) as walk:
            if walk is not None:
                remaining = move(walk, tally)
        _name_missing(tally, app, which, limit)
        log.info("moved dead letters", extra=_context(app, verb, tally, remaining))
        identity = operation or str(uuid4())
        return _told(verb, tally, identity, remaining)

    def _bring_back(self, app: str, deletion: str, progress: Progress | None) -> Moved:
        tally, remaining = Tally(progress=progress or Progress()), 0

        def chosen(_letter: DeadLetter, delivery: Delivery) -> bool:
            deleting = deletion_of(delivery.headers)
            return deleting is not None and deleting.operation == deletion

        move = self._moving("restored", chosen, self._sending(restoring(dlq_of(app))))
        with self._reader.walk(app, trash=True) as walk:
            if walk is not None:
                move(walk, tally)
                remaining = count(walk.connection, dlq_of(app)) if tally.done else 0
        log.info("moved dead letters", extra=_context(app, "restored", tally, remaining))
        return _told("restored", tally, deletion, remaining)

    def _moving(
        self,
        verb: Verb,
        chosen: Chosen | None,
        mover_of: Callable[[Walk, Tally], Mover],
        limit: int | None = None,
    ) -> Move:
        return Move(reader=self._reader, verb=verb, chosen=chosen, limit=limit, mover_of=mover_of)

    def _sending(self, prepare: Prepare) -> Callable[[Walk, Tally], Mover]:
        return lambda walk, tally: Sender(walk, tally, self._publisher, prepare)

    def _declare_trash(self, app: str) -> None:
        spec = dlq_spec(trash_of(dlq_of(app)), queue_type=self._queue_type)
        self._publisher.call(lambda connection: declare_queue(connection, spec))

    def _find(self, app: str, identity: str) -> tuple[DeadLetter, Delivery]:
        app = self._apps.spelled(app)
        with self._reader.look(app, heads=None) as walk:
            for letter, delivery in self._reader.letters(walk):
                if letter.id == identity:
                    return letter, delivery
        raise UnknownDeadLetter(_gone(app, identity))


def _require_cursor(app: str, search: Search) -> None:
    if search.after is not None and not search.found_cursor:
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


def _required(moved: Moved, app: str, which: Filter) -> Moved:
    """Return *moved* if it found anything of what *which* names."""
    gone = [_gone(app, identity) for identity in sorted(which.ids or ())]
    if not moved.count and [one.reason for one in moved.failed] == gone:
        raise UnknownDeadLetter("; ".join(gone) or f"nothing of {app} is meant")
    return moved


def _told(verb: Verb, tally: Tally, operation: str, remaining: int) -> Moved:
    return Moved.of(
        verb,
        tally.done,
        tally.failed,
        operation=operation,
        remaining=remaining,
        stopped=tally.stopped or None,
    )


def _name_missing(tally: Tally, app: str, which: Filter, limit: int | None) -> None:
    """Say of the ids that were not found why, if that is known."""
    if len(tally.found) == limit or tally.trouble:
        return
    for identity in sorted((which.ids or frozenset()) - tally.found):
        stopped = "it was stopped before it came to this one"
        tally.fail(identity, stopped if tally.stopped else _gone(app, identity))


def _lowest(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)


def _gone(app: str, identity: str) -> str:
    return f"no dead letter {identity!r} of {app} (any more)"


def _context(app: str, verb: Verb, tally: Tally, remaining: int) -> dict[str, object]:
    failed = len(tally.failed)
    return {"app": app, verb: tally.done, "failed": failed, "remaining": remaining}
