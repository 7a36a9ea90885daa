"""Work that may take long: it runs in a greenlet, shows how far it is, is remembered a while."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import uuid4

from attrs import define, field, frozen
from gevent import Greenlet, GreenletExit

from limehub.deadletters.results import Progress
from limehub.errors import BrokerError, LimehubError, NothingMatched

__all__ = ["Operation", "Operations", "Snapshot", "TooManyOperations", "UnknownOperation"]

log = logging.getLogger(__name__)

MOST_RUNNING = 8
MOST_REMEMBERED = 200
STOP_PATIENCE = 3.0

State = Literal["running", "done", "failed"]


class TooManyOperations(LimehubError):
    """So many run already that another one would only slow them down; or the server stops."""

    exit_code = 1


class OperationEnded(BrokerError):
    """The server stopped before it was done."""


class UnknownOperation(NothingMatched):
    """No operation of this process has this id (any more)."""


@frozen(kw_only=True)
class Snapshot:
    """An operation as it is now. *total*: letters in the queue at its start; *seen*: looked at;
    *succeeded*, *failures*: of those that are meant; *result*: what it answered in the end.
    """

    operation: str
    action: str
    app: str
    actor: str
    state: State
    total: int
    seen: int
    succeeded: int
    failures: int
    started_at: datetime
    ended_at: datetime | None
    error: str | None
    result: Any


@define(eq=False)
class Operation:
    """One piece of work. *answer*: what it returned; *error*: what it raised; *about*: what tells
    whether another one would do the same."""

    id: str
    action: str
    app: str
    actor: str
    about: Any = None
    progress: Progress = field(factory=Progress)
    started_at: datetime = field(factory=lambda: datetime.now(UTC))
    ended_at: datetime | None = None
    answer: Any = None
    error: BaseException | None = None
    _greenlet: Greenlet[..., None] | None = None

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self.ended_at is None

    def wait(self, seconds: float) -> bool:
        """Wait for its end. Returns whether it has ended."""
        if self._greenlet is not None:
            self._greenlet.join(seconds)
        return not self.is_running

    def stop(self) -> None:
        """Have it end between two letters, in order; harmless if it has ended."""
        self.progress.stop = True

    def take(self) -> Any:
        """Return its answer, or raise what it raised. It has ended."""
        if self.error is not None:
            raise self.error
        return self.answer

    def snapshot(self) -> Snapshot:
        """Return how it is now."""
        progress = self.progress
        return Snapshot(
            operation=self.id,
            action=self.action,
            app=self.app,
            actor=self.actor,
            state="running" if self.is_running else "failed" if self.error else "done",
            total=progress.total,
            seen=progress.seen,
            succeeded=progress.done,
            failures=progress.failed,
            started_at=self.started_at,
            ended_at=self.ended_at,
            error=_said(self.error),
            result=self.answer,
        )

    def _begin(self, work: Callable[[Operation], Any]) -> None:
        self._greenlet = Greenlet(self._run, work)
        self._greenlet.name = f"dead letters: {self.action} {self.app}"
        self._greenlet.start()

    def _run(self, work: Callable[[Operation], Any]) -> None:
        try:
            self.answer = work(self)
        except LimehubError as error:
            self.error = error
        except Exception as error:  # border of a greenlet: whoever waits for it gets it
            log.exception("operation failed", extra={"operation": self.id, "action": self.action})
            self.error = error
        except GreenletExit:
            ended = f"the server stopped after {self.progress.done}; the rest is where it was"
            self.error = OperationEnded(ended)
        finally:
            self.ended_at = datetime.now(UTC)

    def _kill(self) -> None:
        if self._greenlet is not None:
            self._greenlet.kill()


class Operations:
    """Those that run, and the last ones that ended. Whoever made it stops it."""

    def __init__(self) -> None:
        self._known: dict[str, Operation] = {}
        self._stopping = False

    def start(
        self,
        action: str,
        app: str,
        actor: str,
        work: Callable[[Operation], Any],
        *,
        about: Any = None,
    ) -> Operation:
        """Begin *work*(operation) in a greenlet of its own. Raises TooManyOperations."""
        if self._stopping:
            raise TooManyOperations("the server is stopping; nothing new is begun")
        running = sum(each.is_running for each in self._known.values())
        if running >= MOST_RUNNING:
            raise TooManyOperations(f"{running} operations are running; try again later")
        self._forget_oldest()
        operation = Operation(str(uuid4()), action, app, actor, about)
        self._known[operation.id] = operation
        operation._begin(work)
        return operation

    def get(self, identity: str) -> Operation:
        """Return an operation. Raises UnknownOperation."""
        try:
            return self._known[identity]
        except KeyError:
            raise UnknownOperation(f"no operation {identity!r} of this server (any more)") from None

    def app_of(self, identity: str) -> str | None:
        """Return whose dead letters an operation moves or moved; None if it is not known here."""
        known = self._known.get(identity)
        return known.app if known else None

    def all(self) -> tuple[Operation, ...]:
        """Return all that are known, the newest first."""
        return tuple(reversed(self._known.values()))

    def stop(self) -> None:
        """Begin nothing more, and end what runs, between two letters if it can: what is confirmed
        is acked then. Harmless twice."""
        self._stopping = True
        running = [each for each in self._known.values() if each.is_running]
        for each in running:
            each.stop()
        for each in running:
            if not each.wait(STOP_PATIENCE / len(running)):
                each._kill()

    def _forget_oldest(self) -> None:
        ended = [identity for identity, each in self._known.items() if not each.is_running]
        for identity in ended[: max(0, len(self._known) - MOST_REMEMBERED + 1)]:
            del self._known[identity]


def _said(error: BaseException | None) -> str | None:
    if error is None:
        return None
    return str(error) if isinstance(error, LimehubError) else "internal error; see the server's log"
