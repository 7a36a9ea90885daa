"""Totals follow the deals, are published, and refuse what is no number."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from solution_deal_totals import UPDATED, DealTotals
from solution_deal_totals.totals import Total

from limehub import Reject
from limehub.testing import Run, load_plugin, run_handler


def deal(
    totals: DealTotals, number: Any, verb: str = "update", application: str = "acme", **values: Any
) -> Run:
    body = {"id": number, "limetype": "deal", "values": values}
    key = f"core.limeobject.deal.{verb}.v1"
    return run_handler(totals.on_deal, body, application=application, routing_key=key)


def test_the_total_is_the_sum_of_the_last_values() -> None:
    totals = DealTotals()
    deal(totals, 1, "new", value=100)
    deal(totals, 2, "new", value=50.5)
    deal(totals, 1, "update", value=10)
    assert totals.total_of("acme") == Total(deals=2, value=60.5)


def test_a_deleted_deal_counts_no_longer_and_a_restored_one_again() -> None:
    totals = DealTotals()
    deal(totals, 1, value=100)
    run_handler(
        totals.on_deal,
        {"id": 1, "limetype": "deal"},
        application="acme",
        routing_key="core.limeobject.deal.delete.v1",
    )
    assert totals.total_of("acme") == Total(deals=0, value=0.0)
    deal(totals, 1, "restore", value=100)
    assert totals.total_of("acme") == Total(deals=1, value=100.0)


def test_applications_are_apart() -> None:
    totals = DealTotals()
    deal(totals, 1, value=100)
    deal(totals, 1, application="globex", value=7)
    assert totals.total_of("acme").value == 100
    assert totals.total_of("globex").value == 7
    assert totals.total_of("nobody") == Total(deals=0, value=0.0)


def test_every_change_is_published_to_the_same_application() -> None:
    run = deal(DealTotals(), 1, value=100)
    (event,) = run.published
    assert event.routing_key == UPDATED
    assert event.body == {"deals": 1, "value": 100.0}
    assert event.application == "acme"
    assert event.mandatory is False
    assert run.settled == ("ack",)


def test_a_deal_without_a_value_counts_as_nothing() -> None:
    totals = DealTotals()
    deal(totals, 1)
    deal(totals, 2, value=None)
    assert totals.total_of("acme") == Total(deals=2, value=0.0)


@pytest.mark.parametrize("value", ["100", "a lot", True, [1], {}])
def test_a_value_that_is_no_number_is_rejected_and_changes_nothing(value: object) -> None:
    totals = DealTotals()
    deal(totals, 1, value=5)
    with pytest.raises(Reject, match=r"value of deal 1 is .*, not a number"):
        deal(totals, 1, value=value)
    assert totals.total_of("acme") == Total(deals=1, value=5.0)


@pytest.mark.parametrize("number", [None, "7", True])
def test_an_id_that_is_no_number_is_rejected(number: object) -> None:
    with pytest.raises(Reject, match=r"id is .*, not a whole number"):
        deal(DealTotals(), number, value=1)


def test_the_same_event_twice_counts_once() -> None:
    totals = DealTotals()
    deal(totals, 1, value=5)
    deal(totals, 1, value=5)
    assert totals.total_of("acme") == Total(deals=1, value=5.0)


def test_the_field_is_a_setting_of_the_plugin() -> None:
    plugin = ("solution-deal-totals", "solution_deal_totals")
    handler = load_plugin(*plugin, settings={"value_field": "amount"})["deal"]
    body = {"id": 1, "limetype": "deal", "values": {"amount": 3, "value": 9}}
    assert run_handler(handler.function, body).published[0].body["value"] == 3.0
    assert (handler.options.order, handler.options.on_error) == ("object", "retry")


def test_every_deal_is_one_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        deal(DealTotals(), 1, value=5)
    (record,) = [one for one in caplog.records if one.name.startswith("solution_deal_totals")]
    assert (record.deal, record.deals, record.total) == (1, 1, 5.0)
