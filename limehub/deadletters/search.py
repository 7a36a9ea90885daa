"""One page of dead letters, found while walking: a cursor, a limit, and a count of what matches."""

from __future__ import annotations

import time
from collections.abc import Iterable

from attrs import define, field

from limehub.amqp.delivery import Delivery
from limehub.deadletters.filters import Filter
from limehub.deadletters.item import DeadLetter

__all__ = ["Search"]


@define(eq=False, kw_only=True)
class Search:
    """Looks through letters once. *after*: the id behind which the page begins; *budget*: seconds
    to look from there on. `matched` counts all that *which* means, also outside the page."""

    which: Filter
    limit: int
    after: str | None
    budget: float
    items: list[DeadLetter] = field(factory=list)
    matched: int = 0
    ran_out_of_time: bool = False
    has_more: bool = False
    found_cursor: bool = field(init=False)
    _last: str | None = None
    _deadline: float = field(init=False, default=float("inf"))

    def __attrs_post_init__(self) -> None:
        self.found_cursor = False
        if self.after is None:
            self._begin()

    def _begin(self) -> None:
        """A page begins. The way to it takes as long as it takes: else none would come nearer."""
        self.found_cursor = True
        self._deadline = time.monotonic() + self.budget

    def run(self, letters: Iterable[tuple[DeadLetter, Delivery]]) -> None:
        """Look until the page is full; with a filter until the end, to count."""
        for letter, delivery in letters:
            self._consider(letter, delivery.body)
            if self.has_more and self.which.is_everything:
                return
            if time.monotonic() > self._deadline:
                self.ran_out_of_time = True
                return

    @property
    def next(self) -> str | None:
        """The cursor of the next page, None if there is none."""
        if not (self.has_more or self.ran_out_of_time):
            return None
        is_full = len(self.items) == self.limit
        return self.items[-1].id if is_full else self._last or self.after

    def _consider(self, letter: DeadLetter, body: bytes) -> None:
        matches = self.which.matches(letter, body)
        self.matched += matches
        if not self.found_cursor:
            if letter.id == self.after:
                self._begin()
            return
        if not matches:
            self._last = letter.id
        elif len(self.items) < self.limit:
            self._last = letter.id
            self.items.append(letter)
        else:
            self.has_more = True
