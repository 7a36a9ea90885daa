"""Options of handlers: strict, with hints; the retry schedule as pure arithmetic."""

from __future__ import annotations

import attrs
import gevent
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limehub.errors import PluginError
from limehub.plugins.options import HandlerOptions, parse_options
from limehub.plugins.retry_policy import MAX_DELAY, RetryPolicy, parse_duration, parse_retry

WHERE = "solution-x.on_deal"


def parse(*, manual: bool = False, **raw: object) -> HandlerOptions:
    return parse_options(raw, manual=manual, where=WHERE)


def test_without_options_a_handler_acks_after_success_and_runs_in_any_order() -> None:
    assert parse() == HandlerOptions(ack="success", order="none", on_error=None, retry=None)


def test_limes_form_acks_by_itself_one_event_at_a_time() -> None:
    assert parse(manual=True) == HandlerOptions(ack="manual", order="queue")
    assert parse(manual=True, ack="success", order="none") == HandlerOptions()


def test_every_option_is_taken_over() -> None:
    @attrs.frozen
    class Deal:
        id: int

    options = parse(
        ack="manual",
        on_error="discard",
        timeout="2m",
        lane="thread",
        prefetch_count=50,
        order="object",
        event_type=Deal,
    )
    assert options == HandlerOptions(
        ack="manual",
        on_error="discard",
        timeout=120.0,
        lane="thread",
        prefetch_count=50,
        order="object",
        event_type=Deal,
    )


def test_a_retry_policy_means_on_error_retry_unless_something_else_is_said() -> None:
    assert parse(retry=["5s"]).on_error == "retry"
    assert parse(retry=["5s"], on_error="crash").on_error == "crash"
    assert parse(on_error="retry").retry == RetryPolicy()


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"prefetch": 1}, "option prefetch: unknown; did you mean 'prefetch_count'?"),
        ({"quux": 1}, "option quux: unknown; known: ack, on_error"),
        ({"ack": "sucess"}, "option ack: 'sucess' is unknown; did you mean 'success'?"),
        ({"ack": True}, "option ack: True is unknown"),
        ({"on_error": "deadletter"}, "did you mean 'dead-letter'?"),
        ({"prefetch_count": 0}, "0 is not a whole number from 1 to 65535"),
        ({"prefetch_count": True}, "True is not a whole number"),
        ({"prefetch_count": "10"}, "'10' is not a whole number"),
        ({"prefetch_count": 70000}, "70000 is not"),
        ({"timeout": 0}, "0 would end every run at once"),
        ({"timeout": -1}, "-1 is not a number of seconds"),
        ({"timeout": "soon"}, "'soon' is not a number of seconds or text such as '5s'"),
        ({"timeout": float("nan")}, "nan is not a number of seconds"),
        ({"timeout": float("inf")}, "inf is not a number of seconds"),
        ({"lane": "fiber"}, "'fiber' is unknown"),
        ({"order": "objects"}, "did you mean 'object'?"),
        ({"event_type": dict}, "<class 'dict'> is not an attrs class"),
        ({"retry": 3}, "3 is neither a table"),
        ({"retry": []}, "[] is neither a table"),
        ({"retry": ["5s", "2d"]}, "'2d' is longer than a day"),
        ({"retry": {"atempts": 3}}, "'atempts' is unknown; did you mean 'attempts'?"),
        ({"retry": {"attempts": 0}}, "attempts: 0 is not a whole number from 1"),
        ({"retry": {"factor": 0.5}}, "factor: 0.5 is not a number of at least 1"),
        ({"retry": {"jitter": 2}}, "jitter: 2 is not a number from 0 to 1"),
        ({"retry": {"on": "ValueError"}}, "on: 'ValueError' is not an exception class"),
        ({"retry": {"on": []}}, "on: an empty list would retry nothing"),
    ],
)
def test_a_wrong_option_is_named_with_plugin_handler_and_option(raw, words: str) -> None:
    with pytest.raises(PluginError) as caught:
        parse(**raw)
    assert str(caught.value).startswith(f"{WHERE}: option ")
    assert words in str(caught.value)


def test_all_wrong_options_are_reported_at_once() -> None:
    with pytest.raises(PluginError) as caught:
        parse(ack="never", lane="fast", prefetch_count=0)
    assert len(str(caught.value).splitlines()) == 3


def test_limes_form_cannot_ack_early() -> None:
    with pytest.raises(PluginError, match="'early' acks before the handler does"):
        parse(manual=True, ack="early")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("5s", 5), ("1m", 60), ("1.5h", 5400), ("1d", 86400), (3, 3), (0.25, 0.25)],
)
def test_durations_are_seconds_or_text_with_a_unit(text: object, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "5 weeks", "-5s", "s", "1e3s", True, None, [1]])
def test_other_durations_are_refused(text: object) -> None:
    with pytest.raises(ValueError, match="is not a number of seconds"):
        parse_duration(text)


def test_delays_grow_by_the_factor_up_to_the_maximum() -> None:
    policy = RetryPolicy(attempts=5, delay=1, factor=10, max_delay=500, jitter=0)
    waits = [policy.delay_before(attempt, 0.5) for attempt in range(1, 7)]
    assert waits == [0.0, 1.0, 10.0, 100.0, 500.0, None]


def test_a_list_of_delays_is_taken_literally_and_ends_after_the_last() -> None:
    policy = parse_retry(["5s", "1m", 600])
    assert [policy.delay_before(n, 0.9) for n in (2, 3, 4, 5)] == [5.0, 60.0, 600.0, None]
    assert policy.attempts == 4


def test_jitter_spreads_the_delay_on_both_sides() -> None:
    policy = parse_retry({"delay": 100, "jitter": 0.2, "max_delay": "1h"})
    assert policy.delay_before(2, 0.0) == pytest.approx(80)
    assert policy.delay_before(2, 0.5) == pytest.approx(100)
    assert policy.delay_before(2, 0.999999) == pytest.approx(120, rel=1e-4)


@given(
    st.builds(
        RetryPolicy,
        attempts=st.integers(1, 10_000),
        delay=st.floats(0, MAX_DELAY),
        factor=st.floats(1, 1000),
        max_delay=st.floats(0, MAX_DELAY),
        jitter=st.floats(0, 1),
    ),
    st.integers(1, 20_000),
    st.floats(0, 1, exclude_max=True),
)
def test_any_delay_is_between_nothing_and_the_maximum(
    policy: RetryPolicy, attempt: int, random: float
) -> None:
    delay = policy.delay_before(attempt, random)
    assert (delay is None) == (attempt > policy.attempts)
    assert delay is None or 0 <= delay <= policy.max_delay


def test_a_policy_applies_to_the_exceptions_it_names_and_their_children() -> None:
    policy = parse_retry({"on": [OSError, KeyError]})
    assert policy.applies_to(ConnectionResetError())
    assert policy.applies_to(KeyError())
    assert not policy.applies_to(ValueError())


def test_by_default_everything_is_retried_timeouts_too() -> None:
    assert RetryPolicy().applies_to(gevent.Timeout(1))
    assert RetryPolicy().applies_to(ValueError())
