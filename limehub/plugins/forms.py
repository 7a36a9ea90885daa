"""Handler forms: which arguments a function wants, decided once, at load.

| parameters | form |
|---|---|
| three required positional ones, or only `*args` | Lime's `(worker, body, message)`, manual ack |
| three that are all injectable, the first not `worker` | injection |
| one | the decoded body; the event if named or annotated so |
| anything else | each by annotation, then by name; unknown is an error |

A parameter with a default keeps it.
"""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable
from typing import Any, Union

import attrs
from attrs import frozen

from limehub.decoding import UndecodableBody
from limehub.errors import PluginError
from limehub.events import Event, LimeObjectEvent, Message
from limehub.plugins.functions import describe, underlying
from limehub.plugins.lime import ApplicationPublisher
from limehub.plugins.services import Services
from limehub.plugins.spelling import nearest

__all__ = ["INJECTABLE", "Form", "Services", "form_of"]

INJECTABLE = (
    "event",
    "body",
    "message",
    "worker",
    "application",
    "config",
    "settings",
    "publisher",
    "logger",
)
"""What a handler can ask for by the name of a parameter."""

_BY_CLASS = {
    "limehub.Event": "event",
    "limehub.LimeObjectEvent": "event",
    "limehub.Message": "message",
    "limehub.Worker": "worker",
    "limehub.Application": "application",
    "limehub.Config": "config",
    "limehub.Publisher": "publisher",
    "limehub.EventPublisher": "publisher",
    "logging.Logger": "logger",
}
_BY_CLASS_NAME = {"LimeApplication": "application"} | {
    name.rpartition(".")[2]: slot for name, slot in _BY_CLASS.items()
}

Call = Callable[[Event, Message], object]
Build = Callable[[Any], object]
Parameter = inspect.Parameter
_POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


@frozen(kw_only=True)
class Form:
    """How a handler is called. *description*: for people.

    *manual*: Lime's form, which acks by itself. *reads_body*: an undecodable body fails before the
    call. *can_settle*: it is given something with `ack()`. *event_class*: the class of event that
    it expects. *event_type*: the attrs class that its body becomes. *warnings*: what looks wrong.
    """

    description: str
    manual: bool
    reads_body: bool
    can_settle: bool
    event_class: type[Event]
    event_type: type | None
    bind: Callable[[Services], Call]
    """Return the call to make per event; raises UndecodableBody before it runs the handler."""
    warnings: tuple[str, ...] = ()


@frozen(kw_only=True)
class _Slot:
    """One argument: *name* of the parameter, what is *injected* ("" if unknown), its class."""

    name: str
    injected: str
    keyword: bool = False
    annotation: Any = None
    event_type: type | None = None


def form_of(function: Callable[..., object], event_type: type | None = None) -> Form:
    """Decide the form of *function*. Raises PluginError that names the parameter and what is known.

    *event_type*: the attrs class of the option with this name.
    """
    _refuse_asynchronous(function)
    signature = _signature(function)
    required, defaulted = _parameters(function, signature)
    slots = [_slot(function, parameter) for parameter in required]
    if _is_lime(slots, signature, required):
        return _lime_form(function, event_type)
    slots = [_lonely(slots[0], event_type)] if len(slots) == 1 else slots
    _refuse_unknown(slots)
    chosen = _event_type_of(slots, event_type)
    return Form(
        description=_description(slots, chosen),
        manual=False,
        reads_body=any(slot.injected in ("body", "typed") for slot in slots),
        can_settle=any(slot.injected in ("event", "message") for slot in slots),
        event_class=_event_class(slots),
        event_type=chosen,
        bind=functools.partial(_bind, function, slots, _builder(chosen)),
        warnings=tuple(_ignored(defaulted)),
    )


def _refuse_asynchronous(function: Callable[..., object]) -> None:
    inner = underlying(function)
    name = describe(function)
    if inspect.iscoroutinefunction(inner) or inspect.isasyncgenfunction(inner):
        raise PluginError(f"{name} is async: handlers are plain functions, gevent runs them")
    if inspect.isgeneratorfunction(inner):
        raise PluginError(f"{name} is a generator: calling it would run nothing; remove `yield`")


