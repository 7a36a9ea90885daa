"""The options of a handler, checked when it is registered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, cast

from attrs import frozen, has

from limehub.errors import PluginError
from limehub.plugins.retry_policy import RetryPolicy, parse_duration, parse_retry
from limehub.plugins.spelling import unknown

__all__ = ["HandlerOptions", "RetryPolicy", "parse_options"]

Ack = Literal["success", "early", "manual"]
OnError = Literal["crash", "dead-letter", "retry", "discard"]
Lane = Literal["greenlet", "thread", "process"]
Order = Literal["queue", "object", "none"]


@frozen(kw_only=True)
class HandlerOptions:
    """How one handler is run. None = what the worker group or `event_handler` says.

    *ack*: after success, before the call, or by the handler; *on_error*: over
    `catch_handler_exceptions` ("retry" if *retry* is given); *timeout*: seconds; *order*: one at a
    time per queue, per limetype and id, or free; *event_type*: attrs class built from the body.
    """

    ack: Ack = "success"
    on_error: OnError | None = None
    retry: RetryPolicy | None = None
    timeout: float | None = None
    lane: Lane | None = None
    prefetch_count: int | None = None
    order: Order = "none"
    event_type: type | None = None


def parse_options(raw: Mapping[str, Any], *, manual: bool, where: str) -> HandlerOptions:
    """Return the options *raw* of a handler, defaults filled in for its form.

    *manual*: Lime's form; *where*: plugin and handler for messages. Raises PluginError with one
    line a problem.
    """
    values: dict[str, Any] = {}
    problems = []
    for name, value in raw.items():
        try:
            values[name] = _parse(name, value)
        except ValueError as error:
            problems.append(f"{where}: option {name}: {error}")
    if manual and values.get("ack") == "early":
        problems.append(f"{where}: option ack: 'early' acks before the handler does; use 'manual'")
    if problems:
        raise PluginError("\n".join(problems))
    return _completed({key: value for key, value in values.items() if value is not None}, manual)


def _completed(values: dict[str, Any], manual: bool) -> HandlerOptions:
    if "retry" in values:
        values.setdefault("on_error", "retry")
    elif values.get("on_error") == "retry":
        values["retry"] = RetryPolicy()
    # Lime's form comes from authors who never saw two of their handlers run at once.
    defaults = {"ack": "manual", "order": "queue"} if manual else {}
    return HandlerOptions(**{**defaults, **values})


def _parse(name: str, value: object) -> Any:
    parse = _PARSERS.get(name)
    if parse is None:
        raise ValueError(unknown(name, _PARSERS))
    return None if value is None else parse(value)


def _one_of(*names: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        if isinstance(value, str) and value in names:
            return value
        raise ValueError(f"{value!r} is {unknown(value, names)}")

    return parse


def _timeout(value: object) -> float:
    seconds = parse_duration(value)
    if seconds == 0:
        raise ValueError("0 would end every run at once; leave it out for no timeout")
    return seconds


def _prefetch_count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 65535:
        raise ValueError(f"{value!r} is not a whole number from 1 to 65535")
    return value


def _event_type(value: object) -> type:
    if not (isinstance(value, type) and has(value)):
        raise ValueError(f"{value!r} is not an attrs class")
    return cast("type", value)


_PARSERS: Mapping[str, Callable[[object], Any]] = {
    "ack": _one_of("success", "early", "manual"),
    "on_error": _one_of("crash", "dead-letter", "retry", "discard"),
    "retry": parse_retry,
    "timeout": _timeout,
    "lane": _one_of("greenlet", "thread", "process"),
    "prefetch_count": _prefetch_count,
    "order": _one_of("queue", "object", "none"),
    "event_type": _event_type,
}
