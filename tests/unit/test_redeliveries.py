"""The redelivery ledger: never absorbs more than was lost, never what was not redelivered."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from attrs import define
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from limehub.amqp.delivery import Delivery
from limehub.workers.redeliveries import FORGET_AFTER, RedeliveryLedger, fingerprint_of
from tests.support.deliveries import delivered

Event = tuple[bytes, str | None]

BODIES = st.sampled_from([b"a", b"b"])
IDS = st.sampled_from([None, "1", "2"])
EVENTS = st.tuples(BODIES, IDS)


def delivery_of(event: Event, **values: Any) -> Delivery:
    body, message_id = event
    return delivered(body, **({"message_id": message_id} if message_id else {}), **values)


@define
class Lost:
    """A lost run as the model knows it."""

    event: Event
    run: Delivery
    ends: float | None = None


class LedgerAgainstModel(RuleBasedStateMachine):
    """The model is a plain list of lost runs."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.ledger: RedeliveryLedger[Delivery] = RedeliveryLedger(room=6, clock=lambda: self.now)
        self.model: list[Lost] = []
        self.lost: Counter[Event] = Counter()
        self.absorbed: Counter[Event] = Counter()

    def alive(self) -> list[Lost]:
        return [each for each in self.model if each.ends is None or each.ends > self.now]

    @rule(event=EVENTS, ack_sent=st.booleans())
    def lose(self, event: Event, ack_sent: bool) -> None:
        run = delivery_of(event)
        full = len(self.ledger) >= 6
        taken = self.ledger.lost(run, ack_sent=ack_sent)
        assert taken == (not full and not (ack_sent and event[1] is None))
        if taken:
            self.model.append(Lost(event, run))
            self.lost[event] += 1

    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        running = [each for each in self.alive() if each.ends is None]
        if running:
            one = data.draw(st.sampled_from(running))
            one.ends = self.now + FORGET_AFTER
            self.ledger.ended(one.run)

    @rule(seconds=st.sampled_from([1.0, FORGET_AFTER / 2, FORGET_AFTER]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(event=EVENTS)
    def deliver(self, event: Event) -> None:
        assert self.ledger.match(delivery_of(event)) is None

    @rule(event=EVENTS)
    def redeliver(self, event: Event) -> None:
        candidates = [each for each in self.alive() if each.event == event]
        match = self.ledger.match(delivery_of(event, redelivered=True))
        assert (match is not None) == bool(candidates)
        if match is not None:
            self.absorbed[event] += 1
            self.model = [each for each in self.model if each.run is not match.run]
            assert any(each.run is match.run for each in candidates)

    @invariant()
    def never_absorbs_more_than_was_lost(self) -> None:
        assert all(self.absorbed[event] <= self.lost[event] for event in self.absorbed)

    @invariant()
    def stays_bounded(self) -> None:
        assert len(self.ledger) <= 6


def test_the_ledger_agrees_with_a_model_of_it() -> None:
    run_state_machine_as_test(
        LedgerAgainstModel, settings=settings(max_examples=60, stateful_step_count=40)
    )


def test_two_equal_events_and_one_lost_run_are_one_match() -> None:
    ledger: RedeliveryLedger[Delivery] = RedeliveryLedger()
    run = delivered(b"{}")
    ledger.lost(run, ack_sent=False)
    first = ledger.match(delivered(b"{}", redelivered=True))
    assert first is not None
    assert first.run is run
    assert ledger.match(delivered(b"{}", redelivered=True)) is None


@pytest.mark.parametrize(
    "other",
    [
        {"body": b"[]"},
        {"queue": "lime.event_handler.test.another"},
        {"exchange": "lime.other"},
        {"routing_key": "core.limeobject.deal.new.v1"},
        {"headers": {"a": 2}},
        {"headers": {"a": True}},
        {"headers": {"a": 1, "b": None}},
        {"correlation_id": "x"},
        {"message_id": "x"},
        {"redelivered": False},
    ],
    ids=lambda values: next(iter(values)),
)
def test_whatever_differs_is_another_event(other: dict[str, Any]) -> None:
    ledger: RedeliveryLedger[Delivery] = RedeliveryLedger()
    ledger.lost(delivered(headers={"a": 1}), ack_sent=False)
    assert ledger.match(delivered(**({"headers": {"a": 1}, "redelivered": True} | other))) is None
    assert len(ledger) == 1


def test_the_counters_of_quorum_queues_make_no_difference() -> None:
    first = delivered(headers={"a": 1, "b": [1, {"c": "d"}]})
    again = delivered(
        headers={"x-delivery-count": 1, "a": 1, "b": [1, {"c": "d"}], "x-acquired-count": 1}
    )
    assert fingerprint_of(first) == fingerprint_of(again)
    assert fingerprint_of(delivered()) == fingerprint_of(delivered(headers={"x-delivery-count": 1}))


def test_an_event_that_expires_is_absorbed_by_its_id_only() -> None:
    ledger: RedeliveryLedger[Delivery] = RedeliveryLedger()
    assert not ledger.lost(delivered(expiration="1000"), ack_sent=False)
    assert ledger.lost(delivered(expiration="1000", message_id="x"), ack_sent=False)


def test_a_run_that_goes_on_is_never_forgotten() -> None:
    now = 0.0
    ledger: RedeliveryLedger[Delivery] = RedeliveryLedger(clock=lambda: now)
    going, over = delivered(b"1"), delivered(b"2")
    for run in (going, over):
        ledger.lost(run, ack_sent=False)
    ledger.ended(over)
    now = 10 * FORGET_AFTER
    assert ledger.forget_old() == [over]
    assert ledger.match(delivered(b"2", redelivered=True)) is None
    match = ledger.match(delivered(b"1", redelivered=True))
    assert match is not None
    assert match.run is going


def test_losing_a_run_twice_is_one_loss() -> None:
    ledger: RedeliveryLedger[Delivery] = RedeliveryLedger()
    run = delivered()
    assert ledger.lost(run, ack_sent=False)
    assert ledger.lost(run, ack_sent=False)
    assert len(ledger) == 1