def _signature(function: Callable[..., object]) -> inspect.Signature:
    if not callable(function):
        raise PluginError(f"{function!r} is not callable")
    try:
        return inspect.signature(function)
    except (ValueError, TypeError):
        raise PluginError(
            f"the parameters of {describe(function)} cannot be seen; wrap it in a def"
        ) from None


def _parameters(
    function: Callable[..., object], signature: inspect.Signature
) -> tuple[list[Parameter], list[Parameter]]:
    """Return the parameters that must be given, and those whose default was not set by partial."""
    fixed = function.keywords if isinstance(function, functools.partial) else {}
    plain = [
        parameter
        for parameter in signature.parameters.values()
        if parameter.kind in (*_POSITIONAL, Parameter.KEYWORD_ONLY)
    ]
    required = [p for p in plain if p.default is Parameter.empty]
    return required, [p for p in plain if p not in required and p.name not in fixed]


def _slot(function: Callable[..., object], parameter: Parameter) -> _Slot:
    annotation = _resolved(function, parameter.annotation)
    is_event_type = isinstance(annotation, type) and attrs.has(annotation)
    injected = _injected_by(annotation)
    if not injected and is_event_type:
        injected = "typed"
    if not injected and parameter.name in INJECTABLE:
        injected = parameter.name
    return _Slot(
        name=parameter.name,
        injected=injected,
        keyword=parameter.kind is Parameter.KEYWORD_ONLY,
        annotation=None if annotation is Parameter.empty else annotation,
        event_type=annotation if injected == "typed" else None,
    )


def _resolved(function: Callable[..., object], annotation: Any) -> Any:
    """Return the class that *annotation* means, the text itself if it cannot be resolved."""
    if isinstance(annotation, str):
        scope = getattr(underlying(function), "__globals__", {})
        holder = types.SimpleNamespace(__annotations__={"it": annotation})
        try:
            annotation = typing.get_type_hints(holder, globalns=scope)["it"]
        except Exception:  # noqa: BLE001 - foreign text: names known to type checkers only, typos
            return annotation
    return _without_none(annotation)


def _without_none(annotation: Any) -> Any:
    if typing.get_origin(annotation) not in (Union, types.UnionType):
        return annotation
    members = [one for one in typing.get_args(annotation) if one is not type(None)]
    return members[0] if len(members) == 1 else annotation


def _injected_by(annotation: Any) -> str:
    if isinstance(annotation, str):  # under TYPE_CHECKING: only the name is known
        return _BY_CLASS_NAME.get(annotation.strip("'\" ").rpartition(".")[2], "")
    if not isinstance(annotation, type):
        return ""
    name = annotation.__name__
    root = annotation.__module__.partition(".")[0]
    by_name = "application" if name == "LimeApplication" else ""
    return _BY_CLASS.get(f"{root}.{name}", by_name)


def _is_lime(slots: list[_Slot], signature: inspect.Signature, required: list[Parameter]) -> bool:
    if not required:
        kinds = [parameter.kind for parameter in signature.parameters.values()]
        return Parameter.VAR_POSITIONAL in kinds and not set(kinds) & set(_POSITIONAL)
    if len(slots) != 3 or any(slot.keyword for slot in slots):
        return False
    return slots[0].name == "worker" or not all(slot.injected for slot in slots)


def _lonely(slot: _Slot, event_type: type | None) -> _Slot:
    """A single parameter may have any name: it is the body, if it is not something known."""
    if event_type is not None and slot.annotation is None and slot.injected == "event":
        return attrs.evolve(slot, injected="body")
    return slot if slot.injected or slot.keyword else attrs.evolve(slot, injected="body")


def _refuse_unknown(slots: list[_Slot]) -> None:
    for slot in slots:
        if not slot.injected:
            near = nearest(slot.name, INJECTABLE)
            hint = f"did you mean {near!r}? Known" if near else "known"
            raise PluginError(
                f"parameter {slot.name!r} is unknown; {hint}: {', '.join(INJECTABLE)}"
            )


def _event_type_of(slots: list[_Slot], option: type | None) -> type | None:
    annotated = {slot.event_type for slot in slots if slot.event_type}
    for other in annotated - {option}:
        if option is not None or len(annotated) > 1:
            wanted = option or next(iter(annotated))
            raise PluginError(
                f"one body cannot be two classes: {wanted.__name__} and {other.__name__}"
            )
    if option and not annotated and not any(slot.injected == "body" for slot in slots):
        raise PluginError(
            f"event_type={option.__name__}, but no parameter takes it: annotate one with it, "
            "or name it body"
        )
    return option or next(iter(annotated), None)


