"""One benchmark: the real server in this process with a package that counts, on places of its own.

The order: places made, queue filled (that is the publishing figure), server started, queue emptied
(the handling figure), single events (the latency), server stopped, places removed.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import gevent
from attrs import define, field

from limehub.amqp.publisher import Publisher
from limehub.bench.counting import Counting
from limehub.bench.places import Places
from limehub.bench.result import Result
from limehub.bench.traffic import Traffic
from limehub.cli.loading import BrokerPlace, open_publisher
from limehub.cli.progress import Progress
from limehub.config import Config, Loaded
from limehub.errors import BrokerError, LimehubError
from limehub.plugins.registry import load_registry
from limehub.server import ServeOptions, Server
from limehub.signals import Signals

__all__ = ["Benching", "until_stopped"]

SINGLE_EVENTS = 500
STANDSTILL = 30.0  # seconds without progress after which it is given up
REMOVAL = 60.0  # seconds that stopping may take after a signal


@define(eq=False, kw_only=True)
class Benching:
    """*folder*: where its server keeps its state, apart from that of a running one."""

    config: Config
    place: BrokerPlace
    places: Places
    folder: Path
    count: int
    prefetch: int
    removing: bool = field(default=False, init=False)

    def run(self) -> Result:
        """Measure, and remove all that was made whatever happens. Raises LimehubError."""
        publisher = open_publisher(self.config, self.place)
        try:
            queue_type = self.config.event_handler.queue_type
            publisher.call(lambda connection: self.places.make(connection, queue_type))
            return self._measured(publisher)
        finally:
            self.removing = True
            publisher.call(self.places.remove)
            publisher.close()

    def _measured(self, publisher: Publisher) -> Result:
        traffic = Traffic(publisher, self.places)
        counting = Counting(places=self.places, wanted=self.count)
        with Progress() as progress:
            with progress.of("publishing", self.count, lambda: traffic.published):
                published = traffic.fill(self.count)
            with self._server(counting):
                with progress.of("handling", self.count, lambda: counting.handled):
                    _wait_for(counting.done.is_set, lambda: counting.handled)
                latencies = counting.latencies
                with progress.of("single events", SINGLE_EVENTS, lambda: len(latencies)):
                    traffic.trickle(SINGLE_EVENTS)
                    _wait_for(lambda: len(latencies) >= SINGLE_EVENTS, lambda: len(latencies))
        return Result(
            broker=str(self.place),
            prefetch=self.prefetch,
            published=published,
            handled=counting.phase,
            latencies=latencies,
        )

    @contextlib.contextmanager
    def _server(self, counting: Counting) -> Iterator[None]:
        config = self.places.config(self.config, self.place.url, self.prefetch)
        file = self.folder / "bench.toml"  # never written; its folder is the server's state's
        loaded = Loaded(config=config, origins={}, warnings=(), path=file)
        registry = load_registry(config, entry_points=[counting.entry_point()])
        registry.raise_if_broken()
        server = Server(loaded, registry, options=ServeOptions())
        try:
            server.start()
            yield
        finally:
            self.removing = True
            server.shut_down()


def until_stopped(benching: Benching) -> tuple[int, Result | None]:
    """Run it until its end or a signal; returns (0, result) or (signal number, None).

    The first signal stops the measuring and what was made is removed; a second ends the process.
    """
    numbers: list[int] = []
    errors: list[LimehubError] = []

    def run() -> Result | None:
        try:
            return benching.run()
        except LimehubError as error:  # gevent would print it as the failure of a greenlet
            errors.append(error)
            return None

    job = gevent.spawn(run)

    def stop(number: int) -> None:
        numbers.append(number)
        if not benching.removing:
            job.kill(block=False)

    signals = Signals(stop, lambda: None, patience=REMOVAL)
    signals.install()
    try:
        job.join()
    finally:
        signals.uninstall()
    if errors:
        raise errors[0]
    result = job.get()
    if numbers or not isinstance(result, Result):
        return numbers[0], None
    return 0, result


def _wait_for(done: Callable[[], bool], progress: Callable[[], int]) -> None:
    """Wait until *done*. Raises BrokerError when *progress* stands still."""
    last, since = progress(), time.monotonic()
    while not done():
        gevent.sleep(0.01)
        if progress() != last:
            last, since = progress(), time.monotonic()
        elif time.monotonic() - since > STANDSTILL:
            raise BrokerError(f"no event came for {STANDSTILL:g} s, after {last} of them")
