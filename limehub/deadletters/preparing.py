"""What each move makes of a dead letter: the message that is sent, or why it stays."""

from __future__ import annotations

from datetime import UTC, datetime

from attrs import frozen

from limehub.amqp.delivery import Delivery
from limehub.amqp.message import Outgoing
from limehub.amqp.publisher import Publisher
from limehub.deadletters.item import ApplicationOf, DeadLetter, is_foreign
from limehub.deadletters.movers import Prepare
from limehub.deadletters.targets import objection, requeued, with_body
from limehub.deadletters.trash import Deleting, restored, trashed

__all__ = ["Requeue", "restoring", "trashing"]


@frozen(kw_only=True)
class Requeue:
    """Back to the handler's own queue, or *to*; with *body* in place of its own, if given."""

    app: str
    to: str | None
    body: bytes | None
    application_of: ApplicationOf

    def __call__(self, letter: DeadLetter, delivery: Delivery) -> Outgoing | str:
        """Return what is sent, or why it cannot go there."""
        problem = objection(
            letter,
            self.to,
            app=self.app,
            is_foreign=is_foreign(delivery),
            ours=self.application_of(letter.exchange) is not None,
        )
        if problem:
            return problem
        message = requeued(delivery, letter, self.to or letter.queue)
        return message if self.body is None else with_body(message, self.body)


def trashing(dlq: str, deleting: Deleting, publisher: Publisher) -> Prepare:
    """Return what puts a letter of *dlq* into its trash."""
    return lambda letter, delivery: trashed(delivery, letter, dlq, deleting, publisher.frame_max)


def restoring(dlq: str) -> Prepare:
    """Return what puts a letter of the trash back into *dlq*."""
    return lambda letter, delivery: restored(delivery, letter, dlq, datetime.now(UTC))
