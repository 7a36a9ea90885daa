"""A progress bar on standard error, if a person sees it; else nothing at all."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Self

import gevent
from attrs import define, field

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

__all__ = ["Progress"]

STEP = 0.1  # seconds between two looks


@define(eq=False)
class Progress:
    """`with Progress() as progress: with progress.of("name", total, count): ...`."""

    _bars: Bars | None = field(default=None, init=False)

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import Progress as Bars

            # Its own refreshing thread would take CPU from what is measured, even when nothing
            # changes.
            self._bars = Bars(console=Console(stderr=True), auto_refresh=False, transient=True)
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    @contextlib.contextmanager
    def of(self, name: str, total: int | None, count: Callable[[], int]) -> Iterator[None]:
        """Show a bar while the block runs; *count*() is looked at ten times a second.

        *total*: None = nobody knows.
        """
        if self._bars is None:
            yield
            return
        watcher = gevent.spawn(self._watch, self._bars, name, total, count)
        try:
            yield
        finally:
            watcher.kill()

    def _watch(self, bars: Bars, name: str, total: int | None, count: Callable[[], int]) -> None:
        task = bars.add_task(name, total=total)
        try:
            while True:
                bars.update(task, completed=count(), refresh=True)
                gevent.sleep(STEP)
        finally:
            bars.update(task, completed=count(), refresh=True)
