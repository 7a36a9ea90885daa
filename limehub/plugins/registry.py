"""The registry: everything that the installed plugins brought, immutable, queue -> handler."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import EntryPoint
from types import MappingProxyType
from typing import Any

from attrs import evolve, field, frozen

from limehub.config import Config, plugin_settings
from limehub.config.names import find_alike, suggestion
from limehub.errors import ConfigError, PluginError
from limehub.plugins.discovery import BrokenPlugin, Candidate, PluginFault, find_candidates
from limehub.plugins.forms import Services
from limehub.plugins.functions import place_of
from limehub.plugins.handlers import Handler, LoadedPlugin
from limehub.plugins.hooks import Hook, HookTable
from limehub.plugins.lime import EventPublisher
from limehub.plugins.loading import Imported, Isolation, defaults_of, handlers_of, import_plugin
from limehub.plugins.registration import Registration
from limehub.plugins.services import build_services
from limehub.plugins.settings import Settings
from limehub.routing_keys import MAX_BYTES, lint

__all__ = ["BrokenPlugin", "Handler", "LoadedPlugin", "Registry", "load_registry"]

log = logging.getLogger(__name__)

LONGEST_SUFFIX = ".retry.86400"
"""What limehub may append to the name of a handler's queue."""


@frozen(kw_only=True, eq=False)
class Registry:
    """*handlers*: by full queue name; *config*: with every plugin's settings merged in.

    *disabled*: apps switched off by `packages.<app>.enabled`. *warnings*: lines for people.
    """

    config: Config = field(repr=False)
    handlers: Mapping[str, Handler]
    plugins: Mapping[str, LoadedPlugin]
    broken: tuple[BrokenPlugin, ...]
    disabled: tuple[str, ...]
    warnings: tuple[str, ...]
    _hooks: HookTable = field(repr=False)

    def raise_if_broken(self) -> None:
        """Raise PluginError with a line for each broken plugin, if there is one."""
        if self.broken:
            raise PluginError("\n".join(map(str, self.broken)))

    def handlers_matching(self, routing_key: str) -> tuple[Handler, ...]:
        """Return the handlers that an event with *routing_key* reaches."""
        return tuple(one for one in self.handlers.values() if one.matches(routing_key))

    def applications_of(self, handler: Handler, config: Config | None = None) -> tuple[str, ...]:
        """Return the applications whose events *handler* gets."""
        return (config or self.config).applications_of(handler.app)

    def queues_of(
        self, handler: Handler, config: Config | None = None
    ) -> dict[str, tuple[str, ...]]:
        """Return full queue name -> the applications bound to it."""
        return _queues(handler, config or self.config)

    def services_for(self, handler: Handler, publisher: EventPublisher) -> Services:
        """Return what `handler.form.bind` needs."""
        return build_services(
            config=self.config,
            settings=dict(handler.plugin.settings),
            publisher=publisher,
            logger_name=handler.plugin.module,
        )

    @property
    def settled_hooks(self) -> tuple[Hook, ...]:
        """The delivery_settled hooks, to be called directly; what they raise is logged."""
        return tuple(
            _guarded(name, "delivery_settled", hook) for name, hook in self._of("delivery_settled")
        )

    def call_started(self, server: object) -> None:
        """Call every server_started hook."""
        for name, hook in self._of("server_started"):
            _guarded(name, "server_started", hook)(server)

    def call_stopping(self, server: object) -> None:
        """Call every server_stopping hook."""
        for name, hook in self._of("server_stopping"):
            _guarded(name, "server_stopping", hook)(server)

    def add_commands(self, cli: Any) -> None:
        """Add the plugins' commands to the click group *cli*; names in use are refused."""
        for name, hook in self._of("register_commands"):
            _guarded(name, "register_commands", _command_adder(name, hook))(cli)

    def add_routes(self, app: Any) -> None:
        """Register the plugins' blueprints on the Flask *app*, under `/plugins/<name>/`."""
        for name, hook in self._of("register_routes"):
            settings = dict(self.plugins[name].settings)
            _guarded(name, "register_routes", _route_adder(name, hook))(app, settings)

    def _of(self, hook: str) -> list[tuple[str, Hook]]:
        return [(name, call) for name, call in self._hooks.of(hook) if name in self.plugins]


