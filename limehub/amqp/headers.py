"""limehub's own headers on messages that it moves: a contract with whoever reads them."""

from __future__ import annotations

from typing import Any

PREFIX = "x-limehub-"
ORIGINAL = "x-limehub-original-"

DROPPED = "x-limehub-original-dropped"
"""Names of a publisher's headers that did not fit into a frame beside ours."""

DAMAGED = "x-limehub-original-properties"
"""The undecoded bytes of properties that could not be read."""

ID = "x-limehub-id"
EXCHANGE = "x-limehub-exchange"
ROUTING_KEY = "x-limehub-routing-key"
QUEUE = "x-limehub-queue"
HANDLER = "x-limehub-handler"
EXCEPTION_TYPE = "x-limehub-exception-type"
EXCEPTION_TEXT = "x-limehub-exception-text"
TRACEBACK = "x-limehub-traceback"
WHERE = "x-limehub-where"
ATTEMPTS = "x-limehub-attempts"
FIRST_FAILURE = "x-limehub-first-failure"
LAST_FAILURE = "x-limehub-last-failure"
REASON = "x-limehub-reason"
EXPIRATION = "x-limehub-expiration"
USER_ID = "x-limehub-user-id"

RETRIES = "x-limehub-retries"
"""Retries since the event came or was last requeued by a person; ATTEMPTS counts all runs."""


MOST_RUNS = 2**31 - 1


def whole(value: Any) -> int:
    """Return *value* as a number of runs; nonsense counts as none."""
    return int(value) if isinstance(value, int) and 0 < value < MOST_RUNS else 0
