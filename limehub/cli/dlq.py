"""`limehub dlq`: look at dead letters, send them back to work, delete them, bring them back."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import click

from limehub.cli.choosing import (
    action_options,
    app_argument,
    chosen,
    filter_options,
    queue_name,
    required,
)
from limehub.cli.desk import Desk, bar, open_desk, stoppable
from limehub.cli.letters import (
    nothing_meant,
    print_apps,
    print_deletions,
    print_groups,
    print_page,
    print_whole,
    report,
)
from limehub.cli.options import config_option, json_option
from limehub.cli.output import on_terminal, print_json, warn
from limehub.deadletters.filters import Filter
from limehub.deadletters.operations import Operation
from limehub.deadletters.results import Moved
from limehub.deadletters.wire import to_json
from limehub.errors import NothingMatched

__all__ = ["dlq"]

PAGE, LARGEST_PAGE = 50, 500


@click.group()
def dlq() -> None:
    """Look at dead letters, requeue and delete them.

    APP is the name of an installed package; `limehub dlq list` names them all.
    """


@dlq.command(name="list", short_help="List them, or all apps with their counts.")
@config_option
@app_argument
@filter_options
@click.option(
    "--limit",
    metavar="N",
    type=click.IntRange(1, LARGEST_PAGE),
    default=PAGE,
    show_default=True,
    help="At most so many.",
)
@click.option("--after", metavar="ID", help="Only what comes behind this dead letter.")
@json_option
def list_(
    config: Path | None,
    app: str | None,
    limit: int,
    after: str | None,
    as_json: bool,
    **conditions: Any,
) -> None:
    """List the dead letters of APP, oldest first; without APP all apps with their counts."""
    which = Filter(**conditions)
    if app is None and not (which.is_everything and after is None):
        raise click.UsageError("name the APP whose dead letters you look for")
    with open_desk(config) as desk:
        if app is None:
            print_apps(desk.letters.apps(), as_json=as_json)
            return
        with bar() as progress:
            page = desk.letters.list(app, which, limit=limit, after=after, progress=progress)
        print_page(page, as_json=as_json)


@dlq.command(short_help="Group them by exception and place.")
@config_option
@app_argument
@filter_options
@json_option
def groups(config: Path | None, app: str | None, as_json: bool, **conditions: Any) -> None:
    """Group the dead letters of APP by exception type and place, the largest group first."""
    named = required(app)
    with open_desk(config) as desk:
        with bar() as progress:
            found = desk.letters.groups(named, Filter(**conditions), progress=progress)
        print_groups(found, as_json=as_json)


@dlq.command(short_help="Show one, whole.")
@config_option
@app_argument
@click.argument("identity", metavar="ID", required=False)
@click.option("--id", "id_option", metavar="ID", help="The same as ID.")
@json_option
def show(
    config: Path | None,
    app: str | None,
    identity: str | None,
    id_option: str | None,
    as_json: bool,
) -> None:
    """Show one dead letter: what failed, where, its headers and its whole body."""
    identity = id_option or identity
    if identity is None:
        raise click.UsageError("name the ID; `limehub dlq list APP` shows them")
    with open_desk(config) as desk:
        whole = desk.letters.show(required(app), identity)
    if as_json:
        print_json(whole.as_whole())
    else:
        print_whole(whole)


@dlq.command(short_help="Send them back to the handlers that failed.")
@action_options
@click.option(
    "--to",
    metavar="QUEUE",
    callback=queue_name,
    help="Send them to this queue instead of the handler's own.",
)
def requeue(
    config: Path | None,
    app: str | None,
    limit: int | None,
    yes: bool,
    as_json: bool,
    to: str | None,
    **conditions: Any,
) -> None:
    """Send dead letters of APP back to the queues of the handlers that failed."""
    which, named = chosen(limit=limit, **conditions), required(app)
    what = {**to_json(which), "limit": limit, "to": to}
    with open_desk(config) as desk:
        _confirm(desk, "requeue", named, which, limit, sure=yes)

        def work(each: Operation) -> Moved:
            return desk.letters.requeue(
                named, which, limit=limit, to=to, operation=each.id, progress=each.progress
            )

        report(desk.carry_out("requeue", named, what, work), named, as_json=as_json)


@dlq.command(short_help="Delete them; `undo` brings them back for an hour.")
@action_options
@click.option("--for-good", is_flag=True, help="At once, without the hour to undo it.")
def delete(
    config: Path | None,
    app: str | None,
    limit: int | None,
    yes: bool,
    as_json: bool,
    for_good: bool,
    **conditions: Any,
) -> None:
    """Delete dead letters of APP; for an hour `limehub dlq undo` brings them back."""
    which, named = chosen(limit=limit, **conditions), required(app)
    what = {**to_json(which), "limit": limit, "for_good": for_good or None}
    with open_desk(config) as desk:
        _confirm(desk, "delete", named, which, limit, sure=yes)

        def work(each: Operation) -> Moved:
            return desk.letters.delete(
                named,
                which,
                limit=limit,
                for_good=for_good,
                by=each.actor,
                operation=each.id,
                progress=each.progress,
            )

        report(desk.carry_out("delete", named, what, work), named, as_json=as_json)


@dlq.command(short_help="Bring back what was deleted.")
@config_option
@app_argument
@click.argument("operation", required=False)
@json_option
def undo(
    config: Path | None,
    app: str | None,
    operation: str | None,
    as_json: bool,
) -> None:
    """Bring back what the deletion OPERATION deleted; without it list what can be brought back."""
    named = required(app)
    with open_desk(config) as desk:
        if operation is None:
            print_deletions(desk.letters.deletions(named), as_json=as_json)
            return
        deletion = operation

        def work(each: Operation) -> Moved:
            return desk.letters.undo(deletion, app=named, progress=each.progress)

        moved = desk.carry_out("undo", named, {"deletion": deletion}, work)
        report(moved, named, as_json=as_json)


@dlq.command(short_help="Write them whole, as JSON lines.")
@config_option
@app_argument
@filter_options
@click.option("--limit", metavar="N", type=click.IntRange(1), help="The oldest N of them only.")
@click.option(
    "-o", "--output", type=click.File("wb"), default="-", help="A file.  [default: standard output]"
)
def export(
    config: Path | None,
    app: str | None,
    limit: int | None,
    output: Any,
    **conditions: Any,
) -> None:
    """Write dead letters of APP whole, as JSON, one a line. They stay where they are."""
    named = required(app)
    with (
        open_desk(config) as desk,
        bar(quiet=_is_stdout(output)) as progress,
        stoppable(progress),
    ):
        letters = desk.letters.export(named, Filter(**conditions), progress=progress)
        with contextlib.closing(letters):
            for number, letter in enumerate(letters, 1):
                line = json.dumps(to_json(letter), ensure_ascii=False)
                output.write(line.encode("utf-8", "surrogatepass") + b"\n")
                progress.done = number
                if number == limit:
                    return
        if progress.stop and progress.seen < progress.total:
            warn(f"stopped: {progress.done} of {progress.total} are looked at and written")
            click.get_current_context().exit(1)


def _is_stdout(output: Any) -> bool:
    return getattr(output, "name", "<stdout>") == "<stdout>"


def _confirm(
    desk: Desk, verb: str, app: str, which: Filter, limit: int | None, *, sure: bool
) -> None:
    if sure or not (on_terminal() and sys.stdin.isatty()):
        return
    page = desk.letters.list(app, which, limit=1)
    if not page.matched:
        raise NothingMatched(nothing_meant(app))
    count = min(page.matched, limit or page.matched)
    least = "" if page.complete or count == limit else "at least "
    click.confirm(
        f"{verb} {least}{count} of {page.total} dead letters of {page.app}?", abort=True, err=True
    )
