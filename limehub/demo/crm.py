"""An invented CRM whose objects live: created, then updated, deleted, restored. Seeded, pure.

The events have the shape of Lime's: `{"id", "limetype", "values", "original_values"}`, where
`values` are all properties and `original_values` the old ones of those that an update changed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from attrs import define, field, frozen

from limehub.demo import names

__all__ = ["DemoCrm", "DemoEvent"]

Values = dict[str, Any]

FIRST_ID = 1001
STAGES = ("lead", "qualified", "proposal", "negotiation", "won", "lost")
SHARES = {"company": 2, "person": 6, "deal": 8}
"""How often an event is of a kind."""

LARGEST = 200
"""Objects of a kind at one time; a stream without end must not grow without end."""

VERBS = {"new": 30, "update": 60, "delete": 6, "restore": 4}
USERS = (7, 12, 31)


@frozen(kw_only=True)
class DemoEvent:
    """*fails*: whether the example plugins cannot handle it."""

    limetype: str
    verb: str
    body: Mapping[str, Any]
    fails: bool = False

    @property
    def routing_key(self) -> str:
        """The key that Lime publishes it with."""
        return f"core.limeobject.{self.limetype}.{self.verb}.v1"


@define(eq=False)
class _Shelf:
    """The objects of one limetype by id. *broken*: those that an integration has spoiled."""

    alive: dict[int, Values] = field(factory=dict)
    deleted: dict[int, Values] = field(factory=dict)
    broken: dict[int, Values] = field(factory=dict)


class DemoCrm:
    """Yields the events of one application; the same *seed* gives the same stream.

    *fail_rate*: 0 to 1, the share of events whose deal has a value that is no number.
    *start*: when the first event happens, UTC; a few seconds lie between two.
    """

    def __init__(self, *, seed: int, fail_rate: float = 0.0, start: datetime | None = None) -> None:
        self._random = random.Random(seed)  # noqa: S311 - a game
        self._fail_rate = fail_rate
        self._now = start or datetime(2026, 1, 5, 8, 0, tzinfo=UTC)
        self._shelves = {limetype: _Shelf() for limetype in SHARES}
        self._next_id = FIRST_ID
        self._invent: Mapping[str, Callable[[], Values]] = {
            "company": self._company,
            "person": self._person,
            "deal": self._deal,
        }
        self._change: Mapping[str, Callable[[Values], Values]] = {
            "company": self._changed_company,
            "person": self._changed_person,
            "deal": self._changed_deal,
        }

    def events(self) -> Iterator[DemoEvent]:
        """Yield events for ever."""
        while True:
            self._now += timedelta(seconds=self._random.uniform(0.5, 20))
            if self._random.random() < self._fail_rate:
                yield self._failing()
            else:
                yield self._sound()

    # -- which event comes next -------------------------------------------------------------------

    def _sound(self) -> DemoEvent:
        limetype = self._limetype()
        shelf = self._shelves[limetype]
        if shelf.broken and self._random.random() < 0.1:
            return self._repaired(limetype)
        verb = self._pick(VERBS)
        if verb == "new" and len(shelf.alive) >= LARGEST:
            verb = "delete"
        if verb == "update" and shelf.alive:
            return self._updated(limetype)
        if verb == "delete" and len(shelf.alive) > 1:
            return self._deleted(limetype)
        if verb == "restore" and shelf.deleted:
            return self._restored(limetype)
        return self._created(limetype)

    def _limetype(self) -> str:
        if not self._shelves["company"].alive:
            return "company"
        return self._pick(SHARES)

    def _created(self, limetype: str) -> DemoEvent:
        values = self._made(limetype)
        return self._event(limetype, "new", values)

    def _made(self, limetype: str) -> Values:
        number, self._next_id = self._next_id, self._next_id + 1
        user = self._random.choice(USERS)
        values: Values = {"id": number, **self._invent[limetype]()}
        values |= {"createduser": user, "createdtime": self._time()}
        values |= {"updateduser": user, "timestamp": self._time()}
        self._shelves[limetype].alive[number] = values
        return values

    def _updated(self, limetype: str) -> DemoEvent:
        shelf = self._shelves[limetype].alive
        number = self._random.choice(list(shelf))
        return self._replaced(limetype, number, self._change[limetype](shelf[number]))

    def _deleted(self, limetype: str) -> DemoEvent:
        shelf = self._shelves[limetype]
        number = self._random.choice(list(shelf.alive))
        shelf.deleted[number] = shelf.alive.pop(number)
        _forget_oldest(shelf.deleted)
        body = {"id": number, "limetype": limetype}
        return DemoEvent(limetype=limetype, verb="delete", body=body)

    def _restored(self, limetype: str) -> DemoEvent:
        shelf = self._shelves[limetype]
        number = self._random.choice(list(shelf.deleted))
        shelf.alive[number] = shelf.deleted.pop(number) | self._touched()
        return self._event(limetype, "restore", shelf.alive[number])

    # -- what fails -------------------------------------------------------------------------------

    def _failing(self) -> DemoEvent:
        """An integration writes the value of a deal as text; until it is repaired nothing else
        happens to that deal, so that no more events fail than were asked for."""
        shelf = self._shelves["deal"]
        if shelf.alive:
            number = self._random.choice(list(shelf.alive))
            changes = {"value": _as_text(shelf.alive[number]["value"])}
            event = self._replaced("deal", number, changes, fails=True)
        else:
            values = self._made("deal")
            number, values["value"] = values["id"], _as_text(values["value"])
            event = self._event("deal", "new", values, fails=True)
        shelf.broken[number] = shelf.alive.pop(number)
        _forget_oldest(shelf.broken)
        return event

    def _repaired(self, limetype: str) -> DemoEvent:
        shelf = self._shelves[limetype]
        number = self._random.choice(list(shelf.broken))
        values = shelf.alive[number] = shelf.broken.pop(number)
        figures = "".join(letter for letter in str(values["value"]) if letter.isdigit())
        return self._replaced(limetype, number, {"value": int(figures)})

    # -- the objects ------------------------------------------------------------------------------

    def _company(self) -> Values:
        family = self._random.choice(names.COMPANY_FAMILIES)
        return {
            "name": f"{family} {self._random.choice(names.COMPANY_BRANCHES)}",
            "city": self._random.choice(names.CITIES),
            "status": "prospect",
        }

    def _person(self) -> Values:
        first = self._random.choice(names.FIRST_NAMES)
        last = self._random.choice(names.LAST_NAMES)
        return {
            "firstname": first,
            "lastname": last,
            "email": f"{_plain(first)}.{_plain(last)}@example.com",
            "position": self._random.choice(names.POSITIONS),
            "company": self._any_company(),
        }

    def _deal(self) -> Values:
        return {
            "name": self._random.choice(names.PRODUCTS),
            "value": self._random.randrange(5, 400) * 500,
            "dealstatus": STAGES[0],
            "company": self._any_company(),
        }

    def _changed_company(self, values: Values) -> Values:
        if values["status"] == "prospect":
            return {"status": "customer"}
        return {"city": self._other(names.CITIES, values["city"])}

    def _changed_person(self, values: Values) -> Values:
        return {"position": self._other(names.POSITIONS, values["position"])}

    def _changed_deal(self, values: Values) -> Values:
        stage = STAGES.index(values["dealstatus"])
        if stage < STAGES.index("negotiation") and self._random.random() < 0.6:
            return {"dealstatus": STAGES[stage + 1]}
        if stage == STAGES.index("negotiation"):
            return {"dealstatus": self._random.choice(STAGES[-2:])}
        return {"value": max(500, values["value"] + self._random.choice((-5000, -500, 500, 7500)))}

    def _any_company(self) -> int | None:
        companies = list(self._shelves["company"].alive)
        return self._random.choice(companies) if companies else None

    # -- small change -----------------------------------------------------------------------------

    def _replaced(
        self, limetype: str, number: int, changes: Values, *, fails: bool = False
    ) -> DemoEvent:
        values = self._shelves[limetype].alive[number]
        changes = changes | self._touched()
        original = {name: values[name] for name in changes if values[name] != changes[name]}
        values.update(changes)
        return self._event(limetype, "update", values, original=original, fails=fails)

    def _touched(self) -> Values:
        return {"updateduser": self._random.choice(USERS), "timestamp": self._time()}

    def _event(
        self,
        limetype: str,
        verb: str,
        values: Values,
        *,
        original: Values | None = None,
        fails: bool = False,
    ) -> DemoEvent:
        body: Values = {"id": values["id"], "limetype": limetype, "values": dict(values)}
        if original is not None:
            body["original_values"] = original
        return DemoEvent(limetype=limetype, verb=verb, body=body, fails=fails)

    def _pick(self, weights: Mapping[str, int]) -> str:
        return self._random.choices(list(weights), list(weights.values()))[0]

    def _other(self, choices: tuple[str, ...], present: str) -> str:
        return self._random.choice([each for each in choices if each != present])

    def _time(self) -> str:
        return self._now.isoformat(timespec="microseconds")


def _as_text(value: int) -> str:
    return f"{value:,} SEK".replace(",", " ")


def _forget_oldest(objects: dict[int, Values]) -> None:
    if len(objects) > LARGEST:
        del objects[next(iter(objects))]


_ASCII = str.maketrans("åäöø", "aaoo")


def _plain(name: str) -> str:
    return name.lower().translate(_ASCII)
