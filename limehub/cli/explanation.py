"""What happens to an event: who gets it, and what becomes of it when that fails. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attrs import frozen

from limehub.amqp.topology import retry_step
from limehub.cli.placement import Placement
from limehub.config import QUEUE_NAMESPACE, Config
from limehub.plugins.retry_policy import RetryPolicy
from limehub.routing_keys import matches
from limehub.workers.fates import WAIT_HERE

__all__ = [
    "FailureStory",
    "Receiver",
    "RetryRun",
    "failure_story",
    "nearest_keys",
    "placement_at",
    "receivers_of",
]

SHOWN_RETRIES = 20


@frozen(kw_only=True)
class Receiver:
    """A handler that gets the event. *keys*: its keys that match; *queues* as in Placement.

    *queues* has only the applications that the event was asked about and that match.
    """

    placement: Placement
    keys: tuple[str, ...]
    queues: Mapping[str, tuple[str, ...]]

    def as_dict(self, config: Config) -> dict[str, Any]:
        """Return what `--json` prints."""
        return {
            **self.placement.as_dict(),
            "matching_keys": list(self.keys),
            "queues": {queue: list(names) for queue, names in self.queues.items()},
            "on_failure": failure_story(self.placement, config).as_dict(),
        }


@frozen(kw_only=True)
class RetryRun:
    """Run number *attempt* begins *delay* seconds after the one before, give or take jitter.

    *queue*: where the event waits; None = in the server, unacked.
    """

    attempt: int
    delay: float
    queue: str | None


@frozen(kw_only=True)
class FailureStory:
    """What follows an exception. *runs*: the first retries of *attempts* runs in all.

    *by_itself*: whether every exception is retried, not only `raise Retry`. *ttl*: seconds that a
    dead letter is kept, 0 = for ever.
    """

    policy: str
    by_itself: bool
    attempts: int
    runs: tuple[RetryRun, ...]
    dead_letter_queue: str
    ttl: int
    crash_limit: int

    def as_dict(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return {
            "policy": self.policy,
            "retries_every_exception": self.by_itself,
            "attempts": self.attempts,
            "retries": [
                {"attempt": run.attempt, "delay": run.delay, "queue": run.queue}
                for run in self.runs
            ],
            "dead_letter_queue": self.dead_letter_queue,
            "dead_letter_ttl": self.ttl,
            "crash_limit": self.crash_limit,
        }


def receivers_of(
    found: Iterable[Placement], config: Config, key: str, applications: Sequence[str] | None = None
) -> tuple[Receiver, ...]:
    """Return who gets an event with the routing key *key*; *applications*: None = of any."""
    asked = config.applications if applications is None else applications
    receivers = (_receiver(placement, config, key, asked) for placement in found)
    return tuple(one for one in receivers if one is not None)


def placement_at(found: Iterable[Placement], name: str) -> Placement | None:
    """Return whose queue *name* is: a full name, with or without application, or a handler's."""
    for placement in found:
        handler = placement.handler
        if name in (handler.name, handler.queue) or name in placement.queues:
            return placement
        if f"{QUEUE_NAMESPACE}{name}" in placement.queues:
            return placement
    return None


def failure_story(placement: Placement, config: Config) -> FailureStory:
    """Return what follows when the handler of *placement* raises."""
    handler = placement.handler
    retry = handler.options.retry or RetryPolicy()
    return FailureStory(
        policy=placement.policy,
        by_itself=placement.policy == "retry",
        attempts=retry.attempts,
        runs=tuple(_runs(retry, next(iter(placement.queues), handler.queue))),
        dead_letter_queue=handler.dlq,
        ttl=config.event_handler.dlq_ttl,
        crash_limit=config.event_handler.crash_limit,
    )


def nearest_keys(found: Iterable[Placement], key: str) -> list[str]:
    """Return up to three installed keys that are most like *key*."""
    known = dict.fromkeys(each for placement in found for each in placement.handler.keys)
    return difflib.get_close_matches(key, list(known), n=3, cutoff=0.5)


def _receiver(
    placement: Placement, config: Config, key: str, asked: Sequence[str]
) -> Receiver | None:
    keys: dict[str, None] = {}
    queues: dict[str, tuple[str, ...]] = {}
    for queue, applications in placement.queues.items():
        for application in applications:
            found = _matching(placement.handler.keys, config, key, application)
            if application in asked and found:
                keys |= dict.fromkeys(found)
                queues[queue] = (*queues.get(queue, ()), application)
    return Receiver(placement=placement, keys=tuple(keys), queues=queues) if queues else None


def _matching(keys: Iterable[str], config: Config, key: str, application: str) -> list[str]:
    """Compare as the broker does, after the template: it can make a wildcard plain text."""
    exchange = config.exchange_of(application)
    sent = config.routing_key(exchange, key)
    return [each for each in keys if matches(config.routing_key(exchange, each), sent)]


def _runs(retry: RetryPolicy, queue: str) -> Iterable[RetryRun]:
    for attempt in range(2, min(retry.attempts, SHOWN_RETRIES + 1) + 1):
        # 0.5: neither earlier nor later than planned.
        delay = retry.delay_before(attempt, 0.5) or 0.0
        if delay <= WAIT_HERE:
            yield RetryRun(attempt=attempt, delay=delay, queue=None)
        else:
            step = retry_step(delay)
            yield RetryRun(attempt=attempt, delay=float(step), queue=f"{queue}.retry.{step}")
