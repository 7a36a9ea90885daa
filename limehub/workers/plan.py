"""From configuration and registry to what each group consumes. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import gevent

from limehub.amqp.topology import handler_queue_spec
from limehub.config import Config
from limehub.errors import ConfigError
from limehub.events import Event, Message
from limehub.plugins.lime import EventPublisher
from limehub.plugins.options import RetryPolicy
from limehub.plugins.registry import Handler, Registry
from limehub.workers.consumer import QueuePlan
from limehub.workers.handling import BoundHandler, SettledHook
from limehub.workers.settlement import Policy, Rules

__all__ = ["plans_of", "policy_of", "prefetch_of"]

Call = Callable[[Event, Message], object]


def plans_of(
    config: Config, registry: Registry, publisher: EventPublisher
) -> dict[str, list[QueuePlan]]:
    """Return group -> the queues that it consumes; groups without queues are left out."""
    hooks = registry.settled_hooks
    plans: dict[str, list[QueuePlan]] = {}
    for handler in registry.handlers.values():
        queues = registry.queues_of(handler)
        if not queues:
            continue
        group = config.event_handler.group_of(handler.app, handler.queue_name)
        bound = _bound(config, handler, group, registry, publisher, hooks)
        for queue, applications in queues.items():
            plans.setdefault(group, []).append(
                _plan(config, handler, bound, group, queue, applications)
            )
    return plans


def policy_of(config: Config, handler: Handler) -> Policy:
    """Return what an exception of *handler* means: its own option, else the setting."""
    settled: Literal["crash", "dead-letter"] = (
        "dead-letter" if config.event_handler.catch_handler_exceptions else "crash"
    )
    return handler.options.on_error or settled


def prefetch_of(config: Config, handler: Handler, group: str) -> int:
    """Return the unacked messages allowed on a queue of *handler*."""
    return handler.options.prefetch_count or config.event_handler.prefetch_of(group)


def _bound(
    config: Config,
    handler: Handler,
    group: str,
    registry: Registry,
    publisher: EventPublisher,
    hooks: tuple[SettledHook, ...],
) -> BoundHandler:
    options = handler.options
    _refuse_other_lanes(config, handler, group)
    return BoundHandler(
        name=handler.name,
        app=handler.app,
        dlq=handler.dlq,
        call=_limited(
            handler.form.bind(registry.services_for(handler, publisher)),
            handler.options.timeout or config.event_handler.timeout_of(group),
        ),
        rules=Rules(
            policy=policy_of(config, handler),
            retry=options.retry or RetryPolicy(),
            manual=options.ack == "manual",
        ),
        early_ack=options.ack == "early",
        reads_body=handler.form.reads_body,
        event_class=handler.form.event_class,
        order=options.order,
        handler=handler,
        hooks=hooks,
    )


def _limited(call: Call, seconds: float | None) -> Call:
    """Return *call* ended by TimeoutError at its next switch after *seconds*."""
    if seconds is None:
        return call

    def limited(event: Event, message: Message) -> object:
        with gevent.Timeout(seconds, TimeoutError(f"ran longer than {seconds:g} s")):
            return call(event, message)

    return limited


def _refuse_other_lanes(config: Config, handler: Handler, group: str) -> None:
    lane = handler.options.lane or config.event_handler.lane_of(group)
    if lane != "greenlet":
        raise ConfigError(
            f"{handler.name}: lane {lane!r} is not available in this version; use 'greenlet'"
        )


def _plan(
    config: Config,
    handler: Handler,
    bound: BoundHandler,
    group: str,
    queue: str,
    applications: tuple[str, ...],
) -> QueuePlan:
    settings = config.event_handler
    served = {config.exchange_of(name): name for name in applications}
    others = {config.exchange_of(name) for name in config.applications} - served.keys()
    return QueuePlan(
        spec=handler_queue_spec(
            queue,
            queue_type=settings.queue_type,
            single_active_consumer=settings.single_active_consumer,
        ),
        handler=bound,
        prefetch=prefetch_of(config, handler, group),
        applications=served,
        bindings=_bindings(config, handler, queue, served),
        excluded=frozenset(others),
        unbindings=_bindings(config, handler, queue, dict.fromkeys(sorted(others), "")),
    )


def _bindings(
    config: Config, handler: Handler, queue: str, exchanges: Mapping[str, str]
) -> tuple[tuple[str, str, str], ...]:
    return tuple(
        (queue, exchange, config.routing_key(exchange, key))
        for exchange in exchanges
        for key in handler.keys
    )
