"""The composition root: builds everything from the configuration, starts it, stops it in order."""

from __future__ import annotations

import gc
import logging
import os
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import gevent
from attrs import define, evolve, field, frozen
from gevent.event import Event as Signal
from gevent.lock import Semaphore

from limehub import __version__
from limehub.amqp.connection import ConnectionSettings
from limehub.amqp.keeper import Keeper
from limehub.amqp.publisher import Publisher
from limehub.amqp.settings import connection_settings
from limehub.config import Address, Config, Loaded, difference, runfile, with_live_changes
from limehub.config.names import suggestion
from limehub.errors import ConfigError, LimehubError
from limehub.observe import logs
from limehub.observe.systemd import Systemd
from limehub.observe.tracing_setup import tracing_of
from limehub.plugins.lime import EventPublisher
from limehub.plugins.registry import Registry
from limehub.signals import Signals
from limehub.web.site import Site
from limehub.workers.ack_limits import read_limits
from limehub.workers.consumer import QueuePlan
from limehub.workers.crashes import CrashLedger
from limehub.workers.culprit import culprit_of
from limehub.workers.gate import BrokerGate
from limehub.workers.group import GroupSettings, WorkerGroup
from limehub.workers.handling import BoundHandler, HandlerStats
from limehub.workers.lanes.lanes import Lanes
from limehub.workers.mover import Mover
from limehub.workers.plan import plans_of, prefetch_of
from limehub.workers.runner import Runner

__all__ = ["ServeOptions", "Server"]

log = logging.getLogger(__name__)

SHOWN_CAUSES = 5
HOOK_PATIENCE = 5.0
PATIENCE = 15.0
"""Seconds beyond the grace time after which a hub that never turns again is left."""

TOLD_AGAIN_AFTER = 60.0
"""Seconds in which one reclaiming is told once: a package may take a thing in each of its runs."""


@frozen(kw_only=True)
class ServeOptions:
    """What the command line says. *workers*: only these groups; *reload*: reads the file again.

    *environ*: where systemd says what it wants to be told. *reclaim_log*(level): puts limehub's log
    back if a package took it away, and returns whether one had.
    """

    workers: tuple[str, ...] = ()
    fail_fast: bool = False
    strict_topology: bool = False
    reload: Callable[[], Loaded] | None = None
    environ: Mapping[str, str] = field(factory=dict)
    reclaim_log: Callable[[str], bool] = lambda _level: False


@define(eq=False)
class _Ending:
    """Why the server ends: the first reason wins."""

    error: LimehubError | None = None
    requested: Signal = field(factory=Signal)

    def request(self, error: LimehubError | None = None) -> None:
        if not self.requested.is_set():
            self.error = error
            self.requested.set()


