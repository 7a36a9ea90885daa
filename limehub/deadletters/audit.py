"""Who changed what: one JSON line for each requeue, edit, deletion and undo.

It goes to the logger `limehub.audit` and, if `web.audit_file` is set, to that file, too.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from limehub.deadletters.operations import Operation
from limehub.deadletters.plain import rfc3339
from limehub.deadletters.results import Moved

__all__ = ["Audit"]

log = logging.getLogger("limehub.audit")

SHOWN_IDS = 100


class Audit:
    """Notes changes. *path*: a file to append to; None = the log only."""

    def __init__(self, path: str | None = None) -> None:
        self._path = path

    def note(
        self,
        *,
        actor: str,
        action: str,
        app: str,
        what: Mapping[str, Any],
        count: int,
        result: str,
        **others: Any,
    ) -> None:
        """Note that *actor* did *action* to *count* letters of *app*. *what*: ids or filter."""
        entry = {
            "time": rfc3339(datetime.now(UTC)),
            "actor": actor,
            "action": action,
            "app": app,
            "what": _shortened(what),
            "count": count,
            "result": result,
            **others,
        }
        log.info("audit", extra={key: value for key, value in entry.items() if key != "time"})
        if self._path is not None:
            self._append(self._path, json.dumps(entry, default=str) + "\n")

    def noting(
        self, what: Mapping[str, Any], work: Callable[[Operation], Moved]
    ) -> Callable[[Operation], Moved]:
        """Return *work*, which notes what came of it. *what*: ids or filter."""

        def noted(operation: Operation) -> Moved:
            try:
                moved = work(operation)
            except BaseException as error:
                self._note_operation(operation, what, f"failed: {error}")
                raise
            result = f"{moved.verb}, {moved.failed_total} failed"
            self._note_operation(operation, what, result)
            return moved

        return noted

    def _note_operation(self, operation: Operation, what: Mapping[str, Any], result: str) -> None:
        self.note(
            actor=operation.actor,
            action=operation.action,
            app=operation.app,
            what=what,
            count=operation.progress.done,
            result=result,
            operation=operation.id,
        )

    def _append(self, path: str, line: str) -> None:
        """One write to a file opened for appending: lines of several processes do not mix."""
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(descriptor, line.encode())
            finally:
                os.close(descriptor)
        except OSError as error:
            log.error("cannot write web.audit_file", extra={"cause": str(error)})


def _shortened(what: Mapping[str, Any]) -> dict[str, Any]:
    shown = {key: value for key, value in what.items() if value is not None}
    ids = shown.get("ids")
    if ids is not None:
        listed = sorted(ids)
        more = len(listed) - SHOWN_IDS
        shown["ids"] = listed[:SHOWN_IDS] + ([f"and {more} more"] if more > 0 else [])
    return shown
