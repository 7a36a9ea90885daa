"""A handler made ready to run: everything that one run needs is decided here, once, at start."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Protocol

from attrs import define, field, frozen

from limehub.amqp.delivery import Delivery
from limehub.decoding import UndecodableBody, decode_body
from limehub.events import Event, Message
from limehub.workers.schedule import Order
from limehub.workers.settlement import Asked, Fate, Rules

__all__ = ["BoundHandler", "HandlerStats", "SettledHook", "Settlement", "object_key"]

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
"""Upper ends, in seconds, of the steps by which durations are counted; the last has none."""

SettledHook = Callable[..., None]
"""delivery_settled(event, handler, outcome, seconds, error)"""


class Settles(Protocol):
    """Who carries out a settlement that comes after the handler has returned."""

    def settle_late(self, settlement: Settlement) -> None: ...
    def acked_too_late(self, settlement: Settlement) -> None: ...


@define(eq=False)
class HandlerStats:
    """Plain numbers, written by the group's hub, read by status pages. Seconds are summed.

    *acks* by application; *others* by application and fate; *unrun*: by reason, what was
    dead-lettered without a run.
    """

    started: int = 0
    in_flight: int = 0
    open: int = 0
    seconds: float = 0.0
    longest: float = 0.0
    durations: list[int] = field(factory=lambda: [0] * (len(BOUNDS) + 1))
    acks: defaultdict[str, int] = field(factory=lambda: defaultdict(int))
    others: Counter[tuple[str, Fate]] = field(factory=Counter)
    unrun: Counter[str] = field(factory=Counter)

    def acked_after(self, seconds: float, application: str) -> None:
        """Count a run that went well; the same as `add`, which nearly every event takes."""
        self.acks[application] += 1
        self.seconds += seconds
        if seconds > self.longest:
            self.longest = seconds
        self.durations[bisect_left(BOUNDS, seconds)] += 1

    def add(self, fate: Fate, seconds: float, application: str) -> None:
        """Count one finished run, however it went."""
        if fate is Fate.ACK:
            self.acks[application] += 1
        else:
            self.others[application, fate] += 1
        self._took(seconds)

    def add_unrun(self, reason: str, application: str) -> None:
        """Count an event that was dead-lettered without a run; "" = nobody's."""
        self.others[application, Fate.DEAD_LETTER] += 1
        self.unrun[reason] += 1

    @property
    def acked(self) -> int:
        """How many runs went well."""
        return sum(self.acks.values())

    @property
    def outcomes(self) -> dict[Fate, int]:
        """How many events ended in which way."""
        sums: Counter[Fate] = Counter()
        for (_, fate), count in self.by_application.items():
            sums[fate] += count
        return dict(sums)

    @property
    def by_application(self) -> dict[tuple[str, Fate], int]:
        """(application, fate) -> how many events."""
        acks = {(application, Fate.ACK): count for application, count in self.acks.items()}
        return acks | dict(self.others)

    def _took(self, seconds: float) -> None:
        self.seconds += seconds
        if seconds > self.longest:
            self.longest = seconds
        self.durations[bisect_left(BOUNDS, seconds)] += 1


@frozen(kw_only=True, eq=False)
class BoundHandler:
    """*name*: `<app>.<queue_name>`; *call*(event, message); *rules*: how failures are judged.

    *timeout*: seconds after which *call* ends the run if it can; a run beyond it is overdue.
    """

    name: str
    app: str
    dlq: str
    call: Callable[[Event, Message], object]
    rules: Rules
    early_ack: bool = False
    reads_body: bool = True
    event_class: type[Event] = Event
    order: Order = "none"
    handler: Any = None
    lane: str = "greenlet"
    timeout: float | None = None
    stats: HandlerStats = field(factory=HandlerStats)
    hooks: tuple[SettledHook, ...] = ()
    succeeds: Asked = field(init=False)
    """What a run has asked for when it returned and all is well."""

    @succeeds.default
    def _succeeds(self) -> Asked:
        return Asked.ACK if self.rules.manual or self.early_ack else Asked.NOTHING

    def is_overdue(self, seconds: float) -> bool:
        """Whether a run that has lasted *seconds* should have ended."""
        return self.timeout is not None and seconds > self.timeout


class Settlement:
    """The one right to settle a delivery, as the event and Lime's message hold it."""

    __slots__ = (
        "asked",
        "closed",
        "delivery",
        "event",
        "group",
        "handler",
        "reason",
        "returned",
        "started",
    )

    def __init__(self, group: Settles, handler: BoundHandler, delivery: Delivery) -> None:
        self.group = group
        self.handler = handler
        self.delivery = delivery
        self.asked = Asked.NOTHING
        self.reason = ""
        self.returned = False
        self.closed = False
        self.event: Event | None = None
        self.started = 0.0

    @property
    def settled(self) -> bool:
        """Whether the handler has decided."""
        return self.asked is not Asked.NOTHING

    def ack(self) -> None:
        """Ack now."""
        self._ask(Asked.ACK)
        if not self.delivery.ack():
            self.group.acked_too_late(self)

    def reject(self, reason: str) -> None:
        """Dead-letter after the handler has returned."""
        self.reason = reason
        self._ask(Asked.REJECT)

    def requeue(self) -> None:
        """Give back after the handler has returned."""
        self._ask(Asked.REQUEUE)

    def _ask(self, asked: Asked) -> None:
        if self.settled or self.closed:
            from limehub.errors import AlreadySettled

            raise AlreadySettled(f"{self.handler.name} settled its event already ({self.asked})")
        self.asked = asked
        if self.returned:
            self.group.settle_late(self)


def object_key(delivery: Delivery) -> Hashable:
    """Return (exchange, limetype, id) of a Lime object's event; None if it names no object."""
    cached: Hashable = delivery.__dict__.get("object_key", _UNKNOWN)
    if cached is _UNKNOWN:
        cached = delivery.__dict__["object_key"] = _object_key(delivery)
    return cached


_UNKNOWN = object()


def _object_key(delivery: Delivery) -> Hashable:
    try:
        body = decode_body(delivery.body, *delivery.coding)
    except UndecodableBody:
        return None
    if not isinstance(body, Mapping) or not isinstance(body.get("id"), int | str):
        return None
    limetype = body.get("limetype") or "".join(delivery.routing_key.split(".")[2:3])
    return (delivery.exchange, str(limetype), body["id"])
