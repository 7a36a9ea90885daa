"""What happens to a picked dead letter: it is sent back to work, or removed."""

from __future__ import annotations

import logging
from collections.abc import Callable

from attrs import define, field
from gevent.event import Event
from gevent.pool import Pool

from limehub.amqp.delivery import Delivery
from limehub.amqp.message import Outgoing
from limehub.amqp.publisher import Publisher
from limehub.deadletters.item import DeadLetter
from limehub.deadletters.results import Failed, Progress
from limehub.deadletters.targets import is_too_large
from limehub.deadletters.walk import Walk
from limehub.errors import BrokerError, MessageRefused, Unroutable

__all__ = ["Mover", "Prepare", "Remover", "Sender", "Tally"]

log = logging.getLogger(__name__)

PIPELINE = 32
"""Publishes on their way at once; they leave in the order of the queue."""

PIPELINE_BYTES = 8 * 1024 * 1024
"""Their bodies together, unless one alone is larger."""

SEND_TIMEOUT = 30.0
LAST_CONFIRMS = 1.0
"""Seconds that a killed move waits for the confirms of what it has sent."""

LOST = "the connection was lost before it was removed"

Prepare = Callable[[DeadLetter, Delivery], Outgoing | str]
"""Makes of a dead letter what is sent, or says why it stays."""


@define(eq=False, kw_only=True)
class Tally:
    """Counts while an action runs. *found*: ids taken up; *trouble*: why the rest is left alone;
    *stopped*: whether somebody ended it before its end."""

    progress: Progress
    done: int = 0
    found: set[str] = field(factory=set)
    failed: list[Failed] = field(factory=list)
    trouble: str | None = None
    stopped: bool = False

    def succeed(self) -> None:
        """Note that one is done."""
        self.done += 1
        self.progress.done += 1

    def fail(self, identity: str, reason: str) -> None:
        """Note that one stays where it is."""
        self.failed.append(Failed(id=identity, reason=reason))
        self.progress.failed += 1


class Remover:
    """Removes for good."""

    def __init__(self, walk: Walk, tally: Tally) -> None:
        self._walk = walk
        self._tally = tally

    def start(self, letter: DeadLetter, delivery: Delivery) -> None:
        """Take it out of the queue."""
        if self._walk.ack(delivery):
            self._tally.succeed()
        else:
            self._tally.fail(letter.id, LOST)

    def finish(self) -> None:
        """Nothing is on its way."""

    def abandon(self) -> None:
        """Nothing is on its way."""


class Sender:
    """Publishes what *prepare* makes of each, with confirms, many at once, then acks."""

    def __init__(self, walk: Walk, tally: Tally, publisher: Publisher, prepare: Prepare) -> None:
        self._remover = Remover(walk, tally)
        self._tally = tally
        self._publisher = publisher
        self._prepare = prepare
        self._gone: dict[str, str] = {}
        self._pool = Pool(PIPELINE)
        self._bytes = 0
        self._landed = Event()

    def start(self, letter: DeadLetter, delivery: Delivery) -> None:
        """Send it as soon as there is room; `finish` waits for the end."""
        while self._bytes and self._bytes + len(delivery.body) > PIPELINE_BYTES:
            self._landed.clear()
            self._landed.wait()
        self._bytes += len(delivery.body)
        self._pool.spawn(self._guarded, letter, delivery)

    def finish(self) -> None:
        """Return when nothing is on its way any more."""
        self._pool.join()

    def abandon(self) -> None:
        """Send nothing more; what gets no confirm soon stays, and may have been sent too."""
        if self._pool:
            self._tally.trouble = self._tally.trouble or "it was ended before this one was sent"
            self._pool.join(timeout=LAST_CONFIRMS)
            self._pool.kill()

    def _guarded(self, letter: DeadLetter, delivery: Delivery) -> None:
        try:
            self._carry(letter, delivery)
        finally:
            self._bytes -= len(delivery.body)
            self._landed.set()

    def _carry(self, letter: DeadLetter, delivery: Delivery) -> None:
        try:
            problem = self._tally.trouble or self._moved(letter, delivery)
        except Exception as error:  # border of a greenlet: one odd message must not hide itself
            log.exception("cannot move dead letter", extra={"id": letter.id})
            problem = f"it cannot be sent: {type(error).__name__}: {error}"
        if problem:
            self._tally.fail(letter.id, problem)

    def _moved(self, letter: DeadLetter, delivery: Delivery) -> str:
        """Return why it stays; empty if it is moved."""
        if delivery.is_stale:  # it is back in the queue: what is sent now would be there twice
            return LOST
        message = self._prepare(letter, delivery)
        if isinstance(message, str):
            return message
        problem = self._gone.get(message.routing_key) or self._sent(message)
        if not problem:
            self._remover.start(letter, delivery)
        return problem

    def _sent(self, message: Outgoing) -> str:
        if is_too_large(message, self._publisher.frame_max):
            return "its headers do not fit into a frame of the broker"
        try:
            self._publisher.send(message, timeout=SEND_TIMEOUT)
        except Unroutable:
            queue = message.routing_key
            self._gone[queue] = f"queue {queue} does not exist; start the server that has it"
            return self._gone[queue]
        except MessageRefused as error:
            return str(error)
        except BrokerError as error:  # the next ones would wait as long and fail as well
            self._tally.trouble = str(error)
            return self._tally.trouble
        return ""


Mover = Sender | Remover
