"""The overview: what is wrong and what to press, then the numbers. Pure functions of a reading.

Every number that moves is a cell with a name; the page shows it as the server rendered it, and the
stream sends the same cells again. When rows or problems come or go, `shape` changes, and the page
asks for itself anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal
from urllib.parse import quote

from attrs import frozen

from limehub.web.live import Broker, Reading
from limehub.web.pages.words import NOTHING, age, amount, clock, duration, plural, rate
from limehub.web.tempo import GOOD, Pace, Totals

__all__ = ["Overview", "Problem", "QueueRow", "message_of", "overview_of"]

FRESH_STALL = 600.0
"""Seconds after which a stall that is over is no news any more."""
SHOWN_CAUSES = 5


@frozen(kw_only=True)
class Problem:
    """Something that wants a person. *key*: its kind, its title is a cell; *causes*: details, line
    by line; *href*, *action*: the button that helps, if there is one; *advice*: what to do."""

    key: str
    level: Literal["bad", "warn"]
    title: str
    causes: tuple[str, ...] = ()
    advice: str = ""
    href: str = ""
    action: str = ""


@frozen(kw_only=True)
class HandlerRow:
    """One handler. *key*: begins the names of its cells."""

    name: str
    key: str
    app: str
    groups: tuple[str, ...]


@frozen(kw_only=True)
class QueueRow:
    """One queue. *problem*: why it is not consumed; *notes*: what else is odd."""

    name: str
    key: str
    handler: str
    prefetch: int
    problem: str
    notes: tuple[str, ...]


@frozen(kw_only=True)
class GroupRow:
    """One worker group and its queues."""

    name: str
    key: str
    connected: bool
    broker: str
    concurrency: int
    queues: tuple[QueueRow, ...]


@frozen(kw_only=True)
class StallRow:
    """A stall that is over, or *now*. *key*: the same as long as it is shown."""

    key: str
    culprit: str
    where: str
    seconds: str
    began_at: str
    stack: str
    now: bool


@frozen(kw_only=True)
class Overview:
    """All that the page shows. *cells*: name -> text; *shape*: changes with rows and problems."""

    headline: str
    problems: tuple[Problem, ...]
    handlers: tuple[HandlerRow, ...]
    groups: tuple[GroupRow, ...]
    stalls: tuple[StallRow, ...]
    crashes: tuple[int, ...]
    facts: tuple[tuple[str, str], ...]
    cells: Mapping[str, str]
    shape: str

    @property
    def level(self) -> str:
        """How bad it is: `good`, `warn` or `bad`."""
        levels = {problem.level for problem in self.problems}
        return "bad" if "bad" in levels else "warn" if levels else "good"


def overview_of(reading: Reading) -> Overview:
    """Return what is shown of *reading*."""
    status = reading.status
    problems = tuple(_problems(status, reading))
    handlers = tuple(_handler_rows(status))
    groups = tuple(map(_group_row, status.get("groups", ())))
    stalls = tuple(_stall_rows(status.get("stalls", {}), reading.at))
    crashes = tuple(sorted(status.get("crashes", {}).values(), reverse=True))
    return Overview(
        headline=_headline(problems, groups),
        problems=problems,
        handlers=handlers,
        groups=groups,
        stalls=stalls,
        crashes=crashes,
        facts=_facts(status),
        cells={f"p:{each.key}": each.title for each in problems} | dict(_cells(reading)),
        shape=_shape(
            [(each.key, each.level, each.causes) for each in problems],
            handlers,
            groups,
            len(stalls),
            crashes,
        ),
    )


def message_of(reading: Reading) -> str:
    """Return what the stream sends of *reading*: one line of JSON."""
    shown = overview_of(reading)
    points = reading.points
    charts = {
        "at": [point.at for point in points],
        "done": [point.done for point in points],
        "failed": [point.failed for point in points],
        "in_flight": [point.in_flight for point in points],
        "waiting": [point.waiting for point in points],
    }
    return json.dumps({"shape": shown.shape, "cells": shown.cells, "charts": charts})


# -- what is wrong --------------------------------------------------------------------------------


def _headline(problems: tuple[Problem, ...], groups: tuple[GroupRow, ...]) -> str:
    if not problems:
        queues = sum(len(group.queues) for group in groups)
        return f"All is well: {plural(queues, 'queue is', 'queues are')} being consumed"
    return f"{plural(len(problems), 'thing needs', 'things need')} attention"


def _problems(status: Mapping[str, Any], reading: Reading) -> Iterator[Problem]:
    """Yield what is wrong, the worst first."""
    stalls = status.get("stalls", {})
    yield from _not_ready(status)
    yield from _stuck(stalls.get("current"))
    yield from _broken(status.get("broken_plugins", ()))
    yield from _unsaved(status.get("dead_letters", {}).get("trouble", {}))
    yield from () if _cut_off(status) else _unknown(reading.broker)
    yield from _dead(reading.broker)
    yield from _overdue(status.get("groups", ()))
    yield from _crashes(status.get("crashes", {}))
    yield from _left_open(status.get("handlers", ()))
    yield from _stalled_lately(stalls, reading.at)


def _cut_off(status: Mapping[str, Any]) -> list[str]:
    return [each["name"] for each in status.get("groups", ()) if not each["connected"]]


def _not_ready(status: Mapping[str, Any]) -> Iterator[Problem]:
    causes = tuple(status.get("missing", ()))
    if not causes:
        return
    groups = [each["name"] for each in status.get("groups", ())]
    cut_off, broker = _cut_off(status), _Broker.of(status)
    if cut_off:
        which = f" of {', '.join(cut_off)}" if cut_off != groups else ""
        title, advice = f"No connection{which} to {broker.name}", broker.while_away
    else:
        title = f"{plural(len(causes), 'queue is', 'queues are')} not being consumed"
        advice = "Their events wait at the broker meanwhile. `limehub check` tells more."
    yield Problem(key="ready", level="bad", title=title, causes=_some(causes), advice=advice)


@frozen
class _Broker:
    """The broker in words. *while_away*: what happens until it is back."""

    name: str
    while_away: str

    @classmethod
    def of(cls, status: Mapping[str, Any]) -> _Broker:
        said = status.get("broker", {})
        if said.get("embedded"):
            return cls(
                name="the embedded broker",
                while_away="limehub starts it again; the events in its file are kept.",
            )
        return cls(
            name=f"the broker at {said.get('address', NOTHING)}",
            while_away="Events wait there until it is back; limehub goes on trying.",
        )


def _stuck(stall: Mapping[str, Any] | None) -> Iterator[Problem]:
    if stall:
        yield Problem(
            key="stuck",
            level="bad",
            title=f"{stall['culprit']} keeps the whole server busy",
            causes=_some([f"at {stall['where']}"] if stall["where"] else []),
            advice="No other handler runs meanwhile. Give it a lane of its own: thread or process.",
            href="#stalls",
            action="See where",
        )


def _broken(broken: Iterable[str]) -> Iterator[Problem]:
    causes = tuple(broken)
    if causes:
        title = f"{plural(len(causes), 'package')} cannot be used"
        advice = "Its handlers do not run, and its events wait."
        yield Problem(
            key="broken",
            level="bad",
            title=title,
            causes=_some(causes),
            advice=advice,
            href="/plugins/",
            action="See what broke",
        )


def _unsaved(trouble: Mapping[str, str]) -> Iterator[Problem]:
    if trouble:
        yield Problem(
            key="unsaved",
            level="bad",
            title="Dead letters cannot be stored",
            causes=_some([f"{queue}: {cause}" for queue, cause in trouble.items()]),
            advice="Failed events stay unacknowledged until they can be; none is lost.",
        )


def _unknown(broker: Broker) -> Iterator[Problem]:
    if broker.trouble:
        yield Problem(
            key="unknown",
            level="warn",
            title="The broker cannot be asked how many events wait",
            causes=(broker.trouble,),
        )


def _dead(broker: Broker) -> Iterator[Problem]:
    for each in sorted(broker.dead, key=lambda each: -each.total):
        if each.total:
            yield Problem(
                key=f"dead:{each.app}",
                level="warn",
                title=f"{plural(each.total, 'event')} of {each.app} failed",
                advice="See why, fix the cause, then requeue them, or delete what nobody needs.",
                href=f"/dead-letters/{quote(each.app)}/",
                action="See what failed",
            )


def _overdue(groups: Iterable[Mapping[str, Any]]) -> Iterator[Problem]:
    runs = [run for group in groups for run in group.get("running", ()) if run["overdue"]]
    if runs:
        names = sorted({run["handler"] for run in runs})
        title = f"{plural(len(runs), 'run takes', 'runs take')} longer than allowed"
        yield Problem(key="overdue", level="warn", title=title, causes=_some(names))


def _crashes(crashes: Mapping[str, int]) -> Iterator[Problem]:
    if crashes:
        yield Problem(
            key="crashes",
            level="warn",
            title=f"{plural(len(crashes), 'event')} may have felled the server",
            causes=(f"up to {plural(max(crashes.values()), 'time')}",),
            advice="They run alone after a while; at event_handler.crash_limit they become dead"
            " letters with the reason crash-loop.",
        )


def _left_open(handlers: Iterable[Mapping[str, Any]]) -> Iterator[Problem]:
    lazy = [each["name"] for each in handlers if each["open"]]
    if lazy:
        yield Problem(
            key="open",
            level="warn",
            title="Handlers returned without settling their events",
            causes=_some(lazy),
            advice="Such an event holds its place in the prefetch until it is acked or rejected.",
        )


def _stalled_lately(stalls: Mapping[str, Any], now: datetime) -> Iterator[Problem]:
    over = () if stalls.get("current") else stalls.get("last", ())[:1]
    for stall in over:
        began = datetime.fromisoformat(stall["began_at"])
        if (now - began).total_seconds() < FRESH_STALL:
            yield Problem(
                key="stalled",
                level="warn",
                title=f"{stall['culprit']} kept the whole server busy for"
                f" {duration(stall['seconds'])}",
                advice="No other handler ran meanwhile. Give it the lane thread or process.",
                href="#stalls",
                action="See where",
            )


def _some(causes: Iterable[str]) -> tuple[str, ...]:
    listed = list(causes)
    more = len(listed) - SHOWN_CAUSES
    return (*listed[:SHOWN_CAUSES], *([f"and {more} more"] if more > 0 else []))


# -- rows -----------------------------------------------------------------------------------------


def _handler_rows(status: Mapping[str, Any]) -> Iterator[HandlerRow]:
    groups: dict[str, dict[str, None]] = {}
    for group in status.get("groups", ()):
        for queue in group["queues"]:
            groups.setdefault(queue["handler"], {})[group["name"]] = None
    for handler in status.get("handlers", ()):
        name = handler["name"]
        yield HandlerRow(
            name=name, key=f"h:{name}", app=name.rpartition(".")[0], groups=(*groups.get(name, ()),)
        )


def _group_row(group: Mapping[str, Any]) -> GroupRow:
    return GroupRow(
        name=group["name"],
        key=f"g:{group['name']}",
        connected=group["connected"],
        broker=group["broker"] or "",
        concurrency=group["concurrency"],
        queues=tuple(map(_queue_row, group["queues"])),
    )


def _queue_row(queue: Mapping[str, Any]) -> QueueRow:
    return QueueRow(
        name=queue["queue"],
        key=f"q:{queue['queue']}",
        handler=queue["handler"],
        prefetch=queue["prefetch"],
        problem=queue["problem"] or "",
        notes=tuple(queue["mismatches"]),
    )


def _stall_rows(stalls: Mapping[str, Any], now: datetime) -> Iterator[StallRow]:
    current = stalls.get("current")
    for stall in [*([current] if current else []), *stalls.get("last", ())]:
        began = datetime.fromisoformat(stall["began_at"])
        yield StallRow(
            key=f"{began.timestamp():.0f}",
            culprit=stall["culprit"],
            where=stall["where"] or "",
            seconds=duration(stall["seconds"]),
            began_at=f"{clock(began)}, {age(began, now)}",
            stack=stall["stack"],
            now=stall is current,
        )


def _facts(status: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    started = status.get("started_at")
    return (
        ("version", str(status.get("version", NOTHING))),
        ("process", str(status.get("pid", NOTHING))),
        ("running since", clock(datetime.fromisoformat(started)) if started else NOTHING),
        ("applications", ", ".join(status.get("applications", ())) or NOTHING),
    )


# -- cells ----------------------------------------------------------------------------------------


def _cells(reading: Reading) -> Iterator[tuple[str, str]]:
    oldest = _oldest(reading.status.get("groups", ()))
    yield from _totals(reading)
    for handler in reading.status.get("handlers", ()):
        name = handler["name"]
        pace = reading.paces.get(name, Pace())
        for cell, text in _handler_cells(handler, pace, oldest.get(name)):
            yield f"h:{name}:{cell}", text
    for group in reading.status.get("groups", ()):
        yield f"g:{group['name']}:reconnects", amount(group["reconnects"])
        yield f"g:{group['name']}:waiting", amount(group["waiting"])
        for queue in group["queues"]:
            depth = reading.broker.queues.get(queue["queue"])
            yield f"q:{queue['queue']}:ready", amount(depth.ready if depth else None)
            yield f"q:{queue['queue']}:consumers", amount(depth.consumers if depth else None)


def _totals(reading: Reading) -> Iterator[tuple[str, str]]:
    point = reading.points[-1] if reading.points else None
    yield "rate", rate(point.done if point else None)
    yield "failing", rate(point.failed if point else None)
    yield "in_flight", amount(point.in_flight if point else None)
    yield "waiting", amount(point.waiting if point else None)
    yield "dead", amount(reading.broker.dead_total)
    yield from _peaks(reading.points)
    yield "as_of", clock(reading.at)
    current = reading.status.get("stalls", {}).get("current")
    yield "stalled", duration(current["seconds"]) if current else NOTHING


def _peaks(points: Sequence[Totals]) -> Iterator[tuple[str, str]]:
    """What the charts show, for those who cannot see them or miss a scale."""
    span = duration(points[-1].at - points[0].at) if len(points) > 1 else NOTHING
    for name, said in (("done", rate), ("failed", rate), ("in_flight", amount)):
        highest = max((getattr(point, name) for point in points), default=None)
        yield f"peak:{name}", f"peak {said(highest)} in {span}"
    waiting = max((each.waiting for each in points if each.waiting is not None), default=None)
    yield "peak:waiting", f"peak {amount(waiting)} in {span}"


def _handler_cells(
    handler: Mapping[str, Any], pace: Pace, oldest: float | None
) -> Iterator[tuple[str, str]]:
    outcomes = handler["outcomes"]
    yield "rate", rate(pace.per_second)
    for name, seconds in zip(("p50", "p95", "p99"), pace.percentiles, strict=True):
        yield name, _at_most(seconds)
    yield "done", amount(sum(outcomes.values()))
    yield "failed", amount(sum(n for name, n in outcomes.items() if name not in GOOD))
    yield "in_flight", amount(handler["in_flight"])
    yield "oldest", duration(oldest)


def _at_most(seconds: float | None) -> str:
    if seconds is None:
        return NOTHING
    return "> 5 min" if seconds == float("inf") else f"≤ {duration(seconds)}"


def _oldest(groups: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for group in groups:
        for run in group.get("running", ()):
            found[run["handler"]] = max(found.get(run["handler"], 0.0), run["seconds"])
    return found


def _shape(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]
