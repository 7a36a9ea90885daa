"""The settlement table: every row, and the order in which rows win."""

from __future__ import annotations

import gevent
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limehub.decoding import UndecodableBody
from limehub.events import Discard, Reject, Retry
from limehub.plugins.retry_policy import RetryPolicy
from limehub.workers.settlement import Asked, Fate, Outcome, Policy, Rules, outcome_of

POLICIES: tuple[Policy, ...] = ("crash", "dead-letter", "retry", "discard")
STEADY = RetryPolicy(attempts=3, delay=5.0, factor=2.0, jitter=0.0)
NO_SIGNALS = [
    SystemExit(0),
    KeyboardInterrupt(),
    gevent.GreenletExit(),
    gevent.Timeout(1),
    RecursionError(),
    MemoryError(),
    GeneratorExit(),
]


def judged(
    error: BaseException | None = None,
    asked: Asked = Asked.NOTHING,
    *,
    policy: Policy = "crash",
    manual: bool = False,
    retries: int = 0,
    retry: RetryPolicy = STEADY,
) -> Outcome:
    rules = Rules(policy=policy, retry=retry, manual=manual)
    return outcome_of(error, asked, rules, retries=retries, chance=0.5)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    ("asked", "manual", "fate"),
    [
        (Asked.NOTHING, False, Fate.ACK),
        (Asked.NOTHING, True, Fate.OPEN),
        (Asked.ACK, False, Fate.ACK),
        (Asked.ACK, True, Fate.ACK),
        (Asked.REJECT, True, Fate.DEAD_LETTER),
        (Asked.REJECT, False, Fate.DEAD_LETTER),
        (Asked.REQUEUE, True, Fate.REQUEUE),
        (Asked.REQUEUE, False, Fate.REQUEUE),
    ],
)
def test_a_handler_that_returns_gets_what_it_asked_for_whatever_the_policy(
    policy: Policy, asked: Asked, manual: bool, fate: Fate
) -> None:
    outcome = judged(None, asked, policy=policy, manual=manual)
    assert outcome.fate is fate
    assert not outcome.then_crash


@pytest.mark.parametrize(
    ("policy", "fate", "reason"),
    [
        ("crash", Fate.CRASH, "exception"),
        ("dead-letter", Fate.DEAD_LETTER, "exception"),
        ("retry", Fate.RETRY, "retry"),
        ("discard", Fate.DISCARD, "discarded"),
    ],
)
@pytest.mark.parametrize("error", [ValueError("no"), *NO_SIGNALS], ids=lambda e: type(e).__name__)
def test_whatever_a_handler_raises_is_judged_by_its_policy(
    error: BaseException, policy: Policy, fate: Fate, reason: str
) -> None:
    outcome = judged(error, policy=policy)
    assert (outcome.fate, outcome.reason) == (fate, reason)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    ("error", "fate", "reason"),
    [
        (Reject("no"), Fate.DEAD_LETTER, "rejected"),
        (Discard("known"), Fate.DISCARD, "discarded"),
        (Retry(7), Fate.RETRY, "retry"),
        (UndecodableBody("bad"), Fate.DEAD_LETTER, "undecodable"),
    ],
)
def test_what_a_handler_decides_by_name_wins_over_every_policy(
    policy: Policy, error: BaseException, fate: Fate, reason: str
) -> None:
    outcome = judged(error, policy=policy)
    assert (outcome.fate, outcome.reason, outcome.then_crash) == (fate, reason, False)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_failure_after_the_ack_dead_letters_a_copy_and_crashes_only_under_crash(
    policy: Policy,
) -> None:
    outcome = judged(ValueError(), Asked.ACK, policy=policy)
    assert (outcome.fate, outcome.reason) == (Fate.DEAD_LETTER, "after-ack")
    assert outcome.then_crash is (policy == "crash")


def test_an_undecodable_body_never_fells_the_server_though_it_was_acked_early() -> None:
    outcome = judged(UndecodableBody("bad"), Asked.ACK, policy="crash")
    assert outcome == Outcome(Fate.DEAD_LETTER, "undecodable")


def test_a_reject_after_the_ack_is_a_decision_and_no_crash() -> None:
    assert judged(Reject("no"), Asked.ACK) == Outcome(Fate.DEAD_LETTER, "rejected")


def test_a_discard_after_the_ack_leaves_it_acked() -> None:
    assert judged(Discard("known"), Asked.ACK).fate is Fate.ACK


def test_a_retry_after_the_ack_cannot_run_again_so_a_copy_is_dead_lettered() -> None:
    outcome = judged(Retry(1), Asked.ACK, policy="retry")
    assert (outcome.fate, outcome.then_crash) == (Fate.DEAD_LETTER, False)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    ("asked", "fate"), [(Asked.REJECT, Fate.DEAD_LETTER), (Asked.REQUEUE, Fate.REQUEUE)]
)
def test_a_reject_or_requeue_stands_though_the_handler_raises_after_it(
    policy: Policy, asked: Asked, fate: Fate
) -> None:
    outcome = judged(ValueError(), asked, policy=policy, manual=True)
    assert (outcome.fate, outcome.then_crash) == (fate, False)


@pytest.mark.parametrize(
    ("retries", "fate", "delay"),
    [(0, Fate.RETRY, 5.0), (1, Fate.RETRY, 10.0), (2, Fate.DEAD_LETTER, 0.0)],
)
def test_three_attempts_are_two_retries_then_the_dead_letter_queue(
    retries: int, fate: Fate, delay: float
) -> None:
    outcome = judged(ValueError(), policy="retry", retries=retries)
    assert (outcome.fate, outcome.delay) == (fate, delay)


@pytest.mark.parametrize("policy", POLICIES)
def test_an_explicit_retry_counts_against_the_attempts_too(policy: Policy) -> None:
    outcome = judged(Retry(0), policy=policy, retries=2)
    assert (outcome.fate, outcome.reason) == (Fate.DEAD_LETTER, "retries-exhausted")


@pytest.mark.parametrize(
    ("asked_for", "delay"), [(None, 5.0), (0, 0.0), (-3, 0.0), (0.25, 0.25), (1e9, 1e9)]
)
def test_the_delay_of_a_retry_is_the_one_it_names_never_negative(
    asked_for: float | None, delay: float
) -> None:
    assert judged(Retry(asked_for)).delay == delay


def test_an_exception_that_the_policy_does_not_retry_is_dead_lettered() -> None:
    outcome = judged(
        ValueError(), policy="retry", retry=RetryPolicy(on=(ConnectionError,), jitter=0.0)
    )
    assert (outcome.fate, outcome.reason) == (Fate.DEAD_LETTER, "exception")


@given(
    policy=st.sampled_from(POLICIES),
    asked=st.sampled_from(list(Asked)),
    error=st.sampled_from([ValueError(), *NO_SIGNALS, Reject(), UndecodableBody(), Retry(3)]),
    manual=st.booleans(),
    retries=st.integers(0, 10_000),
    chance=st.floats(0, 1, exclude_max=True),
)
def test_no_failure_is_ever_acked_away_or_left_open(
    policy: Policy,
    asked: Asked,
    error: BaseException,
    manual: bool,
    retries: int,
    chance: float,
) -> None:
    rules = Rules(policy=policy, retry=RetryPolicy(), manual=manual)
    outcome = outcome_of(error, asked, rules, retries=retries, chance=chance)
    assert outcome.fate not in (Fate.ACK, Fate.OPEN)
    if outcome.fate is Fate.DISCARD:
        assert policy == "discard"
    assert 0.0 <= outcome.delay <= 86_400.0
