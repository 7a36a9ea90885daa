"""SIGHUP: what of a new configuration can change in a running server, and what needs a restart."""

from __future__ import annotations

from typing import Any

from attrs import evolve, frozen

from limehub.config.model import Config, WorkerSettings
from limehub.config.paths import dotted
from limehub.config.schema import FREE
from limehub.config.show import flatten

__all__ = ["LIVE_KEYS", "Difference", "difference", "with_live_changes"]

LIVE_KEYS = frozenset(
    [
        ("log", "level"),
        ("web", "token_file"),
        ("event_handler", "prefetch_count"),
        ("event_handler", "workers", FREE, "prefetch_count"),
        ("event_handler", "workers", FREE, "concurrency"),
    ]
)
"""What a running server takes on; FREE is the name of a group that was and is there."""

_LIVE_OF_GROUP = tuple(sorted(path[-1] for path in LIVE_KEYS if FREE in path))
_MISSING = object()

Path = tuple[str, ...]


@frozen(kw_only=True)
class Difference:
    """Dotted paths that changed: *live* ones take effect at once, *restart* ones do not."""

    live: tuple[str, ...]
    restart: tuple[str, ...]


def difference(old: Config, new: Config) -> Difference:
    """Compare the running configuration with a new one."""
    before, after = flatten(old), flatten(new)
    changed = [
        path
        for path in sorted({*before, *after})
        if before.get(path, _MISSING) != after.get(path, _MISSING)
    ]
    live = [path for path in changed if _is_live(path, old, new)]
    return Difference(
        live=tuple(dotted(path) for path in live),
        restart=tuple(dotted(path) for path in changed if path not in live),
    )


def with_live_changes(old: Config, new: Config) -> Config:
    """Return *old* with what is live taken from *new*: what a server runs with after SIGHUP."""
    handler = old.event_handler
    workers = {
        group: _with_live_group(settings, new.event_handler.workers.get(group, settings))
        for group, settings in handler.workers.items()
    }
    web = evolve(old.web, token_file=new.web.token_file)
    return evolve(
        old,
        log=evolve(old.log, level=new.log.level),
        web=web if _token_file_is_live(old, new) else old.web,
        event_handler=evolve(
            handler, prefetch_count=new.event_handler.prefetch_count, workers=workers
        ),
    )


def _with_live_group(old: WorkerSettings, new: WorkerSettings) -> WorkerSettings:
    changes: dict[str, Any] = {key: getattr(new, key) for key in _LIVE_OF_GROUP}
    return evolve(old, **changes)


def _is_live(path: Path, old: Config, new: Config) -> bool:
    if path == ("web", "token_file"):
        return _token_file_is_live(old, new)
    if path[:2] != ("event_handler", "workers"):
        return path in LIVE_KEYS
    is_kept = all(path[2] in config.event_handler.workers for config in (old, new))
    return is_kept and (*path[:2], FREE, *path[3:]) in LIVE_KEYS


def _token_file_is_live(old: Config, new: Config) -> bool:
    """Tokens may only go from a running server that nobody else can reach."""
    return bool(new.web.token_file) or old.web.address is None or old.web.address.is_loopback
