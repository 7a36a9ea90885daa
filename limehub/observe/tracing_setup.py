"""Tracing, if it is configured; OpenTelemetry is imported only then."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limehub.config import Config
from limehub.errors import ConfigError

if TYPE_CHECKING:
    from limehub.observe.tracing import Tracing

__all__ = ["tracing_of"]


def tracing_of(config: Config) -> Tracing | None:
    """Return what makes spans; None if `tracing.enabled` is false. Raises ConfigError."""
    if not config.tracing.enabled:
        return None
    try:
        from limehub.observe.tracing import Tracing
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("opentelemetry"):
            raise
        raise ConfigError(
            'tracing.enabled needs OpenTelemetry: pip install "limehub[otel]"'
        ) from None
    return Tracing.of(config.events.url)
