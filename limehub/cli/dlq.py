"""`limehub dlq`: look at dead letters, send them back to work, delete them, bring them back."""

from __future__ import annotations

import contextlib
import getpass
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

import click
from attrs import frozen

from limehub.cli.loading import broker_of, load_config, open_publisher
from limehub.cli.options import config_option, json_option
from limehub.cli.output import on_terminal, print_json, print_pairs, print_table, say, warn
from limehub.deadletters.filters import Filter, moment
from limehub.deadletters.item import DeadLetter, WholeDeadLetter
from limehub.deadletters.plain import rfc3339
from limehub.deadletters.results import AppCount, Deletion, GroupList, Moved, Page, Progress
from limehub.deadletters.wire import to_json
from limehub.errors import NothingMatched

if TYPE_CHECKING:
    from limehub.deadletters.audit import Audit
    from limehub.deadletters.operations import Operation
    from limehub.deadletters.service import DeadLetterDesk

__all__ = ["dlq"]

F = TypeVar("F", bound=Callable[..., Any])

ERROR_CHARS = 80
PAGE, LARGEST_PAGE = 50, 500
_APP = "limehub.dlq.app"
BAR_AFTER, BAR_STEP = 1.0, 0.2
"""Seconds until a bar shows that it takes long, and between two looks at it."""


@click.group()
def dlq() -> None:
    """Look at dead letters, requeue and delete them.

    APP is the name of an installed package; `limehub dlq list` names them all.
    """


def _time(
    _context: click.Context, _parameter: click.Parameter, text: str | None
) -> datetime | None:
    try:
        return None if text is None else moment(text, now=datetime.now(UTC))
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


_FILTERS = (
    click.option("--handler", metavar="NAME", help="Of this handler or queue."),
    click.option("--application", metavar="NAME", help="Of this application."),
    click.option("--routing-key", metavar="PATTERN", help="Topic pattern: * one word, # any."),
    click.option("--exception-type", metavar="TYPE", help="Whole name or its last part."),
    click.option("--text", help="Somewhere in body, exception, routing key or message id."),
    click.option("--group", metavar="ID", help="Of this group; see `limehub dlq groups`."),
    click.option(
        "--since", metavar="TIME", callback=_time, help="Failed then or later: 2030-01-31, 2h."
    ),
    click.option("--until", metavar="TIME", callback=_time, help="Failed before then."),
)


def filter_options(command: F) -> F:
    """Add the options that say which dead letters are meant."""
    for option in reversed(_FILTERS):
        command = option(command)
    return command


def _action_options(command: F) -> F:
    for option in (
        json_option,
        click.option("--yes", is_flag=True, help="Do not ask."),
        click.option("--all", "everything", is_flag=True, help="All dead letters of the app."),
        click.option(
            *("--limit", "--trial", "limit"),
            metavar="N",
            type=click.IntRange(1),
            help="The oldest N of them only: a trial.",
        ),
        filter_options,
        click.option("--id", "ids", metavar="ID", multiple=True, help="This one; repeatable."),
        _app_argument,
        config_option,
    ):
        command = option(command)
    return command


def _app_argument(command: F) -> F:
    """Add APP, which may be said as `--app APP` too; the command gets *app*: str, or None."""
    named = click.option(
        "--app",
        "app_option",
        metavar="APP",
        is_eager=True,
        expose_value=False,
        callback=_keep_app,
        help="The same as APP.",
    )
    return named(click.argument("app", required=False, callback=_app)(command))


def _keep_app(context: click.Context, _parameter: click.Parameter, app: str | None) -> None:
    context.meta[_APP] = app


def _app(context: click.Context, _parameter: click.Parameter, app: str | None) -> str | None:
    return app or context.meta.get(_APP)


def _required(app: str | None) -> str:
    if app is None:
        raise click.UsageError("name the APP; `limehub dlq list` shows all")
    return app


