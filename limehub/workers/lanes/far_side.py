"""The far side of the process lane: handlers run here, in the main thread of a child process.

Settlements, publishes and log lines travel to the parent; who asks for one waits for its answer.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
from importlib.metadata import entry_points
from itertools import count
from queue import SimpleQueue
from typing import Any

from attrs import define, field

from limehub.events import Message
from limehub.forks import end_child
from limehub.observe.own_log import OwnLog
from limehub.plugins.discovery import GROUPS
from limehub.plugins.handlers import Handler
from limehub.plugins.registry import Registry, load_registry
from limehub.workers.lanes.carried import CarriedError, pack, unpack
from limehub.workers.lanes.far_logs import FarLogs
from limehub.workers.lanes.frames import Hello, Run, read_frame, write_frame

__all__ = ["FarSide"]

NO_RUN = 0
PAGE = os.sysconf("SC_PAGE_SIZE")

_Bound = tuple[Handler, Any]


class FarSide:
    """A child's life: hello, ready, one run after the other."""

    def __init__(self, connection: socket.socket) -> None:
        self._line = _Line(connection)
        self._runs: SimpleQueue[Run | None] = SimpleQueue()
        self._registries: dict[str, Registry] = {}
        self._bound: dict[str, _Bound] = {}

    def live(self) -> None:
        """Return when the parent says so; a parent that is gone ends the process at once."""
        _kind, hello = self._line.read()
        self._hello: Hello = hello
        sys.path[:] = hello.path
        far_logs = FarLogs(self._line.tell)
        far_logs.install()
        self._log = OwnLog(far_logs)
        os.register_at_fork(after_in_child=self._line.forget)
        threading.Thread(target=self._listen, name="parent", daemon=True).start()
        self._line.tell("ready", _resident())
        process = os.getpid()
        while (run := self._runs.get()) is not None:
            error = self._run(run, process)
            self._line.tell("done", run.number, error, _resident())

    def _listen(self) -> None:
        while True:
            kind, *rest = self._line.read()
            if kind == "answer":
                self._line.answered(*rest)
            else:
                self._runs.put(rest[0] if kind == "run" else None)

    def _run(self, run: Run, process: int) -> CarriedError | None:
        self._log.reclaim(run.log_level)
        try:
            handler, call = self._handler(run)
            self._log.reclaim(run.log_level)  # the package was just loaded, maybe
            settler = _FarSettler(self._line, run.number, run.settled)
            event = handler.form.event_class(
                run.delivery, application=run.application, settler=settler
            )
            with _application(run.application):
                call(event, Message(event, settler))
        except BaseException as error:  # noqa: BLE001 - border: it is the handler's failure
            raised: BaseException | None = error
        else:
            raised = None
        if os.getpid() != process:  # the handler has forked, and this is the child
            end_child(raised)
        return None if raised is None else pack(raised)

    def _handler(self, run: Run) -> _Bound:
        bound = self._bound.get(run.handler_queue)
        if bound is None:
            registry = self._registry(run.app)
            handler = registry.handlers[run.handler_queue]
            services = registry.services_for(handler, _FarPublisher(self._line))
            bound = self._bound[run.handler_queue] = (handler, handler.form.bind(services))
        return bound

    def _registry(self, app: str) -> Registry:
        """Load the one plugin, as the server has: its hooks may set up what its handlers use."""
        if app not in self._registries:
            points = [point for group in GROUPS for point in entry_points(group=group, name=app)]
            registry = load_registry(self._hello.config, entry_points=points)
            registry.raise_if_broken()
            self._registries[app] = registry
        return self._registries[app]


@define(eq=False)
class _Call:
    """A question to the parent that waits for its answer."""

    answered: threading.Event = field(factory=threading.Event)
    error: CarriedError | None = None
    value: Any = None


class _Line:
    """The connection to the parent, for all threads of this process."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._sending = threading.RLock()
        self._numbers = count(1)
        self._calls: dict[int, _Call] = {}

    def read(self) -> tuple[Any, ...]:
        try:
            message = read_frame(self._connection)
        except OSError:
            message = None
        if message is None:
            os._exit(0)  # whatever runs here, nobody is left to hear of it
        return message

    def tell(self, *message: Any) -> None:
        with self._sending, contextlib.suppress(OSError):  # the reader sees the end
            write_frame(self._connection, message)

    def ask(self, run: int, name: str, *arguments: Any) -> Any:
        """Return what the parent answers, or raise it."""
        number, call = next(self._numbers), _Call()
        self._calls[number] = call
        self.tell("call", number, run, name, arguments)
        call.answered.wait()
        if call.error is not None:
            raise unpack(call.error)
        return call.value

    def answered(self, number: int, error: CarriedError | None, value: Any) -> None:
        call = self._calls.pop(number)
        call.error, call.value = error, value
        call.answered.set()

    def forget(self) -> None:
        """In a process that a handler has forked: it is not the parent's child."""
        self._connection.close()


class _FarSettler:
    """Settles by asking the parent; a second time it raises AlreadySettled, as there."""

    def __init__(self, line: _Line, run: int, settled: bool) -> None:
        self._line = line
        self._run = run
        self.settled = settled

    def ack(self) -> None:
        self._ask("ack")

    def reject(self, reason: str) -> None:
        self._ask("reject", reason)

    def requeue(self) -> None:
        self._ask("requeue")

    def _ask(self, name: str, *arguments: Any) -> None:
        self._line.ask(self._run, name, *arguments)
        self.settled = True


class _FarPublisher:
    """Publishes by asking the parent; returns after the broker's confirm."""

    def __init__(self, line: _Line) -> None:
        self._line = line

    def publish(self, routing_key: str, body: Any, **options: Any) -> str:
        """As `limehub.Publisher.publish`; in a handler the application is the event's."""
        from limehub.amqp.message import encode_body  # only who publishes pays for its import

        return str(self._line.ask(NO_RUN, "publish", routing_key, encode_body(body), options))


@contextlib.contextmanager
def _application(name: str) -> Any:
    """Let a Publisher that the plugin made itself know whose event this is."""
    publishing = sys.modules.get("limehub.amqp.publisher")
    if publishing is None:
        yield
        return
    token = publishing.current_application.set(name)
    try:
        yield
    finally:
        publishing.current_application.reset(token)


def _resident() -> int:
    """Return the bytes of memory that this process has in use; 0 where nobody knows."""
    try:
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - once per event: the quick way
            return int(file.read().split()[1]) * PAGE
    except OSError:
        return 0
