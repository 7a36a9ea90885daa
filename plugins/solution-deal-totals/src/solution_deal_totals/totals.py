"""The totals, and the handler that keeps them."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from threading import Lock
from typing import TYPE_CHECKING, Any

from attrs import define, field, frozen

from limehub import LimeObjectEvent, Reject

if TYPE_CHECKING:
    from limehub import Publisher

__all__ = ["UPDATED", "DealTotals", "Total"]

log = logging.getLogger(__name__)

UPDATED = "solution.deal-totals.updated.v1"
"""The routing key of the event that this package publishes."""


@frozen(kw_only=True)
class Total:
    """*deals*: how many count; *value*: their sum."""

    deals: int
    value: float


@define(eq=False, kw_only=True)
class DealTotals:
    """The values of all deals seen since the start, by application."""

    value_field: str = "value"
    _values: dict[str, dict[int, float]] = field(factory=lambda: defaultdict(dict), init=False)
    _lock: Lock = field(factory=Lock, init=False, repr=False)  # for `lane = "thread"`

    def on_deal(self, event: LimeObjectEvent, publisher: Publisher) -> None:
        """Count the deal and publish the new total. Raises Reject for a value that is no number."""
        deal = event.object_id
        if not isinstance(deal, int) or isinstance(deal, bool):
            raise Reject(f"the deal's id is {deal!r}, not a whole number")
        value = None if event.verb == "delete" else self._value_of(event)
        total = self._count(event.application, deal, value)
        log.info("deal counted", extra={"deal": deal, "deals": total.deals, "total": total.value})
        # Nobody has to listen.
        publisher.publish(UPDATED, {"deals": total.deals, "value": total.value}, mandatory=False)

    def total_of(self, application: str) -> Total:
        """Return the total of *application*."""
        with self._lock:
            return self._sum(application)

    def _count(self, application: str, deal: int, value: float | None) -> Total:
        """Note the value of *deal*; None: it is gone."""
        with self._lock:
            self._values[application].pop(deal, None)
            if value is not None:
                self._values[application][deal] = value
            return self._sum(application)

    def _sum(self, application: str) -> Total:
        values = self._values.get(application, {})
        return Total(deals=len(values), value=math.fsum(values.values()))

    def _value_of(self, event: LimeObjectEvent) -> float:
        value: Any = event.values.get(self.value_field)
        if value is None:
            return 0.0
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise Reject(f"{self.value_field} of deal {event.object_id} is {value!r}, not a number")
        return float(value)
