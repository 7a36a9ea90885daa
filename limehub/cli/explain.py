"""`limehub explain`: what happens to an event with some routing key, or in some queue."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import click

from limehub.cli.explanation import (
    FailureStory,
    Receiver,
    failure_story,
    nearest_keys,
    placement_at,
    receivers_of,
)
from limehub.cli.loading import load_config, load_plugins
from limehub.cli.options import config_option, json_option
from limehub.cli.output import print_json, print_pairs, print_table, say, warn
from limehub.cli.placement import Placement, placements
from limehub.config import QUEUE_NAMESPACE, Config, suggestion
from limehub.errors import NothingMatched
from limehub.plugins.registry import Registry
from limehub.routing_keys import lint, unusable

__all__ = ["explain"]

RECEIVER_COLUMNS = (
    "handler", "matching keys", "queue", "applications", "group", "prefetch", "concurrency", "order"
)  # fmt: skip


@click.command()
@click.argument("target", metavar="KEY|QUEUE")
@config_option
@json_option
def explain(target: str, config: Path | None, as_json: bool) -> None:
    """Say what happens to an event with the routing key KEY, or to those in QUEUE.

    QUEUE is the full name of a queue, or <app>.<queue_name>. Exit code 1: nobody gets it.
    """
    registry = load_plugins(load_config(config))
    for broken in registry.broken:
        warn(f"left out: {broken}")
    found = placements(registry)
    placement = placement_at(found, target)
    if placement is not None:
        _explain_queue(placement, registry, as_json=as_json)
    elif target.startswith(QUEUE_NAMESPACE):
        known = [queue for one in found for queue in one.queues]
        raise NothingMatched(f"no handler reads the queue {target}{suggestion(target, known)}")
    else:
        _explain_key(target, found, registry.config, as_json=as_json)


def _explain_key(key: str, found: Sequence[Placement], config: Config, *, as_json: bool) -> None:
    problem = unusable(key)
    if problem:
        raise click.UsageError(problem)
    receivers = receivers_of(found, config, key)
    if as_json:
        print_json(
            {
                "routing_key": key,
                "receivers": [receiver.as_dict(config) for receiver in receivers],
                "remarks": lint(key),
                "nearest_keys": [] if receivers else nearest_keys(found, key),
            }
        )
    elif receivers:
        _print_receivers(key, receivers, config)
    for remark in lint(key):
        warn(f"warning: {remark}")
    if not receivers:
        raise NothingMatched(_nobody(key, found))


def _nobody(key: str, found: Sequence[Placement]) -> str:
    names = [placement.handler.name for placement in found]
    lines = [f"no installed handler gets {key}{suggestion(key, names)}"]
    near = nearest_keys(found, key)
    if near:
        lines.append(f"the nearest keys are {', '.join(near)}")
    elif not found:
        lines.append("no handler is installed at all; see `limehub plugins`")
    return "\n".join(lines)


def _print_receivers(key: str, receivers: Sequence[Receiver], config: Config) -> None:
    say(f"an event with routing key {key} is handled by {len(receivers)}, each by itself:")
    say("")
    print_table(RECEIVER_COLUMNS, _receiver_rows(receivers))
    for receiver in receivers:
        say("")
        say(f"when {receiver.placement.handler.name} fails:")
        _print_story(failure_story(receiver.placement, config))


def _receiver_rows(receivers: Iterable[Receiver]) -> Iterable[tuple[object, ...]]:
    for receiver in receivers:
        placement = receiver.placement
        for queue, applications in receiver.queues.items():
            yield (
                placement.handler.name,
                ", ".join(receiver.keys),
                queue,
                ", ".join(applications),
                placement.group,
                placement.prefetch,
                placement.concurrency,
                placement.handler.options.order,
            )


def _explain_queue(placement: Placement, registry: Registry, *, as_json: bool) -> None:
    story = failure_story(placement, registry.config)
    bindings = _bindings(placement, registry.config)
    if as_json:
        rows = [{"queue": q, "exchange": x, "key": key} for q, x, key in bindings]
        print_json({**placement.as_dict(), "bindings": rows, "on_failure": story.as_dict()})
        return
    print_pairs(_facts(placement))
    say("")
    print_table(("queue", "exchange", "key"), bindings, empty="it is bound to nothing")
    say("")
    say("when it fails:")
    _print_story(story)


def _facts(placement: Placement) -> list[tuple[str, object]]:
    handler = placement.handler
    limit = f"{placement.timeout:g} s" if placement.timeout else "none"
    return [
        ("handler", f"{handler.name} at {handler.origin}"),
        ("package", f"{handler.plugin.distribution} {handler.plugin.version}"),
        ("form", handler.form.description),
        ("group", f"{placement.group}: at most {placement.concurrency} of its handlers at once"),
        ("prefetch", f"at most {placement.prefetch} unacked per queue"),
        ("order", _ORDERS[handler.options.order]),
        ("ack", _ACKS[handler.options.ack]),
        ("timeout", limit),
        ("lane", placement.lane),
    ]


_ORDERS = {
    "queue": "queue: one event of a queue at a time",
    "object": "object: one event of an object at a time",
    "none": "none: up to the prefetch at once",
}
_ACKS = {
    "success": "success: after the handler has returned",
    "early": "early: before the handler is called",
    "manual": "manual: by the handler itself",
}


def _bindings(placement: Placement, config: Config) -> list[tuple[str, str, str]]:
    return [
        (queue, exchange, config.routing_key(exchange, key))
        for queue, applications in placement.queues.items()
        for exchange in map(config.exchange_of, applications)
        for key in placement.handler.keys
    ]


def _print_story(story: FailureStory) -> None:
    print_pairs(
        [
            ("  on error", _POLICIES[story.policy]),
            *([("  crashes", _crashes(story.crash_limit))] if story.policy == "crash" else []),
            ("  retries", _retries(story)),
            *((f"    run {run.attempt}", _wait(run.delay, run.queue)) for run in story.runs),
            ("  dead letters", f"{story.dead_letter_queue}, {_kept(story.ttl)}"),
        ]
    )


_POLICIES = {
    "crash": "crash: the server stops with exit code 6 and keeps the event",
    "dead-letter": "dead-letter: to the dead letter queue at once",
    "retry": "retry: it runs again, then goes to the dead letter queue",
    "discard": "discard: logged and acked",
}


def _crashes(limit: int) -> str:
    if not limit:
        return "however often it fells the server, it is tried again after each restart"
    return f"at crash {limit} the same event goes to the dead letter queue"


def _retries(story: FailureStory) -> str:
    what = "every exception" if story.by_itself else "only `raise Retry`"
    more = story.attempts - 1 - len(story.runs)
    rest = f" ({more} more after those below)" if more > 0 else ""
    return f"{what}, up to {story.attempts} runs in all{rest}"


def _wait(delay: float, queue: str | None) -> str:
    return f"after {_time(delay)}, waiting in {queue or 'the server'}"


def _kept(ttl: int) -> str:
    return f"kept for {_time(ttl)}" if ttl else "kept for ever"


def _time(seconds: float) -> str:
    for unit, name in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= unit and seconds % unit == 0:
            return f"{seconds / unit:g} {name}"
    return f"{seconds:g} s"
