"""Handlers of an installed plugin, run in a lane without a broker."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import define, field

from limehub.config import Config, Lane
from limehub.events import Event
from limehub.plugins.registry import Registry
from limehub.testing import Outbox, make_event
from limehub.workers.lanes.lanes import Lanes
from limehub.workers.lanes.process_lane import ChildLimits
from tests.unit.plugin_site import Site

__all__ = ["APP", "LaneSite"]

APP = "solution-lanes"


@define(eq=False)
class LaneSite:
    """`solution-lanes`, whose handlers are the public functions of *source*.

    *notes*: a file for them to write to, known to them as NOTES.
    """

    site: Site
    lanes: Lanes = field(init=False)
    registry: Registry = field(init=False)
    outbox: Outbox = field(factory=Outbox)

    @property
    def notes(self) -> Path:
        return self.site.folder / "notes"

    @property
    def noted(self) -> list[str]:
        return self.notes.read_text().splitlines() if self.notes.exists() else []

    def install(self, source: str, config: Config | None = None, **limits: Any) -> LaneSite:
        text = f"NOTES = {str(self.notes)!r}\n" + HELPERS + textwrap.dedent(source) + REGISTER
        self.site.install(APP, text)
        self.registry = self.site.load(config)
        self.registry.raise_if_broken()
        self.lanes = Lanes(self.registry, self.outbox, ChildLimits(**limits))
        return self

    def call(self, name: str, lane: Lane, timeout: float | None = None) -> Callable[..., Event]:
        """`call(body, **event)` runs the handler on an event and returns that."""
        handler = self.registry.handlers[f"lime.event_handler.{APP}.{name}"]
        run = self.lanes.call_of(handler, "group", lane, timeout)

        def call(body: Any = "", **given: Any) -> Event:
            event, message = make_event(body, kind=handler.form.event_class, **given)
            run(event, message)
            return event

        return call


HELPERS = """
import os

def note(*words):
    file = os.open(NOTES, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(file, (" ".join(map(str, words)) + "\\n").encode())
    os.close(file)
"""

REGISTER = """
def register_event_handlers(worker, config):
    for name, function in list(globals().items()):
        own = getattr(function, "__module__", None) == __name__
        if own and callable(function) and name not in ("note", "register_event_handlers"):
            if isinstance(function, type):
                continue
            worker.register_event_handler(function, "t.#", name)
"""
