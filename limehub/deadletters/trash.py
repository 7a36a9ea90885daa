"""The undo window: a deleted letter waits in `<dlq>.trash` until its time is over. Pure functions.

Which deletion it belongs to stands in its headers, so that any server, or the command, can bring
it back: nothing is remembered elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from attrs import evolve, frozen

from limehub.amqp import moves
from limehub.amqp.message import Outgoing
from limehub.amqp.moves import Movable
from limehub.deadletters.item import DeadLetter
from limehub.deadletters.plain import later, moment_of, rfc3339, text_of
from limehub.deadletters.targets import expiring, fitted, same_letter

__all__ = ["UNDO_SECONDS", "Deleting", "deletion_of", "restored", "trash_of", "trashed"]

UNDO_SECONDS = 3600.0

DELETION = "x-limehub-deletion"
DELETED_AT = "x-limehub-deleted-at"
DELETED_BY = "x-limehub-deleted-by"
_OURS = (DELETION, DELETED_AT, DELETED_BY)


@frozen(kw_only=True)
class Deleting:
    """One deletion: its id, when, by whom."""

    operation: str
    at: datetime
    by: str = ""

    @property
    def undo_until(self) -> datetime:
        """When what it deleted is gone for good."""
        return later(self.at, UNDO_SECONDS)


def trash_of(dlq: str) -> str:
    """Return the queue in which deleted letters of *dlq* wait."""
    return f"{dlq}.trash"


def trashed(
    delivery: Movable, letter: DeadLetter, dlq: str, deleting: Deleting, frame_max: int
) -> Outgoing:
    """Return the copy of *letter* that waits in the trash of *dlq*. It keeps its id."""
    message = same_letter(moves.requeue(delivery, queue=trash_of(dlq)), delivery, letter)
    headers = {DELETION: deleting.operation, DELETED_BY: deleting.by}
    headers[DELETED_AT] = str(rfc3339(deleting.at))
    until = min(filter(None, (letter.expires_at, deleting.undo_until)))
    message = evolve(message, headers={**message.headers, **headers})
    return fitted(expiring(message, until, deleting.at), frame_max)


def restored(delivery: Movable, letter: DeadLetter, dlq: str, now: datetime) -> Outgoing:
    """Return the copy of a deleted *letter* that goes back to *dlq*; it expires when it would."""
    message = same_letter(moves.requeue(delivery, queue=dlq), delivery, letter)
    headers = {name: value for name, value in message.headers.items() if name not in _OURS}
    message = evolve(message, headers=headers)
    return expiring(message, letter.expires_at, now)


def deletion_of(headers: Mapping[str, Any]) -> Deleting | None:
    """Return which deletion a message of the trash belongs to."""
    operation, at = headers.get(DELETION), moment_of(headers.get(DELETED_AT))
    if not isinstance(operation, str) or at is None:
        return None
    return Deleting(operation=operation, at=at, by=text_of(headers.get(DELETED_BY)))
