"""For the tests of plugins: events and a publisher without a broker.

from limehub.testing import run_handler

def test_a_deal_without_a_value_counts_nothing():
    run = run_handler(on_deal, {"id": 1, "limetype": "deal", "values": {}})
    assert run.settled == ("ack",)
    assert run.published == []
"""

from __future__ import annotations

from limehub.testing.events import ArrivedDelivery, Outbox, Published, Run, make_event, run_handler

__all__ = ["ArrivedDelivery", "Outbox", "Published", "Run", "make_event", "run_handler"]
