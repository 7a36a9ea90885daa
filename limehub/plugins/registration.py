"""Registering handlers: the `worker` that `register_event_handlers(worker, config)` is given."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import TYPE_CHECKING, Any

from attrs import define, frozen

from limehub.config.names import name_problem
from limehub.errors import PluginError
from limehub.plugins.discovery import PluginFault
from limehub.plugins.forms import Form, form_of
from limehub.plugins.functions import origin_of, place_of, underlying
from limehub.plugins.options import HandlerOptions, parse_options
from limehub.routing_keys import unusable

if TYPE_CHECKING:
    from limehub.config import Config

__all__ = ["Registration", "RegistrationWorker"]


@frozen(kw_only=True)
class Registration:
    """One handler as a plugin registered it, checked. *raw*: the options as they were written."""

    queue_name: str
    keys: tuple[str, ...]
    function: Callable[..., object]
    form: Form
    options: HandlerOptions
    raw: dict[str, Any]

    @property
    def origin(self) -> str:
        """ "file:line" of the function."""
        return origin_of(self.function)


@define(eq=False)
class RegistrationWorker:
    """Collects one plugin's handlers.

    Problems are collected as well and not raised: plugins that register in a loop with try/except
    would otherwise lose handlers in silence, and all problems are reported at once.
    """

    app: str
    config: Config
    _handlers: dict[str, Registration]
    _problems: list[PluginFault]
    _open: bool = True

    @classmethod
    def of(cls, app: str, config: Config) -> RegistrationWorker:
        """Return an empty one for the plugin *app*."""
        return cls(app, config, {}, [])

    @property
    def applications(self) -> tuple[str, ...]:
        """Identifiers of the applications that this plugin serves."""
        return self.config.applications_of(self.app)

    def register_event_handler(
        self,
        handler_func: Callable[..., object],
        key: str | list[str] | tuple[str, ...],
        queue_name: str | None = None,
        **options: Any,
    ) -> None:
        """Run *handler_func* for events that match *key*, a topic binding key or several.

        *queue_name*: defaults to the function's name; *options*: see HandlerOptions.
        """
        if not self._open:
            raise PluginError(f"{self.app}: handlers are registered at start only")
        try:
            self._add(_checked(self.app, handler_func, key, queue_name, options))
        except PluginFault as problem:
            self._problems.append(problem)
        except PluginError as problem:
            self._problems.append(PluginFault(str(problem), *place_of(handler_func)))

    def close(self) -> tuple[Registration, ...]:
        """Return what was registered. Raises PluginFault with everything that was wrong."""
        self._open = False
        if self._problems:
            first = self._problems[0]
            raise PluginFault("; ".join(map(str, self._problems)), first.file, first.line)
        return tuple(self._handlers.values())

    def _add(self, new: Registration) -> None:
        old = self._handlers.get(new.queue_name)
        self._handlers[new.queue_name] = new if old is None else _joined(self.app, old, new)


def _joined(app: str, old: Registration, new: Registration) -> Registration:
    if old.function != new.function:
        raise PluginError(
            f"{app}.{new.queue_name}: two functions for one queue, {_shown(old)} and {_shown(new)}"
        )
    if old.options != new.options:
        raise PluginError(f"{app}.{new.queue_name}: registered twice with different options")
    keys = tuple(dict.fromkeys((*old.keys, *new.keys)))
    return Registration(
        queue_name=old.queue_name,
        keys=keys,
        function=old.function,
        form=old.form,
        options=old.options,
        raw=old.raw,
    )


def _shown(one: Registration) -> str:
    inner = underlying(one.function)
    return f"{inner.__name__ if inner else 'function'} ({one.origin})"


def _checked(
    app: str,
    function: Callable[..., object],
    key: object,
    queue_name: str | None,
    options: dict[str, Any],
) -> Registration:
    if not callable(function):
        raise PluginError(f"{app}: handler_func is {function!r}, not a function")
    name = _queue_name(app, function, queue_name)
    where = f"{app}.{name}"
    form, parsed = _form_and_options(where, function, options)
    return Registration(
        queue_name=name,
        keys=_keys(where, key),
        function=function,
        form=form,
        options=parsed,
        raw=options,
    )


def _form_and_options(
    where: str, function: Callable[..., object], options: dict[str, Any]
) -> tuple[Form, HandlerOptions]:
    event_type = parse_options(options, manual=False, where=where).event_type
    try:
        form = form_of(function, event_type)
    except PluginError as error:
        raise PluginError(f"{where}: {error}") from None
    parsed = parse_options(options, manual=form.manual, where=where)
    if parsed.ack == "manual" and not form.can_settle:
        raise PluginError(
            f"{where}: ack is 'manual', but no parameter of {form.description} can ack; "
            "take event or message"
        )
    return form, parsed


def _queue_name(app: str, function: Callable[..., object], given: object) -> str:
    name = _name_of(function) if given is None else given
    if not isinstance(name, str):
        raise PluginError(f"{app}: queue_name is {name!r}, not a string")
    problem = name_problem(name) or _reserved(name)
    if problem:
        hint = "; give queue_name=" if given is None else ""
        raise PluginError(f"{app}: queue_name {problem}{hint}")
    return name


def _name_of(function: Callable[..., object]) -> str:
    inner = underlying(function)
    if isinstance(inner, FunctionType) and inner.__name__ != "__call__":
        return inner.__name__
    return getattr(function, "__name__", type(function).__name__)


def _reserved(name: str) -> str | None:
    if name == "dlq" or name.endswith(".dlq") or ".retry." in f".{name}.":
        return f"{name!r} is a name of limehub's own dead letter and retry queues"
    return None


def _keys(where: str, key: object) -> tuple[str, ...]:
    keys = tuple(key) if isinstance(key, list | tuple | set | frozenset) else (key,)
    problems = [problem for one in keys if (problem := unusable(one))]
    if problems or not keys:
        raise PluginError(f"{where}: {'; '.join(problems) or 'no key at all'}")
    return tuple(dict.fromkeys(str(one) for one in keys))
