"""The invented CRM: its stream must be one that a real one could send."""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limehub import Reject
from limehub.demo.crm import LARGEST, DemoCrm, DemoEvent
from limehub.testing import make_event

SEEDS = st.integers(min_value=0, max_value=2**32)
RATES = st.sampled_from([0.0, 0.05, 0.5, 1.0])


def stream(seed: int, count: int, fail_rate: float = 0.0) -> list[DemoEvent]:
    return list(islice(DemoCrm(seed=seed, fail_rate=fail_rate).events(), count))


@given(seed=SEEDS, fail_rate=RATES)
@settings(max_examples=40)
def test_objects_live_in_an_order_that_makes_sense(seed: int, fail_rate: float) -> None:
    """Created before updated, restored only when deleted, and never two things with one id."""
    values: dict[int, dict[str, Any]] = {}
    deleted: set[int] = set()
    kinds: dict[int, str] = {}
    for event in stream(seed, 400, fail_rate):
        number = event.body["id"]
        assert kinds.setdefault(number, event.limetype) == event.limetype
        assert event.body["limetype"] == event.limetype
        if event.verb == "new":
            assert number not in values
        else:
            assert (event.verb == "restore") == (number in deleted)
        if event.verb == "delete":
            assert "values" not in event.body
            deleted.add(number)
            continue
        deleted.discard(number)
        if event.verb == "update":
            before = event.body["original_values"]
            assert before
            assert {name: values[number][name] for name in before} == before
            now = event.body["values"]
            changed = {name for name in now if now[name] != values[number][name]}
            assert changed == before.keys()
        else:
            assert "original_values" not in event.body
        values[number] = event.body["values"]


@given(seed=SEEDS)
@settings(max_examples=20)
def test_persons_and_deals_belong_to_companies_that_were_created(seed: int) -> None:
    companies: set[int] = set()
    for event in stream(seed, 300):
        if event.limetype == "company":
            companies.add(event.body["id"])
        elif event.verb == "new":
            assert event.body["values"]["company"] in companies


def test_one_seed_is_one_story() -> None:
    assert stream(7, 200, 0.1) == stream(7, 200, 0.1)
    assert stream(7, 200, 0.1) != stream(8, 200, 0.1)


def test_every_kind_of_event_comes_and_updates_are_most() -> None:
    verbs = Counter(event.verb for event in stream(1, 5000))
    limetypes = Counter(event.limetype for event in stream(1, 5000))
    assert verbs.keys() == {"new", "update", "delete", "restore"}
    assert verbs.most_common(1)[0][0] == "update"
    assert limetypes.keys() == {"company", "person", "deal"}


@pytest.mark.parametrize("rate", [0.0, 0.1, 1.0])
def test_as_many_events_fail_as_were_asked_for(rate: float) -> None:
    events = stream(3, 2000, rate)
    assert sum(event.fails for event in events) == pytest.approx(2000 * rate, abs=60)


def test_exactly_those_marked_are_refused_by_the_example_package() -> None:
    totals = pytest.importorskip("solution_deal_totals")
    deals = totals.DealTotals()
    for event in stream(5, 1500, 0.1):
        if event.limetype != "deal":
            continue
        made, _ = make_event(dict(event.body), routing_key=event.routing_key)
        if event.verb == "delete":
            continue
        if event.fails:
            with pytest.raises(Reject):
                deals._value_of(made)
        else:
            assert deals._value_of(made) >= 500


def test_a_stream_without_end_does_not_grow_without_end() -> None:
    crm = DemoCrm(seed=1, fail_rate=0.2)
    for event in islice(crm.events(), 20_000):
        json.dumps(event.body)
    for shelf in crm._shelves.values():
        assert len(shelf.alive) <= 2 * LARGEST
        assert len(shelf.deleted) <= LARGEST
        assert len(shelf.broken) <= LARGEST
