"""Placement: where and how each installed handler would run. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from attrs import field, frozen

from limehub.config import Config
from limehub.plugins.registry import Handler, Registry
from limehub.workers.plan import policy_of, prefetch_of
from limehub.workers.settlement import Policy

__all__ = ["Placement", "placements"]


@frozen(kw_only=True, eq=False)
class Placement:
    """One handler. *queues*: full name -> applications whose events it holds.

    *prefetch*: per queue; *concurrency*: of the whole group; *timeout*: seconds, None = no limit;
    *policy*: what an exception means.
    """

    handler: Handler = field(repr=False)
    queues: Mapping[str, tuple[str, ...]]
    group: str
    prefetch: int
    concurrency: int
    lane: str
    timeout: float | None
    policy: Policy

    @property
    def queue_names(self) -> str:
        """The queue's name; of one queue for each application the pattern of their names."""
        names = list(self.queues)
        return names[0] if len(names) == 1 else f"{self.handler.queue}.<application>"

    def as_dict(self) -> dict[str, Any]:
        """Return what `--json` prints of a handler."""
        handler, options = self.handler, self.handler.options
        return {
            "handler": handler.name,
            "app": handler.app,
            "origin": handler.origin,
            "form": handler.form.description,
            "keys": list(handler.keys),
            "queues": {queue: list(names) for queue, names in self.queues.items()},
            "dead_letter_queue": handler.dlq,
            "group": self.group,
            "prefetch": self.prefetch,
            "concurrency": self.concurrency,
            "order": options.order,
            "lane": self.lane,
            "timeout": self.timeout,
            "ack": options.ack,
            "on_error": self.policy,
        }


def placements(registry: Registry) -> tuple[Placement, ...]:
    """Return the placement of every handler, in the registry's order."""
    groups = _concurrencies(registry)
    return tuple(_placement(registry, one, groups) for one in registry.handlers.values())


def _placement(registry: Registry, handler: Handler, groups: Mapping[str, int]) -> Placement:
    config = registry.config
    settings = config.event_handler
    group = _group(config, handler)
    return Placement(
        handler=handler,
        queues=registry.queues_of(handler),
        group=group,
        prefetch=prefetch_of(config, handler, group),
        concurrency=groups[group],
        lane=handler.options.lane or settings.lane_of(group),
        timeout=handler.options.timeout or settings.timeout_of(group),
        policy=policy_of(config, handler),
    )


def _group(config: Config, handler: Handler) -> str:
    return config.event_handler.group_of(handler.app, handler.queue_name)


def _concurrencies(registry: Registry) -> dict[str, int]:
    """Group -> how many of its handlers run at once; it depends on all its queues."""
    config = registry.config
    prefetches: dict[str, list[int]] = defaultdict(list)
    for handler in registry.handlers.values():
        group = _group(config, handler)
        queues = len(registry.queues_of(handler))
        prefetches[group] += [prefetch_of(config, handler, group)] * queues
    return {
        group: config.event_handler.concurrency_of(group, counts)
        for group, counts in prefetches.items()
    }
