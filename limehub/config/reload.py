"""SIGHUP: what of a new configuration can change in a running server, and what needs a restart."""

from __future__ import annotations

from typing import Any

from attrs import evolve, frozen

from limehub.config.model import Config, WorkerSettings
from limehub.config.paths import dotted
from limehub.config.show import flatten

__all__ = ["Difference", "difference", "with_live_changes"]

_LIVE = {
    ("log", "level"),
    ("web", "token_file"),
    ("event_handler", "prefetch_count"),
}
_LIVE_OF_GROUP = {"prefetch_count", "concurrency"}
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
    if path in _LIVE:
        return True
    is_group = len(path) == 4 and path[:2] == ("event_handler", "workers")
    if not is_group or path[3] not in _LIVE_OF_GROUP:
        return False
    return all(path[2] in config.event_handler.workers for config in (old, new))


def _token_file_is_live(old: Config, new: Config) -> bool:
    """Tokens may only go from a running server that nobody else can reach."""
    return bool(new.web.token_file) or old.web.address is None or old.web.address.is_loopback