def load_registry(config: Config, *, entry_points: Iterable[EntryPoint] | None = None) -> Registry:
    """Load every installed plugin, each alone; what is broken is in `broken`, never raised.

    *entry_points*: None = all that are installed. Raises ConfigError for plugin settings.
    """
    candidates, clashes = find_candidates(entry_points)
    enabled = [one for one in candidates if config.package_of(one.name).enabled]
    isolation = Isolation()
    imported = isolation.each(enabled, import_plugin)
    table = HookTable([(plugin.name, plugin.hooks) for plugin in imported.values()])
    merged, settings = _settings(imported, table, config, isolation)
    registered = _registrations(imported, table, merged, isolation)
    plugins = {name: _loaded(imported[name], settings[name]) for name in registered}
    handlers = _handlers(registered, plugins, imported, merged, isolation)
    kept = {name: plugin for name, plugin in plugins.items() if name not in isolation.broken}
    return Registry(
        config=merged,
        handlers=MappingProxyType(handlers),
        plugins=MappingProxyType(kept),
        broken=(*clashes, *isolation.broken.values()),
        disabled=tuple(one.name for one in candidates if one not in enabled),
        warnings=tuple(_warnings(config, candidates, clashes, imported, kept, handlers)),
        hooks=table,
    )


def _settings(
    imported: Mapping[str, Imported], table: HookTable, config: Config, isolation: Isolation
) -> tuple[Config, dict[str, dict[str, Any]]]:
    """Return the configuration with all settings in it, and these. Raises ConfigError."""
    hooks = dict(table.of("default_config"))
    plugins = [imported[name] for name in dict.fromkeys((*hooks, *imported))]
    defaults = isolation.each(plugins, lambda one: defaults_of(hooks.get(one.name)))
    settings: dict[str, dict[str, Any]] = {}
    problems: list[str] = []
    for name, own in defaults.items():
        try:
            settings[name] = plugin_settings(config, name, own)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(*problems)
    others = {
        name: written for name, written in config.plugins.items() if not find_alike(name, settings)
    }
    return evolve(config, plugins=Settings({**others, **settings})), settings


def _registrations(
    imported: Mapping[str, Imported], table: HookTable, config: Config, isolation: Isolation
) -> dict[str, tuple[Registration, ...]]:
    hooks = dict(table.of("register_event_handlers"))
    order = dict.fromkeys((*hooks, *imported))
    plugins = [imported[name] for name in order if name not in isolation.broken]

    def register(one: Imported) -> tuple[Registration, ...]:
        return handlers_of(one, hooks.get(one.name), config)

    return isolation.each(plugins, register)


def _loaded(plugin: Imported, settings: dict[str, Any]) -> LoadedPlugin:
    candidate = plugin.candidate
    return LoadedPlugin(
        name=plugin.name,
        distribution=candidate.distribution,
        version=candidate.version,
        module=candidate.module,
        groups=candidate.groups,
        settings=MappingProxyType(settings),
        hooks=tuple(sorted(plugin.hooks)),
    )


def _handlers(
    registered: Mapping[str, tuple[Registration, ...]],
    plugins: Mapping[str, LoadedPlugin],
    imported: Mapping[str, Imported],
    config: Config,
    isolation: Isolation,
) -> dict[str, Handler]:
    handlers: dict[str, Handler] = {}
    taken: dict[str, Handler] = {}

    def claim(plugin: Imported) -> None:
        mine = [_handler(one, plugins[plugin.name]) for one in registered[plugin.name]]
        queues = {queue: one for one in mine for queue in _queues(one, config)}
        _refuse_bad_queues(queues, taken)
        taken.update(queues)
        handlers.update({one.queue: one for one in mine})

    isolation.each([imported[name] for name in sorted(registered)], claim)
    return handlers


