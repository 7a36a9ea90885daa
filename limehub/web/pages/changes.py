"""What an operator asks for on the pages: each is an operation with progress, and is audited."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import frozen

from limehub.deadletters.office import Office
from limehub.deadletters.operations import Operation
from limehub.deadletters.results import Moved
from limehub.web.identity import actor
from limehub.web.pages.letters import Chosen

__all__ = ["Changes"]


@frozen(kw_only=True)
class Changes:
    """Begins operations of *office*, in the name of who asks."""

    office: Office

    def requeue(
        self, app: str, chosen: Chosen, *, to: str | None = None, body: bytes | None = None
    ) -> Operation:
        """Begin to send them back to work; *body*: instead of the only one's own."""
        desk, what = self.office.desk, chosen.what()
        what |= ({"to": to} if to else {}) | ({"edited": True} if body is not None else {})

        def work(each: Operation) -> Moved:
            return desk.requeue(
                app,
                chosen.filter,
                limit=chosen.limit,
                to=to,
                body=body,
                must_exist=bool(chosen.ids),
                operation=each.id,
                progress=each.progress,
            )

        return self._begin("requeue", app, what, work)

    def delete(self, app: str, chosen: Chosen, *, for_good: bool) -> Operation:
        """Begin to delete them; unless *for_good* there is an undo."""
        desk, by = self.office.desk, actor()
        what = chosen.what() | ({"for_good": True} if for_good else {})

        def work(each: Operation) -> Moved:
            return desk.delete(
                app,
                chosen.filter,
                limit=chosen.limit,
                for_good=for_good,
                must_exist=bool(chosen.ids),
                by=by,
                operation=each.id,
                progress=each.progress,
            )

        return self._begin("delete", app, what, work)

    def undo(self, app: str, deletion: str) -> Operation:
        """Begin to bring back what the operation *deletion* deleted."""
        desk = self.office.desk

        def work(each: Operation) -> Moved:
            return desk.undo(deletion, app=app, progress=each.progress)

        return self._begin("undo", app, {"deletion": deletion}, work)

    def _begin(
        self, action: str, app: str, what: dict[str, Any], work: Callable[[Operation], Moved]
    ) -> Operation:
        noted = self.office.audit.noting(what, work)
        return self.office.operations.start(action, app, actor(), noted)
