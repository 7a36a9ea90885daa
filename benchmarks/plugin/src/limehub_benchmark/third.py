"""The third plugin of the start-up: it has settings and a handler that no event is for."""

from __future__ import annotations

from typing import Any

from limehub import Event

__all__ = ["default_config", "register_event_handlers"]


def default_config() -> dict[str, Any]:
    """Return the plugin's settings."""
    return {"greeting": "hello"}


def register_event_handlers(worker: Any, _config: Any) -> None:
    """Register a handler for a limetype that nobody has."""
    worker.register_event_handler(handle, "core.limeobject.thirdnobody.new.v1")


def handle(event: Event) -> None:
    """Take what never comes."""
    raise AssertionError(f"an event that nobody sent: {event}")
