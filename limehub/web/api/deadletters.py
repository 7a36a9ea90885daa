"""The dead-letter desk over HTTP. What may take long runs as an operation: answered at once if it
ends within five seconds, else 202 and where to ask."""

from __future__ import annotations

import base64
import json
import re
import tempfile
from collections.abc import Callable, Iterator
from typing import IO, Any

import attrs
import gevent
from attrs import field, frozen
from flask import Response, url_for
from werkzeug.exceptions import BadRequest, Conflict, Forbidden, RequestEntityTooLarge

from limehub.amqp.message import encode_body
from limehub.deadletters.audit import Audit
from limehub.deadletters.filters import Filter
from limehub.deadletters.item import WholeDeadLetter
from limehub.deadletters.operations import Operation, Operations, Snapshot
from limehub.deadletters.results import AppCount, Deletion, GroupList, Moved, Page
from limehub.deadletters.service import DeadLetterDesk
from limehub.deadletters.wire import to_json
from limehub.web.api.endpoints import BYTES, JSON_LINES, Endpoint
from limehub.web.api.requests import (
    DeleteItem,
    DeleteQuery,
    ExportQuery,
    GroupQuery,
    ItemChange,
    ListQuery,
    RequeueQuery,
    UndoQuery,
)
from limehub.web.identity import actor
from limehub.web.looks import Looks

__all__ = ["DeadLettersApi"]

PATIENCE = 5.5
"""Seconds until a long answer becomes 202; a little longer than the desk waits for another walker,
so that a busy queue is 409."""
LIST_SECONDS = 10.0
EXPORT_BYTES = 1024 * 1024 * 1024
_CHUNK = 256 * 1024
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")

_ROOT = "/api/v1/dead-letters/"
_APP = f"{_ROOT}<app>/"
_ITEM = f"{_APP}<letter:id>/"
_LOOK_FAILS = (400, 404, 409, 503)
_CHANGE_FAILS = (400, 403, 404, 409, 413, 415, 503)


