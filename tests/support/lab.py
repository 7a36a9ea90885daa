"""Experiments side by side: most of them wait, so together they take as long as the longest."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
from attrs import define, field
from gevent.lock import Semaphore

from scripts.rabbitmq_node import RabbitNode
from tests.support.embedded_node import EmbeddedNode
from tests.support.stand import Stand, standing
from tests.support.vhost import Vhost

__all__ = ["Experiment", "Lab"]

CORES = 2  # of the smallest machine that runs them
Experiment = Callable[["Lab"], Any]


@define(eq=False, kw_only=True)
class Lab:
    """Runs each experiment once, in a greenlet; tests take its finding when they come to it."""

    node: RabbitNode | EmbeddedNode
    folder: Path
    python: Path
    soak: bool
    _running: dict[Experiment, Any] = field(factory=dict)
    _free: Semaphore = field(factory=lambda: Semaphore(CORES))

    def begin(self, experiment: Experiment) -> None:
        """Start it unless it runs or has run."""
        if experiment not in self._running:
            self._running[experiment] = gevent.spawn(experiment, self)

    def finding(self, experiment: Experiment) -> Any:
        """Wait for its end and return its finding; raises what it raised."""
        self.begin(experiment)
        return self._running[experiment].get()

    def close(self) -> None:
        """End what still runs, servers included."""
        gevent.killall(list(self._running.values()))

    @contextlib.contextmanager
    def core(self, wanted: bool = True) -> Iterator[None]:
        """Have one of the `CORES` to oneself, for experiments that compute."""
        with self._free if wanted else contextlib.nullcontext():
            yield

    @contextlib.contextmanager
    def stand(self, name: str, **options: Any) -> Iterator[Stand]:
        """A server of this experiment's own, with a vhost of its own. See `standing`."""
        folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))
        with (
            Vhost.create(self.node) as vhost,
            standing(vhost, folder, self.python, **options) as stand,
        ):
            yield stand
