"""Looks at dead letters, shared: who asks the same shortly after gets the same answer.

A look keeps everybody else out of the queue, and the hub has to serve handlers meanwhile. So those
who ask the same at once wait for one look. Its answer holds for some seconds, as long as the queue
is as deep as it was; for people also for COSTLY times as long as it took, and the page says how
old it is. When something was moved here, nothing of before holds.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from datetime import UTC, datetime
from typing import Any, cast

from attrs import define, field
from gevent.event import AsyncResult

from limehub.deadletters.apps import dlq_of
from limehub.deadletters.filters import Filter
from limehub.deadletters.office import Office
from limehub.deadletters.operations import Operation
from limehub.deadletters.results import GroupList, Page
from limehub.deadletters.walk import count
from limehub.errors import QueueMissing

__all__ = ["Looks"]

HOLDS = 10.0
"""Seconds that an answer holds while the depth of the queue is the same."""
COSTLY, LONGEST = 10.0, 30.0
"""For people: so many times what it took, but no more seconds than this."""
MOST = 16


@define(eq=False)
class _Look:
    """One look. *began*: seconds since 1970; *took*: seconds, None while it goes on."""

    app: str
    began: float = field(factory=time.time)
    took: float | None = None
    total: int = 0
    answer: AsyncResult[Any] = field(factory=AsyncResult)


class Looks:
    """Shares what *office* sees."""

    def __init__(self, office: Office) -> None:
        self._office = office
        self._known: OrderedDict[Hashable, _Look] = OrderedDict()

    def list(
        self,
        app: str,
        which: Filter,
        *,
        limit: int,
        after: str | None,
        budget: float,
        for_people: bool,
    ) -> Page:
        """Return a page, as `DeadLetterDesk.list` does, perhaps that of a moment ago."""

        def look() -> Page:
            return self._office.desk.list(app, which, limit=limit, after=after, budget=budget)

        key = (app, which, limit, after, budget)
        known = self._known.get(key)
        if known is None or not self._holds(known, for_people):
            return self._look(key, _Look(app), look)
        found: Any = known.answer.get()
        return cast("Page", found)

    def groups(self, app: str, which: Filter, actor: str, *, for_people: bool) -> Operation:
        """Return the operation that counts by cause: one that runs, or has ended just now."""
        operations, desk = self._office.operations, self._office.desk
        wanted = ("group", app, which)
        for each in operations.all():
            same = (each.action, each.app, each.about) == wanted
            if same and (each.is_running or self._counts(each, for_people)):
                return each
        return operations.start(
            "group",
            app,
            actor,
            lambda each: desk.groups(app, which, progress=each.progress),
            about=which,
        )

    def _look(self, key: Hashable, own: _Look, look: Callable[[], Page]) -> Page:
        self._known[key] = own
        self._known.move_to_end(key)
        while len(self._known) > MOST:
            self._known.popitem(last=False)
        try:
            page = look()
        except BaseException as error:
            own.answer.set_exception(error)  # for those who wait
            if self._known.get(key) is own:
                del self._known[key]
            raise
        own.took, own.total, own.app = time.time() - own.began, page.total, page.app
        own.answer.set(page)
        return page

    def _counts(self, operation: Operation, for_people: bool) -> bool:
        found = operation.answer
        if not isinstance(found, GroupList) or operation.ended_at is None:
            return False
        took = (operation.ended_at - operation.started_at).total_seconds()
        began = operation.started_at.timestamp()
        look = _Look(found.app, began=began, took=took, total=found.total)
        return self._holds(look, for_people)

    def _holds(self, look: _Look, for_people: bool) -> bool:
        if self._was_moved_since(look):
            return False
        if look.took is None:
            return True
        age = abs(time.time() - look.began - look.took)  # set back, the clock makes it old
        if for_people and age < min(LONGEST, COSTLY * look.took):
            return True
        return age < HOLDS and self._depth(look.app) == look.total

    def _depth(self, app: str) -> int:
        try:
            return int(self._office.publisher.call(lambda broker: count(broker, dlq_of(app))))
        except QueueMissing:
            return 0

    def _was_moved_since(self, look: _Look) -> bool:
        began = datetime.fromtimestamp(look.began, UTC)
        return any(
            each.action != "group"
            and _plain(each.app) in (_plain(look.app), "")  # an undo may not know its app
            and (each.ended_at is None or each.ended_at >= began)
            for each in self._office.operations.all()
        )


def _plain(app: str) -> str:
    return app.replace("_", "-")