@frozen(kw_only=True)
class DeadLettersApi:
    """The views; `endpoints` is their table. *may_edit*: `web.edit_dead_letters`."""

    desk: DeadLetterDesk
    looks: Looks
    operations: Operations
    audit: Audit
    may_edit: bool
    patience: float = field(factory=lambda: PATIENCE)

    def endpoints(self) -> Iterator[Endpoint]:
        """Yield all of them."""
        yield from self._looks()
        yield from self._changes()

    def _looks(self) -> Iterator[Endpoint]:
        def look(
            path: str, name: str, summary: str, view: Any, answer: Any, **more: Any
        ) -> Endpoint:
            return Endpoint(
                method="GET",
                path=path,
                name=name,
                summary=summary,
                answers={200: answer, **more.pop("answers", {})},
                view=view,
                fails=more.pop("fails", _LOOK_FAILS),
                **more,
            )

        yield look(_ROOT, "apps", "Apps with counts", self.apps, list[AppCount], fails=(400, 503))
        yield look(_APP, "list", "A page of dead letters", self.list, Page, query=ListQuery)
        yield look(
            f"{_APP}groups/",
            "groups",
            "By exception type and place",
            self.groups,
            GroupList,
            query=GroupQuery,
            answers={202: Snapshot},
        )
        yield look(
            f"{_APP}deletions/", "deletions", "What can be undone", self.deletions, list[Deletion]
        )
        yield look(
            f"{_APP}export",
            "export",
            "All of them whole, as JSON lines",
            self.export,
            JSON_LINES,
            query=ExportQuery,
            fails=(*_LOOK_FAILS, 413),
        )
        yield look(_ITEM, "show", "One dead letter, whole", self.show, WholeDeadLetter)
        yield look(f"{_ITEM}body", "body", "Download the body", self.body, BYTES)
        yield look(
            "/api/v1/operations/",
            "operations",
            "What runs, and what ran last",
            self.all_operations,
            list[Snapshot],
            fails=(400,),
        )
        yield look(
            "/api/v1/operations/<operation>",
            "operation",
            "How far a long one is",
            self.operation,
            Snapshot,
            fails=(400, 404),
        )

    def _changes(self) -> Iterator[Endpoint]:
        def change(
            method: str, path: str, name: str, summary: str, view: Any, **more: Any
        ) -> Endpoint:
            return Endpoint(
                method=method,
                path=path,
                name=name,
                summary=summary,
                view=view,
                answers={200: Moved, 202: Snapshot},
                fails=_CHANGE_FAILS,
                **more,
            )

        yield change(
            "PUT", _APP, "requeue", "Requeue", self.requeue, query=RequeueQuery, body=RequeueQuery
        )
        yield change(
            "DELETE", _APP, "delete", "Delete", self.delete, query=DeleteQuery, body=DeleteQuery
        )
        yield change(
            "PUT",
            _ITEM,
            "requeue_one",
            "Requeue one, perhaps with another body",
            self.requeue_one,
            body=ItemChange,
        )
        yield change("DELETE", _ITEM, "delete_one", "Delete one", self.delete_one, query=DeleteItem)
        yield change(
            "POST",
            "/api/v1/operations/<operation>/undo",
            "undo",
            "Bring back what a deletion deleted",
            self.undo,
            query=UndoQuery,
        )
        yield Endpoint(
            method="POST",
            path="/api/v1/operations/<operation>/stop",
            name="stop",
            summary="End it between two dead letters",
            answers={200: Snapshot},
            view=self.stop,
            fails=(400, 403, 404, 413),
        )

    # -- looks ------------------------------------------------------------------------------------

    def apps(self) -> Any:
        """Answer GET /dead-letters/."""
        return [*self.desk.apps()]

    def list(self, query: ListQuery, app: str) -> Any:
        """Answer GET /dead-letters/{app}/."""
        return self.looks.list(
            app,
            query.filter,
            limit=query.limit,
            after=query.after,
            budget=LIST_SECONDS,
            for_people=False,
        )

    def groups(self, query: GroupQuery, app: str) -> Any:
        """Answer GET .../groups/; who asks for what is being counted gets that count."""
        return self._answered(self.looks.groups(app, query.filter, actor(), for_people=False))

    def show(self, app: str, id: str) -> Any:  # noqa: A002 - the URL's word
        """Answer GET .../{id}/."""
        return self.desk.show(app, id)

    def body(self, app: str, id: str) -> Any:  # noqa: A002 - the URL's word
        """Answer GET .../{id}/body: never shown by a browser, only saved."""
        return _download(self.desk.body(app, id), BYTES, f"{app}-{id}.bin")

    def deletions(self, app: str) -> Any:
        """Answer GET .../deletions/."""
        return [*self.desk.deletions(app)]

    def export(self, query: ExportQuery, app: str) -> Any:
        """Answer GET .../export. Spooled first: a slow reader must not hold the queue."""
        spool = tempfile.SpooledTemporaryFile(max_size=_CHUNK)  # noqa: SIM115 - sent, then closed
        try:
            size = _spool(self.desk.export(app, query.filter), query.limit, spool)
        except BaseException:
            spool.close()
            raise
        spool.seek(0)
        answer = _download(_chunks(spool), JSON_LINES, f"{app}.jsonl")
        answer.content_length = size
        return answer

    def all_operations(self) -> Any:
        """Answer GET /operations/; results are in each one's own URL."""
        return [attrs.evolve(each.snapshot(), result=None) for each in self.operations.all()]

    def operation(self, operation: str) -> Any:
        """Answer GET /operations/{operation}."""
        return self.operations.get(operation).snapshot()

    # -- changes ----------------------------------------------------------------------------------

    def requeue(self, query: RequeueQuery, app: str) -> Any:
        """Answer PUT /dead-letters/{app}/."""
        return self._requeue(app, query.filter, _what(query), limit=query.limit, to=query.to)

    def requeue_one(self, change: ItemChange, app: str, id: str) -> Any:  # noqa: A002 - as show
        """Answer PUT .../{id}/, with another body only if that is allowed."""
        body = _body_of(change)
        if body is not None and not self.may_edit:
            raise Forbidden("Editing is off; see web.edit_dead_letters.")
        what = {"ids": [id], "to": change.to, "edited": None if body is None else True}
        return self._requeue(app, _only(id), what, to=change.to, body=body, must_exist=True)

    def delete(self, query: DeleteQuery, app: str) -> Any:
        """Answer DELETE /dead-letters/{app}/."""
        return self._delete(
            app, query.filter, _what(query), limit=query.limit, for_good=query.for_good
        )

    def delete_one(self, query: DeleteItem, app: str, id: str) -> Any:  # noqa: A002 - as show
        """Answer DELETE .../{id}/."""
        return self._delete(app, _only(id), {"ids": [id]}, for_good=query.for_good, must_exist=True)

    def stop(self, operation: str) -> Any:
        """Answer POST /operations/{operation}/stop; it ends soon, not yet."""
        running = self.operations.get(operation)
        running.stop()
        return running.snapshot()

    def undo(self, query: UndoQuery, operation: str) -> Any:
        """Answer POST /operations/{operation}/undo; it need not be one of this process."""
        app = query.app or self.operations.app_of(operation)

        def work(each: Operation) -> Moved:
            return self.desk.undo(operation, app=app, progress=each.progress)

        return self._changed("undo", app or "", {"deletion": operation}, work)

    def _requeue(self, app: str, which: Filter, what: dict[str, Any], **how: Any) -> Any:
        def work(each: Operation) -> Moved:
            return self.desk.requeue(app, which, operation=each.id, progress=each.progress, **how)

        return self._changed("requeue", app, what, work)

    def _delete(self, app: str, which: Filter, what: dict[str, Any], **how: Any) -> Any:
        by = actor()

        def work(each: Operation) -> Moved:
            return self.desk.delete(
                app, which, by=by, operation=each.id, progress=each.progress, **how
            )

        return self._changed("delete", app, what, work)

    def _changed(
        self, action: str, app: str, what: dict[str, Any], work: Callable[[Operation], Moved]
    ) -> Any:
        """Carry *work* out, and note who did it when it is over."""
        operation = self.operations.start(action, app, actor(), self.audit.noting(what, work))
        return self._answered(operation)

    def _answered(self, operation: Operation) -> Any:
        if operation.wait(self.patience):
            return operation.take()
        where = url_for("api.operation", operation=operation.id)
        return operation.snapshot(), 202, {"Location": where, "Retry-After": "1"}


