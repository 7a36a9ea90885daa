"""Which dead letters are meant: a filter that every command, URL and button speaks. Pure."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from functools import cached_property

from attrs import fields, frozen

from limehub.config import QUEUE_NAMESPACE, alike
from limehub.deadletters.groups import group_of
from limehub.deadletters.item import DeadLetter
from limehub.deadletters.plain import HEAD_BYTES
from limehub.routing_keys import matches

__all__ = ["Filter", "moment"]

_AGO = re.compile(r"(\d{1,5})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@frozen(kw_only=True)
class Filter:
    """All conditions must hold; None is no condition.

    *handler*: `<app>.<queue_name>`, the queue name alone, or the full queue, dash and underscore
    alike; *routing_key*: topic pattern; *exception_type*: whole or its last part; *text*: somewhere
    in the body's first 64 KiB, exception, routing key or message id, case ignored; *group*: the
    id of a group; *since* <= last failure < *until*.
    """

    handler: str | None = None
    application: str | None = None
    routing_key: str | None = None
    exception_type: str | None = None
    text: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    group: str | None = None
    ids: frozenset[str] | None = None

    @property
    def is_everything(self) -> bool:
        """Whether it has no condition at all."""
        return all(getattr(self, attribute.name) is None for attribute in fields(Filter))

    def matches(self, letter: DeadLetter, body: bytes) -> bool:
        """Whether *letter*, whose message has *body*, is meant."""
        return (
            (self.ids is None or letter.id in self.ids)
            and (self.group is None or group_of(letter) == self.group)
            and self.application in (None, letter.application)
            and self._is_of_handler(letter)
            and (self.routing_key is None or matches(self.routing_key, letter.routing_key))
            and self._is_of_type(letter.exception.type)
            and self._is_in_time(letter.last_failed_at)
            and self._has_text(letter, body)
        )

    def _is_of_handler(self, letter: DeadLetter) -> bool:
        if self.handler is None:
            return True
        wanted = alike(self.handler.removeprefix(QUEUE_NAMESPACE))
        names = (letter.handler, letter.queue.removeprefix(QUEUE_NAMESPACE))
        return any(alike(n) == wanted or alike(n).endswith(f".{wanted}") for n in names)

    def _is_of_type(self, name: str) -> bool:
        return self.exception_type in (None, name, name.rpartition(".")[2])

    def _is_in_time(self, failed_at: datetime | None) -> bool:
        if self.since is None and self.until is None:
            return True
        if failed_at is None:
            return False
        after = self.since is None or failed_at >= self.since
        return after and (self.until is None or failed_at < self.until)

    def _has_text(self, letter: DeadLetter, body: bytes) -> bool:
        if self.text is None:
            return True
        told = (letter.exception.type, letter.exception.message, letter.routing_key)
        places = (*told, letter.message_id or "", body[:HEAD_BYTES].decode("utf-8", "replace"))
        return any(needle in place.casefold() for place in places for needle in self._needles)

    @cached_property
    def _needles(self) -> frozenset[str]:
        """The text, also as JSON that escapes what is not ASCII: many publishers write it so."""
        text = self.text or ""
        return frozenset([text.casefold(), json.dumps(text)[1:-1].casefold()])


def moment(text: str, *, now: datetime) -> datetime:
    """Return the time that *text* means: RFC 3339, a date, or `15m`, `2h`, `7d` before *now*.

    A time without zone is UTC. Raises ValueError saying what is allowed.
    """
    ago = _AGO.fullmatch(text.strip())
    if ago:
        return now - timedelta(seconds=int(ago[1]) * _SECONDS[ago[2]])
    try:
        parsed = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ValueError(
            f"{text!r} is no time; write 2030-01-31, 2030-01-31T12:00Z, or 30m, 2h, 7d for ago"
        ) from None
    try:
        return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{text!r} is beyond all calendars") from None