def _handler(one: Registration, plugin: LoadedPlugin) -> Handler:
    return Handler(
        app=plugin.name,
        queue_name=one.queue_name,
        keys=one.keys,
        function=one.function,
        form=one.form,
        options=one.options,
        plugin=plugin,
        origin=one.origin,
    )


def _queues(handler: Handler, config: Config) -> dict[str, tuple[str, ...]]:
    applications = config.applications_of(handler.app)
    if config.queue_per_of(handler.app) == "application":
        return {handler.queue_of(one): (one,) for one in applications}
    return {handler.queue: applications}


def _refuse_bad_queues(queues: Mapping[str, Handler], taken: Mapping[str, Handler]) -> None:
    for queue, handler in queues.items():
        if len(queue) + len(LONGEST_SUFFIX) > MAX_BYTES:
            raise PluginFault(
                f"the queue {queue} and its retry queues would be longer than {MAX_BYTES} bytes; "
                "choose a shorter queue_name",
                *place_of(handler.function),
            )
        if queue in taken:
            raise PluginFault(
                f"{handler.name} ({handler.origin}) and {taken[queue].name} "
                f"({taken[queue].origin}) would share the queue {queue}",
                *place_of(handler.function),
            )


def _warnings(
    config: Config,
    candidates: Iterable[Candidate],
    clashes: Iterable[BrokenPlugin],
    imported: Mapping[str, Imported],
    plugins: Mapping[str, LoadedPlugin],
    handlers: Mapping[str, Handler],
) -> Iterator[str]:
    known = [*(one.name for one in candidates), *(one.name for one in clashes)]
    for table, names in (("packages", config.packages), ("plugins", config.plugins)):
        for name in names:
            if not find_alike(name, known):
                yield f"{table}.{name} is of no installed plugin{suggestion(name, known)}"
    for name in sorted(plugins):
        yield from (f"plugin {name}: {warning}" for warning in imported[name].warnings)
        if not plugins[name].hooks and not any(one.app == name for one in handlers.values()):
            yield f"plugin {name}: it has neither hooks nor handlers"
    for handler in handlers.values():
        yield from (f"{handler.name}: {warning}" for warning in _handler_warnings(config, handler))


def _handler_warnings(config: Config, handler: Handler) -> Iterator[str]:
    yield from handler.form.warnings
    for key in handler.keys:
        yield from lint(key)
        if config.loses_wildcard(key):
            template = config.events.routing_key_template
            yield f"{key!r}: the wildcard is lost in routing_key_template {template!r}"


def _guarded(plugin: str, name: str, hook: Hook) -> Hook:
    def call(*given: object) -> None:
        try:
            hook(*given)
        except (Exception, SystemExit):
            log.exception("plugin hook failed", extra={"plugin": plugin, "hook": name})

    return call


def _command_adder(plugin: str, hook: Hook) -> Hook:
    def add(cli: Any) -> None:
        import click

        own = click.Group()
        hook(own)
        for name, command in own.commands.items():
            if name in cli.commands:
                extra = {"plugin": plugin, "command": name}
                log.warning("plugin command refused: the name is taken", extra=extra)
            else:
                cli.add_command(command, name)

    return add


def _route_adder(plugin: str, hook: Hook) -> Hook:
    def add(app: Any, settings: Mapping[str, Any]) -> None:
        blueprint = hook(app, settings)
        if blueprint is not None:
            # The app's name, not the blueprint's own: two plugins may both call theirs "pages".
            name = f"plugin_{plugin.replace('.', '_')}"
            app.register_blueprint(blueprint, url_prefix=f"/plugins/{plugin}", name=name)

    return add
