"""Posts events to web addresses: `{"event": "deal.update", "body": {...}}`, signed and retried."""

from __future__ import annotations

from typing import Any

from lime_webhooks.posting import WebhookPoster
from lime_webhooks.targets import parse_targets

__all__ = ["default_config", "register_event_handlers"]


def default_config() -> dict[str, Any]:
    """Return the settings: *targets* are addresses or tables, *timeout* is seconds."""
    return {"targets": [], "timeout": 10.0, "connections": 10, "retry": ["5s", "1m", "10m", "1h"]}


def register_event_handlers(worker: Any, config: Any) -> None:
    """Post every event of a Lime object to the targets that want it."""
    settings = config.plugins["lime-webhooks"]
    poster = WebhookPoster.of(
        parse_targets(settings.targets),
        timeout=settings.timeout,
        connections=settings.connections,
    )
    worker.register_event_handler(
        poster.post, "core.limeobject.*.*.v1", queue_name="post", retry=list(settings.retry)
    )
