"""A plugin's hooks: plain functions, whatever their parameters are called, made fit for pluggy.

pluggy decides the order (`tryfirst`, `trylast`) and nothing else: limehub calls each plugin's hook
by itself, so that one that fails stops no other.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any

import pluggy

from limehub.plugins import hookspecs
from limehub.plugins.discovery import PluginFault
from limehub.plugins.functions import place_of, underlying
from limehub.plugins.markers import hookimpl
from limehub.plugins.spelling import nearest, unknown

__all__ = ["SPECS", "Hook", "HookTable", "hooks_of", "misspelt"]

Hook = Callable[..., Any]

SPECS: Mapping[str, tuple[str, ...]] = {
    name: tuple(inspect.signature(getattr(hookspecs, name)).parameters)
    for name in hookspecs.__all__
}
"""Hook -> the names of its arguments."""

_LIME_ONLY = (
    "get_task_modules",
    "register_blueprint",
    "register_config",
    "register_limeobject_classes",
    "register_scheduled_tasks",
    "register_static_content",
    "register_translations",
    "register_web_components",
)
_PREFIXES = ("default_", "delivery_", "register_", "server_")
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class HookTable:
    """The hooks of all plugins, in pluggy's order; plugins are otherwise called by name."""

    def __init__(self, plugins: Iterable[tuple[str, Mapping[str, tuple[Hook, Any]]]]) -> None:
        self._manager = pluggy.PluginManager("limehub")
        self._manager.add_hookspecs(hookspecs)
        # pluggy calls last registered first; limehub's order is by name.
        for name, hooks in reversed(list(plugins)):
            self._manager.register(_fit_for_pluggy(name, hooks), name=name)

    def of(self, hook: str) -> list[tuple[str, Hook]]:
        """Return (plugin, function) of every implementation of *hook*, first to be called first."""
        found = getattr(self._manager.hook, hook).get_hookimpls()
        return [(impl.plugin_name, impl.function) for impl in reversed(found)]


def hooks_of(plugin: object) -> dict[str, tuple[Hook, Any]]:
    """Return hook -> (function to call by position, pluggy's options) of a plugin's module.

    Raises PluginFault for a marked function that is no hook, and for parameters that do not fit.
    """
    found = {}
    for attribute, function in _functions(plugin):
        options = getattr(function, "limehub_impl", None)
        hook = (options or {}).get("specname") or attribute
        if hook in SPECS:
            _refuse_wrapper(hook, function, options)
            found[hook] = (_by_position(hook, function), options)
        elif options is not None:
            raise PluginFault(f"hook {hook!r} is {unknown(hook, SPECS)}", *place_of(function))
    return found


def misspelt(plugin: object) -> list[str]:
    """Return warnings for functions that look like hooks with a typing error."""
    return [
        f"{name} is no hook of limehub; did you mean {near}?"
        for name, function in _functions(plugin)
        if name.startswith(_PREFIXES)
        and name not in (*SPECS, *_LIME_ONLY)
        and getattr(function, "limehub_impl", None) is None
        and (near := nearest(name, SPECS, cutoff=0.82))
    ]


def _functions(plugin: object) -> list[tuple[str, Hook]]:
    # Known names by getattr, for modules with a lazy __getattr__; the rest runs no plugin code.
    names = {name for name in dir(plugin) if not name.startswith("__")} | set(SPECS)
    found = []
    for name in sorted(names):
        lazy = name in SPECS
        value = getattr(plugin, name, None) if lazy else inspect.getattr_static(plugin, name, None)
        if callable(value) and not inspect.isclass(value):
            found.append((name, value))
        elif lazy and value is not None:
            raise PluginFault(f"{name} is {type(value).__name__}, not a function")
    return found


def _refuse_wrapper(hook: str, function: Hook, options: Mapping[str, Any] | None) -> None:
    if options and (options.get("wrapper") or options.get("hookwrapper")):
        text = f"hook {hook}: limehub calls plugins one by one, so it has no wrapper hooks"
        raise PluginFault(text, *place_of(function))


def _by_position(hook: str, function: Hook) -> Hook:
    """Return *function* taking all of the hook's arguments by position."""
    names = SPECS[hook]
    _refuse_asynchronous(hook, function)
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # not written in Python: it sees all arguments
        return function
    required = [p.name for p in parameters if _is_required(p)]
    if set(required) <= set(names) and not _is_variadic(parameters):
        return _picked(function, names, parameters)
    if _has_room(parameters, len(required), len(names)):
        return function
    raise PluginFault(
        f"hook {hook}({', '.join(required)}) must take ({', '.join(names)})", *place_of(function)
    )


def _refuse_asynchronous(hook: str, function: Hook) -> None:
    inner = underlying(function)
    if inspect.iscoroutinefunction(inner) or inspect.isgeneratorfunction(inner):
        text = f"hook {hook} is async or a generator; hooks are plain functions"
        raise PluginFault(text, *place_of(function))


def _picked(function: Hook, names: tuple[str, ...], parameters: list[inspect.Parameter]) -> Hook:
    """Names that are all known may come in any order, and some may be left out."""
    keywords = [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
    positional = [p.name for p in parameters if p.kind in _POSITIONAL]
    known = list(itertools.takewhile(lambda name: name in names, positional))
    if known == list(names):
        return function
    order = [names.index(name) for name in known]
    named = {name: names.index(name) for name in keywords if name in names}
    return lambda *given: function(
        *[given[index] for index in order],
        **{name: given[index] for name, index in named.items()},
    )


def _is_required(parameter: inspect.Parameter) -> bool:
    kinds = (*_POSITIONAL, inspect.Parameter.KEYWORD_ONLY)
    return parameter.kind in kinds and parameter.default is inspect.Parameter.empty


def _is_variadic(parameters: list[inspect.Parameter]) -> bool:
    return any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters)


def _has_room(parameters: list[inspect.Parameter], required: int, given: int) -> bool:
    if any(p.kind is inspect.Parameter.KEYWORD_ONLY and _is_required(p) for p in parameters):
        return False
    places = sum(p.kind in _POSITIONAL for p in parameters)
    return required <= given and (places >= given or _is_variadic(parameters))


def _fit_for_pluggy(name: str, hooks: Mapping[str, tuple[Hook, Any]]) -> ModuleType:
    fit = ModuleType(name)
    for hook, (function, options) in hooks.items():
        order = {key: (options or {}).get(key, False) for key in ("tryfirst", "trylast")}
        setattr(fit, hook, hookimpl(_nameless(function), **order))
    return fit


def _nameless(function: Hook) -> Hook:
    # pluggy refuses argument names that the hook lacks; here there are none to refuse.
    def call(*given: object) -> object:
        return function(*given)

    return call
