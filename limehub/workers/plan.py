"""From configuration and registry to what each group consumes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

from limehub.amqp.topology import handler_queue_spec
from limehub.config import Config, Lane
from limehub.plugins.options import RetryPolicy
from limehub.plugins.registry import Handler, Registry
from limehub.workers.consumer import QueuePlan
from limehub.workers.handling import BoundHandler, SettledHook
from limehub.workers.lanes.watch import Call
from limehub.workers.settlement import Policy, Rules

__all__ = ["plans_of", "policy_of", "prefetch_of"]


class Calls(Protocol):
    """What makes a handler into what runs one event; `lanes.Lanes` does."""

    def call_of(self, handler: Handler, group: str, lane: Lane, timeout: float | None) -> Call:
        """Return the call in *lane*; *timeout*: seconds. Raises PluginError."""


def plans_of(config: Config, registry: Registry, lanes: Calls) -> dict[str, list[QueuePlan]]:
    """Return group -> the queues that it consumes; groups without queues are left out.

    Raises PluginError for a handler that cannot run in its lane.
    """
    hooks = registry.settled_hooks
    plans: dict[str, list[QueuePlan]] = {}
    for handler in registry.handlers.values():
        queues = registry.queues_of(handler)
        if not queues:
            continue
        group = config.event_handler.group_of(handler.app, handler.queue_name)
        bound = _bound(config, handler, group, lanes, hooks)
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
    lanes: Calls,
    hooks: tuple[SettledHook, ...],
) -> BoundHandler:
    options = handler.options
    lane = options.lane or config.event_handler.lane_of(group)
    timeout = options.timeout or config.event_handler.timeout_of(group)
    return BoundHandler(
        name=handler.name,
        app=handler.app,
        dlq=handler.dlq,
        call=lanes.call_of(handler, group, lane, timeout),
        lane=lane,
        timeout=timeout,
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
