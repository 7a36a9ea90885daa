"""What the desk answers: values that the command prints and the API sends as they are."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from attrs import frozen

from limehub.deadletters.item import DeadLetter
from limehub.deadletters.plain import rfc3339

__all__ = ["AppCount", "Failed", "Moved", "Page", "Verb"]

Verb = Literal["requeued", "deleted"]


@frozen(kw_only=True)
class AppCount:
    """How many dead letters an app has; *is_busy*: a walker holds some that *total* lacks."""

    app: str
    queue: str
    total: int
    is_busy: bool

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {"app": self.app, "queue": self.queue, "total": self.total, "busy": self.is_busy}


@frozen(kw_only=True)
class Page:
    """A part of a dead letter queue, oldest first.

    *matched*: of *total*, how many the filter meant; *next*: the cursor of the next page, None at
    the end; *complete*: False if time ran out, then *matched* counts only what was looked at.
    """

    app: str
    queue: str
    total: int
    matched: int
    items: tuple[DeadLetter, ...]
    next: str | None
    complete: bool
    as_of: datetime

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "app": self.app,
            "queue": self.queue,
            "total": self.total,
            "matched": self.matched,
            "items": [item.as_item() for item in self.items],
            "next": self.next,
            "complete": self.complete,
            "as_of": rfc3339(self.as_of),
        }


@frozen(kw_only=True)
class Failed:
    """A dead letter that stays where it is, and why."""

    id: str
    reason: str


@frozen(kw_only=True)
class Moved:
    """What came of a requeue or a delete. *count*: done; *remaining*: in the queue now."""

    verb: Verb
    count: int
    failed: tuple[Failed, ...]
    remaining: int

    @property
    def found_nothing(self) -> bool:
        """Whether no dead letter was meant."""
        return not self.count and not self.failed

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        failed = [{"id": one.id, "reason": one.reason} for one in self.failed]
        return {self.verb: self.count, "failed": failed, "remaining": self.remaining}