def _event_class(slots: list[_Slot]) -> type[Event]:
    for slot in slots:
        name = getattr(slot.annotation, "__name__", slot.annotation)
        if slot.injected == "event" and str(name).rpartition(".")[2] == "LimeObjectEvent":
            return LimeObjectEvent
    return Event


def _description(slots: list[_Slot], event_type: type | None) -> str:
    return f"({', '.join(_described(slot, event_type) for slot in slots)})"


def _described(slot: _Slot, event_type: type | None) -> str:
    if slot.injected in ("typed", "body") and event_type is not None:
        return f"{slot.name}: {event_type.__name__}"
    return slot.name if slot.name == slot.injected else f"{slot.name}: {slot.injected}"


def _ignored(defaulted: list[Parameter]) -> list[str]:
    return [
        f"parameter {p.name!r} has a default and keeps it; without a default it would be injected"
        for p in defaulted
        if p.name in INJECTABLE
    ]


def _lime_form(function: Callable[..., object], event_type: type | None) -> Form:
    build = _builder(event_type)

    def bind(services: Services) -> Call:
        worker = services.worker
        if build is None:
            return lambda event, message: function(worker, event.body, message)
        return lambda event, message: function(worker, build(event.body), message)

    body = "body" if event_type is None else f"body: {event_type.__name__}"
    return Form(
        description=f"(worker, {body}, message) manual",
        manual=True,
        reads_body=True,
        can_settle=True,
        event_class=Event,
        event_type=event_type,
        bind=bind,
    )


def _bind(
    function: Callable[..., object],
    slots: list[_Slot],
    build: Build | None,
    services: Services,
) -> Call:
    given = [_getter(slot.injected, services, build) for slot in slots if not slot.keyword]
    named = {slot.name: _getter(slot.injected, services, build) for slot in slots if slot.keyword}
    return _with_keywords(function, given, named) if named else _positional(function, given)


def _positional(function: Callable[..., object], getters: list[Call]) -> Call:
    # One closure per arity: this runs once per event, so it neither loops nor builds lists.
    if not getters:
        return lambda _event, _message: function()
    first, *rest = getters
    if not rest:
        return lambda event, message: function(first(event, message))
    if len(rest) == 1:
        second = rest[0]
        return lambda event, message: function(first(event, message), second(event, message))
    return lambda event, message: function(*[get(event, message) for get in getters])


def _with_keywords(
    function: Callable[..., object], getters: list[Call], named: dict[str, Call]
) -> Call:
    return lambda event, message: function(
        *[get(event, message) for get in getters],
        **{name: get(event, message) for name, get in named.items()},
    )


def _getter(injected: str, services: Services, build: Build | None) -> Call:
    if injected == "event":
        return lambda event, _message: event
    if injected == "message":
        return lambda _event, message: message
    if injected in ("body", "typed"):
        return _body_getter(build)
    if injected == "application":
        return lambda event, _message: services.application_for(event.application)
    if injected == "publisher":
        publisher_for = _publishers(services)
        return lambda event, _message: publisher_for(event.application)
    constant = getattr(services, injected)
    return lambda _event, _message: constant


def _body_getter(build: Build | None) -> Call:
    if build is None:
        return lambda event, _message: event.body
    return lambda event, _message: build(event.body)


def _publishers(services: Services) -> Callable[[str], ApplicationPublisher]:
    @functools.cache
    def publisher_for(application: str) -> ApplicationPublisher:
        return ApplicationPublisher(application=application, publisher=services.publisher)

    return publisher_for


def _builder(event_type: type | None) -> Build | None:
    """Return body -> *event_type*, which raises UndecodableBody with every field that is wrong."""
    if event_type is None:
        return None
    from limehub.plugins.bodies import builder  # cattrs takes a fifth of a second to import

    build, in_words = builder(event_type)

    def built(body: Any) -> object:
        try:
            return build(body)
        except Exception as error:  # noqa: BLE001 - the text has all that its traceback has
            raise UndecodableBody(f"no {event_type.__name__}: {in_words(error)}") from None

    return built
