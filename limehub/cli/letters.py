"""Dead letters and what was done to them, for people or as JSON."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click

from limehub.cli.output import print_json, print_pairs, print_table, say, warn
from limehub.deadletters.item import DeadLetter, WholeDeadLetter
from limehub.deadletters.plain import rfc3339
from limehub.deadletters.results import AppCount, Deletion, GroupList, Moved, Page
from limehub.deadletters.wire import to_json

__all__ = [
    "nothing_meant",
    "print_apps",
    "print_deletions",
    "print_groups",
    "print_page",
    "print_whole",
    "report",
]

ERROR_CHARS = 80


def nothing_meant(app: str) -> str:
    """Return what to say when no dead letter of *app* is meant."""
    return f"no dead letter of {app} is meant; `limehub dlq list {app}` shows what is there"


def report(moved: Moved, app: str, *, as_json: bool) -> None:
    """Print what came of a move; exits with 1 unless all that was meant is done."""
    if as_json:
        print_json(moved.as_dict())
    elif moved.found_nothing and not moved.stopped:
        warn(nothing_meant(app))
    else:
        say(f"{moved.verb} {moved.count}, failed {moved.failed_total}, remaining {moved.remaining}")
        print_table(["id", "stays because"], [(one.id, one.reason) for one in moved.failed])
        _say_more(moved, app)
    if moved.stopped:
        warn("stopped before the end; everything else is where it was")
    if moved.failed or moved.stopped or not moved.count:
        click.get_current_context().exit(1)


def _say_more(moved: Moved, app: str) -> None:
    if moved.failed_total > len(moved.failed):
        say(f"and {moved.failed_total - len(moved.failed)} more that stay")
    if moved.undo_until is not None:
        until = rfc3339(moved.undo_until)
        say(f"until {until}: limehub dlq undo {app} {moved.operation}")


def print_deletions(deletions: Iterable[Deletion], *, as_json: bool) -> None:
    """Print what can be brought back."""
    if as_json:
        print_json([to_json(one) for one in deletions])
        return
    rows = [
        (one.operation, one.count, rfc3339(one.deleted_at), one.by, rfc3339(one.undo_until))
        for one in deletions
    ]
    columns = ["operation", "dead letters", "deleted at", "by", "until"]
    print_table(columns, rows, empty="nothing was deleted that could be brought back")


def print_groups(found: GroupList, *, as_json: bool) -> None:
    """Print groups, the largest first."""
    if as_json:
        print_json(found.as_dict())
        return
    rows = [
        (
            one.group,
            one.count,
            one.exception_type or one.reason,
            one.where,
            _cut(one.message),
            rfc3339(one.last_failed_at),
            one.example,
        )
        for one in found.groups
    ]
    columns = ["group", "dead letters", "error", "where", "last message", "last failed", "example"]
    print_table(columns, rows, empty=f"no dead letters in {found.queue}")
    if found.ungrouped:
        say(f"and {found.ungrouped} of too many groups to list; narrow it with a filter")


def print_apps(apps: tuple[AppCount, ...], *, as_json: bool) -> None:
    """Print the apps with their counts."""
    if as_json:
        print_json([one.as_dict() for one in apps])
        return
    rows = [(one.app, f"{one.total}{' (in use)' if one.busy else ''}", one.queue) for one in apps]
    print_table(["app", "dead letters", "queue"], rows, empty="no package is installed")


def print_page(page: Page, *, as_json: bool) -> None:
    """Print a page, and how to get the next."""
    if as_json:
        print_json(page.as_dict())
        return
    columns = ["id", "failed at", "application", "routing key", "handler", "error", "attempts"]
    print_table(columns, map(_row, page.items), empty=f"no dead letters in {page.queue}")
    if page.items:
        matching = "" if page.matched == page.total else f" {page.matched} that match, of"
        say(f"{len(page.items)} of{matching} {page.total} in {page.queue}")
    if not page.complete:
        say("time ran out before the end of the queue: there may be more")
    if page.next:
        say(f"next page: --after {page.next}")


def _row(item: DeadLetter) -> tuple[object, ...]:
    return (
        item.id,
        rfc3339(item.last_failed_at),
        item.application,
        item.routing_key,
        item.handler,
        _error(item),
        item.attempts,
    )


def _error(item: DeadLetter) -> str:
    said = ": ".join(filter(None, (item.exception.type, item.exception.message))) or item.reason
    return _cut(said)


def _cut(text: str) -> str:
    return text if len(text) <= ERROR_CHARS else f"{text[: ERROR_CHARS - 3]}..."


def print_whole(whole: WholeDeadLetter) -> None:
    """Print one with all that its message holds."""
    item = whole.item.as_item()
    cause = item.pop("exception")
    item.pop("preview")
    item |= {"exception": cause["type"], "message": cause["message"], "where": cause["where"]}
    print_pairs((name.replace("_", " "), value) for name, value in item.items())
    _print_section("properties", whole.properties)
    _print_section("headers", {k: v for k, v in whole.headers.items() if not _is_told(k)})
    if whole.traceback:
        say(f"\n{whole.traceback.rstrip()}")
    cut = ", its beginning only" if whole.body_truncated else ""
    say(f"\nbody ({whole.body_encoding}{cut})")
    print_json(whole.body) if whole.body_encoding == "json" else say(whole.body)


def _print_section(title: str, values: Any) -> None:
    if values:
        say(f"\n{title}")
        print_pairs((f"  {name}", value) for name, value in values.items())


def _is_told(header: str) -> bool:
    """Whether the lines above tell it already; what the publisher sent is always shown."""
    return header.startswith("x-limehub-") and not header.startswith("x-limehub-original-")
