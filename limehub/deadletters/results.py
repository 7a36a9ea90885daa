"""What the desk answers: values that the command prints and the API sends, field by field."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from attrs import define, field, frozen

from limehub.deadletters.item import DeadLetter
from limehub.deadletters.wire import to_json

__all__ = [
    "AppCount",
    "Deletion",
    "Failed",
    "Group",
    "GroupList",
    "Moved",
    "Page",
    "Progress",
    "Verb",
]

Verb = Literal["requeued", "deleted", "restored"]

SHOWN_FAILURES = 1000


@frozen(kw_only=True)
class AppCount:
    """How many dead letters an app has; *busy*: a walker holds some that *total* lacks."""

    app: str
    queue: str
    total: int
    busy: bool
    installed: bool

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return dict(to_json(self))


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
        return dict(to_json(self))


@frozen(kw_only=True)
class Group:
    """Dead letters of one exception type and place; without exception, of one reason and queue.

    *message*, *example*: of the one that failed last; *handlers*, *applications*: the first ten.
    """

    group: str
    exception_type: str
    where: str
    reason: str
    message: str
    count: int
    handlers: tuple[str, ...]
    applications: tuple[str, ...]
    first_failed_at: datetime | None
    last_failed_at: datetime | None
    example: str


@frozen(kw_only=True)
class GroupList:
    """All groups, the largest first. *ungrouped*: letters of so many groups that they got none."""

    app: str
    queue: str
    total: int
    matched: int
    groups: tuple[Group, ...]
    ungrouped: int
    complete: bool
    as_of: datetime

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return dict(to_json(self))


@frozen(kw_only=True)
class Failed:
    """A dead letter that stays where it is, and why."""

    id: str
    reason: str


@frozen(kw_only=True)
class Moved:
    """What came of a requeue, a delete or an undo; of the three counts there is one.

    *failed*: the first thousand that stay, of *failed_total*; *remaining*: in the queue now;
    *undo_until*: how long the deleted ones can be brought back by the id *operation*; *stopped*:
    True if somebody ended it before all were looked at.
    """

    operation: str
    requeued: int | None = None
    deleted: int | None = None
    restored: int | None = None
    failed: tuple[Failed, ...]
    failed_total: int
    remaining: int
    undo_until: datetime | None = None
    stopped: bool | None = None

    @classmethod
    def of(
        cls, verb: Verb, count: int, failed: tuple[Failed, ...] | list[Failed], **others: Any
    ) -> Moved:
        """Return it for *count* letters that were *verb*."""
        counts: dict[str, Any] = {verb: count}
        shown = tuple(failed[:SHOWN_FAILURES])
        return cls(failed=shown, failed_total=len(failed), **counts, **others)

    @property
    def verb(self) -> Verb:
        """What was done."""
        if self.requeued is not None:
            return "requeued"
        return "restored" if self.deleted is None else "deleted"

    @property
    def count(self) -> int:
        """How many it was done to."""
        return self.requeued or self.deleted or self.restored or 0

    @property
    def found_nothing(self) -> bool:
        """Whether no dead letter was meant."""
        return not self.count and not self.failed

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return dict(to_json(self))


@frozen(kw_only=True)
class Deletion:
    """Letters deleted together that can still be brought back. *count*: how many are left."""

    operation: str
    app: str
    count: int
    by: str
    deleted_at: datetime | None
    undo_until: datetime | None


@define(eq=False)
class Progress:
    """Counts that grow while the desk works; read by whoever shows a bar.

    *total*: in the queue at the start; *seen*: looked at; *done*, *failed*: of those that are
    meant. Setting *stop* ends the work at the next letter, in order.
    """

    total: int = 0
    seen: int = 0
    done: int = 0
    failed: int = 0
    stop: bool = field(default=False, repr=False)