@dlq.command(name="list")
@config_option
@_app_argument
@filter_options
@click.option(
    "--limit",
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
    with _desk(config) as tools:
        if app is None:
            _print_apps(tools.desk.apps(), as_json=as_json)
            return
        with _bar() as progress:
            page = tools.desk.list(app, which, limit=limit, after=after, progress=progress)
        _print_page(page, as_json=as_json)


@dlq.command()
@config_option
@_app_argument
@filter_options
@json_option
def groups(config: Path | None, app: str | None, as_json: bool, **conditions: Any) -> None:
    """Group the dead letters of APP by exception type and place, the largest group first."""
    named = _required(app)
    with _desk(config) as tools:
        with _bar() as progress:
            found = tools.desk.groups(named, Filter(**conditions), progress=progress)
        _print_groups(found, as_json=as_json)


@dlq.command()
@config_option
@_app_argument
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
    with _desk(config) as tools:
        whole = tools.desk.show(_required(app), identity)
    if as_json:
        print_json(whole.as_whole())
    else:
        _print_whole(whole)


@dlq.command()
@_action_options
@click.option("--to", metavar="QUEUE", help="Send them to this queue instead of the handler's own.")
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
    which, named = _chosen(limit=limit, **conditions), _required(app)
    what = {**to_json(which), "limit": limit, "to": to}
    with _desk(config) as tools:
        _confirm(tools.desk, "requeue", named, which, limit, sure=yes)

        def work(each: Operation) -> Moved:
            return tools.desk.requeue(
                named, which, limit=limit, to=to, operation=each.id, progress=each.progress
            )

        _report(tools.carry_out("requeue", named, what, work), named, as_json=as_json)


@dlq.command()
@_action_options
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
    which, named = _chosen(limit=limit, **conditions), _required(app)
    what = {**to_json(which), "limit": limit, "for_good": for_good or None}
    with _desk(config) as tools:
        _confirm(tools.desk, "delete", named, which, limit, sure=yes)

        def work(each: Operation) -> Moved:
            return tools.desk.delete(
                named,
                which,
                limit=limit,
                for_good=for_good,
                by=each.actor,
                operation=each.id,
                progress=each.progress,
            )

        _report(tools.carry_out("delete", named, what, work), named, as_json=as_json)


@dlq.command()
@config_option
@_app_argument
@click.argument("operation", required=False)
@json_option
def undo(
    config: Path | None,
    app: str | None,
    operation: str | None,
    as_json: bool,
) -> None:
    """Bring back what the deletion OPERATION deleted; without it list what can be brought back."""
    named = _required(app)
    with _desk(config) as tools:
        if operation is None:
            _print_deletions(tools.desk.deletions(named), as_json=as_json)
            return
        deletion = operation

        def work(each: Operation) -> Moved:
            return tools.desk.undo(deletion, app=named, progress=each.progress)

        moved = tools.carry_out("undo", named, {"deletion": deletion}, work)
        _report(moved, named, as_json=as_json)


@dlq.command()
@config_option
@_app_argument
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
    named = _required(app)
    with _desk(config) as tools, _bar(quiet=_is_stdout(output)) as progress:
        letters = tools.desk.export(named, Filter(**conditions), progress=progress)
        with contextlib.closing(letters):
            for number, letter in enumerate(letters, 1):
                line = json.dumps(to_json(letter), ensure_ascii=False)
                output.write(line.encode("utf-8", "surrogatepass") + b"\n")
                progress.done = number
                if number == limit:
                    break


def _is_stdout(output: Any) -> bool:
    return getattr(output, "name", "<stdout>") == "<stdout>"


@frozen(kw_only=True)
class _Tools:
    desk: DeadLetterDesk
    audit: Audit

    def carry_out(
        self, action: str, app: str, what: dict[str, Any], work: Callable[[Operation], Moved]
    ) -> Moved:
        """Do it here and now, with a bar if it takes long, and note who did it."""
        from limehub.deadletters.operations import Operation

        operation = Operation(str(uuid4()), action, app, _user())
        with _bar(operation.progress):
            return self.audit.noting(what, work)(operation)


def _user() -> str:
    try:
        return f"{getpass.getuser()} (command)"
    except (KeyError, OSError):  # a container's user without a name
        return "command"


@contextmanager
def _bar(progress: Progress | None = None, *, quiet: bool = False) -> Iterator[Progress]:
    """Give a progress to count in; on a terminal a bar shows it when it takes long."""
    import gevent

    progress = progress or Progress()
    if quiet or not sys.stderr.isatty():
        yield progress
        return
    painter = gevent.spawn_later(BAR_AFTER, _paint, progress)
    try:
        yield progress
    finally:
        painter.kill()


def _paint(progress: Progress) -> None:
    """Draw until killed."""
    import gevent

    with click.progressbar(
        length=progress.total or 1, file=sys.stderr, label="dead letters", show_pos=True
    ) as bar:
        while True:
            bar.length = progress.total or 1
            bar.update(progress.seen - bar.pos)
            gevent.sleep(BAR_STEP)


@contextmanager
def _desk(path: Path | None) -> Iterator[_Tools]:
    from limehub.deadletters.audit import Audit
    from limehub.deadletters.office import open_desk
    from limehub.plugins.discovery import find_candidates

    loaded = load_config(path)
    place = broker_of(loaded)
    candidates, clashes = find_candidates()  # names only: no plugin is imported
    apps = {one.name for one in candidates} | {one.name for one in clashes}
    publisher = open_publisher(loaded.config, place)
    try:
        yield _Tools(
            desk=open_desk(loaded.config, place.settings(loaded.config), publisher, apps),
            audit=Audit(loaded.config.web.audit_file),
        )
    finally:
        publisher.close()


def _chosen(
    *, ids: tuple[str, ...], everything: bool, limit: int | None, **conditions: Any
) -> Filter:
    which = Filter(ids=frozenset(ids) if ids else None, **conditions)
    if which.is_everything and not everything and limit is None:
        raise click.UsageError("say which ones: --id, a filter or --limit, or --all for everything")
    if everything and not which.is_everything:
        raise click.UsageError("--all goes with neither --id nor a filter")
    return which


def _confirm(
    desk: DeadLetterDesk, verb: str, app: str, which: Filter, limit: int | None, *, sure: bool
) -> None:
    if sure or not (on_terminal() and sys.stdin.isatty()):
        return
    page = desk.list(app, which, limit=1)
    if not page.matched:
        raise NothingMatched(_nothing(app))
    count = min(page.matched, limit or page.matched)
    click.confirm(
        f"{verb} {count} of {page.total} dead letters of {page.app}?", abort=True, err=True
    )


def _nothing(app: str) -> str:
    return f"no dead letter of {app} is meant; `limehub dlq list {app}` shows what is there"


def _report(moved: Moved, app: str, *, as_json: bool) -> None:
    if as_json:
        print_json(moved.as_dict())
    elif moved.found_nothing:
        warn(_nothing(app))
    else:
        say(f"{moved.verb} {moved.count}, failed {len(moved.failed)}, remaining {moved.remaining}")
        print_table(["id", "stays because"], [(one.id, one.reason) for one in moved.failed])
        _say_more(moved, app)
    if moved.failed or not moved.count:
        click.get_current_context().exit(1)


def _say_more(moved: Moved, app: str) -> None:
    if moved.failed_total > len(moved.failed):
        say(f"and {moved.failed_total - len(moved.failed)} more that stay")
    if moved.undo_until is not None:
        until = rfc3339(moved.undo_until)
        say(f"until {until}: limehub dlq undo {app} {moved.operation}")


def _print_deletions(deletions: Iterable[Deletion], *, as_json: bool) -> None:
    if as_json:
        print_json([to_json(one) for one in deletions])
        return
    rows = [
        (one.operation, one.count, rfc3339(one.deleted_at), one.by, rfc3339(one.undo_until))
        for one in deletions
    ]
    columns = ["operation", "dead letters", "deleted at", "by", "until"]
    print_table(columns, rows, empty="nothing was deleted that could be brought back")


def _print_groups(found: GroupList, *, as_json: bool) -> None:
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


def _print_apps(apps: tuple[AppCount, ...], *, as_json: bool) -> None:
    if as_json:
        print_json([one.as_dict() for one in apps])
        return
    rows = [(one.app, f"{one.total}{' (in use)' if one.busy else ''}", one.queue) for one in apps]
    print_table(["app", "dead letters", "queue"], rows, empty="no package is installed")


def _print_page(page: Page, *, as_json: bool) -> None:
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


def _print_whole(whole: WholeDeadLetter) -> None:
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
