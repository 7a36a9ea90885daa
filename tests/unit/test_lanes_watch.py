"""Timeouts in the lane `greenlet`; what holds for all lanes."""

from __future__ import annotations

import logging
import time

import gevent
import pytest

from limehub import Discard, Reject, Retry
from limehub.events import Event, Message
from limehub.testing import make_event
from limehub.workers.lanes.greenlet_lane import in_greenlet
from limehub.workers.lanes.watch import Call, TimeLimit
from tests.support.waiting import quickest


def limited(call: Call, seconds: float) -> Call:
    return in_greenlet(call, TimeLimit(handler="app.q", lane="greenlet", seconds=seconds))


def warnings(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [r for r in caplog.records if "half of its timeout" in r.getMessage()]


def waits(_event: Event, _message: Message) -> None:
    gevent.sleep(30)


def burn(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(1000))


def burns(_event: Event, _message: Message) -> None:
    burn(0.2)


def test_without_a_timeout_the_call_is_the_handlers_own() -> None:
    assert in_greenlet(waits, None) is waits


@pytest.mark.alone
def test_a_handler_that_waits_is_warned_about_at_half_and_ended_at_the_whole(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def warned_after() -> float:
        event, message = make_event("", properties={"message_id": "m-1"})
        caplog.clear()
        started = time.monotonic()
        with (
            caplog.at_level(logging.WARNING),
            pytest.raises(TimeoutError, match="ran longer than 2 s") as caught,
        ):
            limited(waits, 2)(event, message)
        assert 1.99 < time.monotonic() - started < 20
        assert caught.traceback[-1].name == "sleep" or "waits" in [e.name for e in caught.traceback]
        (warning,) = warnings(caplog)
        assert warning.__dict__["handler"] == "app.q"
        assert warning.__dict__["message_id"] == "m-1"
        assert "gevent.sleep(30)" in str(warning.stack_info)
        assert "greenlet_lane" not in str(warning.stack_info)
        return float(warning.__dict__["seconds"])

    assert 1 <= quickest(warned_after, 2) < 2


def test_what_kept_the_hub_busy_before_a_run_does_not_count(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def warned() -> float:
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            burn(1.6)  # the loop's clock stands still meanwhile
            limited(lambda _event, _message: gevent.sleep(0.1), 3)(*make_event(""))
        return len(warnings(caplog))

    assert quickest(warned, 1) == 0


def test_a_run_that_ends_in_time_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    def warned() -> float:
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            limited(lambda _event, _message: gevent.sleep(0.05), 2)(*make_event(""))
            gevent.sleep(2.1)  # nothing comes later
        return len(warnings(caplog))

    assert quickest(warned, 1) == 0


def test_a_run_that_is_late_in_all_is_warned_about_once(caplog: pytest.LogCaptureFixture) -> None:
    event, message = make_event("")

    def computes_and_waits(_event: Event, _message: Message) -> None:
        burn(0.2)  # when the hub turns again, half of the time is over and all of it
        gevent.sleep(30)

    with caplog.at_level(logging.WARNING), pytest.raises(TimeoutError):
        limited(computes_and_waits, 0.1)(event, message)
    gevent.sleep(0.1)
    assert len(warnings(caplog)) == 1


def test_a_handler_that_computes_takes_the_outcome_when_it_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    event, message = make_event("")
    with caplog.at_level(logging.WARNING), pytest.raises(TimeoutError):
        limited(burns, 0.1)(event, message)
    (warning,) = warnings(caplog)
    assert warning.stack_info is None, "nobody could look at it meanwhile"


def test_a_handler_that_swallows_the_error_keeps_its_slot_and_its_outcome() -> None:
    steps: list[str] = []

    def swallows(_event: Event, _message: Message) -> None:
        try:
            gevent.sleep(30)
        except TimeoutError:
            gevent.sleep(0.2)
            steps.append("ended")

    event, message = make_event("")
    with pytest.raises(TimeoutError):
        limited(swallows, 0.05)(event, message)
    assert steps == ["ended"]


def test_a_late_handler_that_has_acked_is_believed_and_one_that_fails_is_not() -> None:
    def acks(event: Event, _message: Message) -> None:
        event.ack()
        burns(event, _message)

    limited(acks, 0.1)(*make_event(""))

    def acks_and_waits(event: Event, _message: Message) -> None:
        event.ack()
        gevent.sleep(30)

    with pytest.raises(TimeoutError):
        limited(acks_and_waits, 0.1)(*make_event(""))


@pytest.mark.parametrize("decision", [Retry(5), Reject("no"), Discard("nothing")])
def test_a_decision_of_the_handler_stands_also_when_it_comes_late(decision: Exception) -> None:
    def decides(_event: Event, _message: Message) -> None:
        try:
            gevent.sleep(30)
        except TimeoutError:
            raise decision from None

    with pytest.raises(type(decision)):
        limited(decides, 0.05)(*make_event(""))


def test_any_other_error_of_a_late_handler_becomes_the_timeouts() -> None:
    def stumbles(_event: Event, _message: Message) -> None:
        try:
            gevent.sleep(30)
        except TimeoutError:
            raise KeyError("cleanup") from None

    with pytest.raises(TimeoutError) as caught:
        limited(stumbles, 0.05)(*make_event(""))
    assert isinstance(caught.value.__cause__, KeyError)


def test_an_error_in_time_stays_what_it_is() -> None:
    def fails(_event: Event, _message: Message) -> None:
        raise KeyError("early")

    with pytest.raises(KeyError):
        limited(fails, 5)(*make_event(""))
