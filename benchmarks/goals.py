"""What limehub promises itself, and whether this run kept it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from operator import ge, gt, le

from attrs import frozen

from benchmarks import embedded
from benchmarks.report import Results, Value, middle, print_rows

__all__ = ["GOALS", "Goal", "print_goals"]

Measure = Callable[[Results], float]
"""Results of a section -> a figure. Raises KeyError when a peer that it needs was not there."""

LIMEHUB = "limehub"
LIMIT = "c_raw_multi"
INLINE = ("pika_select", "pika_gevent")
FRAMEWORKS = ("yapw", "dramatiq_gevent", "faststream_uvloop", "celery_gevent")
MEETS = {"at least": ge, "at most": le, "above": gt}


@frozen(kw_only=True)
class Goal:
    """*measure* of *section* has to be `at least`, `at most` or `above` (*how*) *limit*.

    *ceiling*: the same figure of the C consumer: what limehub cannot pass, since there the broker
    is the limit.
    """

    section: str
    what: str
    measure: Measure
    how: str
    limit: float
    ceiling: Measure | None = None

    def met(self, value: float) -> bool:
        """Whether *value* is good enough."""
        return bool(MEETS[self.how](value, self.limit))


def print_goals(results: Mapping[str, Results]) -> bool:
    """Print each goal whose section has run; returns whether all of them are met."""
    rows = [["section", "limehub's", "goal", "measured", "C itself", ""]]
    verdicts = []
    for goal, value in _measured(results):
        verdicts.append(goal.met(value))
        wanted = f"{goal.how} {goal.limit:g}"
        verdict = "met" if verdicts[-1] else "MISSED"
        ceiling = _ceiling(goal, results[goal.section])
        rows.append([goal.section, goal.what, wanted, f"{value:.4g}", ceiling, verdict])
    if verdicts:
        print("\n## Goals\n")
        print_rows(rows)
    return all(verdicts)


def _measured(results: Mapping[str, Results]) -> Iterable[tuple[Goal, float]]:
    for goal in GOALS:
        try:
            yield goal, goal.measure(results[goal.section])
        except (KeyError, ValueError):  # a section or peer that did not run
            continue


def _ceiling(goal: Goal, results: Results) -> str:
    if goal.ceiling is None or LIMIT not in results:
        return ""
    return f"{goal.ceiling(results):.4g}"


def _rate(peer: str) -> Measure:
    return lambda results: middle(results[peer], lambda report: report.rate)


def _cpu(peer: str) -> Measure:
    return lambda results: middle(results[peer], lambda report: report.cpu_us)


def _broker_cpu(peer: str) -> Measure:
    return lambda results: middle(results[peer], lambda report: report.broker_us)


def _of(peer: str, value: Value) -> Measure:
    return lambda results: middle(results[peer], value)


def _ratio(one: Measure, other: Measure) -> Measure:
    return lambda results: one(results) / other(results)


def _least(measure: Callable[[str], Measure], peers: Iterable[str]) -> Measure:
    """The smallest figure among *peers*, of those that took part."""
    return lambda results: min(measure(peer)(results) for peer in peers if peer in results)


def _p50(peer: str) -> Measure:
    return _of(peer, lambda report: report.latency_ms(0.5))


def _start(peer: str) -> Measure:
    return _of(peer, lambda report: report.start_seconds)


def _rate_goal(section: str, peer: str, how: str, limit: float, what: str) -> Goal:
    return Goal(
        section=section,
        what=what,
        measure=_ratio(_rate(LIMEHUB), _rate(peer)),
        how=how,
        limit=limit,
        ceiling=_ratio(_rate(LIMIT), _rate(peer)),
    )


def _extra_cpu(results: Results, one: str, other: str) -> float:
    """What *one* takes of a core beyond what its messages cost *other*."""
    plain = _cpu(other)(results)
    return middle(results[one], lambda report: (report.cpu_us - plain) * report.rate / 1_000_000)


def _embedded(what: str, measure: Measure, how: str, limit: float) -> Goal:
    return Goal(section=embedded.NAME, what=what, measure=measure, how=how, limit=limit)


def _embedded_goals() -> Iterable[Goal]:
    deep, shallow, held = (f"{n:,}" for n in (embedded.DEEP, embedded.SHALLOW, embedded.HELD))
    for name, megabytes in ((embedded.MEMORY, 150), (embedded.FILE, 60)):
        yield _embedded(f"broker {name}: msg/s", _rate(name), "at least", 5_000)
        cost = _ratio(_broker_cpu(name), _broker_cpu(embedded.RABBITMQ))
        yield _embedded(f"broker {name}: CPU : RabbitMQ", cost, "at most", 3)
        depth = _ratio(_rate(f"{name}, {deep} waiting"), _rate(f"{name}, {shallow} waiting"))
        yield _embedded(f"broker {name}: msg/s at {deep} : {shallow}", depth, "at least", 0.8)
        rss = _of(f"{name}, {held} queued", lambda report: report.rss_mb)
        yield _embedded(f"broker {name}: MB with {held} queued", rss, "at most", megabytes)
        ready = _ratio(_start(f"{name}, ready"), _start("imports"))
        yield _embedded(f"broker {name}: ready : importing", ready, "at most", 1.3)


GOALS = (
    Goal(
        section="p1000",
        what="client CPU us a message",
        measure=_cpu(LIMEHUB),
        how="at most",
        limit=11,
    ),
    Goal(
        section="p1000",
        what="client CPU : stock pika inline",
        measure=_ratio(_cpu(LIMEHUB), _least(_cpu, INLINE)),
        how="at most",
        limit=0.3,
    ),
    Goal(
        section="p1000",
        what="client CPU : leanest framework",
        measure=_ratio(_cpu(LIMEHUB), _least(_cpu, FRAMEWORKS)),
        how="at most",
        limit=0.125,
    ),
    _rate_goal("p1000", LIMIT, "at least", 0.8, "msg/s : C with multiple acks"),
    _rate_goal("p1000", "yapw", "at least", 2, "msg/s : yapw"),
    _rate_goal("p1000", "dramatiq_gevent", "at least", 4, "msg/s : Dramatiq"),
    _rate_goal("p1000", "faststream_uvloop", "at least", 8, "msg/s : FastStream"),
    _rate_goal("p1000", "celery_gevent", "at least", 12, "msg/s : Celery"),
    _rate_goal("p10", LIMIT, "at least", 0.5, "msg/s : C"),
    _rate_goal("p1", LIMIT, "at least", 0.6, "msg/s : C"),
    _rate_goal("three", LIMIT, "at least", 0.85, "msg/s : three C processes"),
    Goal(
        section="wait100",
        what="msg/s, of 5,000 by arithmetic",
        measure=_rate(LIMEHUB),
        how="at least",
        limit=4300,
    ),
    _rate_goal("wait1000", "node_amqplib", "above", 1, "msg/s : node amqplib"),
    Goal(
        section="publish",
        what="msg/s : pipelined C",
        measure=_ratio(_rate("publish_limehub"), _rate("publish_c")),
        how="at least",
        limit=0.8,
    ),
    Goal(
        section="publish",
        what="client CPU us a message",
        measure=_cpu("publish_limehub"),
        how="at most",
        limit=20,
    ),
    Goal(
        section="latency",
        what="p50 : inline pika",
        measure=_ratio(_p50(LIMEHUB), _least(_p50, INLINE)),
        how="at most",
        limit=1.15,
    ),
    Goal(
        section="memory",
        what="MB idle",
        measure=_of(LIMEHUB, lambda report: report.idle_rss_mb),
        how="at most",
        limit=40,
    ),
    Goal(
        section="memory",
        what="MB with 1000 in flight",
        measure=_of(LIMEHUB, lambda report: report.rss_mb),
        how="at most",
        limit=50,
    ),
    Goal(
        section="web",
        what="share of a core for 50 browsers",
        measure=lambda results: _extra_cpu(results, "limehub_looked_at", "limehub_alone"),
        how="at most",
        limit=0.5,
    ),
    *_embedded_goals(),
    Goal(
        section="start",
        what="time : importing patched gevent and pika",
        measure=_ratio(_start(LIMEHUB), _start("imports")),
        how="at most",
        limit=1.5,
    ),
)
