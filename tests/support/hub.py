"""The server in the test's own process: handlers are the test's own functions."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any, Self

from attrs import define, field

from limehub.amqp.publisher import Publisher
from limehub.config import load
from limehub.plugins.registry import load_registry
from limehub.server import ServeOptions, Server
from tests.support.waiting import wait_until

__all__ = ["Hub"]

Register = Callable[[Any, Any], None]


@define(eq=False)
class Hub:
    """A running server: `with Hub(url, folder, register=...) as hub:`.

    *plugins*: name -> register_event_handlers(worker, config); *toml*: more configuration. Unless
    it says otherwise, the end waits 5 s for handlers that a failed test has left waiting.
    """

    url: str
    folder: Path
    plugins: dict[str, Register]
    toml: str = ""
    options: ServeOptions = field(factory=ServeOptions)
    server: Server = field(init=False)
    publisher: Publisher = field(init=False)
    _modules: list[str] = field(factory=list)

    def __enter__(self) -> Self:
        self.build()
        self.server.start()
        wait_until(lambda: not self.server.missing(), message="the hub to be ready")
        return self

    def __exit__(self, *_: object) -> None:
        self.publisher.close()
        self.server.shut_down()
        for name in self._modules:
            sys.modules.pop(name, None)

    def build(self) -> None:
        """Make the server without starting it."""
        file = self.folder / "limehub.toml"
        file.write_text(self.toml)
        environ = {"LIMEHUB_EVENTS__CONNECTION_STRING": self.url, "LIMEHUB_WEB__BIND": "none"}
        if "shutdown_grace" not in self.toml:
            environ["LIMEHUB_EVENT_HANDLER__SHUTDOWN_GRACE"] = "5"
        loaded = load(file, environ)
        registry = load_registry(loaded.config, entry_points=self._entry_points())
        registry.raise_if_broken()
        self.server = Server(loaded, registry, options=self.options)
        self.publisher = Publisher(self.url, applications=loaded.config.applications)

    def publish(self, key: str, body: Any, **options: Any) -> str:
        """Publish as any service would."""
        return self.publisher.publish(key, body, **options)

    def _entry_points(self) -> list[EntryPoint]:
        points = []
        for name, register in self.plugins.items():
            module = ModuleType(f"plugin_{uuid.uuid4().hex}")
            module.register_event_handlers = register  # type: ignore[attr-defined]
            sys.modules[module.__name__] = module
            self._modules.append(module.__name__)
            points.append(EntryPoint(name=name, value=module.__name__, group="limehub"))
        return points
