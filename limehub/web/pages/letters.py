"""Dead letters as the pages show them: filters and links, headers, bodies. Pure functions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlencode

from attrs import frozen

from limehub.deadletters.filters import Filter, moment
from limehub.deadletters.item import DeadLetter, WholeDeadLetter
from limehub.deadletters.operations import Snapshot
from limehub.deadletters.results import Group

__all__ = [
    "Chosen",
    "WrongFilter",
    "address",
    "body_problem",
    "body_text",
    "cause_of",
    "chosen_of",
    "done_share",
    "place_of",
    "rows_of",
]

MOST_TEXT = 300
PRETTY_BYTES = 65_536
CONDITIONS = ("handler", "application", "routing_key", "exception_type", "text", "group")
TIMES = ("since", "until")


class WrongFilter(ValueError):
    """A field of the filter cannot be understood."""


@frozen(kw_only=True)
class Chosen:
    """Which dead letters a page is about: what was typed, and the filter that it means.

    *ids*: a selection; *limit*: a trial of so many.
    """

    fields: Mapping[str, str]
    ids: tuple[str, ...]
    limit: int | None
    filter: Filter

    @property
    def is_everything(self) -> bool:
        """Whether nothing narrows it."""
        return self.filter.is_everything and self.limit is None

    def query(self, **others: Any) -> str:
        """Return it as `?handler=...`, with *others* added; empty values are left out."""
        wanted = [(name, value) for name, value in {**self.fields, **others}.items() if value]
        return f"?{urlencode(wanted)}" if wanted else ""

    def hidden(self) -> Iterator[tuple[str, str]]:
        """Yield name and value of the form fields that say the same."""
        yield from self.fields.items()
        yield from (("ids", identity) for identity in self.ids)

    def in_words(self) -> str:
        """Return the conditions for people; empty if there are none."""
        said = [
            "one cause" if name == "group" else f"{name.replace('_', ' ')} {value}"
            for name, value in self.fields.items()
        ]
        return ", ".join(said)

    def what(self) -> dict[str, Any]:
        """Return it for the audit."""
        shown: dict[str, Any] = dict(self.fields)
        if self.ids:
            shown["ids"] = list(self.ids)
        return shown | ({"limit": self.limit} if self.limit else {})


def chosen_of(
    fields: Mapping[str, str], ids: tuple[str, ...] = (), *, limit: str = "", now: datetime
) -> Chosen:
    """Return what a form or an address chooses; names that it does not know are left alone.

    Raises WrongFilter saying which field is wrong.
    """
    given = {
        name: fields[name].strip() for name in (*CONDITIONS, *TIMES) if fields.get(name, "").strip()
    }
    for name, text in given.items():
        if len(text) > MOST_TEXT:
            raise WrongFilter(f"{name}: at most {MOST_TEXT} characters")
    conditions: dict[str, Any] = {name: given[name] for name in CONDITIONS if name in given}
    for name in TIMES:
        if name in given:
            conditions[name] = _moment(name, given[name], now)
    if ids:
        conditions["ids"] = frozenset(ids)
    return Chosen(fields=given, ids=ids, limit=_limit(limit), filter=Filter(**conditions))


def cause_of(letter: DeadLetter | Group) -> str:
    """Return in a few words why it failed."""
    kind = letter.exception_type if isinstance(letter, Group) else letter.exception.type
    return kind.rpartition(".")[2] or letter.reason or "unknown reason"


def place_of(where: str) -> str:
    """Return *where* without the folders that lead to the package: people know those."""
    return where.rpartition("/site-packages/")[2]


def body_text(letter: WholeDeadLetter) -> str:
    """Return the body for reading: JSON with line breaks unless it is large, the rest as it is."""
    if letter.body_encoding != "json":
        return str(letter.body)
    # Line breaks are not free: 1 MiB of them takes the hub from the handlers for a tenth of 1 s.
    indent = 2 if letter.item.size <= PRETTY_BYTES else None
    return json.dumps(letter.body, indent=indent, ensure_ascii=False)


def body_problem(text: str, *, is_json: bool) -> str:
    """Return why *text* cannot be the body of an event that was JSON; empty if it can."""
    if not is_json:
        return ""
    try:
        json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        return f"line {error.lineno}, column {error.colno}: {error.msg}"
    except (ValueError, RecursionError) as error:
        return str(error)
    return ""


def rows_of(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return headers or properties as names and texts, sorted."""
    return [(name, _text(value)) for name, value in sorted(values.items())]


def done_share(snapshot: Snapshot) -> int | None:
    """Return how many per cent of the queue an operation has looked at; None if nobody knows."""
    return min(100, 100 * snapshot.seen // snapshot.total) if snapshot.total else None


def address(app: str, *parts: str) -> str:
    """Return the path of a page about *app*."""
    inner = "/".join(quote(part, safe="") for part in (app, *parts))
    return f"/dead-letters/{inner}/"


def _moment(name: str, text: str, now: datetime) -> datetime:
    try:
        return moment(text, now=now)
    except (ValueError, OverflowError) as error:
        raise WrongFilter(f"{name}: {error}") from None


def _limit(text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text)):
        raise WrongFilter("limit: a whole number, at least 1")
    return int(text)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")
