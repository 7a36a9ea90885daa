"""For the tests of plugins: events, a publisher, loading, all without a broker.

from limehub.testing import run_handler

def test_a_deal_without_a_value_counts_nothing():
    run = run_handler(on_deal, {"id": 1, "limetype": "deal", "values": {}})
    assert run.settled == ("ack",)
    assert run.published == []
"""

from __future__ import annotations

from limehub.testing.events import ArrivedDelivery, Outbox, Published, Run, make_event, run_handler
from limehub.testing.plugins import load_plugin

__all__ = [
    "ArrivedDelivery",
    "Outbox",
    "Published",
    "Run",
    "load_plugin",
    "make_event",
    "run_handler",
]
