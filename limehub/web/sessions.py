"""Sessions of browsers: a token is exchanged for a cookie once, and never stands in a page.

A session lives for twelve hours, as long as its token is in force, and until the server stops.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable

from attrs import frozen

from limehub.web.tokens import Identity

__all__ = ["COOKIE", "SECONDS", "Sessions"]

COOKIE = "limehub-session"
SECONDS = 12 * 3600.0
MOST = 1000


@frozen(kw_only=True)
class _Session:
    identity: Identity
    until: float


class Sessions:
    """*is_valid*: whether an identity is in force still; *clock*: monotonic seconds."""

    def __init__(
        self, is_valid: Callable[[Identity], bool], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._is_valid = is_valid
        self._clock = clock
        self._sessions: dict[bytes, _Session] = {}

    def begin(self, identity: Identity) -> str:
        """Return the cookie's value for a new session. The oldest goes when there are too many."""
        self._forget_ended()
        if len(self._sessions) >= MOST:
            del self._sessions[next(iter(self._sessions))]
        value = secrets.token_urlsafe(32)
        session = _Session(identity=identity, until=self._clock() + SECONDS)
        self._sessions[_key(value)] = session
        return value

    def identify(self, value: str | None) -> Identity | None:
        """Return whose session the cookie's *value* is; None: nobody's (any more)."""
        session = self._sessions.get(_key(value)) if value else None
        if session is None or session.until <= self._clock():
            return None
        return session.identity if self._is_valid(session.identity) else None

    def end(self, value: str | None) -> None:
        """Forget a session; harmless if there is none."""
        if value:
            self._sessions.pop(_key(value), None)

    def _forget_ended(self) -> None:
        now = self._clock()
        for key in [key for key, each in self._sessions.items() if each.until <= now]:
            del self._sessions[key]


def _key(value: str) -> bytes:
    """What is kept: who reads our memory cannot use it, and comparing takes the same time."""
    return hashlib.sha256(value.encode("utf-8", "surrogateescape")).digest()
