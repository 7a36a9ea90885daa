"""The desk of a command: on the broker of the running server, with a bar when it takes long."""

from __future__ import annotations

import getpass
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import click
from attrs import frozen

from limehub.cli.loading import broker_of, load_config, open_publisher
from limehub.deadletters.results import Moved, Progress

if TYPE_CHECKING:
    from limehub.deadletters.audit import Audit
    from limehub.deadletters.operations import Operation
    from limehub.deadletters.service import DeadLetterDesk

__all__ = ["Desk", "bar", "open_desk", "stoppable"]

BAR_AFTER, BAR_STEP = 1.0, 0.2
"""Seconds until a bar shows that it takes long, and between two looks at it."""


@frozen(kw_only=True)
class Desk:
    """What the commands work with."""

    letters: DeadLetterDesk
    audit: Audit

    def carry_out(
        self, action: str, app: str, what: dict[str, Any], work: Callable[[Operation], Moved]
    ) -> Moved:
        """Do it here and now, with a bar if it takes long, and note who did it.

        Ctrl-C ends it between two letters.
        """
        from limehub.deadletters.operations import Operation

        operation = Operation(str(uuid4()), action, app, _user())
        with bar(operation.progress), stoppable(operation.progress):
            return self.audit.noting(what, work)(operation)


def _user() -> str:
    try:
        return f"{getpass.getuser()} (command)"
    except (KeyError, OSError):  # a container's user without a name
        return "command"


@contextmanager
def bar(progress: Progress | None = None, *, quiet: bool = False) -> Iterator[Progress]:
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
def open_desk(path: Path | None) -> Iterator[Desk]:
    """Give the desk of the configuration in *path*. Raises ConfigError, BrokerError."""
    from limehub.deadletters.audit import Audit
    from limehub.deadletters.office import open_desk as service
    from limehub.plugins.discovery import find_candidates

    loaded = load_config(path)
    place = broker_of(loaded)
    candidates, clashes = find_candidates()  # names only: no plugin is imported
    apps = {one.name for one in candidates} | {one.name for one in clashes}
    publisher = open_publisher(loaded.config, place)
    try:
        yield Desk(
            letters=service(loaded.config, place.settings(loaded.config), publisher, apps),
            audit=Audit(loaded.config.web.audit_file),
        )
    finally:
        publisher.close()


@contextmanager
def stoppable(progress: Progress) -> Iterator[None]:
    """Let the first Ctrl-C or SIGTERM stop *progress*, in order; the next one ends the command."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def stop(_number: int, _frame: FrameType | None) -> None:
        progress.stop = True
        restore()

    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        restore()
