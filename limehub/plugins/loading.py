"""Loading one plugin at a time: import it, look at it, ask for its settings and handlers."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import EntryPoint
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import field, frozen

from limehub.plugins.discovery import BrokenPlugin, Candidate, PluginFault
from limehub.plugins.hooks import Hook, hooks_of, misspelt
from limehub.plugins.markers import marks_of
from limehub.plugins.registration import Registration, RegistrationWorker

if TYPE_CHECKING:
    from limehub.config import Config

__all__ = ["Imported", "Isolation", "defaults_of", "handlers_of", "import_plugin"]

_HANDLERS = "event_handlers"

Marked = Callable[..., object]


@frozen(kw_only=True, eq=False)
class Imported:
    """A plugin's module, looked at. *marked*: its `@event_handler` functions."""

    candidate: Candidate
    hooks: Mapping[str, tuple[Hook, Any]] = field(repr=False)
    marked: tuple[Marked, ...]
    warnings: tuple[str, ...]

    @property
    def name(self) -> str:
        """The app."""
        return self.candidate.name


T = TypeVar("T")
P = TypeVar("P", Candidate, Imported)


class Isolation:
    """Runs a step for each plugin, each alone. *broken*: app -> why, in the order it happened."""

    def __init__(self) -> None:
        self.broken: dict[str, BrokenPlugin] = {}

    def each(self, plugins: Iterable[P], step: Callable[[P], T]) -> dict[str, T]:
        """Return app -> what *step* returned, for those plugins that did not fail."""
        done = {}
        for plugin in plugins:
            try:
                done[plugin.name] = step(plugin)
            except BaseException as error:  # noqa: BLE001 - also sys.exit() of a plugin
                candidate = plugin if isinstance(plugin, Candidate) else plugin.candidate
                self.broken[plugin.name] = candidate.broken(error)
        return done


def import_plugin(candidate: Candidate) -> Imported:
    """Import the plugin's module. Raises whatever it raises, PluginFault for what limehub finds."""
    if not EntryPoint.pattern.match(candidate.entry_point.value):
        raise PluginFault(f"{candidate.entry_point.value!r} names no module")
    plugin = candidate.entry_point.load()
    modules = [plugin, *_unexported(candidate, plugin)]
    marked = dict.fromkeys(
        function for one in modules for function in _marked(one, candidate.module)
    )
    hooks = hooks_of(plugin)
    if len(modules) > 1 and not marked:
        _refuse_silence(candidate.module, modules[1])
    return Imported(
        candidate=candidate,
        hooks=hooks,
        marked=tuple(marked),
        warnings=tuple(misspelt(plugin)),
    )


def defaults_of(hook: Hook | None) -> Mapping[str, Any]:
    """Return what `default_config()` returns. Raises PluginFault if that are no settings."""
    defaults = {} if hook is None else hook()
    if not isinstance(defaults, Mapping) or not all(isinstance(key, str) for key in defaults):
        raise PluginFault(f"default_config() returned {defaults!r}, not a dict of settings")
    return defaults


def handlers_of(plugin: Imported, hook: Hook | None, config: Config) -> tuple[Registration, ...]:
    """Return what the plugin registers by hook and by marks. Raises PluginFault, or as the hook."""
    worker = RegistrationWorker.of(plugin.name, config)
    if hook is not None:
        hook(worker, config)
    for function in plugin.marked:
        for mark in marks_of(function):
            keys = [key for one in mark.keys for key in (one if _is_list(one) else (one,))]
            worker.register_event_handler(function, keys, mark.queue_name, **mark.options)
    return worker.close()


def _is_list(value: object) -> bool:
    return isinstance(value, list | tuple)


def _marked(module: object, package: str) -> Iterator[Marked]:
    top = package.partition(".")[0]
    for function in list(getattr(module, "__dict__", {}).values()):
        # Another plugin's handler, imported to be called, is not registered a second time.
        if marks_of(function) and str(function.__module__).partition(".")[0] == top:
            yield function


def _unexported(candidate: Candidate, plugin: object) -> list[ModuleType]:
    """Import an `event_handlers` folder that the package did not bring up itself.

    The package that Lime's generator writes imports its hooks in try/except ImportError and goes
    on without: a typing error in a handler makes all handlers vanish. Here the error is raised.
    """
    if getattr(plugin, "register_event_handlers", None) or not hasattr(plugin, "__path__"):
        return []
    if not find_spec(f"{candidate.module}.{_HANDLERS}"):
        return []
    found = importlib.import_module(f"{candidate.module}.{_HANDLERS}")
    return [found, *_submodules(found)]


def _submodules(package: ModuleType) -> list[ModuleType]:
    names = [
        info.name
        for info in pkgutil.walk_packages(getattr(package, "__path__", []), f"{package.__name__}.")
    ]
    return [importlib.import_module(name) for name in names if not _is_test(name)]


def _is_test(module: str) -> bool:
    parts = module.split(".")
    return (
        parts[-1].endswith("_test")
        or parts[-1].startswith(("test_", "conftest"))
        or ("tests" in parts)
    )


def _refuse_silence(package: str, handlers: ModuleType) -> None:
    file = handlers.__file__ or ", ".join(getattr(handlers, "__path__", []))
    if hasattr(handlers, "register_event_handlers"):
        raise PluginFault(
            f"{package} does not expose register_event_handlers of its {_HANDLERS}, so no handler "
            f"would run; add `from .{_HANDLERS} import register_event_handlers` to it (if that "
            "line is there, look for a circular import)",
            file,
            1,
        )
    hints = "; ".join(misspelt(handlers)) or "it has no register_event_handlers and no marks"
    has_modules = bool(handlers.__file__) or bool(_submodules(handlers))
    if has_modules:
        raise PluginFault(f"{package}.{_HANDLERS} registers nothing: {hints}", file, 1)
