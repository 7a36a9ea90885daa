"""The dead-letter desk on pages: what failed and why, one event, and what can be done about it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from attrs import frozen
from flask import Blueprint, redirect, request, url_for
from werkzeug.exceptions import BadRequest, Forbidden

from limehub.config import name_problem
from limehub.deadletters.office import Office
from limehub.deadletters.operations import Operation
from limehub.deadletters.results import Group, GroupList, Moved
from limehub.web.identity import actor
from limehub.web.looks import Looks
from limehub.web.pages.changes import Changes
from limehub.web.pages.letters import (
    Chosen,
    WrongFilter,
    address,
    body_problem,
    body_text,
    chosen_of,
)
from limehub.web.pages.showing import Pages

__all__ = ["DeskPages"]

ON_A_PAGE = 50
LIST_SECONDS = 3.0
"""So long a page looks for events that match; it says where it stopped, and goes on from there."""
PATIENCE = 1.0
"""Seconds that a page waits for an operation before it shows its progress instead."""
RAW_BYTES = SHOWN_CHARACTERS = 262_144
MOST_IDS = 1000
"""A page has 50 boxes to tick. Showing 100,000 again would keep the hub from the handlers."""


@frozen(kw_only=True)
class DeskPages:
    """The views about dead letters."""

    pages: Pages
    office: Office
    changes: Changes
    looks: Looks

    def add_to(self, blueprint: Blueprint) -> None:
        """Add all of them."""
        app = "/dead-letters/<app>/"
        event = f"{app}events/<id>/"
        for path, view, methods in (
            ("/dead-letters/", self.apps, ["GET"]),
            (app, self.groups, ["GET"]),
            (f"{app}events/", self.events, ["GET"]),
            (event, self.event, ["GET"]),
            (f"{event}edit", self.edit, ["GET", "POST"]),
            (f"{app}deleted/", self.deleted, ["GET"]),
            (f"{app}confirm", self.confirm, ["GET", "POST"]),
            (f"{app}requeue", self.requeue, ["POST"]),
            (f"{app}delete", self.delete, ["POST"]),
            (f"{app}undo", self.undo, ["POST"]),
            ("/operations/<operation>/", self.operation, ["GET"]),
            ("/operations/<operation>/progress", self.progress, ["GET"]),
            ("/operations/<operation>/stop", self.stop, ["POST"]),
        ):
            blueprint.add_url_rule(path, view.__name__, view, methods=methods)

    # -- looking ----------------------------------------------------------------------------------

    def apps(self) -> Any:
        """Show all apps with the number of their dead letters."""
        apps = self.office.desk.apps()
        self.pages.live.note_dead(apps)
        ordered = sorted(apps, key=lambda each: (-each.total, each.app))
        return self.pages.show("apps", apps=ordered)

    def groups(self, app: str) -> Any:
        """Show the dead letters of *app* by cause; counting many takes a while."""
        chosen, named = _chosen(), request.args.get("operation")
        operation = self._count(app, chosen, named) or self.looks.groups(
            app, chosen.filter, actor(), for_people=not request.args.get("again")
        )
        if not operation.wait(PATIENCE):
            if named != operation.id:
                return redirect(address(app) + chosen.query(operation=operation.id), 303)
            return self.pages.show("counting", app=app, chosen=chosen, it=operation.snapshot())
        found: GroupList = operation.take()
        return self.pages.show("groups", app=found.app, chosen=chosen, found=found)

    def events(self, app: str) -> Any:
        """Show a page of the dead letters of *app*."""
        chosen = _chosen()
        after = request.args.get("after") or None
        page = self.looks.list(
            app,
            chosen.filter,
            limit=ON_A_PAGE,
            after=after,
            budget=LIST_SECONDS,
            for_people=not request.args.get("again"),
        )
        cause = self._cause(app, chosen)
        return self.pages.show(
            "events", app=page.app, chosen=chosen, page=page, after=after, cause=cause
        )

    def event(self, app: str, id: str) -> Any:  # noqa: A002 - the URL's word
        """Show one dead letter, whole; with `?raw=1` its body as it came."""
        letter = self.office.desk.show(app, id)
        raw = self._raw(app, id) if request.args.get("raw") else None
        body = body_text(letter) if raw is None else raw
        return self.pages.show(
            "event",
            app=app,
            letter=letter,
            item=letter.item,
            is_raw=raw is not None,
            body=body[:SHOWN_CHARACTERS],
            is_cut=letter.body_truncated or len(body) > SHOWN_CHARACTERS,
        )

    def deleted(self, app: str) -> Any:
        """Show what can still be brought back."""
        return self.pages.show("deleted", app=app, deletions=self.office.desk.deletions(app))

    # -- asking first -----------------------------------------------------------------------------

    def confirm(self, app: str) -> Any:
        """Ask before many events are moved."""
        action = request.values.get("action", "")
        if action not in ("requeue", "delete"):
            raise BadRequest("action: requeue or delete")
        if not self.pages.may_change:
            raise Forbidden("The role `read` may only look.")
        chosen = _chosen()
        if request.method == "POST" and not chosen.ids:
            return self.pages.show("nothing", 400, app=app, action=action)
        return self.pages.show(
            "confirm",
            app=app,
            action=action,
            chosen=chosen,
            about=_about(chosen),
            cause=self._cause(app, chosen),
        )

    def edit(self, app: str, id: str) -> Any:  # noqa: A002 - the URL's word
        """Show the body to edit; POST sends it to the handler instead of the old one."""
        if not self.pages.may_edit:
            raise Forbidden("Editing is off; see web.edit_dead_letters.")
        letter = self.office.desk.show(app, id)
        if letter.body_truncated or letter.body_encoding == "base64":
            raise BadRequest("Only text of at most 1 MiB can be edited here.")
        text, problem = body_text(letter), ""
        if request.method == "POST":
            text = request.form.get("body", "").replace("\r\n", "\n")
            problem = body_problem(text, is_json=letter.body_encoding == "json")
            if not problem:
                return self._begun(self.changes.requeue(app, _only(id), body=text.encode()))
        return self.pages.show(
            "edit", 400 if problem else 200, app=app, item=letter.item, text=text, problem=problem
        )

    # -- acting -----------------------------------------------------------------------------------

    def requeue(self, app: str) -> Any:
        """Send the chosen ones back to work."""
        to = request.form.get("to", "").strip() or None
        if to is not None and name_problem(to):
            raise BadRequest(f"to: {name_problem(to)}")
        return self._begun(self.changes.requeue(app, _chosen(), to=to))

    def delete(self, app: str) -> Any:
        """Delete the chosen ones."""
        for_good = request.form.get("for_good") == "yes"
        return self._begun(self.changes.delete(app, _chosen(), for_good=for_good))

    def undo(self, app: str) -> Any:
        """Bring back what a deletion deleted."""
        return self._begun(self.changes.undo(app, request.form.get("operation", "")))

    def operation(self, operation: str) -> Any:
        """Show how far an operation is, and what came of it."""
        it = self.office.operations.get(operation).snapshot()
        result = it.result if isinstance(it.result, Moved) else None
        return self.pages.show("operation", it=it, result=result)

    def progress(self, operation: str) -> Any:
        """Show how far it is, for the page that asks every second; at its end that page reloads."""
        it = self.office.operations.get(operation).snapshot()
        response = self.pages.show("progress", it=it)
        if it.state != "running":
            response.headers["HX-Refresh"] = "true"
        return response

    def stop(self, operation: str) -> Any:
        """End an operation at its next letter; what is moved stays moved."""
        self.office.operations.get(operation).progress.stop = True
        return redirect(url_for("pages.operation", operation=operation), 303)

    def _begun(self, operation: Operation) -> Any:
        operation.wait(PATIENCE)
        return redirect(url_for("pages.operation", operation=operation.id), 303)

    def _count(self, app: str, chosen: Chosen, named: str | None) -> Operation | None:
        """Return the count of causes that the address names, if it is still known."""
        for each in self.office.operations.all():
            if each.id == named and (each.app, each.about) == (app, chosen.filter):
                return each
        return None

    def _cause(self, app: str, chosen: Chosen) -> Group | None:
        """Return the group that is chosen, if somebody has counted it lately."""
        for each in self.office.operations.all():
            if each.app == app and isinstance(each.answer, GroupList):
                for group in each.answer.groups:
                    if group.group == chosen.filter.group:
                        return group
        return None

    def _raw(self, app: str, id: str) -> str:  # noqa: A002 - as event
        return self.office.desk.body(app, id)[:RAW_BYTES].decode("utf-8", "backslashreplace")


def _chosen() -> Chosen:
    """Return what the address or the form chooses."""
    if len(request.form.getlist("ids")) > MOST_IDS:
        raise BadRequest(f"ids: at most {MOST_IDS} at a time; use a filter for more")
    try:
        return chosen_of(
            request.values,
            tuple(request.form.getlist("ids")),
            limit=request.values.get("limit", ""),
            now=datetime.now(UTC),
        )
    except WrongFilter as error:
        raise BadRequest(str(error)) from None


def _only(identity: str) -> Chosen:
    return chosen_of({}, (identity,), now=datetime.now(UTC))


def _about(chosen: Chosen) -> int | None:
    """How many will be meant, as the page before has counted; None if nobody knows."""
    if chosen.ids:
        return len(chosen.ids)
    text = request.values.get("about", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None
