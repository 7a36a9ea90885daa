"""Keeps the total value of each application's deals and publishes it when it changes."""

from __future__ import annotations

from typing import Any

from solution_deal_totals.totals import UPDATED, DealTotals

__all__ = ["UPDATED", "DealTotals", "default_config", "register_event_handlers"]


def default_config() -> dict[str, Any]:
    """Return the settings. *value_field*: the property of a deal that is added up."""
    return {"value_field": "value"}


def register_event_handlers(worker: Any, config: Any) -> None:
    """Listen to deals; events of one deal run in their order, different deals side by side."""
    totals = DealTotals(value_field=config.plugins["solution-deal-totals"].value_field)
    worker.register_event_handler(
        totals.on_deal,
        "core.limeobject.deal.*.v1",
        queue_name="deal",
        order="object",
        on_error="retry",
    )