def _only(identity: str) -> Filter:
    return Filter(ids=frozenset([identity]))


def _what(query: RequeueQuery | DeleteQuery) -> dict[str, Any]:
    """What was asked for, for the audit."""
    return dict(to_json(query))


def _body_of(change: ItemChange) -> bytes | None:
    """Return the body that is given, None if there is none. Raises BadRequest, Conflict."""
    given = change.bodies
    if len(given) > 1:
        raise Conflict(f"Give one of {', '.join(given)}.")
    try:
        if change.body_base64 is not None:
            return base64.b64decode(change.body_base64, validate=True)
        if change.body_text is not None:
            return change.body_text.encode()
        return encode_body(change.body) if given else None
    except ValueError as error:  # no base64, NaN, or half of a surrogate pair
        raise BadRequest(f"{given[0]}: {error}") from None


def _spool(letters: Iterator[WholeDeadLetter], limit: int | None, spool: IO[bytes]) -> int:
    """Write *letters*, at most *limit*, as JSON lines. Returns the bytes."""
    size = 0
    for number, letter in enumerate(letters, 1):
        size += spool.write(json.dumps(to_json(letter), ensure_ascii=False).encode() + b"\n")
        if size > EXPORT_BYTES:
            raise RequestEntityTooLarge(
                "This would be more than 1 GiB; narrow it, or use `limehub dlq export`."
            )
        if number == limit:
            break
    return size


def _chunks(spool: IO[bytes]) -> Iterator[bytes]:
    with spool:
        while chunk := spool.read(_CHUNK):
            yield chunk
            gevent.sleep(0)  # who reads as fast as we write must not keep the hub to himself


def _download(content: Any, media: str, name: str) -> Response:
    response = Response(content, content_type=media)
    response.headers["Content-Disposition"] = f'attachment; filename="{_UNSAFE.sub("_", name)}"'
    return response
