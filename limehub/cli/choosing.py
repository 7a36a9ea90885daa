"""Which dead letters a command means: APP, ids, filters, and how many."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import click

from limehub.cli.options import config_option, json_option
from limehub.config import name_problem
from limehub.deadletters.filters import Filter, moment

__all__ = ["action_options", "app_argument", "chosen", "filter_options", "queue_name", "required"]

F = TypeVar("F", bound=Callable[..., Any])

_APP = "limehub.dlq.app"


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


def action_options(command: F) -> F:
    """Add the options of what changes dead letters: which, how many, and whether it is sure."""
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
        app_argument,
        config_option,
    ):
        command = option(command)
    return command


def app_argument(command: F) -> F:
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


def queue_name(
    _context: click.Context, _parameter: click.Parameter, name: str | None
) -> str | None:
    """Return *name* if a queue can have it."""
    problem = None if name is None else name_problem(name)
    if problem:
        raise click.BadParameter(problem)
    return name


def required(app: str | None) -> str:
    """Return *app*. Raises UsageError if none is named."""
    if app is None:
        raise click.UsageError("name the APP; `limehub dlq list` shows all")
    return app


def chosen(
    *, ids: tuple[str, ...], everything: bool, limit: int | None, **conditions: Any
) -> Filter:
    """Return which are meant. Raises UsageError if nobody said: no queue is emptied by a slip."""
    which = Filter(ids=frozenset(ids) if ids else None, **conditions)
    if which.is_everything and not everything and limit is None:
        raise click.UsageError("say which ones: --id, a filter or --limit, or --all for everything")
    if everything and not which.is_everything:
        raise click.UsageError("--all goes with neither --id nor a filter")
    return which
