"""The settlement table: what happens to a delivery after its handler. A pure function.

| handler | outcome |
|---|---|
| returns | ack (manual form: what it asked for, else left open) |
| raises, policy crash | crash |
| raises, policy dead-letter | dead letter |
| raises, policy retry; raises Retry | again later; attempts exhausted: dead letter |
| raises Reject; message.reject() | dead letter |
| raises Discard; policy discard | discard: logged and acked |
| message.requeue() | back to the queue |
| raises after it acked | a copy is dead-lettered; with policy crash, then crash |
| body cannot be decoded | dead letter at once |

Everything that is not a real signal counts as the handler's failure, SystemExit included.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from attrs import frozen

from limehub.decoding import UndecodableBody
from limehub.events import Discard, Reject, Retry
from limehub.plugins.retry_policy import RetryPolicy

__all__ = ["DONE", "Asked", "Fate", "Outcome", "Policy", "Rules", "outcome_of"]

Policy = Literal["crash", "dead-letter", "retry", "discard"]


class Asked(StrEnum):
    """What the handler itself did to its delivery before it ended."""

    NOTHING = "nothing"
    ACK = "ack"
    REJECT = "reject"
    REQUEUE = "requeue"


class Fate(StrEnum):
    """What is done with a delivery; also the `outcome` of metrics, logs and hooks."""

    ACK = "ack"
    DEAD_LETTER = "dead-letter"
    RETRY = "retry"
    DISCARD = "discard"
    REQUEUE = "requeue"
    OPEN = "open"
    CRASH = "crash"


@frozen(kw_only=True)
class Rules:
    """How one handler's failures are judged. *manual*: it settles by itself."""

    policy: Policy
    retry: RetryPolicy
    manual: bool = False


@frozen
class Outcome:
    """*reason*: a word for the header; *delay*: seconds until a retry; *then_crash*: stop after."""

    fate: Fate
    reason: str = ""
    delay: float = 0.0
    then_crash: bool = False


DONE = Outcome(Fate.ACK)
"""The outcome of a run that went well."""

_BY_REQUEST = {
    Asked.ACK: DONE,
    Asked.REJECT: Outcome(Fate.DEAD_LETTER, "rejected"),
    Asked.REQUEUE: Outcome(Fate.REQUEUE, "requeued"),
}


def outcome_of(
    error: BaseException | None, asked: Asked, rules: Rules, *, retries: int, chance: float
) -> Outcome:
    """Decide. *retries*: how many there were already; *chance*: 0 <= chance < 1, for jitter."""
    if error is None:
        return _without_error(asked, rules)
    if asked is not Asked.NOTHING:
        return _after_settling(error, asked, rules)
    if isinstance(error, (UndecodableBody, Reject)):
        return _put_away(error)
    if isinstance(error, Retry):  # before the policy: "run it again" must not be discarded
        return _again(rules.retry, retries, chance, error.delay)
    if isinstance(error, Discard) or rules.policy == "discard":
        return Outcome(Fate.DISCARD, "discarded")
    if rules.policy == "retry" and rules.retry.applies_to(error):
        return _again(rules.retry, retries, chance, None)
    if rules.policy == "crash":
        return Outcome(Fate.CRASH, "exception")
    return Outcome(Fate.DEAD_LETTER, "exception")


def _without_error(asked: Asked, rules: Rules) -> Outcome:
    if asked is Asked.NOTHING:
        return Outcome(Fate.OPEN, "unsettled") if rules.manual else DONE
    return _BY_REQUEST[asked]


def _after_settling(error: BaseException, asked: Asked, rules: Rules) -> Outcome:
    """The event is out of our hands if it was acked; what was asked for otherwise still stands."""
    if asked is not Asked.ACK:
        return _BY_REQUEST[asked]
    if isinstance(error, Discard):
        return DONE
    if isinstance(error, (UndecodableBody, Reject)):  # acked early; no reason to stop the server
        return _put_away(error)
    return Outcome(Fate.DEAD_LETTER, "after-ack", then_crash=rules.policy == "crash")


def _put_away(error: UndecodableBody | Reject) -> Outcome:
    reason = "rejected" if isinstance(error, Reject) else "undecodable"
    return Outcome(Fate.DEAD_LETTER, reason)


def _again(retry: RetryPolicy, retries: int, chance: float, delay: float | None) -> Outcome:
    planned = retry.delay_before(retries + 2, chance)
    if planned is None:
        return Outcome(Fate.DEAD_LETTER, "retries-exhausted")
    return Outcome(Fate.RETRY, "retry", delay=planned if delay is None else max(0.0, delay))
