"""Dead letters by what went wrong: one exception type at one place is one problem. Pure."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime

from attrs import define, field

from limehub.deadletters.item import DeadLetter
from limehub.deadletters.results import Group

__all__ = ["Grouping", "group_of"]

MOST_GROUPS = 2000
MOST_NAMES = 10
_NEVER = datetime.min.replace(tzinfo=UTC)


def group_of(letter: DeadLetter) -> str:
    """Return the id of the group that *letter* is in; the same in every run."""
    cause = letter.exception
    parts = [cause.type, cause.where] if cause.type else ["", letter.reason, letter.queue]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


@define(eq=False)
class _Pile:
    group: str
    newest: DeadLetter
    count: int = 0
    handlers: dict[str, None] = field(factory=dict)
    applications: dict[str, None] = field(factory=dict)
    first: datetime | None = None

    def add(self, letter: DeadLetter) -> None:
        self.count += 1
        if (letter.last_failed_at or _NEVER) >= (self.newest.last_failed_at or _NEVER):
            self.newest = letter
        failed_at = letter.first_failed_at
        if failed_at is not None and (self.first is None or failed_at < self.first):
            self.first = failed_at
        for names, name in (
            (self.handlers, letter.handler),
            (self.applications, letter.application),
        ):
            if name and len(names) < MOST_NAMES:
                names[name] = None

    def shown(self) -> Group:
        newest = self.newest
        return Group(
            group=self.group,
            exception_type=newest.exception.type,
            where=newest.exception.where,
            reason=newest.reason,
            message=newest.exception.message,
            count=self.count,
            handlers=tuple(self.handlers),
            applications=tuple(self.applications),
            first_failed_at=self.first,
            last_failed_at=newest.last_failed_at,
            example=newest.id,
        )


@define(eq=False)
class Grouping:
    """Sorts letters into groups. *ungrouped*: how many came when there were too many groups."""

    ungrouped: int = 0
    matched: int = 0
    _piles: dict[str, _Pile] = field(factory=dict)

    def add(self, letter: DeadLetter) -> None:
        """Count *letter*."""
        self.matched += 1
        group = group_of(letter)
        pile = self._piles.get(group)
        if pile is None:
            if len(self._piles) >= MOST_GROUPS:
                self.ungrouped += 1
                return
            pile = self._piles[group] = _Pile(group, letter)
        pile.add(letter)

    def groups(self) -> tuple[Group, ...]:
        """Return all groups, the largest first."""
        piles = sorted(self._piles.values(), key=lambda pile: -pile.count)
        return tuple(pile.shown() for pile in piles)