class Server:
    """Runs the handlers of *registry* until a signal, a crash or an error. See `run`."""

    def __init__(self, loaded: Loaded, registry: Registry, *, options: ServeOptions) -> None:
        self.config = registry.config
        self.registry = registry
        self.options = options
        self.started_at = datetime.now(UTC)
        self.loaded = evolve(loaded, config=registry.config)
        self.warnings = (*loaded.warnings, *registry.warnings)
        self._config_file = loaded.path
        self._running = loaded.config
        self._ending = _Ending()
        self.keeper = Keeper(
            self.config.event_handler.guard,
            max_stall=self.max_stall,
            culprit_of=culprit_of,
            on_culprit=self._blame,
            patience=self.config.event_handler.shutdown_grace + PATIENCE,
        )
        settings = evolve(connection_settings(self.config), keeper=self.keeper)
        self.publisher = self._publisher(settings, "limehub publisher")
        self._dead_letter_publisher = self._publisher(settings, "limehub dead letters", apart=True)
        self.gate = BrokerGate(settings, fail_fast=options.fail_fast)
        self.mover = Mover(
            self._dead_letter_publisher,
            dlq_ttl=self.config.event_handler.dlq_ttl,
            queue_type=self.config.event_handler.queue_type,
        )
        self.ledger = CrashLedger(runfile.state_folder(loaded.path))
        self._canary = Semaphore(1)
        self._plugins_told = False
        self._reclaimed_at: dict[str, float] = {}
        self.tracing = tracing_of(self.config)
        self.lanes = Lanes(registry, self._handlers_publisher())
        self.groups = self._groups()
        self.site = Site(self)
        self.systemd = Systemd(options.environ, lambda: self.stalled_for() <= self.max_stall)

    # -- life -------------------------------------------------------------------------------------

    def run(self) -> int:
        """Start, wait for the end, stop. Returns the exit code."""
        grace = self.config.event_handler.shutdown_grace
        signals = Signals(self._on_signal, self._reload, patience=grace + PATIENCE)
        signals.install()
        try:
            try:
                self.start(signals)
            except LimehubError as error:
                self.request_stop(error)
            self._wait(signals)
            return self.shut_down()
        finally:
            signals.uninstall()

    def request_stop(self, error: LimehubError | None = None) -> None:
        """Ask the server to end; *error* decides its exit code."""
        self._ending.request(error)

    def start(self, signals: Signals | None = None) -> None:
        """Start everything; returns at once, `missing` tells when it is ready.

        *signals*: if they are taken over, so that the guard process counts them, too.
        """
        self._reclaim_log()
        for warning in self.warnings:
            log.warning(warning)
        self.site.start()
        self.systemd.start()
        self.keeper.start(signals)
        self._write_run_file()
        for group in self.groups:
            group.start()

    def _wait(self, signals: Signals) -> None:
        """Watch over readiness until the end: what is lost and regained is in the log."""
        before: tuple[str, ...] | None = None
        while not self._ending.requested.wait(0.05 if before is None else 0.5):
            self._reclaim_log()
            self._reclaim_signals(signals)
            missing = tuple(self.missing())
            self.site.note(missing)
            self.systemd.note(missing, self._summary())
            if before is None:
                if not missing and self._tell_plugins():
                    log.info("ready", extra=self._ready_line())
                    gc.collect()
                    gc.freeze()  # what stands now stays: nobody needs to look at it again
                    before = missing
            elif bool(missing) != bool(before):
                if missing:
                    log.warning("not ready", extra={"missing": list(missing[:SHOWN_CAUSES])})
                else:
                    log.info("ready again")
                before = missing

    def _reclaim_log(self) -> None:
        if self.options.reclaim_log(self._running.log.level):
            self._tell_reclaimed("a package changed the logging; it is as configured again")

    def _reclaim_signals(self, signals: Signals) -> None:
        if taken := signals.reclaim():
            text = "a package took over signals; they are the server's again"
            self._tell_reclaimed(text, signals=taken)

    def _tell_reclaimed(self, text: str, **extra: Any) -> None:
        now = time.monotonic()
        if now - self._reclaimed_at.get(text, -TOLD_AGAIN_AFTER) >= TOLD_AGAIN_AFTER:
            self._reclaimed_at[text] = now
            log.warning(text, extra=extra)

    def _tell_plugins(self) -> bool:
        """Call the server_started hooks. Returns False if meanwhile the end was asked for."""
        self._plugins_told = True
        gevent.spawn(self.registry.call_started, self).join(HOOK_PATIENCE)
        # A turn of the hub, so that a signal that came meanwhile is heard.
        return not self._ending.requested.wait(0.005)

    def shut_down(self) -> int:
        """Stop in order. Returns the exit code."""
        self._reclaim_log()
        error = self._ending.error
        if error is not None:
            why = {"cause": str(error), "exit_code": error.exit_code, "advice": error.advice}
            log.error("stopping", extra=why)
        else:
            log.info("stopping")
        self.systemd.stopping()
        if self._plugins_told:
            gevent.spawn(self.registry.call_stopping, self).join(HOOK_PATIENCE)
        deadline = time.monotonic() + self.config.event_handler.shutdown_grace
        self.gate.stop()
        returned = sum(self._each_group(lambda group: group.stop_consuming()))
        killed = sum(self._each_group(lambda group: group.drain(deadline)))
        self.mover.stop()
        self._each_group(lambda group: group.close())
        self.lanes.close()
        gevent.joinall(
            [gevent.spawn(each.close) for each in (self.publisher, self._dead_letter_publisher)]
        )
        self.ledger.close()
        self.keeper.stop()
        self.site.stop()
        if self.tracing is not None:
            self.tracing.close()
        self.systemd.stop()
        runfile.remove(self._config_file)
        if killed:
            log.warning("handlers did not end in time; their events went back", extra={"n": killed})
        code = 0 if error is None else error.exit_code
        log.info("stopped", extra={"exit_code": code, "returned": returned})
        return code

    def _each_group(self, step: Callable[[WorkerGroup], Any]) -> list[Any]:
        """Take *step* for all groups side by side: one that hangs costs the others nothing."""
        jobs = [gevent.spawn(step, group) for group in self.groups]
        gevent.joinall(jobs)
        return [job.value or 0 for job in jobs]

    def _blame(self, culprit: str | None) -> None:
        self.site.blame(culprit)  # made after the keeper

    def _on_signal(self, _number: int) -> None:
        self.request_stop()

    # -- what others ask --------------------------------------------------------------------------

    @property
    def max_stall(self) -> float:
        """Seconds that the hub may be busy before the server counts as dead."""
        return self.config.event_handler.max_stall

    def missing(self) -> list[str]:
        """Return what keeps the server from being ready; empty = ready."""
        if self._ending.requested.is_set():
            return ["stopping"]
        missing = [cause for group in self.groups for cause in group.missing]
        return missing + [f"{queue}: {cause}" for queue, cause in self.mover.trouble.items()]

    def stalled_for(self) -> float:
        """Return the seconds since the hub last turned, 0 if it turns."""
        return self.site.stalled_for()

    def status(self) -> dict[str, Any]:
        """Return everything that /api/v1/status shows."""
        return {
            "version": __version__,
            "pid": os.getpid(),
            "started_at": self.started_at.isoformat(timespec="milliseconds"),
            "ready": not self.missing(),
            "missing": self.missing(),
            "stalled_for": self.stalled_for(),
            "applications": list(self.config.applications),
            "broker": self._broker(),
            "groups": [group.status() for group in self.groups],
            "handlers": self._handlers(),
            "publishers": {
                "events": self.publisher.state,
                "dead_letters": self._dead_letter_publisher.state,
            },
            "published": {
                "events": self.publisher.published,
                "dead_letters": self._dead_letter_publisher.published,
            },
            "dead_letters": {
                "moved": self.mover.moved,
                "trouble": dict(self.mover.trouble),
                "queues": {each.app: each.dlq for each in self._bound()},
            },
            "crashes": self.ledger.counts,
            "stalls": self.keeper.status(),
            "guard": self.keeper.guard_status(),
            "plugins": {name: plugin.version for name, plugin in self.registry.plugins.items()},
            "broken_plugins": [str(broken) for broken in self.registry.broken],
        }

    def _broker(self) -> dict[str, Any]:
        url = self.config.events.url
        return {"embedded": self.loaded.embedded, "address": str(Address(url.host, url.port))}

    def _handlers(self) -> list[dict[str, Any]]:
        return [
            {
                "name": each.name,
                "started": each.stats.started,
                "in_flight": each.stats.in_flight,
                "open": each.stats.open,
                "outcomes": {str(fate): n for fate, n in each.stats.outcomes.items()},
                "seconds": round(each.stats.seconds, 6),
                "longest": round(each.stats.longest, 6),
                "durations": list(each.stats.durations),
                "applications": _by_application(each.stats),
                "unrun": dict(each.stats.unrun),
            }
            for each in self._bound()
        ]

    def _bound(self) -> list[BoundHandler]:
        bound = {plan.handler for plans in self._plans.values() for plan in plans}
        return sorted(bound, key=lambda each: each.name)

    # -- building ---------------------------------------------------------------------------------

    def _publisher(
        self, settings: ConnectionSettings, name: str, *, apart: bool = False
    ) -> Publisher:
        return Publisher(
            settings,
            applications=self.config.applications,
            exchange=self.config.events.exchange,
            routing_key_template=self.config.events.routing_key_template,
            name=name,
            apart=apart,
        )

    def _handlers_publisher(self) -> EventPublisher:
        if self.tracing is None:
            return self.publisher
        return self.tracing.publisher(self.publisher, self.publisher.exchange_of)

    def _groups(self) -> list[WorkerGroup]:
        calls = self.tracing.calls(self.lanes) if self.tracing else self.lanes
        self._plans = plans_of(self.config, self.registry, calls)
        names = sorted(self._plans)
        for name in self.options.workers:
            if name not in names:
                raise ConfigError(
                    f"--worker {name}: no such group has queues{suggestion(name, names)}; "
                    f"there are {', '.join(names) or 'none'}"
                )
        if not names:
            self.warnings += (
                "no handlers: install a package that registers some; see `limehub plugins`",
            )
        self._warn_of_idle_groups(names)
        return [self._group(name) for name in self.options.workers or names]

    def _warn_of_idle_groups(self, names: list[str]) -> None:
        for name, settings in self.config.event_handler.workers.items():
            if name not in names and settings.queue_prefix is not None:
                self.warnings += (
                    f"worker group {name}: prefix {settings.queue_prefix!r} matches no queue",
                )

    def _group(self, name: str) -> WorkerGroup:
        plans = self._plans[name]
        exchanges = {exchange for plan in plans for exchange in plan.applications}
        runner = Runner(
            mover=self.mover,
            ledger=self.ledger,
            crash_limit=self.config.event_handler.crash_limit,
            canary=self._canary,
            on_crash=self.request_stop,
        )
        settings = GroupSettings(
            name=name,
            concurrency=self._concurrency(self.config, name),
            exchanges=tuple(sorted(exchanges)),
            queue_type=self.config.event_handler.queue_type,
            accept_foreign=self.config.events.accept_foreign_queues,
            strict_topology=self.options.strict_topology,
            read_limits=self._read_limits if self.config.events.management_url else None,
        )
        stop = self.request_stop
        return WorkerGroup(settings, plans, gate=self.gate, runner=runner, on_fatal=stop)

    def _read_limits(self) -> dict[str, float]:
        events = self.config.events
        return read_limits(events.management_url or "", events.url)

    def _concurrency(self, config: Config, group: str) -> int:
        prefetches = [self._prefetch(config, plan) for plan in self._plans[group]]
        return config.event_handler.concurrency_of(group, prefetches)

    def _prefetch(self, config: Config, plan: QueuePlan) -> int:
        handler = plan.handler.handler
        group = config.event_handler.group_of(handler.app, handler.queue_name)
        return prefetch_of(config, handler, group)

    # -- the state file and the ready line --------------------------------------------------------

    def _write_run_file(self) -> None:
        info = runfile.RunInfo(
            pid=os.getpid(),
            amqp_url=self.config.events.url.with_password(),
            web_url=self.site.web_url,
            health_url=self.site.health_url,
            started_at=self.started_at.isoformat(timespec="milliseconds"),
        )
        try:
            runfile.write(self._config_file, info)
        except OSError as error:
            cause = {"cause": str(error)}
            log.warning("no run.json: other commands will ask the configuration", extra=cause)

    def _ready_line(self) -> dict[str, Any]:
        return {
            "event": "ready",
            "web": self.site.web_url,
            "groups": [group.name for group in self.groups],
            "queues": sum(len(group.queues) for group in self.groups),
        }

    def _summary(self) -> str:
        queues = sum(len(group.queues) for group in self.groups)
        return f"consuming {queues} queues in {len(self.groups)} groups"

    # -- SIGHUP -----------------------------------------------------------------------------------

    def _reload(self) -> None:
        with self.systemd.reloading():
            self._read_again()

    def _read_again(self) -> None:
        """Read the configuration again: what can change live does, the rest is named."""
        if self.options.reload is None:
            return
        try:
            loaded = self.options.reload()
        except ConfigError as error:
            log.error("new configuration is broken; the old one stays", extra={"cause": str(error)})
            return
        changes = difference(self._running, loaded.config)
        self._running = with_live_changes(self._running, loaded.config)
        self._apply(self._running)
        if changes.restart:
            log.warning("needs a restart to change", extra={"keys": list(changes.restart)})
        log.info("configuration read again", extra={"changed": list(changes.live)})

    def _apply(self, config: Config) -> None:
        logs.set_level(config.log.level)
        self.site.reload(config)
        for group in self.groups:
            group.change_concurrency(self._concurrency(config, group.name))
            group.change_prefetch(lambda plan: self._prefetch(config, plan))


def _by_application(stats: HandlerStats) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for (application, fate), count in stats.by_application.items():
        found.setdefault(application, {})[str(fate)] = count
    return found
