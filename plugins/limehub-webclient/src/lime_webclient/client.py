"""The plugin's hooks, as methods around one short memory of changes."""

from __future__ import annotations

import itertools
import logging
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from attrs import asdict, define, field, frozen
from flask import Blueprint, abort, request

from limehub import LimeObjectEvent

__all__ = ["Change", "WebClient"]

log = logging.getLogger(__name__)


@frozen(kw_only=True)
class Change:
    """One changed object. *number*: counts up, also over applications; *seen_at*: Unix seconds."""

    number: int
    application: str
    limetype: str
    verb: str
    id: int | None
    seen_at: float


@define(eq=False)
class WebClient:
    """Keeps the last changes, *keep* of them in all."""

    keep: int = 1000
    _changes: deque[Change] = field(init=False)
    _numbers: itertools.count[int] = field(factory=lambda: itertools.count(1), init=False)

    def __attrs_post_init__(self) -> None:
        self._changes = deque(maxlen=self.keep)

    def default_config(self) -> dict[str, Any]:
        """Return the settings. *keep*: how many changes are remembered."""
        return {"keep": 1000}

    def register_event_handlers(self, worker: Any, config: Any) -> None:
        """Listen to every event of every Lime object."""
        self.keep = config.plugins["lime_webclient"].keep
        self._changes = deque(maxlen=self.keep)
        worker.register_event_handler(
            self.remember, "core.limeobject.*.*.v1", queue_name="changes", order="queue"
        )

    def remember(self, event: LimeObjectEvent) -> None:
        """Note that an object changed."""
        change = Change(
            number=next(self._numbers),
            application=event.application,
            limetype=event.limetype,
            verb=event.verb,
            id=event.object_id,
            seen_at=time.time(),
        )
        self._changes.append(change)
        log.info(
            "object changed",
            extra={"limetype": change.limetype, "verb": change.verb, "object_id": change.id},
        )

    def changes(self, application: str | None, after: int) -> list[Change]:
        """Return the changes with a number above *after*, oldest first; None: every application."""
        return [
            change
            for change in list(self._changes)
            if change.number > after and application in (None, change.application)
        ]

    def register_routes(self, app: Any, settings: Mapping[str, Any]) -> Blueprint:  # noqa: ARG002
        """Serve the changes as JSON."""
        pages = Blueprint("changes", __name__)

        @pages.get("/changes")
        def changes() -> dict[str, Any]:
            after = request.args.get("after", "0")
            if not after.isdecimal():
                abort(400, "after is a whole number")
            found = self.changes(request.args.get("application"), int(after))
            return {"changes": [asdict(change) for change in found]}

        return pages
