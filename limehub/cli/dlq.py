"""`limehub dlq`: look at dead letters, send them back to work, delete them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from limehub.cli.loading import broker_of, load_config, open_publisher
from limehub.cli.options import config_option, json_option
from limehub.cli.output import on_terminal, print_json, print_pairs, print_table, say, warn
from limehub.deadletters.filters import Filter, moment
from limehub.deadletters.item import DeadLetter, WholeDeadLetter
from limehub.deadletters.plain import rfc3339
from limehub.deadletters.results import AppCount, Moved, Page
from limehub.errors import NothingMatched

if TYPE_CHECKING:
    from limehub.deadletters.service import DeadLetterDesk

__all__ = ["dlq"]

F = TypeVar("F", bound=Callable[..., Any])

ERROR_CHARS = 80
PAGE, LARGEST_PAGE = 50, 500


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
        click.option("--limit", type=click.IntRange(1), help="The oldest N of them only."),
        filter_options,
        click.option("--id", "ids", metavar="ID", multiple=True, help="This one; repeatable."),
        click.argument("app"),
        config_option,
    ):
        command = option(command)
    return command


@dlq.command(name="list")
@config_option
@click.argument("app", required=False)
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
    with _desk(config) as desk:
        if app is None:
            _print_apps(desk.apps(), as_json=as_json)
        else:
            _print_page(desk.list(app, which, limit=limit, after=after), as_json=as_json)


@dlq.command()
@config_option
@click.argument("app")
@click.argument("identity", metavar="ID")
@json_option
def show(config: Path | None, app: str, identity: str, as_json: bool) -> None:
    """Show one dead letter: what failed, where, its headers and its whole body."""
    with _desk(config) as desk:
        whole = desk.show(app, identity)
    if as_json:
        print_json(whole.as_whole())
    else:
        _print_whole(whole)


@dlq.command()
@_action_options
@click.option("--to", metavar="QUEUE", help="Send them to this queue instead of the handler's own.")
def requeue(
    config: Path | None,
    app: str,
    limit: int | None,
    yes: bool,
    as_json: bool,
    to: str | None,
    **conditions: Any,
) -> None:
    """Send dead letters of APP back to the queues of the handlers that failed."""
    which = _chosen(limit=limit, **conditions)
    with _desk(config) as desk:
        _confirm(desk, "requeue", app, which, limit, sure=yes)
        _report(desk.requeue(app, which, limit=limit, to=to), app, as_json=as_json)


@dlq.command()
@_action_options
def delete(
    config: Path | None, app: str, limit: int | None, yes: bool, as_json: bool, **conditions: Any
) -> None:
    """Delete dead letters of APP for good."""
    which = _chosen(limit=limit, **conditions)
    with _desk(config) as desk:
        _confirm(desk, "delete", app, which, limit, sure=yes)
        _report(desk.delete(app, which, limit=limit), app, as_json=as_json)


@contextmanager
def _desk(path: Path | None) -> Iterator[DeadLetterDesk]:
    from limehub.amqp.connection import BrokerConnection
    from limehub.deadletters.service import DeadLetterDesk
    from limehub.plugins.discovery import find_candidates

    loaded = load_config(path)
    place = broker_of(loaded)
    settings = place.settings(loaded.config)
    candidates, clashes = find_candidates()  # names only: no plugin is imported
    publisher = open_publisher(loaded.config, place)
    try:
        yield DeadLetterDesk(
            connect=lambda: BrokerConnection.open(settings, "limehub dlq"),
            publisher=publisher,
            apps={one.name for one in candidates} | {one.name for one in clashes},
            application_of=loaded.config.application_of,
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
    if moved.failed or not moved.count:
        click.get_current_context().exit(1)


def _print_apps(apps: tuple[AppCount, ...], *, as_json: bool) -> None:
    if as_json:
        print_json([one.as_dict() for one in apps])
        return
    rows = [
        (one.app, f"{one.total}{' (in use)' if one.is_busy else ''}", one.queue) for one in apps
    ]
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
    return said if len(said) <= ERROR_CHARS else f"{said[: ERROR_CHARS - 3]}..."


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
    say(f"\nbody ({whole.body_encoding})")
    print_json(whole.body) if whole.body_encoding == "json" else say(whole.body)


def _print_section(title: str, values: Any) -> None:
    if values:
        say(f"\n{title}")
        print_pairs((f"  {name}", value) for name, value in values.items())


def _is_told(header: str) -> bool:
    """Whether the lines above tell it already; what the publisher sent is always shown."""
    return header.startswith("x-limehub-") and not header.startswith("x-limehub-original-")
